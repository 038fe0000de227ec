import logging

import pytest

from pipeline.common.logs import show_messages


@pytest.fixture(autouse=True)
def _restored():
    loggers = [logging.getLogger(name) for name in ("data_prep", "pipeline")]
    before = [(logger.handlers, logger.level) for logger in loggers]
    yield
    for logger, (handlers, level) in zip(loggers, before, strict=True):
        logger.handlers = handlers
        logger.setLevel(level)


def test_the_first_process_prints_each_message_as_a_line_and_says_which_are_warnings(capsys):
    show_messages(first=True)
    show_messages(first=True)
    logging.getLogger("pipeline.training.run.pretraining").info("%s steps", 3)
    logging.getLogger("data_prep.prepare").warning("no text")
    logging.getLogger("elsewhere").info("not ours")
    assert capsys.readouterr().out == "3 steps\nwarning: no text\n"


def test_the_other_processes_print_nothing(capsys):
    show_messages(first=False)
    logging.getLogger("pipeline.training.run.pretraining").warning("no text")
    assert capsys.readouterr().out == ""
