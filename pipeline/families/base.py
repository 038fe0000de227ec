"""What each tensor of a model family means: the types in which a family's table is written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from transformers import PretrainedConfig, PreTrainedModel

_LAYER = re.compile(r"\.\d+\.")

TASK_HEADS = r"^(classifier|score|qa_outputs|multiple_choice_head|v_head)(?=\.)"
"""The heads of Hugging Face's other classes for these families, and that of TRL's value models."""


class AxisKind(StrEnum):
    """What an axis counts; all axes of a kind grow by one map."""

    RESIDUAL = "residual"
    """The residual stream, `hidden_size`: its writers and readers force one map on the whole network."""
    HEADS = "heads"
    """Query channels: `num_attention_heads` blocks of the head dimension."""
    KV_HEADS = "kv_heads"
    """Key and value channels: `num_key_value_heads` blocks of the head dimension."""
    HEAD_DIM = "head_dim"
    """One head's channels, as Qwen3's query and key norms have them."""
    FFN = "ffn"
    """Units of the feed-forward network, `intermediate_size`."""
    VOCAB = "vocab"
    POSITIONS = "positions"
    SEGMENTS = "segments"
    POOLED = "pooled"
    """Channels of the first token's summary, as many as the residual stream's and copied alike; no norm reads them."""
    VERDICTS = "verdicts"
    """Whether the second part of a pair belongs behind the first: yes or no."""


Part = Literal["", "query", "key", "value"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One storage axis of a tensor."""

    kind: AxisKind
    role: Literal["in", "out", "index"]
    """`in`: summed over in the forward pass; `out`: produced by it; `index`: rows are looked up."""
    parts: tuple[Part, ...] = ("",)
    """What lies side by side along the axis, each as long as the kind: one thing, but for fused tensors
    (GPT-2's c_attn: query, key, value). Attention's channels say what they are; nothing else needs to."""


