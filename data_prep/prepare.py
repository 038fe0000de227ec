"""The preparation, stage after stage, from a configuration to a folder that is whole.

A folder with `manifest.json` in it is whole; one without is work in progress, which the same preparation goes on with.
"""

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from data_prep.dedupe.deduplicate import dedupe_spans, deduplicate
from data_prep.encoding.choice import encoding_of
from data_prep.encoding.libraries import LIBRARIES
from data_prep.encoding.provided_tokenizer import ProvidedTokenizer
from data_prep.inspection import outcome
from data_prep.jobs.job import WORK, Job
from data_prep.jobs.workers import Alone, Workers
from data_prep.manifest import MANIFEST, PLAN, TEXT, TOKENIZER, PreparedData
from data_prep.plans.drafting import draft_plan
from data_prep.plans.frozen_plan import HashInputs, check_inputs, check_settings, freeze, read_plan, write_plan
from data_prep.plans.plan import Plan
from data_prep.settings import DataPrepConfig
from data_prep.stages.accept import Accept
from data_prep.stages.clean import Clean
from data_prep.stages.provide_tokenizer import ProvideTokenizer
from data_prep.stages.publish import is_published, publish
from data_prep.stages.refine import Refine
from data_prep.stages.tokenize import SHARDS, Tokenize
from data_prep.stages.verify import Verify
from data_prep.stages.write_text import WriteText
from data_prep.storage.stores import Remote, UnreachableError, content_digest, is_url, source_of
from data_prep.summary import check_cleaned, check_splits, write_summary
from data_prep.text.document_parts import DocumentParts
from pipeline.common.errors import UserError
from pipeline.common.files import locked, text_digest
from pipeline.common.progress import Meter

logger = logging.getLogger(__name__)

_LOCK = ".lock"
_DRAFT = "draft.json"
_REFUSED = "refused"
"""Left where the input was wrong: what is corrected then, settings or files, may be another plan."""


def prepare(config: DataPrepConfig) -> PreparedData:
    """Return the prepared data that `config` asks for, made by this process alone unless they are there.

    They lie in a folder below `output_dir` that is named by everything they depend on. Raises UserError.
    """
    draft = draft_plan(config)
    _log(draft.left_out)
    plan, root = _placed(config, draft)
    if _is_whole(root):
        logger.info("data: %s is prepared already", root)
        return PreparedData(root)
    with _at_work(root, wait=True):
        # Another process may have made it while this one waited.
        if not _is_whole(root):
            write_plan(root / PLAN, plan)
            try:
                _carry_out(plan, _modified(draft), root, Alone())
            except UserError as error:
                # What is corrected now will be prepared under another name.
                if not isinstance(error, UnreachableError):
                    shutil.rmtree(root)
                raise
    return PreparedData(root)


def _log(lines: Iterable[str]) -> None:
    for line in lines:
        logger.info("data: %s", line)


def find_prepared(config: DataPrepConfig) -> PreparedData | None:
    """Return what `prepare` would give back without preparing anything, None where it would; nothing is written.

    Raises UserError where an input is missing.
    """
    draft = draft_plan(config)
    # Where nothing was ever prepared the inputs need not be read for the name that it would have.
    if not any(map(_is_whole, Path(config.output_dir).glob("*"))):
        return None
    _, root = _placed(config, draft)
    return PreparedData(root) if _is_whole(root) else None


def _placed(config: DataPrepConfig, draft: Plan) -> tuple[Plan, Path]:
    """Return the plan of a draft, which names all that its inputs hold, and the folder that is named by it."""
    files = [item for item in draft.inputs if not item.digest]
    with Meter("data: inputs hashed", sum(item.size for item in files)) as meter:
        plan = freeze(draft, [content_digest(source_of(item.name), meter.advance) for item in files])
    return plan, Path(config.output_dir) / plan.digest[:12]


def prepare_together(config: DataPrepConfig, workers: Workers) -> None:
    """Prepare into `output_dir` itself, by all of `workers`, each of which calls this; at a store, by a folder here.

    Raises UserError, also where another job is at work there or the folder was started with other settings.
    """
    root, target = config.folder, Remote(config.output_dir) if is_url(config.output_dir) else None
    with _at_work(root, wait=False) if workers.rank == 0 else nullcontext():
        if target is not None and workers.from_first(lambda: is_published(config)):
            logger.info("data: %s is published already", target)
            return
        _prepare_at(root, config, workers)
        if target is not None:
            publish(root, target, workers)


def _prepare_at(root: Path, config: DataPrepConfig, workers: Workers) -> None:
    # The first process looks at everything that may be refused, alone, so that it is said once.
    started = workers.from_first(lambda: _started(config, root))
    if started is None:
        logger.info("data: %s is prepared already; the text that it was made of is not compared again", root)
        return
    plan, modified = started
    _log(plan.left_out)
    if not plan.digest:
        hashed = Job(root, text_digest(plan.model_dump_json()), workers).run(HashInputs(plan))
        plan = freeze(plan, [facts.counts["digest"] for facts in hashed])
        workers.from_first(lambda: _begin(plan, root))
    try:
        _carry_out(plan, modified, root, workers)
    except UserError as error:
        if not isinstance(error, UnreachableError):
            (root / WORK / _REFUSED).touch()
        raise


