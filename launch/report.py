"""The command growth-report in a checkout that need not be installed; its options are in pipeline/cli/report.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages, also where they are not installed

from pipeline.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
