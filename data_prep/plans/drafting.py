"""The draft of a plan: the inputs that a configuration names, looked at and not hashed yet."""

import os
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from data_prep.decontamination.evaluation_sets import files_of
from data_prep.manifest import FORMAT, HELDOUT, TRAIN
from data_prep.plans.plan import GivenShard, Input, InputSlice, Plan
from data_prep.settings import DataPrepConfig, TokenizerConfig
from data_prep.shards import bin_path, idx_path
from data_prep.storage.stores import Remote, Source, is_url, named, paths_of, source_of
from data_prep.text import python_docs
from data_prep.text.folders import files_below
from data_prep.text.input_ranges import InputRange
from data_prep.text.readers import ranges_of_file
from data_prep.text.saved_datasets import ranges_of_dataset
from data_prep.tokenizers.loading import given_tokenizer, tokenizer_digest
from pipeline.common.errors import UserError
from pipeline.common.files import text_digest
from pipeline.common.progress import Meter

Found = TypeVar("Found", Source, Path)


def expand(patterns: list[str], key: str, left_out: list[str]) -> list[Source]:
    """Return the files that paths, URLs, globs and folders name, in a fixed order; raises UserError where one names none.

    A folder stands for all files of text in it and below it, by their paths; what else it holds is added to `left_out`.
    """
    files: dict[Source, None] = {}
    for pattern in patterns:
        paths = [path for path in named(pattern) if isinstance(path, Remote) or path.is_file() or path.is_dir()]
        if not paths:
            raise UserError(f"{pattern}: no such file; {key} takes existing files, folders, or globs that match some")
        for path in paths:
            if path.is_dir():
                below, others = files_below(path, key)
                files.update(dict.fromkeys(below))
                left_out += [] if others is None else [others]
            else:
                files[path] = None
    return list(files)


def draft_plan(config: DataPrepConfig) -> Plan:
    """Return the plan for `config`, its inputs not hashed yet.

    Raises UserError where an input is missing, unreadable or of no known type.
    """
    inputs: list[Input] = []
    slices: list[InputSlice] = []
    shards: list[GivenShard] = []
    left_out: list[str] = []
    part_bytes = config.part_mib << 20
    for step in config.steps:
        step.check()
    for split in (HELDOUT, TRAIN):
        for corpus in config.corpora:
            ranges: list[InputRange] = []
            if corpus.shards:
                prefixes = _named(corpus.shards, corpus.heldout_shards, split, "shards", expand_shards)
                shards += [GivenShard(corpus=corpus.name, split=split, prefix=str(absolute(prefix))) for prefix in prefixes]
                inputs += [_input(path) for prefix in prefixes for path in (bin_path(prefix), idx_path(prefix))]
            else:
                files = _named(corpus.files, corpus.heldout_files, split, "files", partial(expand, left_out=left_out))
                inputs += [_input(path) for path in files]
                with Meter(f"data: files of {corpus.name} looked at", len(files), "files") as meter:
                    for path in files:
                        ranges += ranges_of_file(path, corpus, part_bytes)
                        meter.advance(1)
            if split == TRAIN and corpus.corpus is not None:
                ranges.append(InputRange(path=corpus.corpus, start=0, stop=1, size=python_docs.SIZE))
                inputs.append(Input(name=corpus.corpus, size=0, digest=text_digest(python_docs.identity())))
            if split == TRAIN and corpus.dataset is not None:
                with Meter(f"data: {corpus.dataset} opened"):
                    found, size, digest = ranges_of_dataset(corpus.dataset, corpus, part_bytes)
                ranges += found
                inputs.append(Input(name=corpus.dataset, size=size, digest=digest))
            for group in _grouped(ranges, part_bytes):
                slices.append(InputSlice(name=f"{len(slices):05d}", corpus=corpus.name, heldout=split == HELDOUT, pieces=group))
    sets = {
        name: [str(path) for path in files_of(patterns, f"decontamination.sets.{name}")]
        for name, patterns in (config.decontamination.sets if config.decontamination else {}).items()
    }
    inputs += [_input(source_of(path)) for files in sets.values() for path in files]
    # A file that is named twice, a step's that two corpora have for instance, is hashed twice; it is small beside text.
    inputs += [_input(path) for step in config.steps for path in step.files]
    return Plan(
        format=FORMAT,
        digest="",
        # Where the output lies is no part of what it is: two folders of one plan are equal.
        config=config.model_copy(update={"output_dir": ".", "work_dir": None}),
        tokenizer=_tokenizer(config.tokenizer),
        inputs=inputs,
        slices=slices,
        shards=shards,
        evaluation_sets=sets,
        libraries=libraries_of(config),
        # Held-out files are looked for twice, the second time to leave them out of what is trained on.
        left_out=list(dict.fromkeys(left_out)),
    )


