"""The page as a string: what it says, what it shows, and that it is the same each time."""

import json
import math
import re
from argparse import Namespace
from html import unescape
from pathlib import Path

import matplotlib
import pytest

from pipeline.commands import report
from pipeline.common.errors import UserError
from pipeline.evaluation.scores import Score
from pipeline.report import run_figures
from pipeline.report.card import Known, model_card
from pipeline.report.compute import compared_ledgers
from pipeline.report.figures import STYLE, to_svg
from pipeline.report.growths import explain
from pipeline.report.methods import differing_settings, group
from pipeline.report.page import build
from pipeline.report.recorded import read_run
from pipeline.report.scores import score_tables
from pipeline.training.run import summary
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.grown_runs import finished_run
from tests.pipeline.report.recorded_runs import Made, with_scores


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the drawing, which takes nearly all the time, where the words are what is tested."""
    monkeypatch.setattr("pipeline.report.page.to_svg", lambda plot: "")


def page_of(*paths, **options):
    return build([(None, read_run(path)) for path in paths], **options)


def text_of(html: str) -> str:
    """The words of a page."""
    plain = re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    return " ".join(unescape(plain).split())


def added(path: Path, file: str, line: str) -> Path:
    (path / file).write_text((path / file).read_text() + line + "\n")
    return path


def changed(path: Path, file: str, **changes) -> Path:
    (path / file).write_text(json.dumps(json.loads((path / file).read_text()) | changes))
    return path


def replaced(path: Path, file: str, old: str, new: str) -> Path:
    (path / file).write_text((path / file).read_text().replace(old, new))
    return path


def evaluated(path: Path, *points: tuple[int, float]) -> Path:
    (path / "eval.jsonl").write_text("".join(f'{{"step": {s}, "stage": "full", "loss": {loss}}}\n' for s, loss in points))
    return path


def some_evaluations(path: Path, which: slice) -> Path:
    (path / "eval.jsonl").write_text("".join((path / "eval.jsonl").read_text().splitlines(keepends=True)[which]))
    return path


def run(path: Path, name: str = "grown", **how) -> Path:
    return Made(path / name, **how).write()


def scratch(path: Path, name: str = "scratch", **how) -> Path:
    return run(path, name, scratch=True, **how)


def troubled(path: Path) -> Path:
    made = run(path, nan_at=33, lost=2, given="models/small")
    (made / "rewound.json").write_text('{"step": 30, "rewinds": 1, "samples": {}}')
    return made


def summarized(path: Path, **of_both) -> list[Path]:
    """Two runs of which the summaries say other things."""
    both = run(path, "given", given="models/small"), scratch(path)
    return [changed(one, "summary.json", **{k: v[i] for k, v in of_both.items()}) for i, one in enumerate(both)]


FILE = "certificates/00.json"
LOSSES = "eval.jsonl"
SPEEDS = [f"{speed} TFLOP/s a rank in bfloat16, by matrix products measured on this CPU" for speed in (0.26, 0.29)]
RANKS = [[{"host_gib": 1.5}] * 2, [{"host_gib": 1.0}]]
OTHER_DEVICES = "different devices or numbers of ranks: their times are not comparable"
OLDER = ["gpt2 at x1.5: counts 1 and 2 under one LayerNorm"]

SAYS = [
    # What is made, what the page says of it (* is a number), and with a "no: " what it does not say.
    (lambda p: [run(p, recorded=37, half_a_line=True)], "it stands at step 37 of 80 (stage submodels), as of the last record"),
    (
        lambda p: [troubled(p)],
        "1 step(s) were skipped, or had a loss that is not a number: 33.",
        "The run went back to a checkpoint 1 time(s)",
        "2 step(s) were taken and lost, to a crash or a rewind: 8 GFLOP of waste.",
        "What the pre-training of models/small cost is not known",
    ),
    (lambda p: [run(p, recorded=0)], "No step is on record"),
    (lambda p: [added(run(p), LOSSES, '{"step": 80, "stage": "full", "loss": null}')], "loss was not a number at step 80"),
    # A loss beyond all perplexities.
    (lambda p: [added(run(p), LOSSES, '{"step": 80, "stage": "full", "loss": 1e5}')], "100000.0000"),
    # What was measured outside training is no held-out loss.
    (lambda p: [changed(run(p), FILE, in_training=None)], "the loss on random tokens moved by +0.1000"),
    (lambda p: [replaced(run(p), FILE, '"loss_gap": 0.1', '"loss_gap": -2e-5')], "; the held-out loss did not move."),
    # An earlier version wrote no meaning beside a cause.
    (lambda p: [changed(run(p), FILE, departures=OLDER)], f"“{OLDER[0]}”. In float64"),
    (
        lambda p: [*(run(p, f"nai-{seed}", seed=seed) for seed in (1, 2, 3)), scratch(p, seed=3)],
        "nai reaches it after * GFLOP: * % ± * saved",
        "scratch ends at a held-out loss of",
        "no: itself was first at its final loss",
    ),
    (
        lambda p: [run(p, "a-1"), run(p, "a-2", seed=2), some_evaluations(run(p, "a-3", seed=3), slice(6)), scratch(p, seed=3)],
        "2 of 3 runs of a reach it after * GFLOP: * % ± * (2 of 3 runs) saved, a mean that leaves out",
    ),
    (lambda p: [run(p, steps=10), scratch(p, steps=200)], "grown has not reached that loss.", "not reached"),
    (
        lambda p: [scratch(p, "s-1", steps=200), scratch(p, "s-2", seed=2, steps=200, recorded=20), run(p)],
        "1 of 2 runs of s, the baseline, have not ended, and are not in its final loss and cost.",
        f"s ends at a held-out loss of {Made(Path(), scratch=True).loss(200, 200):.4f} after 800 GFLOP.",
    ),
    (lambda p: [scratch(p, recorded=30), run(p)], "scratch stands at a held-out loss of"),
    # 5.0 lies half way between steps 15 and 30 of 60.
    (
        lambda p: [evaluated(scratch(p), (15, 6.0), (30, 4.0), (60, 5.0)), run(p)],
        "scratch itself was first at its final loss 62.5 % of its compute before it ended",
    ),
    (lambda p: [run(p, "a"), run(p, "b", changes={"train_batch_size": 4})], "None of the runs was trained from scratch"),
    (lambda p: [run(p), replaced(scratch(p), "data.json", "same", "another")], "their losses are not comparable"),
    # The certificate of the one grows to 48 channels, the other has 64.
    (summarized, "The runs do not all end with a model of the same family and size.", f"no: {OTHER_DEVICES}"),
    (lambda p: summarized(p, peak_memory=RANKS), OTHER_DEVICES),
    (lambda p: summarized(p, peak=SPEEDS), f"no: {OTHER_DEVICES}"),
    (
        lambda p: [run(p), scratch(p, steps=50)],
        "grown starts at a held-out loss of 5.50 where scratch begins at 8.30, and from the growth on needs * GFLOP instead of "
        "200 GFLOP to reach scratch's final loss, *",
        "falls over its own steps (60 and 50)",
    ),
    (
        lambda p: [run(p), some_evaluations(scratch(p), slice(1, None))],
        "grown starts at a held-out loss of 5.50, and from the growth on needs",
    ),
]


@pytest.mark.parametrize(("make", "says"), [(make, says) for make, *says in SAYS], ids=[words[:40] for _, words, *_ in SAYS])
def test_the_page_says(undrawn, tmp_path, make, says):
    text = text_of(page_of(*make(tmp_path)).html)
    for words in says:
        pattern = re.escape(words.removeprefix("no: ")).replace(r"\*", r"[\d.]+")
        assert bool(re.search(pattern.replace(r"\ ", " "), text)) != words.startswith("no: "), words


def shown(page) -> dict[str, list[str]]:
    """The figures of each section."""
    sections = re.findall(r'<section id="([^"]+)">(.*?)</section>', page.html, flags=re.DOTALL)
    return {name: re.findall(r'<figure id="figure-([^"]+)"', content) for name, content in sections}


SECTIONS = ["loss", "saved", "compute", "growth", "attention", "evaluation", "repeat"]
STEPS = ["tokens-per-second", "mfu", "learning-rate"]


def test_each_section_and_figure_of_one_run_is_there_when_its_data_is(undrawn, tmp_path):
    empty = page_of(run(tmp_path, "empty", recorded=0))
    assert shown(empty) == {name: [] for name in SECTIONS} and empty.plots == []
    made, _ = finished_run(tmp_path / "whole", "gpt2", {"width": "nai", "depth": "last_layer"}, {"hidden_size": 64})
    Made(tmp_path / "records", growths=1).write()
    for path in (tmp_path / "records").iterdir():
        if path.name != "certificates":
            path.rename(made.path / path.name)
    page = page_of(with_scores(made.path))
    figures = shown(page)
    assert list(figures) == SECTIONS
    assert figures["loss"] == ["loss-flops", "loss-tokens", "loss-steps", "loss-seconds"]
    assert figures["compute"] == ["ledger", *STEPS] and figures["growth"] == ["growth-1-layers"]
    layers = [name for name in figures["attention"] if name.startswith("attention-layer-")]
    rest = ["tokens", "source-target", "within-layers", "layers", "duplicates"]
    assert layers and figures["attention"] == [*layers, *(f"attention-{name}" for name in rest)]
    assert [plot.name for plot in page.plots] == [name for names in figures.values() for name in names]
    tables = re.findall(r"<caption>(.*?)</caption>", page.html)
    assert tables[:3] == ["Cost of each stage", "Executed FLOPs by part", "Peak memory of each rank"]
    assert tables[3:] == ["The grown model beside its source", "Sizes", "wikitext2", "sst2"]


def test_each_section_and_figure_of_several_runs_is_there_when_its_data_is(undrawn, tmp_path):
    page = page_of(run(tmp_path), scratch(tmp_path))
    quantities = ["flops", "flops-with-source", "tokens", "steps", "seconds", "seconds-with-source"]
    assert shown(page) == {name: [] for name in SECTIONS} | {
        "loss": [f"compare-{name}" for name in quantities],
        "saved": ["saved-flops", "saved-flops-with-source"],
        "compute": ["compare-ledger", *STEPS],
        "growth": ["growth-0-1-layers"],
    }
    tables = re.findall(r"<caption>(.*?)</caption>", page.html)
    assert tables[:2] == ["Methods", "Saved until scratch&#39;s final held-out loss is first reached"]
    assert tables[-1] == "Settings that differ"


def test_the_same_runs_give_the_same_bytes_unique_names_and_nothing_from_elsewhere(tmp_path):
    paths = with_scores(run(tmp_path)), scratch(tmp_path)
    html = page_of(*paths).html
    assert page_of(*paths).html == html
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))
    assert set(re.findall(r'(?:url\(#|href="#|labelledby=")([^)"]+)', html)) <= set(names)
    assert not re.findall(r'(?:src|href)="(?!#)', html) and "<script" not in html


def test_what_a_run_has_not_on_record_of_its_steps_is_shown_of_those_alone_that_have_it(tmp_path):
    """How experts share tokens out of a mixture, and the utilization where it is known."""
    names = {"expert-load-max": 1.75, "expert-load-min": 0.5, "expert-load-entropy": 0.9, "router-aux-loss": 2.5}
    keys = ", ".join(f'"{name.replace("-", "_")}": {value}' for name, value in names.items())
    dense, mixture = run(tmp_path, "dense"), run(tmp_path, "mixture", changes={"train_batch_size": 4})
    replaced(mixture, "metrics.jsonl", '"mfu": 0.3', f'"mfu": null, {keys}')
    methods = group([(None, read_run(path)) for path in (dense, mixture)])
    rows = {plot.name: plot.rows for plot in run_figures.step_figures(methods, None)}
    for name, value in names.items():
        assert {(row["method"], row[name]) for row in rows[name]} == {("mixture", value)}
    assert {row["method"] for row in rows["mfu"]} == {"dense"}
    assert not names.keys() & {plot.name for plot in run_figures.step_figures(methods[:1], None)}


def test_a_run_none_of_whose_training_losses_is_a_number_shows_the_held_out_ones(undrawn, tmp_path):
    path = run(tmp_path)
    steps = [json.loads(line) | {"loss": None} for line in (path / "metrics.jsonl").read_text().splitlines()]
    (path / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    plots = {plot.name: plot for plot in page_of(path).plots}
    assert {row["kind"] for row in plots["loss-flops"].rows if math.isfinite(row["loss"])} == {"held-out"}


def test_dollars_in_a_name_are_dollars(tmp_path):
    with matplotlib.rc_context(STYLE):
        drawn = to_svg(*compared_ledgers(group([("a $x_1$", read_run(run(tmp_path)))])))
    assert ">a $x_1$</text>" in drawn


def test_the_best_score_is_named_and_not_only_coloured(undrawn, tmp_path):
    text = text_of(page_of(with_scores(run(tmp_path))).html)
    for task, best in (("wikitext2", "best 30.9000"), ("sst2", "best 0.9100 ± 0.0120")):
        assert f"{task}/test.txt, digest f00d, 1,234 examples. a note." in text and best in text


def score_of(value, examples=100, settings=None):
    data = {"source": "a.txt", "digest": "f00d", "examples": examples, "note": None}
    return Score("m", None, "full", 80, "sst2", {"accuracy": value}, None, data, settings or {"window": 128}, 1.0)


def test_the_best_is_sought_among_scores_of_equal_data_and_settings_alone():
    scores = [("a", score_of(0.5)), ("b", score_of(0.6)), ("c", score_of(0.9, examples=1))]
    scores += [("d", score_of(0.7, settings={"window": 64})), ("e", score_of(0.4, settings={"window": 128, "chosen": [1]}))]
    grids = score_tables(scores)
    assert [[row[0][0] for row in grid.rows] for grid in grids] == [["a", "b", "e"], ["c"], ["d"]]
    assert [row[2] for row in grids[0].rows] == ["0.5000", "best 0.6000", "0.4000"]
    assert [grid.rows[0][1:3] for grid in grids[1:]] == [["1", "0.9000"], ["100", "0.7000"]]
    titles = ["sst2: 100 examples, window 128", "sst2: 1 example, window 128", "sst2: 100 examples, window 64"]
    assert [grid.title for grid in grids] == titles
    (tied,) = score_tables([("a", score_of(0.5)), ("b", score_of(0.50000001)), ("c", score_of(0.4))])
    assert [row[2] for row in tied.rows] == ["0.5000", "0.5000", "0.4000"]


def test_runs_of_one_name_whose_recipes_differ_are_told_and_are_not_from_scratch(undrawn, tmp_path):
    first, grown, same = scratch(tmp_path), run(tmp_path, seed=2), run(tmp_path, "same", seed=3)
    text = text_of(build([("x", read_run(first)), ("x", read_run(grown))]).html)
    assert "The runs of x are not repetitions of one recipe, since they differ in source.steps, source.model.hidden_" in text
    assert "x: gpt2, 3 layers × 32 → 5 layers × 48" in text
    assert "none: from scratch" not in text and "(nothing is grown in 1 of 2 runs)" in text
    assert "are not repetitions" not in text_of(build([("x", read_run(grown)), ("x", read_run(same))]).html)


def test_a_stage_that_one_method_has_not_is_one_row_of_the_settings_that_differ(tmp_path):
    methods = group([(None, read_run(path)) for path in (run(tmp_path), scratch(tmp_path))])
    rows = {row.pop("setting"): row for row in differing_settings(methods)}
    assert rows["stage submodels"]["scratch"] == "absent" and "steps 30" in rows["stage submodels"]["grown"]
    assert not [key for key in rows if key.startswith("stage submodels.")]
    assert rows["stage full.steps"] == {"grown": "30", "scratch": "60"}


def test_a_page_is_not_written_over_a_directory(tmp_path):
    with pytest.raises(UserError, match="is a directory; name an HTML file"):
        report.run(Namespace(runs=["nowhere"], out=tmp_path))


def test_what_rounding_does_is_told_beside_what_growth_did_and_alike_everywhere(tmp_path):
    """In the page, in the summary and on the model's card."""
    path = run(tmp_path)
    (explained,) = explain(read_run(path), "a")
    growth = json.loads((path / FILE).read_text())
    measured = growth["measured"] | {"tokens": "random"}
    card = model_card(Known(small_model("gpt2").config, "float32", "", certificates=[growth | {"measured": measured}]))
    page = " ".join(explained["meaning"])
    for text in (page, summary._verdict(growth), card):
        assert "rounding to" in text.lower() and "-0.0021" in text
    assert "a loss 0.1000 higher than its source's" in page and "loss moved by +0.1000" in summary._verdict(growth)
    assert "the loss from 6.0000 to 6.1000" in card
    older = growth | {"in_training": {key: value for key, value in growth["in_training"].items() if key != "rounding"}}
    assert "rounding" not in summary._verdict(older)
    changed(path, FILE, **older)
    assert "rounding to bfloat16 is in the difference" in " ".join(explain(read_run(path), "a")[0]["meaning"])


def test_what_a_person_called_a_run_is_no_html(undrawn, tmp_path):
    html = build([("<b>&", read_run(run(tmp_path)))]).html
    assert "<b>&" not in html and "&lt;b&gt;&amp;" in html
