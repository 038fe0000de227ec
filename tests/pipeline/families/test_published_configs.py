"""Configuration files as models are published with: through a plan at full size, and shrunk through a real growth."""

import json

import pytest

from pipeline.families import family_of, read_config
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.recipe.models import OWN_KEYS
from tests.pipeline.families.grown import PUBLISHED, logits, moved_by
from tests.pipeline.growth import check
from tests.pipeline.growth.check import plan_of

FACTORS = [1.0 + i / 8 for i in range(6)]
OF_OTHER_TESTS = ("DeepSeek-V3 of four layers", "ModernBERT base cut down")
NARROW = {
    **{"num_key_value_heads": 2, "head_dim": 16, "d_kv": 16, "num_decoder_layers": 3, "sliding_window": 7},
    **{"no_rope_layers": [1, 1, 1, 0], "original_max_position_embeddings": 64},
}
"""What a small model's file says where the published one has the key."""


def read(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_config(path)


def shrunk(content):
    """The same of four layers and narrow heads, what else it says as it is."""
    own = {same: key for key, same in OWN_KEYS.items() if key in content}
    heads = content[own.get("num_attention_heads", "num_attention_heads")]
    group = heads // content.get("num_key_value_heads", heads)
    sizes = {"num_hidden_layers": 4, "num_attention_heads": 2 * group, "hidden_size": 32 * group, "intermediate_size": 80}
    small = content | {own.get(key, key): size for key, size in sizes.items()}
    small |= {"vocab_size": 61, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    small |= {key: size for key, size in NARROW.items() if content.get(key)}
    if (content.get("rope_scaling") or {}).get("type") == "longrope":
        small["rope_scaling"] = {"type": "longrope", "short_factor": FACTORS, "long_factor": FACTORS}
    return small


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in OF_OTHER_TESTS])
def test_a_published_configuration_grows_exactly_at_its_size_and_shrunk(tmp_path, name):
    config = read(tmp_path / "config.json", PUBLISHED[name])
    larger = {"hidden_size": 2 * config.hidden_size, "num_hidden_layers": config.num_hidden_layers + 4}
    assert exactness(predict(plan_of(config, larger))) is Exactness.EXACT

    config = read(tmp_path / "config.json", shrunk(PUBLISHED[name]))
    model = check.random_model(family_of(config), config, 1)
    for sizes in ({"hidden_size": 2 * config.hidden_size}, {"num_hidden_layers": 6}):
        plan = plan_of(config, sizes)
        assert exactness(predict(plan)) is Exactness.EXACT
        assert moved_by(plan, model) < check.EXACT * max(1.0, logits(model).abs().max().item()), sizes
