"""Pilots where they are asked for, the law, the search, and what came out as files."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from pipeline.common.config import read_json, typed
from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.common.logs import show_messages
from pipeline.growth.sources import RECIPE
from pipeline.planning.compared_runs import (
    Plan,
    PlannedRow,
    against_plan,
    comparison_table,
    fit_alone,
    left_out,
    most_off,
    predicted_by,
)
from pipeline.planning.law import check_enough, check_tokens, fit, setting_of, training_of, uncertain
from pipeline.planning.page import Answer, figure, ground, in_markdown, lead, title, to_html, to_markdown, to_rows, warnings
from pipeline.planning.pilots import pilot_recipe, pilots
from pipeline.planning.predictions import Predictor
from pipeline.planning.recipes import of_target, question_of, recipe_of, schedule_of, vocabulary
from pipeline.planning.record import RunEntry, add_runs, best_rates, configuration, entry_of, read_entries
from pipeline.planning.rules import rules
from pipeline.planning.schedules import Kind, Question, Schedule, kinds_of
from pipeline.planning.search import Search
from pipeline.recipe import AUTO, Recipe, as_written, read_ds_config
from pipeline.report.figures import write_figures, write_rows
from pipeline.reproduction.runner import Runner, status_of_runs
from pipeline.reproduction.task import Task
from pipeline.training.preparation.preparation import prepared_text

logger = logging.getLogger(__name__)


_OTHERS = 40
"""Fits that intervals are drawn from."""

_OWN = Path(__file__).parents[1] / "planning" / "record.jsonl"
"""The runs that this project has on record."""


def run(arguments: argparse.Namespace) -> None:
    """Answer the question, or add runs to a record; raises UserError where the input is wrong or runs are too few."""
    if arguments.add is not None:
        add_runs(arguments.record[0], arguments.add)
        return
    if arguments.compare is not None:
        _compare(arguments.compare[0], arguments.compare[1:], arguments.record or [_OWN])
        return
    recipe = of_target(arguments.loaded, arguments.sizes)
    prepared = prepared_text(recipe)
    if prepared is None and arguments.pilot is None:
        raise UserError(
            f"--recipe: its text has not been prepared in {recipe.data.output_dir}, so which runs of the record are of it is "
            "not known; prepare it by `python launch/pretrain.py --ds_config ds_configs/zero0.json --recipe "
            f"{arguments.recipe} run_dir=runs/one_step stages.0.steps=1`, or plan pilots by --pilot 2%"
        )
    text = "not prepared yet" if prepared is None else prepared.manifest.fingerprint
    vocab_size = vocabulary(recipe, None if prepared is None else prepared.manifest.vocab_size)
    # What a source was trained on is compared once the text is there.
    source = None if prepared is None and arguments.pilot is not None else arguments.source
    question = question_of(recipe, arguments.tokens, text, vocab_size, source)
    entries = read_entries(arguments.record or [_OWN])
    piloted: list[RunEntry] = []
    if arguments.pilot is not None:
        tasks = _pilots(arguments, recipe, question, kinds_of(best_rates(entries), question))
        if any(not task.ended for task in tasks):
            place = arguments.out / "pilots"
            logger.info("%d pilots: %s; the same command with --run starts them, and plans by them", len(tasks), place)
            return
        piloted = [entry_of(task.run) for task in tasks]
        # Their text has been prepared by now, if it was not before.
        question = question_of(recipe, arguments.tokens, piloted[0]["text"], piloted[0]["vocab_size"], arguments.source)
    answer = _answer(question, recipe.optimizer.lr, best_rates(_once(entries, piloted)), piloted, arguments.predicted)
    if arguments.out is None:
        print(to_markdown(answer), end="")
        return
    _write(arguments.out, answer, recipe, arguments.source)


def _compare(plan: Path, runs: Sequence[Path], record: Sequence[Path]) -> None:
    """Print finished runs beside what a plan predicted of them."""
    planned = typed(Plan, read_json(plan, "name the plan.json of a plan's --out"), str(plan))["schedules"]
    found: dict[str, tuple[RunEntry, PlannedRow]] = {}
    for run in runs:
        # Of a record's runs those that the plan is of; a run directory is of the plan, or is refused.
        of_one = best_rates(read_entries([run])) if run.is_file() else [entry_of(run)]
        by_row = zip(of_one, predicted_by(planned, of_one, others=run.is_file()), strict=True)
        found |= {entry["run"]: (entry, row) for entry, row in by_row if row is not None}
    entries, rows = [entry for entry, _ in found.values()], [row for _, row in found.values()]
    if not entries:
        raise UserError(f"--compare: the plan predicts none of the runs in {', '.join(map(str, runs))}")
    known = best_rates(read_entries(record))
    telling = {setting_of(entry) for entry in entries}
    measured = [(training_of(entry), entry["loss"]) for entry in _once(known, entries) if setting_of(entry) in telling]
    for setting in telling:
        check_enough(measured, setting)
    note = (
        f"Predicted by {plan}; measured by what training from scratch takes to the same loss, as the "
        f"{sum(not training.growths for training, _ in measured)} runs at one size have it."
    )
    print(
        "\n".join(
            in_markdown(comparison_table("Predicted and measured", against_plan(fit_alone(measured), entries, rows), note))
        )
    )


def _once(*entries: Sequence[RunEntry]) -> list[RunEntry]:
    return list({entry["run"]: entry for of_one in entries for entry in of_one}.values())


def _pilots(arguments: argparse.Namespace, recipe: Recipe, question: Question, kinds: Sequence[Kind]) -> list[Task]:
    """Write the pilots' recipes, and run those that have not ended where that is asked; return them all."""
    batch = read_ds_config(arguments.ds_config).get("train_batch_size", AUTO)
    if batch not in (AUTO, recipe.train_batch_size):
        raise UserError(
            f"--ds_config: {arguments.ds_config} has train_batch_size {batch}, and the recipe {recipe.train_batch_size}; make "
            'it "auto" there, so that pilots have the batch of the plan'
        )
    directory = arguments.out / "pilots"
    tasks = []
    for name, pilot in pilots(question, arguments.pilot, kinds).items():
        tasks.append(Task(name, directory, pilot_recipe(recipe, pilot, str(directory / "runs" / name))))
    for task in tasks:
        task.write()
    if arguments.run:
        runner = Runner(arguments.ds_config, 1, None)
        runner.stop_by_signals()
        runner.finish(tasks)
    return tasks


