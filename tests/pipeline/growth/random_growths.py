"""Growths drawn at random, of random models of stock classes, in float64: `python -m tests.pipeline.growth.random_growths 300`.

What is called exact must be exact, and whatever cannot be grown must be refused in a sentence.
"""

import random
import sys
from collections import Counter
from dataclasses import dataclass

import pydantic
from huggingface_hub.errors import StrictDataclassClassValidationError

from pipeline.common.errors import UserError
from pipeline.families import FAMILIES, depth_keys, has_key
from pipeline.growth.reasons import Exactness, exactness, predict
from pipeline.operators import DEPTH, WIDTH
from tests.pipeline.growth import check


@dataclass(frozen=True)
class Drawn:
    """One growth."""

    family: str
    source: dict
    target: dict
    growth: dict


def draw(seed: int) -> Drawn:
    """Return the growth of a seed: family, sizes, operators and options."""
    given = random.Random(seed)
    name = given.choice(sorted(FAMILIES))
    family = FAMILIES[name]
    head_dim, group, kv = given.choice([8, 16]), given.choice([1, 2, 3]), given.choice([1, 2, 3])
    if not family.grouped:
        group = 1
    heads, layers = group * kv, given.randint(1, 4)
    source = {
        "hidden_size": heads * head_dim,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        family.intermediate_key: given.choice([24, 40, 64]),
        "vocab_size": 61,
        "tie_word_embeddings": given.random() < 0.5,
    }
    if family.own_head_dim:
        source["head_dim"] = head_dim
        source["hidden_size"] = given.choice([heads * head_dim, 24, 48])
    target = {}
    if given.random() < 0.7:
        target["hidden_size"] = round(source["hidden_size"] * given.choice([1, 1.25, 1.5, 2, 2.5, 3]))
    if given.random() < 0.4:
        target["num_attention_heads"] = heads * given.choice([1, 2, 3]) + given.choice([0, 0, 1])
    if given.random() < 0.3:
        target["num_key_value_heads"] = kv * given.choice([1, 2])
    if given.random() < 0.2:
        target["head_dim"] = head_dim * given.choice([1, 2, 3])
    if given.random() < 0.5:
        target["intermediate_size"] = source[family.intermediate_key] + given.choice([0, 1, 8, 40, 64])
    if given.random() < 0.6:
        target["num_hidden_layers"] = layers + given.randint(0, 4)
    if given.random() < 0.2:
        target["vocab_size"] = 61 + given.randint(0, 9)
    if "num_decoder_layers" in depth_keys(family.config_class):
        source["num_decoder_layers"] = given.randint(1, 4)
        target["num_decoder_layers"] = source["num_decoder_layers"] + given.randint(0, 3)
        source |= given.choice([{}, {"feed_forward_proj": "gated-gelu"}]) | given.choice([{}, {"scale_decoder_outputs": True}])
    if given.random() < 0.2:
        target["tie_word_embeddings"] = False
    if has_key(family.config_class, "num_experts") and given.random() < 0.4:
        target["num_experts"] = given.choice([8, 8, 6])
    if has_key(family.config_class, "kv_lora_rank"):
        source |= given.choice([{}, {"q_lora_rank": None}, {"attention_bias": True}, {"norm_topk_prob": False}])
        source |= {"first_k_dense_replace": given.randint(0, layers)} | given.choice([{}, {"n_group": 1}, {"topk_group": 2}])
        for key, old in (("kv_lora_rank", 12), ("q_lora_rank", 20), ("qk_nope_head_dim", 8), ("v_head_dim", 10)):
            if given.random() < 0.3 and source.get(key, old) is not None:
                target[key] = old + given.choice([1, 5, old])
        if given.random() < 0.3:
            target |= given.choice([{"n_shared_experts": 3}, {"n_group": 4}, {"topk_group": 2}, {"moe_intermediate_size": 30}])
    return Drawn(name, source, target, draw_options(given, source, target))


def draw_options(given: random.Random, source: dict, target: dict) -> dict:
    """Return the growth section: operators, and options that they have."""
    layers = source["num_hidden_layers"]
    growth = {"width": given.choice(["auto", *WIDTH]), "depth": given.choice(["auto", *DEPTH])}
    if growth["depth"] == "list":
        growth["layers"] = [given.randrange(layers) for _ in range(target.get("num_hidden_layers", layers))]
        of_decoder = range(layers, layers + source.get("num_decoder_layers", 0))
        growth["layers"] += [given.choice(of_decoder) for _ in range(target.get("num_decoder_layers", 0))]
        if given.random() < 0.3:
            growth["silent"] = [i for i, layer in enumerate(growth["layers"]) if layer in growth["layers"][:i]]
        elif given.random() < 0.3 and layers > 1:
            one, other = given.sample(range(layers), 2)
            growth["layers"][given.randrange(target.get("num_hidden_layers", layers))] = {one: 0.25, other: 0.75}
    if growth["depth"] in ("list", "midas", "stack") and given.random() < 0.3:
        growth["repeat_scale"] = 0.5
    if growth["width"] == "zero_pad" and given.random() < 0.6:
        growth["scaled"] = True
    elif growth["width"] in ("zero_pad", "nai") and given.random() < 0.7:
        growth["noise"] = 0.05
    if growth["width"] in ("auto", "fpi", "nai", "hypercloning", "exact_aki", "average_pad") and given.random() < 0.3:
        growth |= {"symmetry": given.choice(["paired", "split"]), "noise": 0.25}
    return growth


def outcome(drawn: Drawn) -> tuple[str, float]:
    """Return what a growth came to, and the most that a logit moved, as a share of the largest or of 1."""
    family = FAMILIES[drawn.family]
    keys = {key: value for key, value in drawn.source.items() if hasattr(family.config_class(), key) or key == "head_dim"}
    try:
        config = check.small_config(family, **keys)
        plan = check.plan_of(config, drawn.target, drawn.growth)
    except (UserError, pydantic.ValidationError, StrictDataclassClassValidationError):
        return "refused", 0.0
    model = check.random_model(family, config, 1)
    largest = max(1.0, check.logits(family, model, check.IDS).abs().max().item())
    return exactness(predict(plan)).value, check.moved(plan, model)[0] / largest


def main() -> int:
    """Try as many growths as the command line names; return the exit status."""
    first, last = (int(number) for number in (["0", *sys.argv[1:]][-2:]))
    counts: Counter[str] = Counter()
    failed = 0
    for seed in range(first, last):
        drawn = draw(seed)
        try:
            exactness, moved = outcome(drawn)
        except Exception as error:
            print(f"{seed}: {drawn}: {type(error).__name__}: {error}", flush=True)
            failed += 1
            continue
        counts[exactness] += 1
        if exactness == Exactness.EXACT and not moved <= check.EXACT:
            print(f"{seed}: {drawn} is called exact and moves a logit by {moved:.2g}", flush=True)
            failed += 1
        if exactness != Exactness.EXACT and exactness != "refused" and moved <= check.EXACT:
            print(f"{seed}: {drawn} is called {exactness} and moves nothing", flush=True)
    print(f"{last - first} growths: {dict(counts)}, {failed} wrong")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
