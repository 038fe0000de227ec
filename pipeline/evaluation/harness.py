"""EleutherAI's lm_eval on our models; the package comes with the extra `harness`."""

import difflib
import json
import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.common.errors import UserError, one_line
from pipeline.common.files import text_digest
from pipeline.evaluation.models import EvaluatedModel
from pipeline.evaluation.registry import HARNESS
from pipeline.evaluation.scores import Scored

_NOT_OF_THE_TASK = ("dataset_path", "dataset_kwargs", "metadata")
"""Keys of a task's configuration that say where its data lies, which its examples' hashes stand for, or who runs it."""


def check_installed(task: str) -> None:
    """Raise UserError where the package is absent."""
    if find_spec("lm_eval") is None:
        raise UserError(f"--task {task}: needs the package lm_eval; pip install 'growth-pretraining[harness]'")


def harness_score(
    task: str, model: EvaluatedModel, include_path: Path | None, window: int | None, batch_size: int, limit: int | None
) -> Scored:
    """Return what lm_eval makes of a causal model on `lm_eval:NAME`.

    `include_path` has task files of one's own. They are read alone: looking through lm_eval's thousands takes many seconds.
    Metrics bear lm_eval's names, a filter's behind, and those of a group's tasks the task's in front. Raises UserError
    where the package is absent, knows no such task, or cannot have its data.
    """
    began = time.monotonic()
    check_installed(task)
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    name = task.removeprefix(HARNESS)
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include_path: {include_path} is no directory; name one with lm_eval's task files")
    own = {} if include_path is None else {"include_path": str(include_path), "include_defaults": False}
    manager = TaskManager(**own)
    if name not in manager.all_tasks:
        near = difflib.get_close_matches(name, manager.all_tasks, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "lm_eval's own are known without --include_path"
        raise UserError(f"--task {task}: {include_path or 'lm_eval'} has no task {name!r}; {hint}")
    try:
        # What it has loaded once it takes from there: so that missing data is not taken for a fault of the evaluation.
        manager.load([name])
    except Exception as error:  # tasks are others' code and others' data
        raise UserError(
            f"--task {task}: lm_eval cannot load it ({type(error).__name__}: {one_line(error)}); its data may be missing"
        ) from None
    prefix = model.encoder.prefix
    run = HFLM(
        pretrained=model.module,
        tokenizer=model.tokenizer.hugging_face,
        batch_size=batch_size,
        max_length=window,
        prefix_token_id=prefix,
    )
    results = lm_eval.simple_evaluate(
        model=run, tasks=[name], limit=limit, task_manager=manager, bootstrap_iters=0, log_samples=True
    )
    counted = {key: count["effective"] for key, count in results["n-samples"].items()}
    note = None if limit is None else f"the first {limit} examples"
    data = {"source": f"lm_eval's {name}", "digest": _digest(results), "examples": sum(counted.values()), "note": note}
    settings = {
        "lm_eval": lm_eval.__version__,
        "version": results["versions"].get(name),
        "fewshot": results["n-shot"].get(name),
        "limit": limit,
        "window": run.max_length,
        "prefix": model.tokenizer.token(prefix),
        "split_special_tokens": model.tokenizer.split_special_tokens,
        "dtype": str(model.module.dtype).removeprefix("torch."),
    }
    return Scored(task, _metrics(name, results["results"]), data, settings, time.monotonic() - began)


def _digest(results: dict[str, Any]) -> str:
    """Of what was asked and how it was scored: each task's examples, by lm_eval's own hashes, and its configuration."""
    asked = {
        task: sorted((sample["doc_hash"], sample["prompt_hash"], sample["target_hash"]) for sample in samples)
        for task, samples in results["samples"].items()
    }
    configs = {
        task: {key: value for key, value in config.items() if key not in _NOT_OF_THE_TASK}
        for task, config in results["configs"].items()
    }
    return text_digest(json.dumps([asked, configs], sort_keys=True, default=str))


def _metrics(name: str, results: dict[str, dict[str, Any]]) -> dict[str, float]:
    metrics = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if comma and isinstance(value, int | float):
                metrics[("" if task == name else f"{task}.") + metric + ("" if kind == "none" else f"_{kind}")] = float(value)
    return metrics
