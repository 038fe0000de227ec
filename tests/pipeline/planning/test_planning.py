import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.cli import plan
from pipeline.commands import plan as command
from pipeline.common.errors import UserError
from pipeline.families import scratch_config, target_config
from pipeline.planning import page
from pipeline.planning.compared_runs import ComparedRun, against_plan, comparison_table, most_off, predicted_by
from pipeline.planning.law import Law, Phase, training_of, uncertain
from pipeline.planning.page import Answer
from pipeline.planning.pilots import pilot_recipe, pilots
from pipeline.planning.predictions import Predictor
from pipeline.planning.recipes import of_target, recipe_of, schedule_of
from pipeline.planning.record import RunEntry
from pipeline.planning.rules import growth_tokens, rules
from pipeline.planning.schedules import Given, Kind, Schedule, kinds_of
from pipeline.planning.search import Search
from pipeline.recipe import load_recipe
from pipeline.training.plan.training_plan import plan_training
from pipeline.training.plan.workload import stage_flops
from tests.pipeline.planning.made import STEP, VOCABULARY, entry, question, recipe, record, sized, true_law

RECORD = record()
EARLY = [one for one in RECORD if len(one["phases"]) == 1 or "12x1500" in one["name"]]
"""Those whose growths come early."""
KINDS = kinds_of(RECORD, question())
TRAININGS = [training_of(one) for one in RECORD]


def predictor(tokens: int = 2000 * STEP) -> Predictor:
    return Predictor(question(tokens), true_law(*RECORD), TRAININGS)


def deepened(before: int, after: int, kind: Kind = KINDS[0]) -> Schedule:
    """One layer for some steps, then twelve."""
    return Schedule((sized(1), sized(12)), (before, after), (kind,))


def unsure(entries: list[RunEntry], noise: float = 0.004) -> Law:
    """The law of the record, as uncertain as these runs leave it."""
    law = replace(true_law(*RECORD), noise=noise)
    return uncertain(law, [(training_of(one), one["loss"]) for one in entries], count=8)


@pytest.fixture(scope="module")
def searched():
    search = Search(predictor(), KINDS)
    return search, search.grown(), search.fixed()


def test_the_kinds_of_growth_are_those_that_runs_of_the_record_went():
    assert [kind.name for kind in KINDS] == ["stack, state grown", "stack, state fresh", "random, state fresh"]
    both = entry([(1, 5), (3, 5)], [("stack", "grow")])
    (added,) = kinds_of([both | {"growths": [both["growths"][0] | {"options": {"added": {"warmup_steps": 50}}}]}], question())
    assert added.section == {"depth": "stack", "optimizer_state": "grow", "added": {"warmup_steps": 50}}
    for change in ({"schedule_anew": True}, {"depth": "list"}, {"width": "aki"}):
        assert kinds_of([both | {"growths": [both["growths"][0] | change]}], question()) == []


def test_every_schedule_reaches_the_loss_of_scratch_and_none_of_any_other_shares_does_so_for_less(searched):
    search, grown, _ = searched
    asked = search.question
    for row in grown:
        assert row.loss == pytest.approx(search.predictor.goal, abs=2e-3)
        assert row.saved == pytest.approx(1 - row.schedule.flops / asked.scratch_flops, abs=0.02)
    costs = [row.schedule.flops for row in grown]
    # Sorted by what they save at their own losses, which whole steps leave apart by a few parts in ten thousand.
    assert [row.interval[0] for row in grown] == sorted((row.interval[0] for row in grown), reverse=True)
    assert all(later >= 0.998 * before for before, later in itertools.pairwise(costs))
    assert {len(row.schedule.sizes) for row in grown} == {2, 3, 4}
    # By hand: one layer for n steps, then twelve for m, in all the steps of a coarse grid.
    of_two = [row for row in grown if [size.name for size in row.schedule.sizes] == ["1x32", "12x32"]]
    (best,) = [row for row in of_two if row.schedule.kinds[0].name == KINDS[0].name]
    law, cheapest = true_law(*RECORD), float("inf")
    for before, after in itertools.product(range(500, 4000, 50), range(300, 2000, 25)):
        if after / (before + after) < 0.25:
            continue
        one = deepened(before, after)
        if law.loss(one.training(asked)) <= search.predictor.goal:
            cheapest = min(cheapest, one.flops)
    assert best.schedule.flops == pytest.approx(cheapest, rel=0.05)


