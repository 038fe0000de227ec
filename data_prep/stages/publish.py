"""A finished folder at a store, and back from it: whole where `manifest.json` is, which comes last."""

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from data_prep.jobs.job import Item, Job, Outputs
from data_prep.jobs.workers import Workers
from data_prep.manifest import MANIFEST, PLAN, PreparedData
from data_prep.plans.frozen_plan import check_settings, plan_of, read_plan
from data_prep.plans.plan import Plan
from data_prep.settings import DataPrepConfig
from data_prep.storage.stores import Remote, raw_file
from pipeline.common.errors import UserError
from pipeline.common.files import file_digest, json_digest, locked, write_atomically
from pipeline.common.progress import BYTES, Advance, Meter

logger = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TRIED = ".writable"


def is_published(config: DataPrepConfig) -> bool:
    """Return whether the store's folder is whole; where it is not, whether it can be written to is tried.

    Raises UserError where it holds another preparation, and where nothing can be written there.
    """
    target = Remote(config.output_dir)
    if target.is_web:
        raise UserError(f"output_dir: {target}: a web server takes no files; name a bucket, or a folder here")
    whole = (target / MANIFEST).exists()
    if whole or (target / PLAN).exists():
        check_settings(_plan(target / PLAN), config, target)
    if whole:
        return True
    (target / _TRIED).write(b"")
    # Who may write need not be allowed to remove.
    with suppress(UserError):
        (target / _TRIED).remove()
    return False


def _plan(source: Remote) -> Plan:
    try:
        content = dict(json.loads(source.content()))
    except (ValueError, TypeError):
        raise UserError(f"{source}: the plan is damaged; remove that folder, or name another output_dir") from None
    return plan_of(content, str(source))


def publish(root: Path, target: Remote, workers: Workers) -> None:
    """Upload a finished folder by all of `workers`, the plan first and the manifest last; what is there stays.

    Raises UserError where another preparation is there, or another job uploads to the same place.
    """
    folder = root.resolve()
    records = folder.with_name(f"{folder.name}.published")
    stage = Publish(root, target)
    job = Job(records, f"{PreparedData(root).manifest.digest}{target}", workers)
    workers.from_first(lambda: _begin(root, target, job, stage))
    uploaded = job.run(stage)
    if workers.rank == 0:
        _check_uploaded(root, target, {facts.counts["name"]: facts.counts["fingerprint"] for facts in uploaded})
        (target / MANIFEST).upload(root / MANIFEST)
        shutil.rmtree(records)
        logger.info("data: %s is published, out of %s, which is no longer needed", target, root)
    workers.barrier()


def _begin(root: Path, target: Remote, job: Job, stage: "Publish") -> None:
    """Upload the plan, and have files uploaded again that are not at the store as they were uploaded."""
    plan = target / PLAN
    is_there = plan.exists()
    if is_there and _plan(plan).digest != read_plan(root / PLAN).digest:
        raise UserError(
            f"{target}: another preparation was started there by its {PLAN}; name another output_dir, or remove the folder"
        )
    if not is_there or plan.content() != (root / PLAN).read_bytes():
        plan.upload(root / PLAN)
    there = target.fingerprints()
    for item in stage.items():
        job.forget(stage, item, lambda counts: there.get(counts["name"]) == counts["fingerprint"])


def _check_uploaded(root: Path, target: Remote, uploaded: dict[str, str]) -> None:
    there = target.fingerprints()
    # A listing may say less of a file than the file itself.
    others = [name for name, mine in uploaded.items() if there.get(name) != mine and (target / name).draft()[2] != mine]
    if (target / PLAN).content() != (root / PLAN).read_bytes():
        others = [PLAN, *others]
    if others:
        raise UserError(
            f"{target}: {others[0]} was written by another job meanwhile; let one job write there, and start the same command "
            "again"
        )


class Publish:
    """Upload a file of a finished folder."""

    name = "publish"
    unit = BYTES

    def __init__(self, root: Path, target: Remote) -> None:
        self._root = root
        self._target = target
        self._names = sorted(PreparedData(root).manifest.files.keys() - {PLAN})

    def items(self) -> list[Item]:
        """The files but for the plan and the manifest."""
        return [Item(f"{number:05d}", (self._root / name).stat().st_size) for number, name in enumerate(self._names)]

    def work(self, item: Item, outputs: Outputs, advance: Advance) -> dict[str, Any]:
        """Upload one file."""
        name = self._names[int(item.name)]
        file = self._target / name
        file.upload(self._root / name)
        advance(item.size)
        return {"name": name, "fingerprint": file.draft()[2], "bytes_out": item.size}


def fetch(url: str, directory: Path) -> PreparedData:
    """Download a published folder into `directory`, each file held against its hash, the manifest last.

    Files that are there and whole are not downloaded again. Raises UserError where there is no published folder, where what
    comes is not what was published, and where `directory` holds another preparation.
    """
    source = Remote(url)
    if not (source / MANIFEST).exists():
        raise UserError(f"{url}: no {MANIFEST} is there, so it is no prepared data, or not published to its end")
    text = (source / MANIFEST).content()
    files = _files(text, f"{url}/{MANIFEST}")
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / ".lock", wait=False):
        try:
            manifest = directory / MANIFEST
            if manifest.exists() and manifest.read_bytes() != text:
                raise UserError(f"{directory}: holds another preparation than {source}; name another directory")
            _fetch(source, directory, files)
            write_atomically(manifest, text.decode())
        finally:
            (directory / ".lock").unlink()
    return PreparedData(directory)


def _files(text: bytes, origin: str) -> dict[str, str]:
    """The files that a manifest names, with their hashes; raises UserError where it is damaged or leads out of its folder."""
    try:
        content = json.loads(text)
        files = dict(content["files"])
        whole = content["digest"] == json_digest(content)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{origin}: the manifest is damaged; publish the folder again")
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UserError(
                f"{origin}: names {name}, which is not in its folder; publish a folder that holds its shards itself"
            )
    return files


def _fetch(source: Remote, directory: Path, files: dict[str, str]) -> None:
    # A fingerprint begins with the size, where the store gives one.
    words = {name: fingerprint.partition(" ")[0] for name, fingerprint in source.fingerprints().items()}
    sizes = {name: int(word) if (word := words.get(name, "")).isdecimal() else 0 for name in files}
    with Meter(f"data: {source} fetched", sum(sizes.values())) as meter:
        for name, digest in files.items():
            path = directory / name
            with meter.item(sizes[name]) as advance:
                if not path.is_file() or file_digest(path) != digest:
                    _download(source / name, path, digest, advance)


def _download(file: Remote, path: Path, digest: str, advance: Advance) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with raw_file(file, advance, file.size) as source, open(partial, "wb") as target:
        shutil.copyfileobj(source, target, _CHUNK)
        target.flush()
        os.fsync(target.fileno())
    if file_digest(partial) != digest:
        partial.unlink()
        raise UserError(f"{file}: is not what was published, by its hash in {MANIFEST}; publish the folder again")
    os.replace(partial, path)
