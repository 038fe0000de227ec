"""Curves as TensorBoard's own reader and csv read them, of a run that broke off and went on."""

import csv
import importlib.util
import json
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from pydantic import create_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.common.errors import UserError
from pipeline.deepspeed.monitors import MONITORS, Event, Monitor
from pipeline.recipe import ds_file, load_recipe
from pipeline.runs.records import ROUTER_KEYS
from pipeline.training import distributed
from pipeline.training.ds_config import load_ds_config, same_run
from pipeline.training.monitoring.monitors import Monitors, without_monitors
from pipeline.training.monitoring.utilization import Speed
from tests.messages import collected
from tests.ranks import run_ranks

ROOT = Path(__file__).parents[3]
QUICKSTART = ROOT / "launch" / "recipes" / "quickstart.yaml"


def resolved(tmp_path: Path, **sections: dict) -> dict:
    """A DeepSpeed configuration as a run in `tmp_path / "run"` has it."""
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 3}, **sections}))
    return load_ds_config(path, load_recipe(QUICKSTART, [f"run_dir={tmp_path / 'run'}"]), 1)


def take_step(monitors: Monitors, step: int, **values: float) -> None:
    record = {"step": step, "loss": 1 / step, "lr": 0.1, "grad_norm": None, "submodel_layers": None, "mfu": 0.25}
    monitors.step(record | values, Speed(100.0, 2.0, 0.25))


def tell_of_routers(config: dict, run_dir: Path) -> bool:
    monitors = Monitors.opened(config, run_dir, 0)
    take_step(monitors, 1, **dict.fromkeys(ROUTER_KEYS, 0.25))
    monitors.close()
    return True


def take_steps(monitors: Monitors, steps: range) -> None:
    for step in steps:
        take_step(monitors, step)
    monitors.evaluation({"step": steps[-1], "loss": 0.5, "perplexity": 1.6, "accuracy": 0.75})
    monitors.close()


def break_off_and_go_on(config: dict, run_dir: Path) -> None:
    run_dir.mkdir()
    take_steps(Monitors.opened(config, run_dir, 0), range(1, 8))
    if "csv_monitor" in config:
        with open(run_dir / "csv" / "train_loss.csv", "a", encoding="utf-8") as file:
            file.write("8,0.12")  # a kill within a row
    take_steps(Monitors.opened(config, run_dir, 4), range(5, 11))


def test_a_run_that_goes_on_has_each_step_once(tmp_path):
    config = resolved(tmp_path, tensorboard={"enabled": True, "output_path": "auto"}, csv_monitor={"enabled": True})
    run_ranks(break_off_and_go_on, 1, config, tmp_path / "run")

    board = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    steps = [f"train/{name}" for name in ("loss", "lr", "mfu", "tflops", "tokens_per_second")]
    assert set(board.Tags()["scalars"]) == {*steps, "eval/loss", "eval/perplexity", "eval/accuracy"}
    for tag in steps:
        assert [event.step for event in board.Scalars(tag)] == list(range(1, 11))
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx([1 / step for step in range(1, 11)])
    assert [(event.step, event.value) for event in board.Scalars("eval/accuracy")] == [(10, 0.75)]

    with open(tmp_path / "run" / "csv" / "train_loss.csv", encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "loss"]
    assert [(int(step), float(loss)) for step, loss in rows] == [(step, 1 / step) for step in range(1, 11)]
    assert not (tmp_path / "run" / "csv" / "train_grad_norm.csv").exists()


def fill_the_disk_for_a_while(config: dict, run_dir: Path) -> list[str]:
    run_dir.mkdir()
    monitors = Monitors.opened(config, run_dir, 0)
    with collected() as said:
        for steps, limit in ((range(1, 4), 4), (range(4, 7), None), (range(7, 10), 36), (range(10, 13), None)):
            # Writing past the limit on a file's size fails as on a full disk: here within a header, and within a row.
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit or resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            for step in steps:
                take_step(monitors, step, loss=0.5)
                monitors.evaluation({"step": step, "loss": 0.5, "pair_loss": 0.25, "pair_accuracy": 0.125})
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
        monitors.close()
    return said


