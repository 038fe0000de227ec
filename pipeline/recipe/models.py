"""The recipe's models: one to build from scratch, and the sizes of one to grow into."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.common.config import Fraction, NonNegativeInt, PositiveInt, StrictModel

Positive = Annotated[float, Field(gt=0)]

InitializerRange = Positive | Literal["width"]
"""The standard deviation of random weights; `width`: 0.02 sqrt(768 / hidden_size), GPT-2's and BERT's own at their width, and
in proportion to 1 / sqrt(fan_in) at any other."""

MOST_EXPERTS = 1 << 14
"""No layer has more; each has tensors of its own, so that a wrong number would take gigabytes before it is refused."""
Experts = Annotated[int, Field(gt=0, le=MOST_EXPERTS)]


OWN_KEYS = {
    **dict.fromkeys(("n_embd", "dim", "d_model"), "hidden_size"),
    **dict.fromkeys(("n_layer", "n_layers", "num_layers"), "num_hidden_layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_heads"), "num_attention_heads"),
    **dict.fromkeys(("n_inner", "hidden_dim", "d_ff"), "intermediate_size"),
    **dict.fromkeys(("d_kv", "qk_rope_head_dim"), "head_dim"),
    **dict.fromkeys(("num_local_experts", "n_routed_experts"), "num_experts"),
    "n_positions": "max_position_embeddings",
}
"""A family's own keys (GPT-2's, DistilBERT's, T5's) -> those that all families share, which stand for the same sizes."""


def shared_word(key: str) -> str:
    """Return the word that all families share for a key."""
    return OWN_KEYS.get(key, key)


ROTARY_KEYS = {"rope_theta", "rope_scaling"}
"""What transformers 4 called keys of `rope_parameters`, and the mapping itself."""


class _Sizes(StrictModel):
    """A section of sizes, which takes a family's own keys too."""

    @classmethod
    def other_words(cls) -> list[str]:
        """A family's own keys."""
        return list(OWN_KEYS)

    @model_validator(mode="before")
    @classmethod
    def _shared_keys(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        shared: dict[str, Any] = {}
        for key, value in content.items():
            name = shared_word(key)
            if str(shared.setdefault(name, value)) != str(value):
                words = [other for other in content if shared_word(other) == name]
                own, same = sorted(words, key=lambda word: word == name)[:2]
                raise ValueError(
                    f"`{own}` is another name of `{same}`, and they are {content[own]} and {content[same]}; leave one out"
                )
        return shared


class ModelConfig(_Sizes):
    """A model to build from scratch; keys as in Hugging Face's configurations."""

    family: str
    """The `model_type` of one of the families in docs/reference/families.md."""
    hidden_size: PositiveInt
    """Channels of the residual stream."""
    num_hidden_layers: PositiveInt
    """Layers."""
    num_attention_heads: PositiveInt
    """Query heads of a layer."""
    num_key_value_heads: PositiveInt | None = None
    """Query heads share them in groups (Llama, Mistral, Qwen); `num_attention_heads` where not given."""
    head_dim: PositiveInt | None = None
    """Channels of a head; `hidden_size` divided by the heads where not given, and for GPT-2, BERT and RoBERTa always."""
    intermediate_size: PositiveInt | None = None
    """Four times `hidden_size` where not given."""
    num_experts: Experts | None = None
    """Of a mixture of experts; 8 where not given."""
    num_experts_per_tok: Experts | None = None
    """How many of them a token goes through; 2 where not given."""
    moe_intermediate_size: PositiveInt | None = None
    """Units of an expert, where a family counts them by themselves; `intermediate_size` where not given."""
    shared_expert_intermediate_size: PositiveInt | None = None
    """Units of the expert that every token goes through, where a family has one (Qwen2-MoE); likewise."""
    norm_topk_prob: bool | None = None
    """Whether the gates of a token's experts are divided by their sum (Qwen-MoE, OLMoE); as in its class where not given."""
    mlp_only_layers: list[NonNegativeInt] | None = None
    """Layers without experts, counted from 0 (Qwen-MoE); none where not given."""
    vocab_size: PositiveInt | None = None
    """The tokenizer's size where not given."""
    max_position_embeddings: PositiveInt | None = None
    """The training sequence length where not given."""
    tie_word_embeddings: bool = True
    """Whether the output matrix is the embedding."""
    dropout: Fraction = 0.0
    """Every dropout probability of the model."""
    initializer_range: InitializerRange = 0.02
    """The standard deviation of random weights, or `width`, by which it follows from `hidden_size`: 0.02 at 768."""

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}")
        return self