def _answer(
    question: Question, rate: float, entries: Sequence[RunEntry], piloted: Sequence[RunEntry], predicted: Mapping[Path, Recipe]
) -> Answer:
    """Fit the law, and look for schedules by it."""
    # Of settings in which nothing grew only the question's own says anything.
    telling = {setting_of(entry) for entry in entries if entry["growths"]} | {question.setting}
    entries = [entry for entry in entries if setting_of(entry) in telling]
    runs = [(training_of(entry), entry["loss"]) for entry in entries]
    check_enough(runs, question.setting)
    kinds = kinds_of(entries, question)
    if not kinds:
        raise UserError(
            "--record: no run there grew within one schedule (`schedule.span: run`) in a way that can be gone here (from a "
            "source of another optimizer: with `optimizer_state: fresh`), so nothing is known of growth; add some, or plan "
            "pilots by --pilot 2%"
        )
    schedules = [(path, _schedule(path, recipe, question)) for path, recipe in predicted.items()]
    check_tokens(runs, question.setting, question.tokens)
    logger.info("fitting the law on %d runs, which takes a minute or two", len(runs))
    fitted = fit(runs)
    law = uncertain(fitted, runs, _OTHERS)
    compared = left_out(law, entries, question.setting)
    off = most_off(left_out(law, entries, question.setting, ways=True))
    predictor = Predictor(question, law, [training for training, _ in runs], off)
    search = Search(predictor, kinds)
    asked = [predictor.row(schedule, label=_label(path, predicted)) for path, schedule in schedules]
    return Answer(
        predictor,
        grown=search.grown(),
        fixed=search.fixed(),
        rules=[predictor.row(*rule) for rule in rules(question, kinds)],
        asked=asked,
        compared=compared,
        runs=len(runs),
        pilot_flops=sum(entry["flops"] for entry in piloted),
        rates=Counter({configuration(one): one["lr"] for one in entries if setting_of(one) == question.setting}.values()),
        rate=rate,
    )


def _schedule(path: Path, recipe: Recipe, question: Question) -> Schedule:
    """The schedule that a recipe is; raises UserError with the keys that stand in its file."""
    try:
        return schedule_of(recipe, question, str(path))
    except UserError as error:
        raise UserError(as_written(path, [])(str(error))) from None


def _label(recipe: Path, others: Iterable[Path]) -> str:
    """A recipe's name; of one that is called as another is, or as all plans' recipes are, its folder's too."""
    alike = recipe.name == RECIPE or sum(other.stem == recipe.stem for other in others) > 1
    return f"{recipe.resolve().parent.name}/{recipe.stem}" if alike else recipe.stem


def _write(directory: Path, answer: Answer, recipe: Recipe, source: Path | None) -> None:
    planned = None
    if answer.best is not None:
        # Before anything is written: a schedule that is no recipe leaves nothing behind.
        given = None if source is None else str(source)
        planned = answer.best.schedule, recipe_of(recipe, answer.best.schedule, f"{recipe.run_dir}-planned", given)
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / "plan.md", to_markdown(answer))
    write_atomically(directory / "plan.html", to_html(answer))
    write_atomically(
        directory / "plan.json", json.dumps({"schedules": to_rows(answer), "law": ground(answer)}, indent=1) + "\n"
    )
    plots = [figure(answer)]
    write_figures(directory, plots)
    write_rows(directory, plots)
    written = "plan.md, plan.html, plan.json, plan.png, plan.csv"
    if planned is not None:
        schedule, best = planned
        content = yaml.safe_dump(best.model_dump(mode="json", exclude_unset=True), sort_keys=False)
        write_atomically(directory / RECIPE, f"# {title(answer)}: {schedule.name}\n{content}")
        written += ", recipe.yaml"
    else:
        # An earlier plan's, which this one does not find.
        (directory / RECIPE).unlink(missing_ok=True)
    for line in (*warnings(answer), *lead(answer)):
        print(line)
    print(f"{directory}: {written}")


def work(arguments: argparse.Namespace) -> int:
    """Plan; return the exit status."""
    show_messages(first=True, on_stderr=True)
    return status_of_runs(run, arguments)
