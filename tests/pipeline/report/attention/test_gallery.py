"""Attention of runs: what growth makes of heads, held against Hugging Face's own models."""

import itertools
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from pipeline.common.errors import UserError
from pipeline.growth.huggingface import open_huggingface
from pipeline.growth.zero_files import TAG, write_zero3
from pipeline.report.attention import repeated_growth
from pipeline.report.attention.gallery import attention_section
from pipeline.report.attention.options import SENTENCE, AttentionOptions
from pipeline.report.attention.similarity import head_similarity
from pipeline.report.figures import Plot
from tests.pipeline.report.grown_runs import finished_run

FAMILIES = ("bert", "gpt2", "llama")
DOUBLED = {"hidden_size": 64}
FPI = {"width": "fpi", "depth": "stack"}

FEW = {"layers": (1,), "heads": (0, 4)}
"""What to draw where nobody looks: figures take longer than models."""

ROUNDING = 1e-5
"""How far from 1 float32 takes the similarity of equal heads: 2e-7 is seen, from sums in another order over twice the width."""


def plots_of(run, **options) -> dict[str, Plot]:
    return {plot.name: plot for plot in attention_section(run.path, AttentionOptions(**options))["plots"]}


def stock_attention(directory, *, opens: bool) -> torch.Tensor:
    """The attention [layers, heads, S, S] that a user of transformers sees."""
    ids = AutoTokenizer.from_pretrained(directory)(SENTENCE)["input_ids"]
    model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.no_grad():
        outputs = model(input_ids=torch.tensor([[0, *ids] if opens else ids]), output_attentions=True)
    return torch.cat(outputs.attentions)


def change(directory, parameter, change, rows=slice(1)) -> None:
    """Change some rows of a parameter in a model's file."""
    weights = load_file(directory / "model.safetensors")
    weights[parameter][rows] = change(weights[parameter][rows])
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


def similarities(rows: list[dict], model: str) -> dict[tuple[int, int, int], float]:
    return {(row["layer"], row["source_head"], row["head"]): row["similarity"] for row in rows if row["model"] == model}


MIXTURE = {"model_type": "mixtral", "num_experts": 4, "num_experts_per_tok": 2}
WEIGHTED = FPI | {"norm_statistics": "weighted"}


@pytest.mark.parametrize(
    ("family", "growth", "target", "count"),
    [
        *((family, {"width": width}, DOUBLED, 4 * 8) for family in FAMILIES for width in ("fpi", "nai")),
        # Of another class, with experts in joined parameters.
        ("llama", {}, MIXTURE, 4 * 4),
        # By norms as training begins with them, at a ratio that copies some channels alone.
        ("bert", WEIGHTED, {"hidden_size": 48}, 4 * 6),
    ],
)
def test_each_head_attends_as_the_one_it_was_made_from_and_after_an_exact_growth_as_no_other(
    tmp_path, family, growth, target, count
):
    run, plan = finished_run(tmp_path / "run", family, growth, target)
    alike = similarities(plots_of(run, layers=(1,), heads=(0, 1))["attention-source-target"].rows, "right after growth")
    made_from = plan.maps["heads"].indices.tolist()
    assert len(alike) == count and (plan.form.record() is not None) == (target is MIXTURE)
    for (_, source_head, head), value in alike.items():
        if made_from[head] == source_head:
            assert value == pytest.approx(1.0, abs=ROUNDING)
        elif growth is not WEIGHTED:
            # Random heads of these models differ by a few hundredths at least.
            assert value < 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_is_what_transformers_computes(tmp_path, family):
    run, plan = finished_run(tmp_path / "run", family, {"width": "aki"}, DOUBLED)
    rows = plots_of(run, layers=(1,), heads=(0, 1, 4, 5))["attention-layer-1"].rows
    drawn = {(row["model"], row["head"], row["query"], row["key"]): row for row in rows}
    opens = family == "bert"
    source, target = (stock_attention(path, opens=opens) for path in (run.source_model, run.model))
    made_from = plan.maps["heads"].indices.tolist()
    for (model, head, query, key), row in drawn.items():
        if model != "source":
            expected = target[1, head, query, key]
        elif row["kind"] == "next":
            expected = source[2, made_from[head], query, key]
        else:
            expected = source[1, made_from[head], query, key]
        # The same operations in float32.
        assert row["weight"] == pytest.approx(expected.item(), abs=1e-5)
    assert {(row["head"], row["kind"]) for row in drawn.values()} == {(0, "own"), (1, "own"), (4, "next"), (5, "next")}


@pytest.mark.parametrize(
    ("family", "width", "target", "key", "kinds"),
    [
        # New heads of the top layer copy it where AKI finds no next one.
        ("gpt2", "aki", DOUBLED, "layer", ["next", "next", "copy"]),
        # New queries of the next layer that read this layer's keys: groups of two query heads have become groups of four.
        ("llama", "aki", DOUBLED | {"num_key_value_heads": 2}, "head", ["own", "own", "mixed", "mixed"] * 2),
        ("gpt2", "direct_copy", DOUBLED, "head", ["own"] * 4 + ["random"] * 4),
    ],
)
def test_heads_are_of_the_kind_that_growth_made(tmp_path, family, width, target, key, kinds):
    run, _ = finished_run(tmp_path / "run", family, {"width": width}, target)
    plots = plots_of(run, **FEW)
    rows = plots["attention-duplicates" if key == "layer" else "attention-source-target"].rows
    assert list({row[key]: row["kind"] for row in rows}.values()) == kinds
    if "random" in kinds:
        assert "attention-duplicates" not in plots
        alike = similarities(rows, "right after growth")
        assert max(value for (_, _, head), value in alike.items() if head >= 4) < 0.99