def test_what_a_schedule_costs_is_what_the_ledger_of_its_run_will_say(searched):
    for row in searched[1][:4]:
        planned = recipe_of(recipe(), row.schedule, "runs/planned")
        configs = [scratch_config(planned.source.model, VOCABULARY, 0, 32)]
        for phase in planned.phases[1:]:
            configs.append(target_config(configs[-1], phase.target, growth=phase.growth))
        ds_config = {"train_batch_size": 16, "train_micro_batch_size_per_gpu": 16}
        training_plan = plan_training(planned, dict(enumerate(configs)), lambda stream: 0, ds_config, 1)
        flops = [stage_flops(planned, configs[plan.phase], plan).executed_total for plan in training_plan.stages]
        assert sum(flops) == row.schedule.flops
        assert planned.schedule.span == "run" and planned.schedule.warmup_steps == 100
        again = schedule_of(planned, question(), "it")
        assert (again.name, again.flops) == (row.schedule.name, row.schedule.flops)
        assert [kind.traits for kind in again.kinds] == [kind.traits for kind in row.schedule.kinds]


def test_a_recipe_whose_growth_or_end_the_law_is_not_of_is_refused():
    planned = recipe_of(recipe(), Schedule((sized(1), sized(3)), (10, 10), (KINDS[0],)), "runs/planned")
    with pytest.raises(UserError, match="it: ends with 3x32, and the target is 12x32"):
        schedule_of(planned, question(), "it")
    for change in ({"train_batch_size": 32}, {"optimizer": {"weight_decay": 0.5}}, {"schedule": {"name": "constant"}}):
        with pytest.raises(UserError, match=r"it: a run of gpt2, .*, and the plan is of "):
            schedule_of(recipe(**change), question(), "it")
    parts = recipe(stages=[{"name": "parts", "submodel_layers": 3, "steps": 10}])
    with pytest.raises(UserError, match="it: its stage parts trains a part of the model"):
        schedule_of(parts, question(), "it")


def test_a_recipe_that_leaves_the_operator_to_be_chosen_is_predicted_with_the_one_that_its_run_will_have():
    base = recipe(
        source={"model": recipe().source.model.model_dump(exclude_unset=True) | {"num_hidden_layers": 3}},
        target={},
        stages=[
            {"name": "small", "steps": 100},
            {"name": "grow", "grow": {"num_hidden_layers": 12}, "growth": {"optimizer_state": "grow"}},
            {"name": "full", "steps": 100},
        ],
    )
    (kind,) = schedule_of(base, question(), "it").kinds
    assert kind.section["depth"] == "interleave"


def test_what_is_saved_against_a_target_that_never_comes_to_the_loss_is_not_known():
    law = true_law(*RECORD)
    # By this law more tokens make nothing better.
    values = [-1.0 if name == "b" else value for name, value in law.fitted.items()]
    row = Predictor(question(), replace(law, values=np.array(values)), TRAININGS).row(deepened(1500, 700))
    assert (row.saved, row.saved_counted) == (None, None)


def test_a_state_does_not_grow_into_another_optimizer_s():
    asked = question()
    given = Given(asked.smaller[0], 1000 * STEP, 1, "muon")
    assert {kind.section["optimizer_state"] for kind in kinds_of(RECORD, replace(asked, given=given))} == {"fresh"}
    same = replace(given, optimizer=asked.optimizer)
    assert kinds_of(RECORD, replace(asked, given=same)) == KINDS


def test_an_interval_is_wider_and_says_why_where_a_schedule_lies_beyond_the_runs():
    law, one = unsure(RECORD), deepened(1500, 700)
    most = 2 * sized(1).parameters
    few = [each for each in TRAININGS if each.tokens < 1600 * STEP and each.phases[-1].parameters < most]
    within, smaller = (Predictor(question(), law, known) for known in (TRAININGS, few))
    known, unknown = within.row(one), smaller.row(one)
    assert known.beyond == () and known.interval[0] < known.saved < known.interval[1]
    assert unknown.saved == known.saved
    assert unknown.interval[1] - unknown.interval[0] > 2 * (known.interval[1] - known.interval[0])
    reasons = " ".join(unknown.beyond)
    assert "parameters, where the runs had at most" in reasons and "tokens, where the runs had at most" in reasons
    assert "times as many parameters in one growth" in reasons and "no run of this text grew" in reasons


