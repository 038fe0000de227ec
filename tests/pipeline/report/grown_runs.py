"""Run directories of tiny models, as a finished run leaves them, made without training."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.common.files import write_json
from pipeline.growth.certificate import certify
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.huggingface_sink import write_huggingface
from pipeline.growth.inspection import inspect
from pipeline.growth.plan import GrowthPlan
from pipeline.report.attention.options import SENTENCE
from pipeline.runs import RunPaths
from tests.pipeline.growth.models import plan_of, small_model


def finished_run(path: Path, family: str, growth: dict, target: dict) -> tuple[RunPaths, GrowthPlan]:
    """Return a run that grew a small model and did not train it, and the plan by which it did."""
    run = RunPaths(path)
    model = small_model(family).float()
    model.save_pretrained(run.source_model)
    save_tokenizer(run.source_model)
    source = open_huggingface(run.source_model)
    plan, config = plan_of(model, target, growth)
    run.model.mkdir()
    write_huggingface(run.model, config, plan.grow(source.state), torch.float32)
    save_tokenizer(run.model)
    run.certificates.mkdir()
    digest = inspect(source.state, "source")
    measured = {"source_loss": 6.0, "grown_loss": 6.0, "loss_gap": 0.0, "max_logit_difference": 0.0, "max_logit": 1.0}
    measured |= {"scored_tokens": 100, "dtype": "float64"}
    write_json(run.certificate(1), certify(plan, str(run.source_model), digest, measured))
    return run, plan


def save_tokenizer(directory: Path) -> None:
    """Write a tokenizer of the words of the default sentence."""
    words = sorted(set(SENTENCE.replace(".", " .").split()))
    vocabulary = {word: number for number, word in enumerate(["<s>", "<pad>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", cls_token="<s>", eos_token="<pad>").save_pretrained(
        directory
    )
