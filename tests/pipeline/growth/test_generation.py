"""Where `model.generate` stops, by the file beside an exported model."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from pipeline.growth.generation import GENERATION, write_generation_config
from tests.pipeline.growth.models import small_model
from tests.pipeline.report.grown_runs import save_tokenizer

END = 1
"""The end of a document in the tokenizer that stands beside."""


@pytest.mark.parametrize(("configured", "expected"), [(5, 5), (50256, END), (None, END), ([3, 4], [3, 4])])
def test_text_ends_where_the_configuration_says_or_else_the_tokenizer(tmp_path, configured, expected):
    save_tokenizer(tmp_path)
    config = small_model("llama").config
    config.eos_token_id = configured
    write_generation_config(tmp_path, config, tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == expected


def test_a_models_own_file_stays(tmp_path):
    (tmp_path / GENERATION).write_text('{"eos_token_id": 9, "temperature": 0.5, "do_sample": true}')
    write_generation_config(tmp_path, small_model("gpt2").config, tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 9


def test_a_masked_model_and_one_without_an_end_have_none(tmp_path):
    write_generation_config(tmp_path, small_model("bert").config, tmp_path)
    config = small_model("gpt2").config
    config.eos_token_id = None
    write_generation_config(tmp_path, config, tmp_path)
    assert not (tmp_path / GENERATION).exists()


def test_generation_stops_at_the_end(tmp_path):
    model = small_model("gpt2").float()
    prompt = torch.tensor([[7, 8, 9]])
    free = model.generate(prompt, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 3:].tolist()
    model.config.eos_token_id = free[2]
    model.generation_config = GenerationConfig()
    model.save_pretrained(tmp_path)
    (tmp_path / GENERATION).unlink()
    write_generation_config(tmp_path, model.config, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    stopped = loaded.generate(prompt, max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    assert stopped == free[: free.index(free[2]) + 1]
