"""Work that is done ahead on a thread: what it gives, what it raises, and that it ends."""

import threading

import pytest

from pipeline.training.ahead import Ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "next batch"]


def test_what_was_begun_is_taken_and_anything_else_is_done_at_once():
    where = []

    def work(request: int) -> int:
        where.append((request, threading.current_thread() is threading.main_thread()))
        return 10 * request

    ahead = Ahead(work)
    assert ahead.take(1) == 10
    ahead.begin(2)
    assert ahead.take(2) == 20
    ahead.begin(3)
    # As where a stage ends: what was begun is dropped.
    assert ahead.take(4) == 40 and ahead.take(3) == 30
    assert where == [(1, True), (2, False), (3, False), (4, True), (3, True)]
    assert not threads()


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


def test_nothing_runs_once_it_was_waited_for():
    go_on = threading.Event()
    ahead = Ahead(lambda request: go_on.wait(60))
    ahead.begin(1)
    assert threads()
    go_on.set()
    ahead.wait()
    assert not threads() and ahead.take(1) is True
