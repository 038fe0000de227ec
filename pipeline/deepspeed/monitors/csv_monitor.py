"""Curves in CSV files, one a file."""

import csv
import io
from pathlib import Path

from deepspeed.monitor.config import CSVConfig
from deepspeed.monitor.monitor import csvMonitor

from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes, write_atomically
from pipeline.deepspeed.monitors.monitor import EVAL, TRAIN, Monitor


class CsvFiles(Monitor):
    """By DeepSpeed's writer."""

    folder = "csv"
    settings = CSVConfig
    writer_class = csvMonitor

    def cut_back(self, step: int) -> None:
        """Drop the rows of later steps; raises UserError where a file is no curve."""
        if not self.may_be_anothers(self.writer.log_dir, step):
            for path in self._curves():
                _cut_back(path, step)
        # DeepSpeed's monitor writes a header for each file that it has not written to itself.
        self.writer.filenames = [path.stem for path in Path(self.writer.log_dir).glob("*.csv")]

    def repair(self) -> None:
        """Drop a last row that was cut short; a file that is left with nothing gets its header once more."""
        for path in self._curves():
            with open(path, "r+b") as file:
                whole = file.read().rfind(b"\n") + 1
                file.truncate(whole)
            if whole == 0 and path.stem in self.writer.filenames:
                self.writer.filenames.remove(path.stem)

    def _curves(self) -> list[Path]:
        """The files that monitors write."""
        own = (TRAIN.replace("/", "_"), EVAL.replace("/", "_"))
        return [path for path in Path(self.writer.log_dir).glob("*.csv") if path.name.startswith(own)]


def _cut_back(path: Path, step: int) -> None:
    """Drop the rows of later steps, and a last row that a kill cut short; raises UserError where the file is no curve."""
    text = io.StringIO()
    try:
        whole = read_bytes(path).decode().rpartition("\n")[0]
        header, *rows = csv.reader(io.StringIO(whole)) if whole else [[]]
        csv.writer(text).writerows([header, *(row for row in rows if row and int(row[0]) <= step)])
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a curve of steps and values ({error}); put it back, or move it away") from None
    write_atomically(path, text.getvalue())


MONITOR = CsvFiles
