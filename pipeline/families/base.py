"""What is known of a model family: its Hugging Face class, its graph, its published files, its configuration's keys."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from pipeline.families.graph import Model
from pipeline.families.tensors import EXPERT_NUMBER, LAYER_NUMBER

_ACTIVATIONS = frozenset({"hidden_act", "hidden_activation", "activation_function", "activation", "dense_act_fn"})
_FFN_WIDTHS = ("n_inner", "hidden_dim", "d_ff", "intermediate_size")
"""The configuration keys of an FFN's width; a class has the first of them that it has."""

_DEPTHS = ("num_hidden_layers", "num_decoder_layers")
"""The configuration keys of how many layers each stack has."""

EXPERT_KEYS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size")
"""The configuration keys of a mixture of experts' sizes."""

GROUP_KEYS = ("n_shared_experts", "n_group", "topk_group")
"""Those of a mixture whose shared experts are counted, and whose experts stand in groups."""

LATENT_KEYS = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
"""Those of attention over latents, of whose heads `head_dim` counts the channels that positions turn."""

_OPTIONAL = ("max_position_embeddings", *EXPERT_KEYS, *GROUP_KEYS, *LATENT_KEYS)
"""The sizes that some models have no such number of, but for the layers of a second stack."""

_OTHER_WORDS = {"num_experts": "n_routed_experts"}
"""What a class may call a size that goes by the first word everywhere here."""

TASK_HEADS = r"^(classifier|score|qa_outputs|multiple_choice_head|v_head)(?=\.)"
"""The heads of Hugging Face's other classes for these families, and that of TRL's value models."""


_STOCK_RANGE, _STOCK_WIDTH = 0.02, 768
"""GPT-2's and BERT's `initializer_range`, and the width at which it was chosen."""

