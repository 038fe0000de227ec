"""Work that is done ahead on a thread: what it gives, what it raises, and that it ends."""

import threading
import time
import weakref

import pytest

from pipeline.training.ahead import Ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("next batch")]


def test_what_was_begun_is_taken_and_anything_else_is_done_at_once():
    where = []

    def work(request: int) -> int:
        where.append((request, threading.current_thread() is threading.main_thread()))
        return 10 * request

    ahead = Ahead(work)
    assert not threads()
    assert ahead.take(1) == 10
    ahead.begin(2)
    assert ahead.take(2) == 20
    ahead.begin(3)
    # As where a stage ends: what was started is dropped.
    assert ahead.take(4) == 40 and ahead.take(3) == 30
    assert where == [(1, True), (2, False), (3, False), (4, True), (3, True)]
    ahead.close()


@pytest.mark.parametrize("error", [ValueError("bad"), OSError(5, "disk"), KeyboardInterrupt()])
def test_an_error_is_raised_where_the_work_is_taken_and_once(error):
    failing = [True]

    def work(request: str) -> str:
        if failing.pop(0) if failing else False:
            raise error
        return request

    ahead = Ahead(work)
    ahead.begin("a")
    ahead.wait()
    with pytest.raises(type(error)) as raised:
        ahead.take("a")
    assert raised.value is error
    assert ahead.take("a") == "a"
    # The thread that met it goes on.
    ahead.begin("b")
    assert ahead.take("b") == "b" and len(threads()) == 1
    ahead.close()


def test_all_requests_are_worked_on_by_one_thread_which_ends_when_closed():
    ahead = Ahead(lambda request: threading.get_ident())
    seen = set()
    for request in range(20):
        ahead.begin(request)
        seen.add(ahead.take(request))
        assert len(threads()) == 1
    assert len(seen) == 1 and threading.get_ident() not in seen
    ahead.close()
    assert not threads()


def test_no_work_runs_once_it_was_waited_for_and_what_was_begun_is_still_there():
    go_on, done = threading.Event(), []

    def work(request: int) -> int:
        go_on.wait(60)
        done.append(request)
        return 10 * request

    for settle in (Ahead.wait, Ahead.close):
        go_on.clear()
        ahead = Ahead(work)
        ahead.begin(1)
        assert not done
        threading.Timer(0.05, go_on.set).start()
        settle(ahead)
        assert done == [1] and ahead.take(1) == 10
        ahead.close()
        # Closed again, or never started on anything, is closed.
        ahead.close()
        done.clear()
    Ahead(work).close()
    assert not threads()


def test_a_result_is_let_go_of_when_it_was_taken():
    class Batch:
        pass

    ahead = Ahead(lambda request: Batch())
    ahead.begin(1)
    batch = weakref.ref(ahead.take(1))
    # The thread lets go of it a moment after it is there.
    deadline = time.monotonic() + 60
    while batch() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert threads()
    ahead.close()
