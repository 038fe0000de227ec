"""Models to train from scratch: their heads, and the positions that their windows reach."""

import pytest
import torch
from transformers import AutoConfig

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, TRAINED, scratch_config, sizes_of
from pipeline.recipe import ModelConfig


def described(family, **sizes):
    return ModelConfig(**{"family": family, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, **sizes})


@pytest.mark.parametrize("family", [family for family in TRAINED if family != "deepseek_v3"])
def test_a_scratch_model_reads_its_whole_sequence_length_and_says_so(family):
    config = scratch_config(described(family), vocab_size=20, eos_id=2, sequence_length=9)
    assert FAMILIES[family].usable_positions(sizes_of(config)) == 9
    model = FAMILIES[family].model_class(config)
    assert model(input_ids=torch.arange(9)[None] + 3).logits.shape == (1, 9, 20)


def test_a_roberta_window_takes_the_rows_behind_the_paddings():
    """Hugging Face's own embeddings decide which rows are read: from 2 on, the last one included."""
    config = scratch_config(described("roberta"), vocab_size=20, eos_id=2, sequence_length=9)
    model = FAMILIES["roberta"].model_class(config)
    rows = []
    model.roberta.embeddings.position_embeddings.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0]))
    model(input_ids=torch.tensor([[0, *range(3, 11)]]))
    assert rows[0].tolist() == [list(range(2, 11))]
    assert config.max_position_embeddings == 11


def test_no_token_of_a_tokenizer_trained_here_is_robertas_padding(prepared):
    """RobertaEmbeddings would shift every position behind one, and give its embedding no gradient."""
    config = scratch_config(described("roberta"), prepared.tokenizer.vocab_size, prepared.tokenizer.eos_id, 8)
    assert config.pad_token_id in prepared.tokenizer.special_ids
    assert config.pad_token_id not in (prepared.tokenizer.cls_id, prepared.tokenizer.eos_id, prepared.tokenizer.mask_id)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_scratch_decoders_heads_survive_its_configuration_file(family, tmp_path):
    config = scratch_config(described(family, num_key_value_heads=2, head_dim=16), 20, 2, 9)
    config.save_pretrained(tmp_path)
    sizes = sizes_of(AutoConfig.from_pretrained(tmp_path))
    assert (sizes.num_attention_heads, sizes.num_key_value_heads, sizes.head_dim) == (4, 2, 16)


@pytest.mark.parametrize(
    ("family", "sizes", "words"),
    [
        ("gpt2", {"head_dim": 16}, "source.model.num_attention_heads: 4 heads of 16 channels do not make up hidden_size 32"),
        ("bert", {"num_key_value_heads": 2}, "source.model.num_key_value_heads: bert has as many"),
        ("llama", {"num_key_value_heads": 3}, "source.model.num_key_value_heads: 3 does not divide num_attention_heads 4"),
        ("qwen3", {"head_dim": 7}, "source.model.head_dim: 7 is odd"),
        ("llama", {"num_attention_heads": 5, "head_dim": 8}, "source.model: The hidden size (32) is not a multiple"),
        ("llama", {"num_experts": 4}, "source.model.num_experts: llama has no such key"),
        ("mixtral", {"moe_intermediate_size": 4}, "source.model.moe_intermediate_size: mixtral has no such key"),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 5}, "source.model.num_experts_per_tok: 5 of 4 experts"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "source.model.mlp_only_layers: 1 where the model has layers 0 to 0"),
        ("deepseek_v3", {}, "source.model.family: deepseek_v3 has sizes of latents"),
    ],
)
def test_sizes_that_a_family_cannot_have_are_refused_by_key(family, sizes, words):
    with pytest.raises(UserError) as error:
        scratch_config(described(family, **sizes), 20, 2, 9)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
