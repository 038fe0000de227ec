"""A report's figures and the rows behind them as files."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.common.files import write_atomically
from pipeline.report.figures import Plot, to_png


def write_figures(directory: Path, plots: Sequence[Plot]) -> None:
    """Write each figure into a directory as NAME.png, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        path = directory / f"{plot.name}.png"
        aside = path.with_name(path.name + ".partial")
        aside.write_bytes(to_png(plot))
        os.replace(aside, path)


def write_rows(directory: Path, plots: Sequence[Plot]) -> None:
    """Write the rows behind each figure into a directory as NAME.csv, whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        if plot.rows:
            file = io.StringIO()
            writer = csv.DictWriter(file, list(plot.rows[0]))
            writer.writeheader()
            writer.writerows(plot.rows)
            write_atomically(directory / f"{plot.name}.csv", file.getvalue())
