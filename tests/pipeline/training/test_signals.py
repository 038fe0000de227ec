"""Being asked to stop: what the first signal does, and what another one does, whatever the process is in."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pipeline.training.signals import EXIT_STOPPED
from tests.end_to_end.conftest import ROOT

PRELUDE = """
    import os, sys, time
    import pipeline.training.signals as signals
    from pipeline.training.signals import Stopped, StopRequest
    stop = StopRequest()
"""
DEFERRED = """
    stop.defer()
    print("ready", flush=True)
    while not stop.asked:
        time.sleep(0.01)
    print("asked", flush=True)
"""


def start(program: str) -> subprocess.Popen:
    words = [sys.executable, "-c", textwrap.dedent(PRELUDE) + textwrap.dedent(program)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def running():
    started = []

    def launch(program):
        started.append(start(program))
        assert started[-1].stdout.readline() == "ready\n", started[-1].communicate()
        return started[-1]

    yield launch
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_while_steps_run_a_signal_is_a_flag_and_its_echo_nothing(running, number):
    process = running(DEFERRED + "    time.sleep(0.5)\n    sys.exit(3)\n")
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    # Ctrl-C: SIGINT, and within 10 ms the launcher's SIGTERM.
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_elsewhere_the_first_signal_stops_and_its_echo_does_not_disturb_the_way_out(running, number):
    process = running("""
    try:
        print("ready", flush=True)
        time.sleep(30)
    except Stopped:
        print("stopped", flush=True)
        time.sleep(0.5)
        sys.exit(4)
    """)
    process.send_signal(number)
    assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 4


@pytest.mark.parametrize("stuck", ["time.sleep(60)", "__import__('hashlib').pbkdf2_hmac('sha256', b'', b'', 10**9)"])
def test_another_signal_later_than_an_echo_ends_the_process_at_once(running, stuck):
    """Also where the main thread is in foreign code for minutes, as in a collective: there no handler is run."""
    process = running("signals._ECHO_SECONDS = 0.3\n" + textwrap.dedent(DEFERRED) + stuck)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    time.sleep(0.4)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(20) == EXIT_STOPPED
    assert "SIGUSR1: a second request to stop, so the run ended at once;" in process.stderr.read()