def test_a_growth_later_than_any_of_the_setting_s_runs_is_told_and_its_interval_is_wider():
    law, late = unsure(EARLY), deepened(1500, 500)
    seen, unseen = (Predictor(question(), law, [training_of(one) for one in known]) for known in (RECORD, EARLY))
    (reason,) = unseen.row(late).beyond
    assert reason == "25% of the tokens after the last growth, where the runs had at least 60%"
    (below, above), (narrow, high) = unseen.row(late).interval, seen.row(late).interval
    assert seen.row(late).beyond == () and above - below > 1.5 * (high - narrow)
    # A given source's schedule is over: its own tokens do not count as the new one's.
    given = Given(question().smaller[0], 30_000 * STEP, 1, question().optimizer)
    anew = replace(KINDS[0], traits=(*KINDS[0].traits, "schedule anew"))
    at_once = replace(deepened(0, 2000, anew), given=given)
    assert not any("after the last growth" in said for said in unseen.row(at_once).beyond)


def test_of_a_chain_of_sizes_the_shares_with_the_highest_lower_end_are_taken_though_others_cost_less():
    # So unsure a law that a growth later than the runs' is widened by more than what it saves.
    search = Search(Predictor(question(), unsure(EARLY, noise=0.05), [training_of(one) for one in EARLY]), KINDS[:1])
    chosen = {tuple(size.name for size in row.schedule.sizes): row for row in search.grown()}
    otherwise = 0
    for sizes, kinds in search._chains():
        rows = [search._reaching(sizes, shares, kinds) for shares in search._shares(len(sizes))]
        rows = [search.predictor.row(one) for one in rows if one is not None]
        row = chosen[tuple(size.name for size in sizes)]
        assert row.interval[0] == max(one.interval[0] for one in rows)
        otherwise += row.schedule.flops > min(one.schedule.flops for one in rows)
    assert otherwise


def test_a_way_to_grow_that_the_setting_has_not_seen_is_told_with_what_such_predictions_were_off_by_and_stands_behind():
    law = unsure(RECORD)
    stacked = [training for training in TRAININGS if not any("depth random" in traits for traits in training.growths)]
    seen, unseen = (deepened(1500, 700, kind) for kind in (KINDS[0], KINDS[-1]))
    assert "random" in KINDS[-1].name
    certain, wary = Predictor(question(), law, stacked), Predictor(question(), law, stacked, off=0.2)
    assert wary.row(seen) == certain.row(seen)
    narrow, wide = certain.row(unseen), wary.row(unseen)
    assert wide.saved == narrow.saved and wide.interval[0] < narrow.interval[0] - 0.1
    assert any("nine in ten such predictions were off by at most 20 points" in said for said in wide.beyond)
    # Nor one that grew so more often than any run: those of the record that grew twice are stacks.
    twice = Schedule((sized(1), sized(3), sized(12)), (1000, 500, 700), (KINDS[-1], KINDS[-1]))
    every = Predictor(question(), law, TRAININGS, off=0.2)
    assert not any("as often" in said for said in every.row(unseen).beyond)
    assert any("as often" in said for said in every.row(twice).beyond)
    rows = Search(wary, KINDS).grown()
    assert [row.interval[0] for row in rows] == sorted((row.interval[0] for row in rows), reverse=True)


def test_predictions_are_off_by_what_nine_of_ten_are_within():
    compared = [ComparedRun("x", 3.0, 3.0, 0.2 + off, 0.2, 0.0, 0.0) for off in (0.01, -0.02, 0.03, 0.9)]
    assert most_off(compared) == pytest.approx(0.9)
    assert most_off([*compared[:3]] * 4 + compared[3:]) == pytest.approx(0.03)
    # The target never comes to that loss: as wrong as can be.
    assert most_off([replace(compared[0], saved=None)]) == 1.0
    assert most_off([]) == 0.0


