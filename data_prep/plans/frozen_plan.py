"""A plan is frozen when its inputs are hashed; and whether a frozen one still fits what there is."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_prep.jobs.job import Item, Outputs
from data_prep.manifest import FORMAT
from data_prep.plans.drafting import libraries_of
from data_prep.plans.plan import Input, Plan
from data_prep.settings import DataPrepConfig
from data_prep.storage.stores import Remote, Source, content_digest, is_url, source_of
from pipeline.common.config import read_json, validate
from pipeline.common.errors import UserError
from pipeline.common.files import json_digest, text_digest, write_json
from pipeline.common.progress import BYTES, Advance, Meter

_WRITTEN = "written"
"""The key of the digest of everything else in a plan's file; an earlier version's has none."""


class HashInputs:
    """Stage `plan`: hash the inputs."""

    name = "plan"
    unit = BYTES

    def __init__(self, draft: Plan) -> None:
        self._files = [item for item in draft.inputs if not item.digest]

    def items(self) -> list[Item]:
        """The inputs that are files."""
        return [Item(f"{number:05d}", file.size) for number, file in enumerate(self._files)]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Hash one file."""
        file = self._files[int(item.name)]
        return {"digest": content_digest(source_of(file.name), advance), "bytes_out": file.size}


def freeze(draft: Plan, digests: Iterable[str]) -> Plan:
    """Return the plan with its files' hashes, in the order of the inputs, and its own digest."""
    hashes = iter(digests)
    inputs = [item.model_copy(update={"digest": item.digest or next(hashes), "modified": 0}) for item in draft.inputs]
    # A tokenizer counts by its files' hashes, not by where it lies.
    settings = draft.config.model_dump(exclude={"output_dir": True, "work_dir": True, "tokenizer": {"path"}})
    # What is not asked for counts for nothing, as before there were such keys.
    for key in ("decontamination", "cleaned_text"):
        if settings[key] is None:
            del settings[key]
    for corpus in settings["corpora"]:
        for key in ("where", "columns", "steps", "dedupe_spans"):
            if not corpus[key]:
                del corpus[key]
    slices = [(each.corpus, each.heldout, [(run.start, run.stop) for run in each.pieces]) for each in draft.slices]
    depends = [draft.format, settings, draft.tokenizer, [item.identity for item in inputs], slices]
    if draft.libraries:
        depends.append(draft.libraries)
    return draft.model_copy(update={"inputs": inputs, "digest": text_digest(json.dumps(depends, sort_keys=True))})


def write_plan(path: Path, plan: Plan) -> None:
    """Write a plan, atomically."""
    content = plan.model_dump(mode="json")
    write_json(path, content | {_WRITTEN: json_digest(content, _WRITTEN)})


def read_plan(path: Path) -> Plan:
    """Return the plan in a file; raises UserError as `plan_of` does."""
    return plan_of(read_json(path, "the folder is no preparation"), str(path))


def plan_of(content: dict[str, Any], source: str) -> Plan:
    """Return the plan that the content of a file is; raises UserError where another version wrote it, or it was changed."""
    if content.get("format") != FORMAT:
        raise UserError(f"{source}: format {content.get('format')}, this version writes {FORMAT}; name another output_dir")
    if content.get(_WRITTEN) not in (None, json_digest(content, _WRITTEN)):
        raise UserError(f"{source}: was changed after it was written; put it back, or remove the folder to start again")
    return validate(Plan, {key: value for key, value in content.items() if key != _WRITTEN}, source)


def check_settings(plan: Plan, config: DataPrepConfig, root: Source) -> None:
    """Raise UserError where `root` was planned for other settings, or with other libraries."""
    old, new = plan.config.model_dump(mode="json"), config.model_dump(mode="json")
    for key in ("output_dir", "work_dir"):
        old[key] = new[key]
    if old != new:
        place = ".".join(_first_difference(old, new))
        raise UserError(
            f"{root}: was started with another `{place}`; put that back, name another output_dir, or remove this one"
        )
    for name, here in libraries_of(config).items():
        if plan.libraries.get(name) != here:
            other = f"{name} {plan.libraries[name]}" if name in plan.libraries else f"a version of this project without {name}"
            raise UserError(
                f"{root}: was started with {other}, and {name} {here} is installed here, which may decide otherwise; install "
                "what it was started with, name another output_dir, or remove this one"
            )


def _first_difference(old: Any, new: Any) -> list[str]:
    """The keys, and names or numbers of items, that lead to the first value that is not the same."""
    match old, new:
        case dict(), dict() if old.keys() == new.keys():
            key = next(key for key in old if old[key] != new[key])
            return [key, *_first_difference(old[key], new[key])]
        case list(), list() if len(old) == len(new):
            place = next(place for place, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
            named = old[place].get("name") if isinstance(old[place], dict) else None
            return [named or str(place), *_first_difference(old[place], new[place])]
        case _:
            return []


def check_inputs(inputs: list[Input], modified: dict[str, int], root: Path) -> dict[str, int]:
    """Return when each file here was last modified before it was compared; raises UserError where one has changed.

    Only files that were modified since `modified` (nanoseconds since 1970) are hashed again.
    """
    found = {}
    with Meter("data: inputs compared", sum(item.size for item in inputs)) as meter:
        for item in inputs:
            if not is_url(item.name) and Path(item.name).is_file():
                found[item.name] = Path(item.name).stat().st_mtime_ns
            with meter.item(item.size) as advance:
                if not is_same(item, modified.get(item.name), advance):
                    raise UserError(
                        f"{item.name}: has changed since {root} was started; put the file back, name another output_dir, "
                        f"or remove {root} to start again"
                    )
    return found


def is_same(item: Input, modified: int | None, advance: Advance = lambda _: None) -> bool:
    """Whether a file is what the plan says; one that was last modified at `modified` is not hashed again."""
    path = source_of(item.name)
    if isinstance(path, Remote):
        size, identity, _ = path.draft()
        return size == item.size and (identity or content_digest(path, advance)) == item.digest
    if not path.is_file() or path.stat().st_size != item.size:
        return False
    return path.stat().st_mtime_ns == modified or content_digest(path, advance) == item.digest