def _modified(draft: Plan) -> dict[str, int]:
    return {item.name: item.modified for item in draft.inputs}


def _started(config: DataPrepConfig, root: Path) -> tuple[Plan, dict[str, int]] | None:
    """The plan that `root` was started with, or a draft of one (without a digest) where it is new; None where it is whole.

    With it, when each input was last modified before it was hashed.
    """
    draft = root / WORK / _DRAFT
    if not (root / PLAN).exists() or (root / WORK / _REFUSED).exists():
        plan = draft_plan(config)
        draft.parent.mkdir(exist_ok=True)
        write_plan(draft, plan)
        return plan, _modified(plan)
    plan = read_plan(root / PLAN)
    check_settings(plan, config, root)
    if _is_whole(root):
        # Text may be gone by now, or take hours to hash; what a step is made of is small.
        check_inputs(plan.step_files, {}, root)
        return None
    drafted = _modified(read_plan(draft)) if draft.exists() else {}
    return plan, check_inputs(plan.files, drafted, root)


def _begin(plan: Plan, root: Path) -> None:
    """Freeze the plan. What was done for the same plan stays, what was done for another one goes."""
    if (root / PLAN).exists() and read_plan(root / PLAN).digest != plan.digest:
        # Work files stay until the end: no record of another plan passes for one of this. Until the plan is written the
        # mark of the refusal stands, so that after a kill in between it starts once more.
        for made in (SHARDS, TOKENIZER, TEXT):
            shutil.rmtree(root / made, ignore_errors=True)
    write_plan(root / PLAN, plan)
    (root / WORK / _REFUSED).unlink(missing_ok=True)


@contextmanager
def _at_work(root: Path, *, wait: bool) -> Iterator[None]:
    """Hold the folder; leave it without the lock, and a whole one without work files."""
    new = not root.exists()
    with locked(root / _LOCK, wait=wait):
        try:
            yield
        finally:
            if _is_whole(root):
                shutil.rmtree(root / WORK, ignore_errors=True)
            elif new and not (root / PLAN).exists():
                # Refused before it was started.
                shutil.rmtree(root, ignore_errors=True)
            (root / _LOCK).unlink(missing_ok=True)


def _is_whole(root: Path) -> bool:
    return (root / MANIFEST).is_file()


def _carry_out(plan: Plan, modified: dict[str, int], root: Path, workers: Workers) -> None:
    """Do what is left of the stages; the manifest comes last."""
    job = Job(root, plan.digest, workers)
    clean = Clean(plan, modified)
    cleaned = job.run(clean)
    if workers.rank == 0:
        check_cleaned(plan, cleaned)
    parts = DocumentParts(root, clean.parts(cleaned))
    deduplicated = dedupe_spans(job, plan, parts, deduplicate(job, plan, parts))
    refine = Refine(plan, deduplicated.parts, deduplicated.decisions)
    if refine.items():
        deduplicated = deduplicated.and_rewritten(refine, job.run(refine))
    parts, decisions = deduplicated.parts, deduplicated.decisions
    workers.from_first(lambda: check_splits(plan, cleaned, deduplicated))
    (tokenizer,) = job.run(ProvideTokenizer(plan, parts, decisions))
    provided = ProvidedTokenizer.model_validate(tokenizer.counts)
    _log(provided.remarks)
    tokenized = job.run(Tokenize(root, plan, parts, decisions, cleaned, provided))
    if any((facts.counts.get("encoding") or {}).get("refused") for facts in tokenized):
        # Of what a library encodes one document in many is compared: one that was wrong in a part may be in all of them.
        logger.info("data: parts that a library encoded which was wrong in one are encoded again, by Hugging Face's")
        again = Tokenize(root, plan, parts, decisions, cleaned, provided, fast=False)
        if workers.rank == 0:
            for item in again.items():
                job.forget(again, item, lambda counts: (counts.get("encoding") or {}).get("library") not in LIBRARIES)
        workers.barrier()
        tokenized = job.run(again)
    encoding = encoding_of(provided.encoding, {facts.item: facts.counts.get("encoding") for facts in tokenized})
    _log(encoding.lines() if encoding else [])
    accepted = job.run(Accept(plan, provided.vocab_size))
    text = plan.config.cleaned_text
    written = [] if text is None else job.run(WriteText(text, plan, parts, decisions))
    job.run(Verify(root, tokenized))
    if workers.rank == 0:
        finished = [tokenizer, *tokenized, *accepted, *written]
        write_summary(root, plan, cleaned, provided, encoding, finished, deduplicated)
        _log(outcome(PreparedData(root)))
    workers.barrier()
