"""The page as a string: what it says, and that it is the same each time."""

import json
import re
from argparse import Namespace

import matplotlib
import pytest

from pipeline.commands import report
from pipeline.common.errors import UserError
from pipeline.evaluation.scores import Score
from pipeline.report import comparison
from pipeline.report.card import Known, model_card
from pipeline.report.compute import compared_ledgers
from pipeline.report.figures import STYLE, to_svg
from pipeline.report.growths import explain
from pipeline.report.methods import baseline_of, differing_settings, group
from pipeline.report.page import build
from pipeline.report.recorded import read_run
from pipeline.report.run_figures import step_figures
from pipeline.report.scores import score_tables
from pipeline.training.run import summary
from tests.pipeline.growth.models import small_model
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
    return " ".join(plain.replace("&#39;", "'").replace("&#34;", '"').split())


def test_the_same_runs_give_the_same_bytes(tmp_path):
    grown = with_scores(Made(tmp_path / "grown").write())
    scratch = Made(tmp_path / "scratch", scratch=True).write()
    assert page_of(grown, scratch).html == page_of(grown, scratch).html


def test_names_are_unique_and_nothing_comes_from_elsewhere(tmp_path):
    html = page_of(Made(tmp_path / "grown").write(), Made(tmp_path / "scratch", scratch=True).write()).html
    names = re.findall(r'\bid="([^"]+)"', html)
    assert len(names) == len(set(names))
    for target in re.findall(r'(?:url\(#|href="#|labelledby=")([^)"]+)', html):
        assert target in names
    assert not re.findall(r'(?:src|href)="(?!#)', html)
    assert "<script" not in html


def test_a_run_that_has_not_ended_says_so(undrawn, tmp_path):
    text = text_of(page_of(Made(tmp_path / "run", recorded=37, half_a_line=True).write()).html)
    assert "it stands at step 37 of 80 (stage submodels), as of the last record" in text


def test_what_went_wrong_stands_at_the_head(undrawn, tmp_path):
    path = Made(tmp_path / "run", nan_at=33, lost=2, given="models/small").write()
    (path / "rewound.json").write_text('{"step": 30, "rewinds": 1, "samples": {}}')
    text = text_of(page_of(path).html)
    assert "1 step(s) were skipped, or had a loss that is no number: 33." in text
    assert "The run went back to a checkpoint 1 time(s)" in text
    assert "2 step(s) were taken and lost, to a crash or a rewind: 8 GFLOP of waste." in text
    assert "What the pre-training of models/small cost is not known" in text


def test_an_empty_run_has_a_page(undrawn, tmp_path):
    page = page_of(Made(tmp_path / "run", recorded=0).write())
    assert page.plots == []
    assert "No step is on record" in text_of(page.html)


def test_a_saving_is_told_with_its_definition_and_its_spread(undrawn, tmp_path):
    paths = [Made(tmp_path / f"nai-{seed}", seed=seed).write() for seed in (1, 2, 3)]
    text = text_of(page_of(*paths, Made(tmp_path / "scratch", scratch=True, seed=3).write()).html)
    assert "scratch ends at a held-out loss of" in text
    assert re.search(r"nai reaches it after [\d.]+ GFLOP: [\d.]+ % ± [\d.]+ saved", text)


def saved_of(*paths):
    """What the page says of savings, drawn nowhere."""
    methods = group([(None, read_run(path)) for path in paths])
    baseline, _ = baseline_of(methods, None)
    found = comparison.saved(methods, baseline, "")
    lines = [*comparison.limits(methods, baseline), *found["lines"], *found.get("points", [])]
    return " ".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def test_runs_that_do_not_reach_the_loss_are_told_beside_the_mean_of_those_that_do(tmp_path):
    paths = [Made(tmp_path / f"nai-{seed}", seed=seed).write() for seed in (1, 2, 3)]
    late = paths[-1] / "eval.jsonl"
    late.write_text("".join(line + "\n" for line in late.read_text().splitlines()[:6]))
    told = saved_of(*paths, Made(tmp_path / "scratch", scratch=True, seed=3).write())
    pattern = r"2 of 3 runs of nai reach it after [\d.]+ GFLOP: [\d.]+ % ± [\d.]+ \(2 of 3 runs\) saved, a mean that leaves out"
    assert re.search(pattern, told)


