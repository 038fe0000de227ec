"""Score models on tasks: perplexity of texts, LAMBADA, fine-tuning, and those of EleutherAI's lm_eval.

growth-evaluate --model DIR|RUN [...] --task wikitext2 lambada ... [--data DIR ...] [--out FILE.jsonl]
deepspeed --module pipeline.cli.evaluate ... [--ds_config ds_configs/zero3.json]
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from pipeline.common.starting import start


def parse() -> argparse.Namespace:
    """Read the command line; raises UserError where there is no such task, or an option cannot be used."""
    from data_prep.jobs.workers import on_one_node
    from pipeline.common.built_in import find_file
    from pipeline.common.command import OneSentenceParser
    from pipeline.evaluation.registry import DTYPES, TUNING, check_task
    from pipeline.evaluation.tuning.options import add_arguments, options_of
    from pipeline.recipe import read_ds_config

    parser = OneSentenceParser(
        description=__doc__.splitlines()[0],
        epilog="%(prog)s starts one process. Several: deepspeed --module pipeline.cli.evaluate ..., or in a checkout "
        "deepspeed launch/evaluate.py ...",
    )
    add = parser.add_argument
    add(
        "--model",
        type=Path,
        nargs="+",
        required=True,
        help="Hugging Face directories or hub names, runs (their newest), checkpoints",
    )
    add("--revision", help="a branch, tag or commit of the models on the hub (default: main)")
    add("--config", type=Path, help="a model's config.json, or its directory, for a DeepSpeed checkpoint that holds none")
    add(
        "--task",
        nargs="+",
        required=True,
        help=f"wikitext2, wikitext103, ptb, lambada, text:FILE; {', '.join(TUNING)}; lm_eval:NAME",
    )
    add("--data", type=Path, nargs="+", help="folders with the tasks' files (default: the hub)")
    add("--out", type=Path, help="append to this file, and to no run's scores.jsonl")
    add("--dtype", choices=DTYPES, help="(default: bfloat16 on a GPU, float32 without)")
    add("--batch_size", type=_positive, default=8, help="rows at once on each rank (default: %(default)s)")
    add("--limit", type=_positive, help="score the first so many examples of each task alone")
    add(
        "--split_special_tokens",
        choices=("true", "false"),
        default="true",
        help="texts, lambada, lm_eval: whether a special token that a text spells is text (default: %(default)s)",
    )
    zero_shot = parser.add_argument_group("texts and lambada")
    zero_shot.add_argument("--window", type=_positive, help="positions read at once (default: as many as the model has)")
    zero_shot.add_argument("--stride", type=_positive, help="tokens that each further window scores (default: half a window)")
    zero_shot.add_argument("--every", type=_positive, default=1, help="masked models: score every N-th token (default: 1)")
    zero_shot.add_argument("--ds_config", type=find_file, help="DeepSpeed's JSON of ZeRO stage 3, to partition the model")
    harness = parser.add_argument_group("lm_eval")
    harness.add_argument("--include_path", type=Path, help="a folder with task files of your own")
    add_arguments(parser)
    add("--local_rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for task in arguments.task:
        check_task(task, "--task")
    arguments.tuning = options_of(arguments)
    if arguments.ds_config is not None and on_one_node():
        read_ds_config(arguments.ds_config)
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


main = partial(start, parse, "pipeline.commands.evaluate")
"""Do what the command line asks; return the exit status."""

if __name__ == "__main__":
    sys.exit(main())