HIDDEN = Axis(AxisKind.RESIDUAL, "out")
HIDDEN_IN = Axis(AxisKind.RESIDUAL, "in")
MIXED_IN = Axis(AxisKind.HEADS, "in", ("value",))
"""What attention's output projection reads."""
FFN = Axis(AxisKind.FFN, "out")
FFN_IN = Axis(AxisKind.FFN, "in")
LOGITS = Axis(AxisKind.VOCAB, "out")
POOLED = Axis(AxisKind.POOLED, "out")
POOLED_IN = Axis(AxisKind.POOLED, "in")
VERDICTS = Axis(AxisKind.VERDICTS, "out")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor, or one per layer where the name holds `{layer}`."""

    name: str
    axes: tuple[Axis, ...]
    init: Literal["normal", "normal_residual", "zeros", "ones"]
    """The model's own initialization; `normal_residual` is GPT-2's, smaller by sqrt(2 L)."""
    block: Literal["embeddings", "layer", "head"]
    """Which block the tensor is trained and frozen with."""
    writes_residual: bool = False
    """Part of an output projection of attention or FFN: zero, it makes its layer write nothing."""
    norm: Literal["gain", "bias"] | None = None
    """Part of a norm (over the residual stream or, where its axis is HEAD_DIM, over one head's channels)."""
    final_norm: bool = False
    """The norm that feeds the output matrix: absorbs the matrix's 1/C where that is tied to the embedding."""

    @property
    def decays(self) -> bool:
        """Matrices decay; biases and norms do not."""
        return len(self.axes) > 1

    @property
    def once_a_sequence(self) -> bool:
        """Whether it is applied to a sequence's first token alone, as the head on sentence pairs is."""
        return any(axis.kind is AxisKind.POOLED for axis in self.axes)


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
    max_position_embeddings: int
    segments: int
    tied: bool

    def of(self, kind: AxisKind) -> int:
        """The length of an axis of `kind`."""
        return {
            AxisKind.RESIDUAL: self.hidden_size,
            AxisKind.HEADS: self.num_attention_heads * self.head_dim,
            AxisKind.KV_HEADS: self.num_key_value_heads * self.head_dim,
            AxisKind.HEAD_DIM: self.head_dim,
            AxisKind.FFN: self.intermediate_size,
            AxisKind.VOCAB: self.vocab_size,
            AxisKind.POSITIONS: self.max_position_embeddings,
            AxisKind.SEGMENTS: self.segments,
            AxisKind.POOLED: self.hidden_size,
            AxisKind.VERDICTS: 2,
        }[kind]

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The storage shape of one of the family's tensors."""
        return tuple(self.of(axis.kind) * len(axis.parts) for axis in spec.axes)


@dataclass(frozen=True, slots=True)
class Family:
    """A model family: its Hugging Face class and what each of its tensors means."""

    name: str
    model_class: type[PreTrainedModel]
    config_class: type[PretrainedConfig]
    objective: Literal["clm", "mlm"]
    """Causal or masked language modelling."""
    norm: Literal["layer_norm", "rms_norm"]
    """How the norms over the residual stream normalize."""
    pre_norm: bool
    """Whether norms stand before attention and FFN (GPT-2) or after (BERT)."""
    rotary: bool
    """Whether positions turn queries and keys (RoPE, half-split pairs) instead of being embedded."""
    position_offset: int
    """Rows of the position table that stand before position 0 (RoBERTa: 2)."""
    layers: str
    """The module list of the layers."""
    head_module: str
    """The module that stands first behind the layers: the prediction head of an encoder, the final norm of a decoder."""
    tensors: tuple[TensorSpec, ...]
    """Every tensor of a tied model."""
    untied_head: tuple[TensorSpec, ...]
    """What an untied model has besides: its own output matrix."""
    tied_head: str
    """The embedding that is the output matrix otherwise."""
    lm_head: str
    """The module of the language model's head: a model that was saved without it, or under another head, has none."""
    head_alias: Mapping[str, str]
    """Names that a tied model's files may carry beside the tensors they are tied to."""
    published: tuple[tuple[re.Pattern[str], str], ...]
    """Spellings in published files -> ours, applied in turn."""
    buffers: re.Pattern[str]
    """Names in published files (after `published`) of what is computed and not learnt, which older versions saved."""
    other_heads: re.Pattern[str]
    """Names (after `published`) of heads for other tasks; what is matched names the head's module."""
    scratch: Mapping[str, Any]
    """Configuration keys of a model from scratch that differ from the class's defaults."""
    dropout: tuple[str, ...]
    """Configuration keys that are dropout probabilities."""
    kept: tuple[str, ...]
    """Configuration keys that growth leaves as they are: what the model computes depends on them."""
    refused: Mapping[str, tuple[Any, ...]]
    """Configuration keys -> the values that the table is right for. `a.b` is key b of the mapping a."""
    intermediate_key: str = "intermediate_size"
    """The configuration key of the FFN's width."""
    logits: str = "logits"
    """The field of the class's output that holds the logits of tokens, [sequences, S, vocab]."""
    pair_logits: str | None = None
    """The field that holds those of sentence pairs, [sequences, 2]; None where the model has no head on pairs."""
    pooler: str | None = None
    """The module that such a head reads, which runs before `head_module`."""

    @property
    def query_key_norm(self) -> bool:
        """Whether queries and keys are normalized over each head's channels (Qwen3)."""
        return any(axis.kind is AxisKind.HEAD_DIM for spec in self.tensors for axis in spec.axes)

    def specs(self, sizes: Sizes) -> dict[str, tuple[TensorSpec, int | None]]:
        """Return every tensor's name -> (what it means, its layer or None), in a fixed order."""
        named: dict[str, tuple[TensorSpec, int | None]] = {}
        for spec in self.tensors if sizes.tied else self.tensors + self.untied_head:
            if spec.block == "layer":
                for layer in range(sizes.num_hidden_layers):
                    named[spec.name.format(layer=layer)] = (spec, layer)
            else:
                named[spec.name] = (spec, None)
        return named

    def block(self, name: str, spec: TensorSpec, sizes: Sizes) -> str:
        """The block that a tensor is trained with: a tied embedding learns with the head."""
        return "head" if sizes.tied and name == self.tied_head else spec.block

    @property
    def grouped(self) -> bool:
        """Whether query heads may share key-value heads."""
        return any(axis.kind is AxisKind.KV_HEADS for spec in self.tensors for axis in spec.axes)

    def set_dropout(self, config: PretrainedConfig, probability: float) -> None:
        """Set every dropout probability of a configuration."""
        for key in self.dropout:
            setattr(config, key, probability)

    def usable_positions(self, sizes: Sizes) -> int:
        """The longest sequence that the model can read."""
        return sizes.max_position_embeddings - self.position_offset

    @property
    def padding_id(self) -> int | None:
        """The id of the padding token, where positions are counted without it (RoBERTa), from the row behind its number on."""
        return self.position_offset - 1 if self.position_offset else None

    def canonical(self, name: str) -> str:
        """Return our name for a tensor of a published file."""
        for pattern, replacement in self.published:
            name = pattern.sub(replacement, name)
        return name

    def knows(self, name: str) -> bool:
        """Whether a model of the family has a tensor of that name, whatever its sizes; tied ones' other names too."""
        return name in self.head_alias or any(spec.name == self.kind(name) for spec in self.tensors + self.untied_head)

    @staticmethod
    def kind(name: str) -> str:
        """Return the name of a tensor's spec."""
        return _LAYER.sub(".{layer}.", name)


def config_keys(family: Family, sizes: Sizes, config: PretrainedConfig | type[PretrainedConfig]) -> dict[str, int]:
    """Return the sizes that may grow, under the keys that `config`, or its class, has for them."""
    keys = {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_hidden_layers,
        "num_attention_heads": sizes.num_attention_heads,
        family.intermediate_key: sizes.intermediate_size,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.max_position_embeddings,
    }
    if family.grouped:
        keys["num_key_value_heads"] = sizes.num_key_value_heads
    # Qwen2's class has no such key, and reads one that a configuration has all the same.
    if hasattr(config, "head_dim") or sizes.num_attention_heads * sizes.head_dim != sizes.hidden_size:
        keys["head_dim"] = sizes.head_dim
    return keys


def sizes_of(config: PretrainedConfig) -> Sizes:
    """Read a model's sizes off its Hugging Face configuration.

    Keys that the class does not know are not looked at, as the model does not; but for `head_dim`, which Qwen2 reads.
    """
    heads = config.num_attention_heads
    grouped = hasattr(type(config), "num_key_value_heads")
    inner = config.n_inner if hasattr(type(config), "n_inner") else config.intermediate_size
    return Sizes(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads if grouped else heads,
        head_dim=(getattr(config, "head_dim", None) if grouped else None) or config.hidden_size // heads,
        intermediate_size=4 * config.hidden_size if inner is None else inner,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        segments=getattr(config, "type_vocab_size", 0),
        tied=config.tie_word_embeddings,
    )