def test_runs_of_the_baseline_that_have_not_ended_are_not_in_its_final_loss(tmp_path):
    whole = Made(tmp_path / "scratch-1", scratch=True, seed=1, steps=200).write()
    going = Made(tmp_path / "scratch-2", scratch=True, seed=2, steps=200, recorded=20).write()
    told = saved_of(whole, going, Made(tmp_path / "grown").write())
    assert f"scratch ends at a held-out loss of {read_run(whole).final_loss:.4f} after 800 GFLOP." in told
    assert "1 of 2 runs of scratch, the baseline, have not ended, and are not in its final loss and cost." in told


def test_a_baseline_that_was_at_its_final_loss_before_it_ended_is_said_to_have_been(tmp_path):
    scratch, grown = Made(tmp_path / "scratch", scratch=True).write(), Made(tmp_path / "grown").write()
    assert "itself was first at its final loss" not in saved_of(scratch, grown)
    lines = [f'{{"step": {step}, "stage": "full", "loss": {loss}}}\n' for step, loss in ((15, 6.0), (30, 4.0), (60, 5.0))]
    (scratch / "eval.jsonl").write_text("".join(lines))
    # 5.0 lies half way between steps 15 and 30 of 60.
    assert "scratch itself was first at its final loss 62.5 % of its compute before it ended" in saved_of(scratch, grown)


def test_models_of_other_sizes_and_other_devices_are_said_to_be_so(tmp_path):
    given, scratch = Made(tmp_path / "given", given="models/small").write(), Made(tmp_path / "scratch", scratch=True).write()
    told = saved_of(given, scratch)
    # The certificate of the one grows to 48 channels, the other has 64.
    assert "The runs do not all end with a model of the same family and size." in told
    assert "numbers of ranks" not in told
    summary = json.loads((scratch / "summary.json").read_text())
    (scratch / "summary.json").write_text(json.dumps(summary | {"peak_memory": [{"host_gib": 1.0}]}))
    assert "different devices or numbers of ranks: their times are not comparable" in saved_of(given, scratch)
    for run, speed in ((given, 0.26), (scratch, 0.29)):
        words = f"{speed} TFLOP/s a rank in bfloat16, by matrix products measured on this CPU"
        (run / "summary.json").write_text(json.dumps(summary | {"peak": words}))
    assert "numbers of ranks" not in saved_of(given, scratch)


def test_a_last_evaluation_without_a_number_is_told(undrawn, tmp_path):
    path = Made(tmp_path / "run").write()
    with open(path / "eval.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 80, "stage": "full", "loss": null}\n')
    assert "The held-out loss was no number at step 80" in text_of(page_of(path).html)


def test_a_loss_beyond_all_perplexities_has_a_page(undrawn, tmp_path):
    path = Made(tmp_path / "run").write()
    with open(path / "eval.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 80, "stage": "full", "loss": 1e5}\n')
    assert "100000.0000" in text_of(page_of(path).html)


def test_what_was_measured_apart_from_training_is_no_held_out_loss(undrawn, tmp_path):
    path = Made(tmp_path / "run").write()
    file = path / "certificates" / "00.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_training": None}))
    assert "the loss on random tokens moved by +0.1000" in text_of(page_of(path).html)


def test_a_run_without_a_known_utilization_is_left_out_of_its_figure(tmp_path):
    known, unknown = Made(tmp_path / "known").write(), Made(tmp_path / "unknown", changes={"train_batch_size": 4}).write()
    (unknown / "metrics.jsonl").write_text((unknown / "metrics.jsonl").read_text().replace('"mfu": 0.3', '"mfu": null'))
    plots = step_figures(group([(None, read_run(path)) for path in (known, unknown)]), None)
    assert {row["method"] for plot in plots if plot.name == "mfu" for row in plot.rows} == {"known"}


