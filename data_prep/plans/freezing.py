"""Stage `plan`: the inputs hashed, and the plan with what they hold."""

import json
from collections.abc import Iterable
from typing import Any

from data_prep.jobs.job import Item, Outputs
from data_prep.plans.plan import Plan
from data_prep.storage.stores import content_digest, source_of
from pipeline.common.files import text_digest
from pipeline.common.progress import BYTES, Advance


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