class SizeConfig(_Sizes):
    """A smaller size of a model that a run trains from small to large: what differs from it."""

    hidden_size: PositiveInt | None = None
    """Channels of the residual stream; the model's where not given."""
    num_hidden_layers: PositiveInt | None = None
    """Layers; the model's where not given."""
    num_attention_heads: PositiveInt | None = None
    """In the model's ratio to `hidden_size` where not given: heads keep their size."""
    num_key_value_heads: PositiveInt | None = None
    """Where not given: in the model's ratio to the query heads, or, where that does not divide, as many as the model's."""
    head_dim: PositiveInt | None = None
    """Channels of a head; the model's where not given."""
    intermediate_size: PositiveInt | None = None
    """In the model's ratio to `hidden_size` where not given."""
    num_experts: Experts | None = None
    """Experts of a mixture; the model's where not given."""
    num_experts_per_tok: Experts | None = None
    """In the model's ratio to `num_experts` where not given."""
    moe_intermediate_size: PositiveInt | None = None
    """In the model's ratio to `hidden_size` where not given, and so the next."""
    shared_expert_intermediate_size: PositiveInt | None = None
    """Units of the expert that every token goes through; in the model's ratio to `hidden_size` where not given."""

    @model_validator(mode="after")
    def _says_something(self) -> "SizeConfig":
        if not self.model_dump(exclude_none=True):
            raise ValueError("a size names what differs from the model; name num_hidden_layers, for instance")
        return self