def test_how_experts_share_tokens_out_is_shown_of_mixtures_alone(tmp_path):
    dense, mixture = Made(tmp_path / "dense").write(), Made(tmp_path / "mixture", changes={"train_batch_size": 4}).write()
    told = '"mfu": 0.3, "router_aux_loss": 2.5, "expert_load_max": 1.75, "expert_load_min": 0.5, "expert_load_entropy": 0.9'
    (mixture / "metrics.jsonl").write_text((mixture / "metrics.jsonl").read_text().replace('"mfu": 0.3', told))
    names = {"expert-load-max": 1.75, "expert-load-min": 0.5, "expert-load-entropy": 0.9, "router-aux-loss": 2.5}
    plots = {plot.name: plot for plot in step_figures(group([(None, read_run(path)) for path in (dense, mixture)]), None)}
    for name, value in names.items():
        assert {(row["method"], row[name]) for row in plots[name].rows} == {("mixture", value)}
    assert not names.keys() & {plot.name for plot in step_figures(group([(None, read_run(dense))]), None)}


def test_dollars_in_a_name_are_dollars(tmp_path):
    with matplotlib.rc_context(STYLE):
        drawn = to_svg(compared_ledgers(group([("a $x_1$", read_run(Made(tmp_path / "run").write()))])))
    assert ">a $x_1$</text>" in drawn


def test_a_loss_that_is_not_reached_has_no_saving(undrawn, tmp_path):
    grown = Made(tmp_path / "grown", steps=10).write()
    text = text_of(page_of(grown, Made(tmp_path / "scratch", scratch=True, steps=200).write()).html)
    assert "grown has not reached that loss." in text
    assert "not reached" in text


def test_without_a_baseline_the_page_says_why_there_is_no_saving(undrawn, tmp_path):
    text = text_of(page_of(Made(tmp_path / "a").write(), Made(tmp_path / "b", changes={"train_batch_size": 4}).write()).html)
    assert "None of the runs was trained from scratch" in text


def test_runs_on_different_data_are_said_to_be_incomparable(undrawn, tmp_path):
    a, b = Made(tmp_path / "a").write(), Made(tmp_path / "b", scratch=True).write()
    (b / "data.json").write_text((b / "data.json").read_text().replace('"same"', '"another"'))
    assert "their losses are not comparable" in text_of(page_of(a, b).html)


@pytest.mark.parametrize(("task", "best"), [("wikitext2", "best 30.9000"), ("sst2", "best 0.9100 ± 0.0120")])
def test_the_best_score_is_named_and_not_only_coloured(undrawn, tmp_path, task, best):
    text = text_of(page_of(with_scores(Made(tmp_path / "run").write())).html)
    assert f"{task}/test.txt, digest f00d, 1,234 examples. a note." in text
    assert best in text


def score_of(value, examples=100, settings=None, digest="f00d"):
    data = {"source": "a.txt", "digest": digest, "examples": examples, "note": None}
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


def test_equal_scores_are_none_of_them_the_best():
    (grid,) = score_tables([("a", score_of(0.5)), ("b", score_of(0.50000001)), ("c", score_of(0.4))])
    assert [row[2] for row in grid.rows] == ["0.5000", "0.5000", "0.4000"]


def test_runs_of_one_name_whose_recipes_differ_are_told_and_are_not_from_scratch(undrawn, tmp_path):
    scratch, grown = Made(tmp_path / "a", scratch=True).write(), Made(tmp_path / "b", seed=2).write()
    text = text_of(build([("x", read_run(scratch)), ("x", read_run(grown))]).html)
    assert (
        "The runs of x are not repetitions of one recipe, since they differ in source.steps, source.model.hidden_size" in text
    )
    assert "x: gpt2, 3 layers × 32 → 5 layers × 48" in text
    assert "none: from scratch" not in text
    assert "(nothing is grown in 1 of 2 runs)" in text
    same = Made(tmp_path / "c", seed=3).write()
    assert "are not repetitions" not in text_of(build([("x", read_run(grown)), ("x", read_run(same))]).html)


