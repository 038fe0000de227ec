"""The recipe's models: one to build from scratch, and the sizes of one to grow into."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data_prep.config import Fraction, PositiveInt, StrictModel

Positive = Annotated[float, Field(gt=0)]


class ModelConfig(StrictModel):
    """A model to build from scratch; keys as in Hugging Face's configurations."""

    family: Literal["gpt2", "bert", "roberta", "llama", "mistral", "qwen2", "qwen3"]
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None
    """Query heads share them in groups (Llama, Mistral, Qwen); `num_attention_heads` where not given."""
    head_dim: PositiveInt | None = None
    """Channels of a head; `hidden_size` divided by the heads where not given, and for GPT-2, BERT and RoBERTa always."""
    intermediate_size: PositiveInt | None = None
    """Four times `hidden_size` where not given."""
    vocab_size: PositiveInt | None = None
    """The tokenizer's size where not given."""
    max_position_embeddings: PositiveInt | None = None
    """The training sequence length where not given."""
    tie_word_embeddings: bool = True
    dropout: Fraction = 0.0
    initializer_range: Positive = 0.02

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is no multiple of num_attention_heads {self.num_attention_heads}")
        return self


class TargetConfig(StrictModel):
    """The large model: the sizes that differ from the source's."""

    hidden_size: PositiveInt | None = None
    num_hidden_layers: PositiveInt | None = None
    num_attention_heads: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given. GPT-2, BERT and RoBERTa need `hidden_size` / `head_dim`."""
    num_key_value_heads: PositiveInt | None = None
    """Where not given: in the source's ratio to the query heads, or, where that does not divide, as many as the source's."""
    head_dim: PositiveInt | None = None
    """A multiple of the source's where positions are rotary."""
    intermediate_size: PositiveInt | None = None
    """In the source's ratio to `hidden_size` where not given."""
    vocab_size: PositiveInt | None = None
    max_position_embeddings: PositiveInt | None = None
    """RoBERTa's counts two rows more than it has positions."""
    dropout: Fraction | None = 0.0
    """Whatever the source was trained with; null: as the source has it. Above 0 the losses depend on the number of ranks."""