def _number_of(value: Any) -> Any:
    """Return what a word spells if it is a number, also inside of lists and mappings; else the value itself."""
    if isinstance(value, dict):
        return {key: _number_of(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_number_of(each) for each in value]
    for kind in (int, float) if isinstance(value, str) else ():
        try:
            return kind(value)
        except ValueError:
            continue
    return value


class TargetConfig(_Sizes):
    """The large model: the sizes that differ from the source's."""

    model_type: str | None = None
    """That of a mixture of experts which a dense source is made into: each of its FFNs becomes `num_experts`, copies of it or
    of its parts."""
    hidden_size: PositiveInt | None = None
    """Channels of the residual stream; the source's where not given."""
    num_hidden_layers: PositiveInt | None = None
    """Layers; the source's where not given."""
    num_decoder_layers: PositiveInt | None = None
    """Of a model with an encoder, whose layers `num_hidden_layers` counts: those of its decoder."""
    num_attention_heads: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given. GPT-2, BERT and RoBERTa need `hidden_size` / `head_dim`."""
    num_key_value_heads: PositiveInt | None = None
    """Where not given: in the source's ratio to the query heads, or, where that does not divide, as many as the source's."""
    head_dim: PositiveInt | None = None
    """A multiple of the source's where positions are rotary."""
    intermediate_size: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given: kept where the ratio is a whole number, else rounded up."""
    num_experts: Experts | None = None
    """Of a mixture of experts; more of them are copies of the source's, or with fewer units parts of them, in turn."""
    num_experts_per_tok: Experts | None = None
    """In the source's ratio to `num_experts` where not given."""
    moe_intermediate_size: PositiveInt | None = None
    """Units of an expert, in the source's ratio to `hidden_size` where not given. With fewer than the source's, each of its
    experts, or its FFN, is cut into as many parts as that takes."""
    shared_expert_intermediate_size: PositiveInt | None = None
    """Units of the expert that every token goes through, likewise."""
    norm_topk_prob: bool | None = None
    """Of a dense source made into a mixture: false leaves the gates of the chosen experts as they are, whose sum is then not 1
    and follows the router."""
    mlp_only_layers: list[NonNegativeInt] | None = None
    """Of such a source: the layers that stay without experts."""
    decoder_sparse_step: PositiveInt | None = None
    """Of such a source: every n-th layer has experts."""
    n_shared_experts: PositiveInt | None = None
    """Experts of `moe_intermediate_size` units that every token goes through (DeepSeek); the source's where not given."""
    n_group: PositiveInt | None = None
    """Groups of experts, in the source's ratio to `num_experts` where not given and a token's experts are of some alone."""
    topk_group: PositiveInt | None = None
    """Of how many groups a token's experts are, likewise."""
    q_lora_rank: PositiveInt | None = None
    """Channels of the latent that queries are made of; the source's where not given, and so the next three (DeepSeek)."""
    kv_lora_rank: PositiveInt | None = None
    """Channels of the latent that keys and values are made of."""
    qk_nope_head_dim: PositiveInt | None = None
    """Channels of a head's queries and keys that positions do not turn, beside `head_dim` that they do."""
    v_head_dim: PositiveInt | None = None
    """Channels of a head's values."""
    ffn_multiple_of: PositiveInt | None = None
    """What an `intermediate_size` that is not given is rounded up to a multiple of. Where neither is given: the largest of
    256, 128, ..., 8 that divides the source's and is at most an eighth of it."""
    vocab_size: PositiveInt | None = None
    """The tokenizer's size, where that is named; larger for rows that no token has."""
    tokenizer: str | None = None
    """A directory with the target's tokenizer, or the name of a model on the Hugging Face hub, where it is another than the
    source's: tokens are added, or all are others. Rows go by token; docs/how-to/tokenizer.md says how."""
    max_position_embeddings: PositiveInt | None = None
    """RoBERTa's counts two rows more than it has positions."""
    tie_word_embeddings: bool | None = None
    """False gives a model whose output matrix is its embedding one of its own, which begins as a copy."""
    rope_parameters: dict[str, Any] | None = None
    """Rotary positions for longer texts: `rope_theta`, or `rope_type` with its keys, in the place of the source's."""
    sliding_window: PositiveInt | Literal["full"] | None = None
    """Another number of tokens that layers with a window see; `full`: all of them."""
    local_attention: PositiveInt | None = None
    """The same of ModernBERT, of which a token sees one half before it and one behind."""
    dropout: Fraction | None = 0.0
    """Whatever the source was trained with; null: as the source has it. Above 0 the losses depend on the number of ranks."""

    @classmethod
    def other_words(cls) -> list[str]:
        """A family's own keys, and those of transformers 4."""
        return [*super().other_words(), *sorted(ROTARY_KEYS)]

    @field_validator("sliding_window", mode="before")
    @classmethod
    def _tokens_or_full(cls, value: Any) -> Any:
        if value is None or value == "full" or (not isinstance(value, bool) and str(value).isdigit() and int(value) > 0):
            return value
        raise ValueError("a number of tokens is expected, or `full`")

    @model_validator(mode="before")
    @classmethod
    def _one_key_for_rotary(cls, content: Any) -> Any:
        """What configurations of transformers 4 said under keys of their own."""
        if not isinstance(content, dict) or not content.keys() & ROTARY_KEYS:
            return content
        said = content.get("rope_parameters", content.get("rope_scaling")) or {}
        if ("rope_parameters" in content and "rope_scaling" in content) or not isinstance(said, dict):
            raise ValueError("`rope_scaling` is another name of `rope_parameters`, a mapping of keys; leave one out")
        theta = {"rope_theta": content["rope_theta"]} if "rope_theta" in content else {}
        if theta and said.get("rope_theta", theta["rope_theta"]) != theta["rope_theta"]:
            raise ValueError(
                f"`rope_theta` is {theta['rope_theta']}, and {said['rope_theta']} in `rope_parameters`; leave one out"
            )
        others = {key: value for key, value in content.items() if key not in ROTARY_KEYS}
        return others | {"rope_parameters": said | theta}

    @field_validator("rope_parameters")
    @classmethod
    def _numbers_read(cls, said: dict[str, Any] | None) -> dict[str, Any] | None:
        """YAML 1.1 reads 1e6 as a word, and so does a command line every number; no rotary key takes a word that is one."""
        return said and {key: _number_of(value) for key, value in said.items()}

    @model_validator(mode="after")
    def _ffn_said_once(self) -> "TargetConfig":
        if self.ffn_multiple_of is not None and self.intermediate_size is not None:
            raise ValueError("`ffn_multiple_of` rounds an intermediate_size that is not named; leave one of the two out")
        return self
