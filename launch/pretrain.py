"""The command growth-pretrain in a checkout that need not be installed; its options are in pipeline/cli/pretrain.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages, also where they are not installed

from pipeline.cli.pretrain import main
from pipeline.common.starting import leave

if __name__ == "__main__":
    leave(main())