def test_g_stacks_law_gives_the_growth_steps_that_the_paper_prints():
    # Du et al. 2024: Llama 2 7B on 2 trillion tokens, Llama 3 8B on 15.
    assert growth_tokens(7e9, 6 * 7e9 * 2e12) == pytest.approx(11.11e9, rel=0.02)
    assert growth_tokens(8e9, 6 * 8e9 * 15e12) == pytest.approx(6.58e9, rel=0.02)


def test_rules_of_thumb_stand_beside_with_what_they_claim_themselves():
    stacked, doubled, late = rules(question(), KINDS)
    half = 1 - sized(6).step_flops / sized(12).step_flops
    assert doubled.schedule.name == "6x32 (1,000) → 12x32 (1,000)" and doubled.claim == pytest.approx(half / 2)
    assert late.schedule.name == "1x32 (1,600) → 12x32 (400)"
    assert stacked.schedule.sizes[0].name == "3x32" and stacked.schedule.steps[1] == round(194 / 300 * 2000)
    assert {kind.name for rule in (stacked, doubled, late) for kind in rule.schedule.kinds} == {"stack, state fresh"}


def test_pilots_cost_at_most_their_share_and_shorter_ones_than_tell_anything_are_refused():
    asked = question(2_000_000 * STEP)
    planned = pilots(asked, 0.02, KINDS).values()
    assert 0.019 < sum(pilot.flops for pilot in planned) / asked.scratch_flops <= 0.02
    fixed = [pilot for pilot in planned if not pilot.kinds]
    assert len({one.sizes[0].name for one in fixed}) == 2 and len({one.steps for one in fixed}) == 3
    assert sum(bool(pilot.kinds) for pilot in planned) == 1
    slow = recipe()
    slow = slow.model_copy(update={"schedule": slow.schedule.model_copy(update={"warmup_steps": 2000})})
    short = pilot_recipe(slow, next(iter(pilots(question(75_000 * STEP), 0.02, KINDS).values())), "runs/pilot")
    (stage,) = short.stages
    assert short.schedule.warmup_steps == stage.steps // 5 < 200
    with pytest.raises(UserError, match=r"--pilot: with 0.02 of scratch's compute the shortest pilot has 1\d steps"):
        pilots(question(), 0.02, KINDS)


def answered(tokens: int) -> Answer:
    one = predictor(tokens)
    search = Search(one, KINDS[:1])
    rates = {0.002: 3, 0.001: 9}
    return Answer(one, search.grown(), search.fixed(), [], [], [], runs=9, pilot_flops=0, rates=rates, rate=0.004)


def test_a_target_off_the_frontier_is_told_first():
    # On few tokens one layer alone is as good for less; on many it never gets there.
    few = page.to_markdown(answered(600 * STEP))
    assert re.search(r"\*\*The target is not worth training on .* tokens: \d+x32 alone, trained for [\d,]+ steps", few)
    assert "0.001 (9 configurations), 0.002 (3 configurations). The recipe's rate is 0.004, which none of these runs had" in few
    many = answered(400_000 * STEP)
    assert not many.fixed or many.fixed[0].schedule.flops > many.predictor.question.scratch_flops
    assert "is not worth training" not in page.to_markdown(many)


def test_a_recipe_that_grows_is_no_target():
    with pytest.raises(UserError, match="--recipe: the planner takes a recipe that trains the target from scratch"):
        of_target(recipe(target={"num_hidden_layers": 13}), {})
    with pytest.raises(UserError, match="--target: hidden_size"):
        of_target(recipe(), {"hidden_size": "wide"})


