"""The command growth-plan in a checkout that need not be installed; its options are in pipeline/cli/plan.py."""

import sys
from pathlib import Path

# The packages beside this folder, also for an interpreter for which they are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
