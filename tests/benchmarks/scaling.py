"""How cost grows with size, each with its exponent: cost = c size^e, e by least squares of logarithms.

python -m tests.benchmarks.scaling [--parts target ranks corpus checkpoint] [--text FILE.jsonl.zst ...]

target      growth offline and live, the target x1, x2, x4
ranks       growth offline and live, at W = 1, 2, 4
corpus      the whole preparation of text, x1 and x4
checkpoint  saving and loading a checkpoint, against its bytes
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import deepspeed
import torch
import yaml

from data_prep.text.readers import read_piece
from pipeline.command import quieten
from pipeline.families import FAMILIES, sizes_of
from pipeline.growth.initialization import initialized
from pipeline.growth.sources import open_source
from pipeline.growth.zero_sink import fill_engine
from pipeline.recipe import OptimizerConfig
from pipeline.training import distributed
from pipeline.training.blocks import cut
from pipeline.training.checkpoints import Checkpoints
from tests.benchmarks import live_growth
from tests.benchmarks.growth import gpt2, write_source
from tests.benchmarks.measuring import MIB, cost_of, exponent, in_turn, part_parser, publish, table
