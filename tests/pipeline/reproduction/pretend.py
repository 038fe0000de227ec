"""In place of launch/pretrain.py: copies a finished run of the right kind, from the folder that PRETEND names.

A run whose name says `fails` ends in status 9, one that says `diverges` as one that its guard gives up; one that says
`lasts` runs until it is told to stop, and ends so then.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import yaml

# EXIT_DIVERGED and EXIT_STOPPED: to import them takes as long as all the rest.
DIVERGED, STOPPED = 3, 75

recipe = yaml.safe_load(Path(sys.argv[sys.argv.index("--recipe") + 1]).read_text(encoding="utf-8"))
run, templates = Path(recipe["run_dir"]), Path(os.environ["PRETEND"])
with open(templates / "started", "a", encoding="utf-8") as file:
    file.write(run.name + "\n")
if "--branch_from" in sys.argv:
    with open(templates / "branched", "a", encoding="utf-8") as file:
        file.write(run.name + "\n")
status = 9 * ("fails" in run.name) or DIVERGED * ("diverges" in run.name)
if "lasts" in run.name:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status or STOPPED))
    (templates / "lasting").touch()
    time.sleep(60)
    sys.exit("nobody told it to stop")
if status:
    sys.exit(status)
shutil.copytree(templates / ("scratch" if recipe["source"]["path"] is None else "grown"), run)