def test_what_is_told_of_routers_is_a_curve_where_there_are_any(tmp_path):
    (tmp_path / "run").mkdir()
    assert run_ranks(tell_of_routers, 1, resolved(tmp_path, csv_monitor={"enabled": True}), tmp_path / "run")
    curves = {path.stem for path in (tmp_path / "run" / "csv").glob("*.csv")}
    assert {f"train_{key}" for key in ROUTER_KEYS} <= curves


@pytest.mark.parametrize("section", ["csv_monitor", "tensorboard"])
def test_a_run_goes_on_without_curves_while_the_disk_is_full(tmp_path, section):
    (said,) = run_ranks(fill_the_disk_for_a_while, 1, resolved(tmp_path, **{section: {"enabled": True}}), tmp_path / "run")
    assert said == ["warning: File too large: the monitors' curves have gaps from here on"]
    if section == "csv_monitor":
        for name, value in (("train_loss", "0.5"), ("eval_pair_loss", "0.25"), ("eval_pair_accuracy", "0.125")):
            header, *rows = csv.reader((tmp_path / "run" / "csv" / f"{name}.csv").read_text().splitlines())
            assert header == ["step", name.partition("_")[2]]
            assert rows == [[str(step), value] for step in (4, 5, 6, 10, 11, 12)]


def begin_where_another_wrote(config: dict, run_dir: Path) -> None:
    run_dir.mkdir()
    take_steps(Monitors.opened(config, run_dir, 0), range(1, 4))
    take_steps(Monitors.opened(config, run_dir, 0), range(1, 3))


def test_a_new_run_deletes_nothing_in_a_folder_that_a_person_named(tmp_path):
    config = resolved(tmp_path, csv_monitor={"enabled": True, "output_path": str(tmp_path / "mine"), "job_name": "shared"})
    run_ranks(begin_where_another_wrote, 1, config, tmp_path / "run")
    rows = (tmp_path / "mine" / "shared" / "train_loss.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2", "3", "1", "2"]


def test_folders_left_open_are_the_run_directorys_own(tmp_path):
    config = resolved(tmp_path, csv_monitor={"enabled": True}, wandb={"enabled": False})
    assert config["csv_monitor"] == {"enabled": True, "output_path": str(tmp_path / "run"), "job_name": "csv"}
    config = resolved(tmp_path, csv_monitor={"enabled": True, "output_path": "curves"})
    assert config["csv_monitor"] == {"enabled": True, "output_path": "curves", "job_name": "run"}


def test_who_is_told_may_change_while_a_run_goes_on(tmp_path):
    monitored, untold = resolved(tmp_path, csv_monitor={"enabled": True}), resolved(tmp_path)
    assert same_run(monitored) == same_run(untold)
    assert without_monitors(monitored) == untold


@pytest.mark.parametrize(("section", "package"), [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_section_without_its_package_is_refused(tmp_path, monkeypatch, section, package):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest))
    with pytest.raises(UserError, match=rf"ds\.json: {section}\.enabled: .* {package} is not installed; pip install {package}"):
        resolved(tmp_path, **{section: {"enabled": True}})
    resolved(tmp_path, **{section: {"enabled": False}})


class InMemory(Monitor):
    """A monitor that keeps what it is given, by a section of its own."""

    settings = create_model("InMemoryConfig", enabled=(bool, False))
    events: ClassVar[list[Event]] = []

    @staticmethod
    def writer_class(settings: object) -> SimpleNamespace:
        return SimpleNamespace(write_events=InMemory.events.extend)


def test_another_monitor_is_a_class_and_its_section(tmp_path, monkeypatch):
    monkeypatch.setitem(MONITORS, "memory", InMemory)
    monkeypatch.setattr(ds_file, "MONITORS", (*ds_file.MONITORS, "memory"))
    monkeypatch.setattr(distributed, "on_first_rank", lambda work: work())
    config = resolved(tmp_path, memory={"enabled": True})
    monitors = Monitors.opened(config, tmp_path, 0)
    monitors.evaluation({"step": 3, "loss": 0.5})
    monitors.close()
    assert InMemory.events == [("eval/loss", 0.5, 3)] and same_run(config) == same_run(resolved(tmp_path))
    with pytest.raises(UserError, match=r"unknown key 'memory\.enable'"):
        resolved(tmp_path, memory={"enable": True})


def test_a_misspelt_key_of_a_section_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tensorboard\.output_paht"):
        resolved(tmp_path, tensorboard={"enabled": True, "output_paht": "x"})