def test_a_comparison_says_where_each_starts_what_it_needs_and_over_how_many_steps(tmp_path):
    grown, scratch = Made(tmp_path / "grown").write(), Made(tmp_path / "scratch", scratch=True, steps=50).write()
    methods = group([(None, read_run(path)) for path in (grown, scratch)])
    (line,) = comparison.starts(methods, methods[1])
    start = "grown starts at a held-out loss of 5.50 where scratch begins at 8.30, and from the growth on needs "
    assert re.fullmatch(start + r"[\d.]+\sGFLOP instead of 200\sGFLOP to reach scratch's final loss, 4\.\d\d\.", line)
    assert "falls over its own steps (60 and 50)" in saved_of(grown, scratch)
    evaluations = (scratch / "eval.jsonl").read_text().splitlines(keepends=True)
    (scratch / "eval.jsonl").write_text("".join(evaluations[1:]))
    methods = group([(None, read_run(path)) for path in (grown, scratch)])
    (line,) = comparison.starts(methods, methods[1])
    assert line.startswith("grown starts at a held-out loss of 5.50, and from the growth on needs")


def test_a_baseline_that_goes_on_stands_at_its_loss(tmp_path):
    going = Made(tmp_path / "scratch", scratch=True, recorded=30).write()
    assert "scratch stands at a held-out loss of" in saved_of(going, Made(tmp_path / "grown").write())


def test_a_stage_that_one_method_has_not_is_one_row_of_the_settings_that_differ(tmp_path):
    runs = [Made(tmp_path / "grown").write(), Made(tmp_path / "scratch", scratch=True).write()]
    rows = {
        key: cells for key, *cells in map(dict.values, differing_settings(group([(None, read_run(path)) for path in runs])))
    }
    assert rows["stage submodels"][1] == "absent"
    assert "steps 30" in rows["stage submodels"][0]
    assert not [key for key in rows if key.startswith("stage submodels.")]
    assert rows["stage full.steps"] == ["30", "60"]


def test_a_page_is_not_written_over_a_directory(tmp_path):
    with pytest.raises(UserError, match="is a directory; name an HTML file"):
        report.run(Namespace(runs=["nowhere"], out=tmp_path))


def test_a_loss_that_rounds_to_no_change_did_not_move(undrawn, tmp_path):
    path = Made(tmp_path / "run").write()
    file = path / "certificates" / "00.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"in_training": content["in_training"] | {"loss_gap": -2e-5}}))
    assert "; the held-out loss did not move." in text_of(page_of(path).html)


def test_what_rounding_does_is_told_beside_what_growth_did_and_alike_everywhere(tmp_path):
    """In the page, in the summary and on the model's card."""
    path = Made(tmp_path / "run").write()
    (explained,) = explain(read_run(path), "a")
    growth = json.loads((path / "certificates" / "00.json").read_text())
    measured = growth["measured"] | {"tokens": "random"}
    card = model_card(Known(small_model("gpt2").config, "float32", "", certificates=[growth | {"measured": measured}]))
    page = " ".join(explained["meaning"])
    for told in (page, summary._verdict(growth), card):
        assert "rounding to" in told.lower() and "-0.0021" in told
    assert "a loss 0.1000 higher than its source's" in page and "loss moved by +0.1000" in summary._verdict(growth)
    assert "the loss from 6.0000 to 6.1000" in card
    older = growth | {"in_training": {key: value for key, value in growth["in_training"].items() if key != "rounding"}}
    assert "rounding" not in summary._verdict(older)
    (path / "certificates" / "00.json").write_text(json.dumps(older))
    assert "rounding to bfloat16 is in the difference" in " ".join(explain(read_run(path), "a")[0]["meaning"])


def test_a_departure_of_an_earlier_version_is_shown_without_a_meaning(undrawn, tmp_path):
    path = Made(tmp_path / "run").write()
    file = path / "certificates" / "00.json"
    earlier = json.loads(file.read_text()) | {"departures": ["gpt2 pre-norm at x1.5: counts 1 and 2 under one LayerNorm"]}
    file.write_text(json.dumps(earlier))
    html = build([("a", read_run(path))]).html
    assert "“gpt2 pre-norm at x1.5: counts 1 and 2 under one LayerNorm”.<" in html


def test_what_a_person_called_a_run_is_no_html(undrawn, tmp_path):
    run = read_run(Made(tmp_path / "run").write())
    html = build([("<b>&", run)]).html
    assert "<b>&" not in html
    assert "&lt;b&gt;&amp;" in html
