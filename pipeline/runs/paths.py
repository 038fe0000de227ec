"""What lies where in a run directory."""

from pathlib import Path

from pipeline.growth.sources import CHECKPOINTS, RECIPE


class RunPaths:
    """The paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / ".lock"
        self.recipe = path / RECIPE
        self.ds_config = path / "ds_config.json"
        self.data = path / "data.json"
        self.checked = path / "checked.json"
        """Files of the prepared data that were found whole."""
        self.metrics = path / "metrics.jsonl"
        self.lost = path / "lost.jsonl"
        """Steps that were taken and lost, to a crash or a rewind."""
        self.rewound = path / "rewound.json"
        """Where the run stood when it last went back to a checkpoint by itself."""
        self.evaluations = path / "eval.jsonl"
        self.scores = path / "scores.jsonl"
        """What tasks made of the run's models."""
        self.checkpoints = path / CHECKPOINTS
        self.source_model = path / "source_model"
        self.model = path / "model"
        self.certificates = path / "certificates"
        self.summary = path / "summary.json"

    def certificate(self, growth: int) -> Path:
        """The certificate of a run's growth, counted from 1."""
        return self.certificates / f"{growth - 1:02d}.json"
