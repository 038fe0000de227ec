"""In place of launch/pretrain.py: copies a finished run of the right kind, from the folder that PRETEND names.

A recipe whose text says `fails` ends in status 3; one that says `lasts` runs until it is told to stop, and says so.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml

recipe = yaml.safe_load(Path(sys.argv[sys.argv.index("--recipe") + 1]).read_text(encoding="utf-8"))
run, templates = Path(recipe["run_dir"]), Path(os.environ["PRETEND"])
with open(templates / "started", "a", encoding="utf-8") as file:
    file.write(run.name + "\n")
if "fails" in run.name:
    sys.exit(3)
if "lasts" in run.name:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    (templates / "lasting").touch()
    time.sleep(60)
shutil.copytree(templates / ("scratch" if recipe["source"]["path"] is None else "grown"), run)