def test_duplicates_that_training_took_apart_are_told_from_those_right_after_growth(tmp_path):
    run, _ = finished_run(tmp_path / "run", "bert", FPI, DOUBLED)
    change(run.model, "bert.encoder.layer.1.attention.self.query.weight", torch.neg, slice(32, None))
    maps = stock_attention(run.model, opens=True)
    for row in plots_of(run, **FEW)["attention-duplicates"].rows:
        assert row["right_after_growth"] == pytest.approx(1.0, abs=ROUNDING)
        pair = maps[row["layer"], [row["head"], row["own_head"]]]
        expected = head_similarity(pair[:1], pair[1:], causal=False).item()
        assert row["after_training"] == pytest.approx(expected, abs=ROUNDING)
        assert (row["after_training"] > 0.999) == (row["layer"] == 0) or row["layer"] == 2


def test_added_layers_are_shown_and_named(tmp_path):
    run, _ = finished_run(tmp_path / "run", "llama", {"depth": "interleave"}, DOUBLED | {"num_hidden_layers": 5})
    plots = plots_of(run, layers=(0, 1), heads=(0, 4))
    assert plots["attention-layer-1"].title == "Attention of layer 1 (added: source layer 0 again, writes nothing at first)"
    assert all(np.isfinite(row["similarity"]) for row in plots["attention-layers"].rows)


SPOILT = {
    "no model": (lambda run: shutil.rmtree(run.model), {}, "not finished"),
    "no growth": (lambda run: shutil.rmtree(run.certificates), {}, "has no certificate"),
    "no source": (lambda run: shutil.rmtree(run.source_model), {}, "no longer exists"),
    "another source": (lambda run: change(run.source_model, "transformer.wte.weight", torch.exp), {}, "digest differs"),
    "no tokenizer": (lambda run: [path.unlink() for path in run.model.glob("tokenizer*")], {}, "tokenizer"),
    "a short sentence": (lambda run: None, {"sentence": "The dog"}, "too few"),
    "weights that are no numbers": (
        lambda run: change(run.model, "transformer.wpe.weight", lambda rows: rows * np.nan),
        {},
        "not numbers",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_run_that_cannot_be_shown_says_why(tmp_path, what):
    run, _ = finished_run(tmp_path / "run", "gpt2", FPI, DOUBLED)
    spoil, options, reason = SPOILT[what]
    spoil(run)
    assert reason in attention_section(run.path, AttentionOptions(**options))["reason"]


def test_a_large_model_is_not_looked_at(tmp_path, monkeypatch):
    run, _ = finished_run(tmp_path / "run", "gpt2", FPI, DOUBLED)
    monkeypatch.setattr(repeated_growth, "MAX_PARAMETERS", 1000)
    assert "attention is shown of models of up to 1,000" in attention_section(run.path, AttentionOptions())["reason"]


def test_a_layer_or_a_head_that_is_none_is_refused_and_one_named_twice_is_shown_once(tmp_path):
    run, _ = finished_run(tmp_path / "run", "gpt2", FPI, DOUBLED)
    with pytest.raises(UserError, match="--layers: 3 is no layer"):
        attention_section(run.path, AttentionOptions(layers=(3,)))
    with pytest.raises(UserError, match="--heads: 8 is no head"):
        attention_section(run.path, AttentionOptions(heads=(8,)))
    names = [plot.name for plot in attention_section(run.path, AttentionOptions(layers=(1, 1), heads=(4, 4)))["plots"]]
    assert len(names) == len(set(names))


def test_the_words_of_attention_figures_are_as_large_as_those_of_others_and_do_not_run_together(tmp_path):
    run, _ = finished_run(tmp_path / "run", "bert", FPI, DOUBLED)
    for plot in plots_of(run, layers=(1,), heads=tuple(range(8))).values():
        plot.figure.draw_without_rendering()
        words = [text for text in plot.figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        # A point is a pixel on a phone: figures are 4.4 inches wide, and 328 pixels there.
        assert min(text.get_fontsize() for text in words) >= 8
        heads = [text.get_window_extent() for text in words if re.fullmatch(r"H\d.*", text.get_text())]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(heads, 2))
        assert plot.title not in {text.get_text() for text in words}


def test_a_source_whose_configuration_the_recipe_names_is_shown(tmp_path, monkeypatch):
    run, _ = finished_run(tmp_path / "run", "gpt2", FPI, DOUBLED)
    source = open_huggingface(run.source_model)
    (tmp_path / "given").mkdir()
    write_zero3(tmp_path / "given", source.config, source.state, 2)
    for name in ("config.json", "files.json", "progress.json"):
        (tmp_path / "given" / TAG / name).unlink()
    run.source_model.rename(tmp_path / "apart")
    certificate = json.loads(run.certificate(1).read_text()) | {"source_path": str(tmp_path / "given" / TAG)}
    run.certificate(1).write_text(json.dumps(certificate))
    run.recipe.touch()
    recipe = SimpleNamespace(source=SimpleNamespace(config=str(tmp_path / "apart")))
    monkeypatch.setattr(repeated_growth, "read_recipe", lambda run: recipe)
    assert repeated_growth.repeat_growth(run).source.directory == tmp_path / "given" / TAG