@pytest.fixture
def asked(tmp_path, prepared, monkeypatch, capsys):
    """Call the command on prepared text of which a record tells, and return its status and what it said."""
    text = prepared.manifest.fingerprint
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(one) + "\n" for one in record(0.004, text)), encoding="utf-8")
    base = recipe(data={"shards": str(prepared.directory), "sequence_length": 32}).model_dump(exclude_unset=True, mode="json")
    (tmp_path / "scratch.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    monkeypatch.setattr(command, "_OTHERS", 4)

    def ask(*words: str) -> tuple[int, str, str]:
        words = ("--recipe", str(tmp_path / "scratch.yaml"), "--record", str(tmp_path / "record.jsonl"), *words)
        monkeypatch.setattr(sys, "argv", ["plan.py", *words])
        status = plan.main()
        return status, *capsys.readouterr()

    return ask


@pytest.mark.slow
def test_the_command_writes_the_plan_and_a_recipe_that_is_one(asked, tmp_path):
    status, out, err = asked("--tokens", str(2000 * STEP), "--out", str(tmp_path / "plan"))
    assert status == 0, err
    planned = load_recipe(tmp_path / "plan" / "recipe.yaml", [])
    rows = json.loads((tmp_path / "plan" / "plan.json").read_text())["schedules"]
    best = next(row for row in rows if row["group"] == "grown")
    assert schedule_of(planned, question(), "it").steps == tuple(best["steps"])
    assert best["name"] in out and best["interval"][0] < best["saved"] < best["interval"][1]
    text = (tmp_path / "plan" / "plan.md").read_text(encoding="utf-8")
    for part in ("## Rules of thumb", "## Smaller sizes alone", "## How far the law is from runs", best["name"]):
        assert part in text
    html = (tmp_path / "plan" / "plan.html").read_text(encoding="utf-8")
    assert "<svg" in html and best["name"] in html
    assert "of several the best: 0.001 (28 configurations). The recipe's rate is 0.001." in text
    # The same is estimated of the plan's own recipe.
    status, out, err = asked("--tokens", str(2000 * STEP), "--predict", str(tmp_path / "plan" / "recipe.yaml"))
    assert status == 0 and f"recipe: {best['name']}" in out and f"| {best['loss']:.4f} |" in out, err


def test_text_that_is_not_prepared_and_tokens_that_no_run_is_near_are_said_before_anything_is_fitted(asked, tmp_path):
    status, _, err = asked("--tokens", str(200 * STEP))
    assert status == 2 and "--tokens: 102,400 are less than half of the 256,000 of the shortest run" in err
    assert "fitting" not in err
    (tmp_path / "some.txt").write_text("Some text.", encoding="utf-8")
    text = {"text": {"files": [str(tmp_path / "some.txt")]}, "tokenizer": {"vocab_size": 512}}
    data = text | {"output_dir": str(tmp_path / "empty"), "sequence_length": 32}
    status, _, err = asked("--tokens", str(2000 * STEP), f"data={json.dumps(data)}")
    assert status == 2 and f"--recipe: its text has not been prepared in {tmp_path / 'empty'}" in err, err


def test_pilots_have_the_batch_of_the_plan(asked, tmp_path):
    (tmp_path / "zero.json").write_text('{"train_batch_size": 8}', encoding="utf-8")
    words = ["--ds_config", str(tmp_path / "zero.json"), "--out", str(tmp_path / "plan")]
    status, _, err = asked("--tokens", str(2_000_000 * STEP), "--pilot", "2%", *words)
    assert status == 2 and 'zero.json has train_batch_size 8, and the recipe 16; make it "auto"' in err
    assert not (tmp_path / "plan").exists()


def test_runs_of_another_text_are_no_ground_to_plan_on(asked, tmp_path):
    (tmp_path / "record.jsonl").write_text("".join(json.dumps(one) + "\n" for one in RECORD), encoding="utf-8")
    status, _, err = asked("--tokens", "1e6")
    assert status == 2 and "0 runs of the target's text at one size" in err


def test_a_source_grown_from_is_counted_and_not_counted():
    one = predictor()
    given = one.question.smaller[0]
    asked_of = replace(one.question, given=Given(given, 1000 * STEP, 1000 * given.step_flops, "adamw"))
    search = Search(Predictor(asked_of, one.law, one.trainings), KINDS[:1])
    best = search.grown()[0]
    assert best.schedule.whole_flops == best.schedule.flops + 1000 * given.step_flops
    assert best.saved_counted < best.saved
    training = best.schedule.training(asked_of)
    assert training.phases[0] == Phase(given.parameters, (1000 + best.schedule.steps[0]) * STEP)
    assert "schedule anew" in training.growths[0] and any("no run had `schedule anew`" in said for said in best.beyond)
    planned = recipe_of(recipe(), best.schedule, "runs/planned", "runs/small")
    assert planned.source.path == "runs/small"
    assert sum(stage.steps for stage in planned.train_stages) == sum(best.schedule.steps)


def test_runs_are_held_against_the_plan_that_predicted_them_and_against_rules_of_thumb():
    answer = answered(2000 * STEP)
    rows = json.loads(json.dumps(page.to_rows(answer)))
    row = answer.grown[0]
    layers = [size.sizes["num_hidden_layers"] for size in row.schedule.sizes]
    steps = list(zip(layers, row.schedule.steps, strict=True))
    ran = entry(steps, [("stack", "grow")] * (len(steps) - 1)) | {"loss": row.loss + 0.01}
    (compared,) = against_plan(true_law(*RECORD), [ran], predicted_by(rows, [ran]))
    assert compared.interval == row.interval
    assert (compared.predicted, compared.saved_predicted) == (row.loss, row.saved)
    assert compared.saved < compared.saved_predicted - 0.01
    assert compared.points == pytest.approx(100 * (row.saved - compared.saved))
    scratch = sum(row.schedule.steps) * sized(12).step_flops
    assert compared.same_tokens == pytest.approx(1 - row.schedule.flops / scratch)
    # By G_stack's claim scratch takes 300 tokens where its last size takes 194, and all that came before is paid for.
    last = ran["phases"][-1]["flops"] * 300 / 194
    assert compared.stacked == pytest.approx(1 - ran["flops"] / last)
    # Seeds of one schedule are one prediction, held against their mean.
    again = ran | {"name": "again", "run": "again", "seed": 2, "loss": ran["loss"] - 0.004}
    (seeds,) = against_plan(true_law(*RECORD), [ran, again], predicted_by(rows, [ran, again]))
    assert seeds.name == f"{ran['name']} and 1 with other seeds" and seeds.loss == pytest.approx(ran["loss"] - 0.002, abs=1e-12)
    assert compared.saved < seeds.saved < compared.saved_predicted
    # Another rate is another run.
    faster = again | {"lr": 2 * ran["lr"]}
    assert len(against_plan(true_law(*RECORD), [ran, faster], predicted_by(rows, [ran, faster]))) == 2
    # The target from scratch never comes so low, whatever it would take.
    never = ran | {"loss": 0.1}
    (low,) = against_plan(true_law(*RECORD), [never], predicted_by(rows, [never]))
    assert low.saved is None and low.points is None
    table = "\n".join(page.in_markdown(comparison_table("Runs", [compared, low], "A note.")))
    assert f"{int(compared.points <= 3)} of 1 within 3 points" in table and "Of the 1 that stack" in table
    missed = replace(
        compared, saved_predicted=compared.saved + 0.5, interval=(compared.saved + 0.4, compared.saved + 0.6), stacked=None
    )
    table = "\n".join(page.in_markdown(comparison_table("Runs", [missed], "A note.")))
    assert "0 of 1 within 3 points. Off by 50.0 points" in table and "0 of 1 within their 90 % interval" in table
    assert "that stack" not in table
    # A plan of before says less of its setting.
    older = [one | {"setting": one["setting"].split(", initializer_range")[0]} for one in rows]
    assert predicted_by(older, [ran])
    with pytest.raises(UserError, match=r"--compare: .* is a run of .*muon.*, and the plan is of .*adamw"):
        predicted_by(rows, [ran | {"optimizer": "muon"}])
    backwards = ran | {"phases": ran["phases"][::-1]}
    assert predicted_by(rows, [ran | {"optimizer": "muon"}, backwards, ran], others=True)[:2] == [None, None]
    with pytest.raises(UserError, match="--compare: the plan predicts no run"):
        predicted_by(rows, [backwards])


def test_recipes_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("old/gradual.yaml").resolve(), Path("new/gradual.yaml").resolve(), Path("new/other.yaml").resolve()]
    assert [command._label(path, paths) for path in paths] == ["old/gradual", "new/gradual", "other"]
