"""Small models of every family in float64, and what a plan grows them into."""

from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families import FAMILIES, PAIR_FAMILIES, Family, family_of, graph_of, target_config
from pipeline.growth.float64_casts import Float64Casts
from pipeline.growth.huggingface import MappedTensor
from pipeline.growth.offline import OfflineGrowth, Request
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.state import Rows, Source, State
from pipeline.growth.streamed_model import streamed_model
from pipeline.recipe import GrowthConfig, TargetConfig

VOCAB, WINDOW = 50, 16
HEAD = 8

PRE_LAYER_NORM, POST_LAYER_NORM, RMS_NORM = (
    ("gpt2",),
    ("bert", "bert with pairs", "roberta"),
    ("llama", "mistral", "qwen2", "qwen3"),
)
FAMILY_NAMES = (*PRE_LAYER_NORM, *POST_LAYER_NORM, *RMS_NORM)
"""Those that `reference.py` grows."""
OTHERS = ("distilbert", "modernbert")


def family_named(name: str) -> Family:
    """Return a family; "bert with pairs" is BERT with its head on sentence pairs."""
    return PAIR_FAMILIES["bert"] if name == "bert with pairs" else FAMILIES[name]


def small_model(
    family: str, *, tied: bool = True, hidden: int = 32, layers: int = 3, ffn: int | None = None
) -> PreTrainedModel:
    """Return a model in float64 with heads of 8, two to a key-value head where they are grouped; no gain or bias is trivial."""
    torch.manual_seed(11)
    table = family_named(family)
    heads = hidden // HEAD
    keys = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": VOCAB,
        "max_position_embeddings": WINDOW + (2 if family == "roberta" else 0),
        "tie_word_embeddings": tied,
        "attn_implementation": "sdpa",
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 1 if family == "roberta" else None,
        table.intermediate_key: ffn or 2 * hidden,
    }
    if family in RMS_NORM:
        keys |= {"num_key_value_heads": heads // 2, "head_dim": HEAD}
    else:
        dropouts = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob")
        keys |= dict.fromkeys(dropouts, 0.0) | ({"dropout": 0.0} if family == "distilbert" else {})
    model = table.model_class(table.config_class(**keys, architectures=[table.model_class.__name__])).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model


def whole(value: Rows | float) -> Any:
    """Return all rows of a tensor; a number as it is."""
    return value if isinstance(value, float) else value.rows(0, value.shape[0])


def offline(
    source: Path, out: Path | None = None, target: Path | dict | None = None, growth: dict | None = None, **options: Any
) -> OfflineGrowth:
    """Return a growth from directory to directory, into a Hugging Face directory if not said otherwise."""
    sizes = target if isinstance(target, Path) else TargetConfig(**{"dropout": None} | (target or {}))
    preview = options.pop("preview", False)
    request = {"seed": 1, "format": "hf", "dtype": None, "world_size": None, "out": out} | options
    return OfflineGrowth(Request(source, sizes, GrowthConfig(**growth or {}), **request), preview=preview)


@torch.no_grad()
def streamed_logits(source: Source, ids: torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Return the logits [sequences, S, vocab] of a source, computed in `dtype` from its tensors a few rows at a time."""
    family = source.family
    return streamed_model(family, source.config, source.state, dtype)(**family.inputs(ids))[family.logits]


def state_of(model: PreTrainedModel) -> State:
    """Return a model's weights as a state to grow from."""
    stored = model.state_dict()
    names = graph_of(model.config).tensors()
    return {name: MappedTensor(stored[name].detach()) for name in names}


def plan_of(
    model: PreTrainedModel, target: dict, growth: dict, seed: int = 3, **options: Any
) -> tuple[GrowthPlan, PretrainedConfig]:
    """Return (the plan, the target's configuration)."""
    config = target_config(model.config, TargetConfig(**target))
    return plan_growth(model.config, config, GrowthConfig(**growth), seed, **options), config


def grown_tensors(plan: GrowthPlan, model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the engine's whole tensors in float64."""
    grown = plan.grow(state_of(model), torch.float64)
    return {name: whole(tensor).double() for name, tensor in grown.items()}


def loaded(tensors: dict[str, torch.Tensor], config: PretrainedConfig) -> PreTrainedModel:
    """Return the Hugging Face model of a configuration with these weights."""
    config._attn_implementation = "sdpa"
    family = family_of(config)
    model = family.model_class(config).double().eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= set(family.head_alias)
    model.tie_weights()
    return model


def tokens(seed: int = 0, windows: int = 2) -> torch.Tensor:
    """Return token ids [windows, 16] of the source's vocabulary; RoBERTa's padding token is not among them."""
    return torch.randint(2, VOCAB, (windows, WINDOW), generator=torch.Generator().manual_seed(seed))


def logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the logits of the source's vocabulary; where there is a head on pairs its logits too, all of them in one row."""
    family = family_of(model.config)
    with torch.no_grad(), Float64Casts():
        outputs = model(input_ids=ids)
    tokens = outputs[family.logits][..., :VOCAB]
    return tokens if family.pair_logits is None else torch.cat([tokens.flatten(), outputs[family.pair_logits].flatten()])


def loss(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Return the class's own loss in float64, all tokens scored; with a head on pairs, half of the windows belong together."""
    pairs = {} if family_of(model.config).pair_logits is None else {"next_sentence_label": torch.arange(len(ids)) % 2}
    with Float64Casts():
        return model(input_ids=ids, labels=ids, **pairs).loss
