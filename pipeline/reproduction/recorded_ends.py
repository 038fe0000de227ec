"""How the runs of a suite ended, as a file: from it the same suite goes on elsewhere, without running them again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from pipeline.common.errors import UserError
from pipeline.common.files import write_atomically
from pipeline.recipe import Recipe
from pipeline.runs import JsonLines
from pipeline.runs.records import Count, Finite


@with_config(ConfigDict(extra="forbid"))
class RecordedEnd(TypedDict):
    """How one run ended."""

    name: str
    settings: str
    """`settings_of` its recipe."""
    text: str
    """The fingerprint of the prepared text and its tokenizer; empty where the run never started."""
    loss: Finite | None
    """On held-out text; None where it is no number."""
    diverged: bool
    """Whether it was given up by its guard."""
    flops: Count | None
    """Executed ones of all that it took; None where a given source's are not known."""
    flops_at_last_size: Count
    tokens: Count
    date: str
    """On which it ended (UTC)."""


def settings_of(recipe: Recipe) -> str:
    """Return a digest of a recipe but for the places of its run and of its text."""
    content = recipe.model_dump(mode="json", exclude={"run_dir": True, "data": {"output_dir", "text", "shards", "tokenizer"}})
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def read_recorded_ends(paths: Iterable[Path]) -> dict[str, RecordedEnd]:
    """Return the ends in files by the runs' names.

    Raises UserError naming a file that is not there, a damaged line, lines of one run that differ, and texts that do.
    """
    found: dict[str, RecordedEnd] = {}
    for path in paths:
        if not path.is_file():
            raise UserError(f"--known: {path} does not exist; name the ends.jsonl of a suite")
        for one in JsonLines(path, RecordedEnd).read(ended=True):
            name = one["name"]
            if found.setdefault(name, one) != one:
                raise UserError(f"--known: {path}: another line says that {name} ended otherwise; remove one of them")
            no_loss = one["loss"] is not None and one["loss"] <= 0
            if not one["diverged"] and (no_loss or one["flops"] == 0 or one["flops_at_last_size"] == 0):
                raise UserError(f"--known: {path}: {name} ended with no FLOPs, or with a loss of 0 or less; remove that line")
    check_one_text(found.values(), "--known")
    return found


def check_settings(name: str, recipe: Recipe, recorded: Mapping[str, RecordedEnd]) -> RecordedEnd | None:
    """Return how a run ended elsewhere, None where that is not known; raises UserError where it had other settings."""
    end = recorded.get(name)
    if end is not None and end["settings"] != settings_of(recipe):
        raise UserError(
            f"--known: the run {name} was made with other settings than the suite has now; remove its line from the file, and "
            "it is run again"
        )
    return end


def check_one_text(ends: Iterable[RecordedEnd], where: str) -> str | None:
    """Return the fingerprint of the text that runs were made with; raises UserError, naming `where`, for more than one."""
    texts: dict[str, str] = {}
    for end in ends:
        if end["text"]:
            texts.setdefault(end["text"], end["name"])
    if len(texts) > 1:
        raise UserError(
            f"{where}: the runs {' and '.join(texts.values())} were made with different texts or tokenizers, and their losses "
            "do not compare; prepare the text as for the earlier ones, or leave --known out"
        )
    return next(iter(texts), None)


def write_recorded_ends(path: Path, ends: Iterable[RecordedEnd]) -> None:
    """Write how runs ended; raises UserError, writing nothing, where they were not all of one text."""
    lines = list(ends)
    check_one_text(lines, str(path.parent))
    write_atomically(path, "".join(json.dumps(end) + "\n" for end in lines))
