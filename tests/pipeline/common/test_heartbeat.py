from pipeline.common.heartbeat import beat, watched_by


def test_a_beat_reaches_who_watches_innermost_and_nobody_outside():
    outer, inner = [], []
    beat()
    with watched_by(lambda: outer.append(1)):
        beat()
        with watched_by(lambda: inner.append(1)):
            beat()
        beat()
    beat()
    assert (len(outer), len(inner)) == (2, 1)
