"""The run directory: whose it is, what it holds, whether a recipe may go on in it."""

import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from pipeline.common.config import Typed
from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes, write_atomically, write_json
from pipeline.recipe import Recipe
from pipeline.runs import JsonLines, RunPaths, StepLines
from pipeline.runs.records import (
    CertificateRecord,
    DataRecord,
    DsConfigRecord,
    EvaluationRecord,
    RewoundRecord,
    ScoreRecord,
    StepRecord,
    SummaryRecord,
    read_recipe,
    read_record,
)
from pipeline.training.directory.checkpoints import TrainState
from pipeline.training.directory.recorded_settings import RecordedSettings, recorded_lengths

logger = logging.getLogger(__name__)

_VISIBLE_SECONDS = 120
"""How long a network's file system may keep a new file from another node: NFS does for up to a minute."""

_AGAIN = "put it back, or name another run_dir"


class RunDirectory(RunPaths):
    """Paths of one run, and the settings that it was started with."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._recorded: DataRecord | None = None
        self._id: str | None = None
        self._free = False
        """Whether it was found to be nobody's."""

    def check_shared(self) -> None:
        """Check that this rank sees the directory that the first rank has locked, and may write to it; leaves nothing.

        Raises UserError, or OSError where the directory may not be written to.
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while not self.lock.exists():
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.path}: not the directory that the first rank works in; name a run_dir that all nodes share"
                )
            time.sleep(0.1)
        # Asking for permission is not enough on a network's file system.
        with tempfile.TemporaryFile(dir=self.path):
            pass

    def check(self, recipe: Recipe, ds_config: dict[str, Any], saved: TrainState | None) -> list[str]:
        """Check that this recipe may run here, from the checkpoint that `saved` describes, writing nothing.

        Returns remarks to log: files that are made again, and what is rounded otherwise than before. Raises UserError
        where the directory or the checkpoint belongs to another recipe or another way of running, or does not say to which,
        and where a file that the run goes on with is damaged. Stages may be longer than before as long as they are not
        over, and what changes no step of the run may differ.
        """
        if saved is None and not os.path.lexists(self.recipe):
            self._check_empty()
            self._free = True
            return []
        own, remarks = self._own(saved)
        known, recorded = own, [own]
        if saved is not None and saved.run is not None:
            made = RecordedSettings.of(saved.run, str(self.checkpoints / saved.tag))
            if None not in (own.id, made.id) and own.id != made.id:
                raise UserError(
                    f"{made.origin}: belongs to another run than {self.path} (run id {made.id}, started in "
                    f"{saved.run['recipe']['run_dir']}, and not {own.id}); move it away, or start from it in another run_dir, "
                    f"by source.path={made.origin}"
                )
            known, recorded = own.completed(made), [own, made]
        elif saved is not None:
            remarks.append(
                f"{self.checkpoints / saved.tag}: made by an older version, which did not write whose a checkpoint is; it is "
                "taken for this run's own"
            )
        for settings in recorded:
            settings.check(recipe, ds_config, saved)
        remarks += [*known.rounding(recipe, ds_config), *known.drawing(recipe, saved)]
        self._recorded, self._id = known.data, known.id
        self._check_records()
        return remarks

    def _own(self, saved: TrainState | None) -> tuple[RecordedSettings, list[str]]:
        """What the directory's own files say, and which of them are made again; raises UserError where one cannot be."""
        remarks: list[str] = []

        def read(path: Path, reader: Callable[[], Any]) -> Any:
            try:
                return reader()
            except UserError as error:
                fault = error
            if saved is not None and saved.run is None:
                raise UserError(
                    f"{fault}; put it back: the checkpoint {saved.tag} is of an older version and does not say what it held"
                )
            if saved is None and path == self.recipe:
                raise UserError(f"{fault}; {_AGAIN}")
            remarks.append(
                f"{fault}; it is written again"
                + (", since no checkpoint depends on it" if saved is None else f" from the checkpoint {saved.tag}")
            )
            return None

        recipe = read(self.recipe, lambda: read_recipe(self))
        ds_config = read(self.ds_config, lambda: self._there(self.ds_config, DsConfigRecord))
        data = read(self.data, lambda: self._there(self.data, DataRecord))
        return RecordedSettings(str(self.recipe), str(self.ds_config), recipe, ds_config, data), remarks

    @staticmethod
    def _there(path: Path, kind: type[Typed], hint: str = "the run wrote something else", missing: str = "") -> Typed:
        """Return what a file holds; raises UserError, which ends with `hint` or, where there is no file, with `missing`."""
        content = read_record(path, kind, hint)
        if content is None:
            raise UserError(f"{path}: no such file{missing}")
        return content

    def _check_empty(self) -> None:
        """Raise UserError where a directory without a recipe and without a checkpoint is not free for a run."""
        others = self._others((self.lock, self.data, self.ds_config, self.recipe, self.checked))
        if not others:
            return
        if others[0] in {path.name for path in vars(self).values() if isinstance(path, Path)}:
            raise UserError(
                f"{self.path}: holds a run's {others[0]}, and neither a {self.recipe.name} nor a checkpoint says whose; put "
                f"{self.recipe.name} back, or name another run_dir"
            )
        raise UserError(
            f"{self.path}: the directory holds files of no run ({others[0]}); name an empty or a new one as run_dir"
        )

    def _others(self, known: Sequence[Path]) -> list[str]:
        """What is there beside some files and the folders that are empty before a first step, by name."""
        names = {path.name for path in known}
        for path in (self.checkpoints, self.certificates):
            if path.is_dir() and not any(path.iterdir()):
                names.add(path.name)
        return sorted(path.name for path in self.path.iterdir() if path.name.removesuffix(".partial") not in names)

    def _check_records(self) -> None:
        """Raise UserError where a record cannot be read that the run goes on in: not after hours of training."""
        self.steps()
        for path, kind in ((self.lost, StepRecord), (self.evaluations, EvaluationRecord), (self.scores, ScoreRecord)):
            JsonLines(path, kind).read()
        self.rewound_record()

    def steps(self) -> int:
        """Steps on record."""
        return len(StepLines(self.metrics).read())

    def rewound_record(self) -> RewoundRecord | None:
        """Return where the run stood when it last went back of its own accord; raises UserError where that is damaged."""
        return read_record(self.rewound, RewoundRecord, "put it back, or remove it and the run does not know that it went back")

    def recorded_data(self) -> DataRecord | None:
        """Return what `claim` recorded, if the run was started, as `check` found it."""
        return self._recorded

    def annealing_steps(self, number: int, saved: TrainState | None) -> int | None:
        """Return the steps over which a growth that the run has been through by a checkpoint anneals its norms.

        None where the growth is still to come. Raises UserError where the checkpoint does not say it, being of an older
        version, and the certificate is damaged.
        """
        if saved is None or number > saved.phase:
            return None
        known = [] if saved.run is None else saved.run["certificates"]
        # The directory's own may be damaged: it is repaired later, by the checkpoint's.
        found = known[number - 1] if number <= len(known) else read_record(self.certificate(number), CertificateRecord)
        return None if found is None else found["growth"].get("norm_anneal_steps")

    def check_data(self, data: dict[str, Any]) -> None:
        """Raise UserError where the run was started with other weights of its corpora."""
        for mix, weights in data["weights"].items():
            before = weights if self._recorded is None else self._recorded["weights"].get(mix, weights)
            if weights != before:
                raise UserError(
                    f"{data['prepared']}: the run was started with the weights {before}, and now they are {weights}; keep "
                    "those, or name another run_dir"
                )

    def certified(self, growths: int, known: Sequence[CertificateRecord], origin: str) -> list[CertificateRecord]:
        """Return the certificates of the growths that a run has been through.

        Those that are damaged, missing or no more what they were are written again as `origin`, where they are `known` from,
        has them. Those of growths that are still to come are removed: these are done again. Raises UserError where one that
        is damaged stands nowhere else.
        """
        found: list[CertificateRecord] = []
        for number in range(1, growths + 1):
            path, hint = self.certificate(number), "put it back as the run wrote it, or name another run_dir"
            try:
                certificate = self._there(path, CertificateRecord, hint, f"; {hint}")
                same = number > len(known) or certificate == known[number - 1]
            except UserError:
                if number > len(known):
                    raise
                same = False
            if not same:
                certificate = known[number - 1]
                logger.info(f"{path}: missing, or changed since the run wrote it; it is written again from {origin}")
                self.certificates.mkdir(exist_ok=True)
                write_json(path, certificate)
            found.append(certificate)
        for path in self.certificates.glob("[0-9][0-9].json"):
            if int(path.stem) >= growths:
                path.unlink()
        return found

    def finished_summary(self, recipe: Recipe, saved: TrainState | None) -> SummaryRecord | None:
        """Return the summary if it is of this run's last step: that of a run since lengthened is not.

        One that is damaged, or another run's, is logged and made again; raises UserError where there is no checkpoint for that.
        """
        try:
            summary = read_record(self.summary, SummaryRecord, "it is made again from the last checkpoint")
        except UserError as fault:
            if saved is None:
                reason = str(fault).rpartition("; ")[0]
                raise UserError(f"{reason}; there is no checkpoint to make it again from: {_AGAIN}") from None
            logger.info(str(fault))
            return None
        if summary is None or summary["lengths"] != recorded_lengths(recipe):
            return None
        if None not in (self._id, summary.get("run")) and summary["run"] != self._id:
            logger.info(
                f"{self.summary}: belongs to another run (run id {summary['run']}, not {self._id}); it is written again"
            )
            return None
        return summary

    def claim(self, recipe: Recipe, ds_config: dict[str, Any], data: DataRecord) -> DataRecord:
        """Make the directory this recipe's; the recipe, written last, says that it is. Returns `data` with the run's id."""
        self.checkpoints.mkdir(exist_ok=True)
        self.certificates.mkdir(exist_ok=True)
        self._id = self._id or secrets.token_hex(8)
        data = cast(DataRecord, {"run": self._id} | {key: value for key, value in data.items() if key != "run"})
        self._record(self.data, json.dumps(data, indent=2) + "\n")
        self._record(self.ds_config, json.dumps(ds_config, indent=2) + "\n")
        self._record(self.recipe, recipe.to_yaml())
        return data

    def abandon(self) -> None:
        """Remove the directory where nothing was started in it, but for what this process wrote before a first step."""
        ours = [self.lock]
        if self._free:
            records = (self.metrics, self.evaluations, self.scores, self.lost)
            ours += [self.data, self.ds_config, self.recipe, self.checked]
            ours += [path for path in records if path.is_file() and not path.stat().st_size]
        if not self._others(ours):
            # Without its recipe it is nobody's, whatever else is left of it.
            for path in sorted(self.path.iterdir(), key=lambda path: (path == self.lock, path != self.recipe)):
                path.rmdir() if path.is_dir() else path.unlink()
            self.path.rmdir()

    @staticmethod
    def _record(path: Path, text: str) -> None:
        if not path.is_file() or read_bytes(path) != text.encode():
            write_atomically(path, text)