_NO_IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
"""The class's defaults are ids of its own vocabulary."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of one model, under Hugging Face's names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    """Channels per attention head, d_k."""
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int | None
    """None where any number of positions can be read."""
    segments: int
    tied: bool
    num_decoder_layers: int | None = None
    """Where `num_hidden_layers` are an encoder's: those of its decoder."""
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    """Units of an expert, where `intermediate_size` counts those of a layer without experts."""
    shared_expert_intermediate_size: int | None = None
    n_shared_experts: int | None = None
    """The experts that every token goes through, where each has `moe_intermediate_size` units."""
    n_group: int | None = None
    """Groups that experts stand in, where a token's are of some groups alone: of `topk_group`."""
    topk_group: int | None = None
    q_lora_rank: int | None = None
    """Channels of the latent that queries are made of; None where they are made of the stream."""
    kv_lora_rank: int | None = None
    """Those of the latent that keys and values are made of."""
    qk_nope_head_dim: int | None = None
    """Channels of a head's queries and keys that positions do not turn, beside `head_dim` that they do."""
    v_head_dim: int | None = None
    """Channels of a head's values, where they are others than those of its keys."""

    @property
    def shared_units(self) -> int | None:
        """Units of the network that every token goes through."""
        if self.n_shared_experts is None:
            return self.shared_expert_intermediate_size
        return self.n_shared_experts * (self.moe_intermediate_size or self.intermediate_size)

    @property
    def depths(self) -> tuple[int, ...]:
        """The layers of each stack, in the order of `Model.stacks`."""
        return tuple(count for count in (self.num_hidden_layers, self.num_decoder_layers) if count is not None)

    @property
    def present(self) -> dict[str, int]:
        """Those that the model has, by their names."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A model family."""

    model_class: type[PreTrainedModel]
    objective: Literal["clm", "mlm", "span_corruption"]
    """Causal or masked language modelling, or filling in spans that are left out (T5), which models are not trained by here."""
    graph: Callable[[PretrainedConfig], Model]
    """What a model of a configuration is made of."""
    layers: str
    """The module list of the layers."""
    head_module: str
    """The first module after the layers: the prediction head of an encoder, the final norm of a decoder."""
    words: str
    """The embedding of tokens, which is the output matrix of a tied model."""
    output: str
    """The output matrix of a model that is not tied."""
    output_bias: str | None = None
    """Its bias, which is untied with it."""
    tied_output_bias: str | None = None
    """What a tied model has in its place."""
    lm_head: tuple[str, ...] = ("lm_head",)
    """The modules of the language model's head: a model that was saved without it, or under another head, has none."""
    shared: Mapping[str, str] = field(default_factory=dict)
    """Names under which the class and its files have a tensor once more, tied or not."""
    position_offset: int = 0
    """Rows of the position table that stand before position 0 (RoBERTa: 2)."""
    published: tuple[tuple[re.Pattern[str], str], ...]
    """Spellings in published files -> ours, applied in turn."""
    buffers: re.Pattern[str]
    """Names in published files (after `published`) of what is computed and not learnt, which older versions saved."""
    other_heads: re.Pattern[str] = re.compile(TASK_HEADS)
    """Names (after `published`) of heads for other tasks; what is matched names the head's module."""
    scratch: Mapping[str, Any] = field(default_factory=dict)
    """Configuration keys of a model from scratch that differ from the class's defaults."""
    dropout: tuple[str, ...]
    """Configuration keys that are dropout probabilities."""
    kept: tuple[str, ...]
    """Configuration keys that growth leaves as they are: what the model computes depends on them."""
    factors: tuple[str, ...] = ()
    """Configuration keys of what streams, scores, logits or initial weights are multiplied or divided by."""
    caps: tuple[str, ...] = ()
    """Those of `kept` that bound scores or logits, which null does not."""
    refused: Mapping[str, tuple[Any, ...]]
    """Configuration keys -> the values that the graph is right for. `a.b` is key b of the mapping a."""
    variants: tuple[Mapping[str, Any], ...] = ({},)
    """Configurations that together have every tensor that a model of the family may have."""
    tokenizers: tuple[str, ...] = ("sentencepiece_bpe", "sentencepiece_unigram", "byte_level_bpe", "wordpiece")
    """Algorithms of tokenizers that AutoTokenizer reads beside the model as they were trained."""
    special_tokens_of: tuple[str, ...] = ()
    """The families whose special tokens a byte-level BPE must have, where AutoTokenizer gives every file those."""
    own_head_dim: bool = False
    """Whether heads times their dimension need not be the hidden size."""
    logits: str = "logits"
    """The field of the class's output that holds the logits of tokens, [sequences, S, vocab]."""
    pair_logits: str | None = None
    """The field that holds those of sentence pairs, [sequences, 2]; None where the model has no head on pairs."""
    layers_beyond: str | None = None
    """The configuration key of how many layers files may hold after the last that the class runs (DeepSeek's, which predict
    tokens further on)."""
    pooler: str | None = None
    """The module that such a head reads, which runs before `head_module`."""

    @property
    def config_class(self) -> type[PretrainedConfig]:
        """The class of its configurations."""
        return self.model_class.config_class or PretrainedConfig

    @property
    def name(self) -> str:
        """Its `model_type`."""
        return self.config_class.model_type

    @property
    def head_alias(self) -> dict[str, str]:
        """Names that a tied model's files may carry beside the tensors they are tied to."""
        bias = {} if self.output_bias is None or self.tied_output_bias is None else {self.output_bias: self.tied_output_bias}
        return {self.output: self.words} | bias

    @property
    def untrained(self) -> str | None:
        """Why the pipeline does not train the family's models; None where it does."""
        if self.objective == "span_corruption":
            return "learns by span corruption, and models are trained and evaluated here by causal or masked language modelling"
        return None

    @property
    def trained(self) -> bool:
        """Whether the pipeline trains the family's models."""
        return self.untrained is None

    @property
    def rotary(self) -> bool:
        """Whether positions turn queries and keys (RoPE) instead of being embedded."""
        return hasattr(self.config_class, "rope_parameters")

    @property
    def intermediate_key(self) -> str:
        """The configuration key of the FFN's width."""
        return _intermediate_key(self.config_class)

    @property
    def activation_key(self) -> str:
        """The configuration key of the FFN's activation."""
        (key,) = _ACTIVATIONS.intersection(self.kept)
        return key

    @property
    def fused_attention(self) -> bool:
        """Whether its scores are such that torch's fused attention computes them (Gemma-2 caps them: it does not)."""
        return self.model_class._supports_sdpa

    @property
    def grouped(self) -> bool:
        """Whether query heads may share key-value heads."""
        return hasattr(self.config_class, "num_key_value_heads") and not has_key(self.config_class, "kv_lora_rank")

    def configuration(self, **keys: Any) -> PretrainedConfig:
        """Return the class's configuration of these keys, tied as they say: T5's class ignores that key."""
        if has_key(self.config_class, "qk_rope_head_dim") and "head_dim" in keys:
            keys = {"qk_rope_head_dim": keys["head_dim"]} | keys
        config = self.config_class(**keys)
        config.tie_word_embeddings = keys.get("tie_word_embeddings", config.tie_word_embeddings)
        return config

    def model(self, config: PretrainedConfig) -> PreTrainedModel:
        """Return the class's model of a configuration, as initialized; `shared` tensors are one parameter."""
        model = self.model_class(config)
        for name, shared in self.shared.items():
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, model.get_parameter(shared))
        return model

    def inputs(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what a model is called with to read tokens; a decoder that has an encoder reads them in reverse order."""
        read = {"input_ids": input_ids}
        return read | {"decoder_input_ids": input_ids.flip(-1)} if self.config_class.is_encoder_decoder else read

    def set_dropout(self, config: PretrainedConfig, probability: float) -> None:
        """Set every dropout probability of a configuration."""
        for key in self.dropout:
            setattr(config, key, probability)

    def usable_positions(self, sizes: Sizes) -> int | None:
        """The longest sequence that the model can read; None where there is none."""
        return None if sizes.max_position_embeddings is None else sizes.max_position_embeddings - self.position_offset

    @property
    def padding_id(self) -> int | None:
        """The id of the padding token, where positions are counted without it (RoBERTa), from the row behind its number on."""
        return self.position_offset - 1 if self.position_offset else None

    def canonical(self, name: str) -> str:
        """Return our name for a tensor of a published file."""
        for pattern, replacement in self.published:
            name = pattern.sub(replacement, name)
        return name

    @cached_property
    def forms(self) -> list[Mapping[str, bool]]:
        """Of each form of its models: the names of all tensors, without numbers of layers, and whether they are of layers."""
        found: list[Mapping[str, bool]] = []
        for options in ({}, *self.variants):
            for tied in (True, False):
                # The first layer may lack what the others have.
                depths = dict.fromkeys(depth_keys(self.config_class), 2)
                model = self.graph(self.configuration(**options, **_NO_IDS, **depths, tie_word_embeddings=tied))
                found.append({self.kind(name): tensor.layer is not None for name, tensor in model.tensors().items()})
        return found

    @cached_property
    def kinds(self) -> Mapping[str, bool]:
        """The same of all forms together."""
        return {name: of_layer for form in self.forms for name, of_layer in form.items()}

    def of_head(self, name: str) -> bool:
        """Whether a tensor is of the language model's head."""
        return name.startswith(tuple(f"{module}." for module in self.lm_head))

    def knows(self, name: str) -> bool:
        """Whether a model of the family may have a tensor of that name; tied ones' other names too."""
        # The configuration says how many experts there are.
        kind = self.kind(EXPERT_NUMBER.sub("0", name))
        return name in self.head_alias or name in self.shared or kind in self.kinds

    @staticmethod
    def kind(name: str) -> str:
        """Return a tensor's name without the number of its layer."""
        return LAYER_NUMBER.sub("{layer}", name, count=1)


def config_keys(family: Family, sizes: Sizes, config: PretrainedConfig | type[PretrainedConfig]) -> dict[str, int]:
    """Return the sizes that may grow, under the keys that `config`, or its class, has for them."""
    keys = dict(zip(depth_keys(family.config_class), sizes.depths, strict=True))
    keys[family.intermediate_key] = sizes.intermediate_size
    for key in ("hidden_size", "num_attention_heads", "vocab_size", *_OPTIONAL):
        if (size := getattr(sizes, key)) is not None:
            keys[config_key(config, key)] = size
    if hasattr(family.config_class, "num_key_value_heads"):
        keys["num_key_value_heads"] = sizes.num_key_value_heads
    if sizes.qk_nope_head_dim is not None:
        # The class works these out of each other when it is made, and no more.
        turned = sizes.head_dim
        keys |= {"qk_rope_head_dim": turned, "head_dim": turned, "qk_head_dim": turned + sizes.qk_nope_head_dim}
    # Qwen2's class has no such key, and reads one that a configuration has all the same.
    if has_key(config, "head_dim") or sizes.num_attention_heads * sizes.head_dim != sizes.hidden_size:
        keys["head_dim"] = sizes.head_dim
    return keys


def has_key(config: PretrainedConfig | type[PretrainedConfig], key: str) -> bool:
    """Whether a configuration, or its class, has a key, perhaps under another word."""
    return any(hasattr(config, word) or word in config.attribute_map for word in (key, _OTHER_WORDS.get(key, key)))


def config_key(config: PretrainedConfig | type[PretrainedConfig], key: str) -> str:
    """Return the word under which a configuration, or its class, has a size."""
    known = hasattr(config, key) or key in config.attribute_map
    return key if known else _OTHER_WORDS.get(key, key)


def size_of(config: PretrainedConfig, key: str) -> int:
    """Return a size that a configuration has, by the word that all families share."""
    return getattr(config, config_key(config, key))


def initializer_range(chosen: float | Literal["width"], hidden_size: int) -> float:
    """Return the standard deviation of a model's random weights.

    By `width` the variance is in proportion to 1 / fan_in, as muP (Yang et al. 2022, table 3) and the spectral condition (Yang,
    Simon and Bernstein 2023, parametrization 1) prescribe it for hidden matrices.
    """
    return _STOCK_RANGE * math.sqrt(_STOCK_WIDTH / hidden_size) if chosen == "width" else chosen


def depth_keys(config_class: type[PretrainedConfig]) -> list[str]:
    """Return the keys of how many layers each stack of a model has, in the order of `Model.stacks`."""
    return [key for key in _DEPTHS if has_key(config_class, key)]


def _intermediate_key(config_class: type[PretrainedConfig]) -> str:
    return next(key for key in _FFN_WIDTHS if hasattr(config_class, key))


def head_dim_of(config: PretrainedConfig) -> int:
    """Channels per attention head, d_k."""
    known = type(config)
    own = hasattr(known, "num_key_value_heads") or "head_dim" in known.attribute_map
    return (getattr(config, "head_dim", None) if own else None) or config.hidden_size // config.num_attention_heads


def sizes_of(config: PretrainedConfig) -> Sizes:
    """Read a model's sizes off its Hugging Face configuration.

    Keys that the class does not know are not looked at, as the model does not; but for `head_dim`, which Qwen2 reads.
    """
    heads, known = config.num_attention_heads, type(config)
    grouped = hasattr(known, "num_key_value_heads")
    inner = getattr(config, _intermediate_key(known))
    return Sizes(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads if grouped else heads,
        head_dim=head_dim_of(config),
        intermediate_size=4 * config.hidden_size if inner is None else inner,
        vocab_size=config.vocab_size,
        segments=getattr(config, "type_vocab_size", 0),
        tied=config.tie_word_embeddings,
        num_decoder_layers=config.num_decoder_layers if has_key(known, "num_decoder_layers") else None,
        **{key: getattr(config, config_key(known, key)) if has_key(known, key) else None for key in _OPTIONAL},
    )