def libraries_of(config: DataPrepConfig) -> dict[str, str]:
    """Return the distributions that the outcome of a configuration's steps depends on, and the versions that are here.

    Raises UserError where one is not installed.
    """
    names = {name for step in config.steps for name in step.libraries}
    if any(corpus.where for corpus in config.corpora):
        names.add("simpleeval")
    try:
        return {name: version(name) for name in sorted(names)}
    except PackageNotFoundError as error:
        raise UserError(f"corpora: a step needs {error.name}, which is not installed; pip install {error.name}") from None


def absolute(path: Path) -> Path:
    """Return a path that means the same from any folder; its last part stays as it is, be it a link."""
    return path.parent.resolve() / path.name


def _tokenizer(config: TokenizerConfig) -> str | None:
    directory = config.directory
    return None if directory is None else tokenizer_digest(given_tokenizer(directory, config.split_special_tokens))


def _input(path: Source) -> Input:
    if isinstance(path, Remote):
        size, identity, _ = path.draft()
        return Input(name=str(path), size=size, digest=identity or "")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        spelled = os.fsencode(path).decode(errors="backslashreplace")
        raise UserError(f"{spelled}: its name is not UTF-8, in which plan and manifest are written; rename it") from None
    status = path.stat()
    return Input(name=str(path), size=status.st_size, digest="", modified=status.st_mtime_ns)


def _named(
    train: list[str], heldout: list[str], split: str, key: str, expanded: Callable[[list[str], str], list[Found]]
) -> list[Found]:
    """What is named for a split; a glob of what is trained on may cover what is held out."""
    kept_out = expanded(heldout, f"heldout_{key}")
    if split == HELDOUT:
        return kept_out
    resolved = {path.resolve() for path in kept_out}
    return [path for path in expanded(train, key) if path.resolve() not in resolved]


def expand_shards(patterns: list[str], key: str) -> list[Path]:
    """Return the shards' prefixes that prefixes and globs of .idx files name; raises UserError where one names none."""
    indices: dict[Path, None] = {}
    for pattern in patterns:
        if is_url(pattern):
            raise UserError(f"{pattern}: shards are taken where they lie, in a file system; download them, and name them here")
        name = pattern.removesuffix(".idx") + ".idx"
        found = [path for path in paths_of(name) if path.is_file()]
        if not found:
            raise UserError(f"{name}: no such file; {key} takes prefixes of existing shards, or globs of .idx files")
        indices.update(dict.fromkeys(found))
    return [index.with_name(index.name.removesuffix(".idx")) for index in indices]


def _grouped(ranges: list[InputRange], part_bytes: int) -> list[list[InputRange]]:
    """Small neighbours together, up to `part_bytes`."""
    groups: list[list[InputRange]] = []
    left = 0
    for input_range in ranges:
        if not groups or input_range.size > left:
            groups.append([])
            left = part_bytes
        groups[-1].append(input_range)
        left -= input_range.size
    return groups
