"""A model's card: what it is, how it was made, what that cost, in the words of the files that a run leaves."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PretrainedConfig

from data_prep.manifest import FORMAT, PreparedData
from data_prep.report.numbers import counted
from data_prep.tokenizers.bare_sentencepiece import SentencePieceTokenizer
from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.flops.ledger import Ledger
from pipeline.growth.token_rows import over_both
from pipeline.growth.zero_checkpoint import PROGRESS
from pipeline.recipe import SOURCE_STAGE, GrowthConfig
from pipeline.report import prose
from pipeline.runs.json_lines import JsonLines
from pipeline.runs.paths import RunPaths
from pipeline.runs.records import (
    CertificateRecord,
    DataRecord,
    EvaluationRecord,
    LayerRecord,
    ProgressRecord,
    ScoreRecord,
    grows,
    read_certificates,
    read_recipe,
    read_record,
    reasons_of,
)

CARD = "README.md"
"""The file beside a model; its name and its front matter are Hugging Face's."""

_CLASSES = {"clm": "AutoModelForCausalLM", "mlm": "AutoModelForMaskedLM", "span_corruption": "AutoModelForSeq2SeqLM"}
_PIPELINES = {"clm": "text-generation", "mlm": "fill-mask", "span_corruption": "text2text-generation"}
_KINDS = {
    "clm": "A causal language model",
    "mlm": "A masked language model",
    "span_corruption": "An encoder with a decoder, which learns by span corruption,",
}
_SIZES = {
    "num_hidden_layers": "layers",
    "num_decoder_layers": "decoder layers",
    "hidden_size": "hidden size",
    "num_attention_heads": "attention heads",
    "num_key_value_heads": "key-value heads",
    "head_dim": "channels of a head",
    "intermediate_size": "FFN units",
    "num_experts": "experts",
    "num_experts_per_tok": "experts a token goes through",
    "moe_intermediate_size": "units of an expert",
    "shared_expert_intermediate_size": "units of the shared expert",
    "vocab_size": "vocabulary",
    "max_position_embeddings": "positions",
}

_METRICS = ("loss", "perplexity", "accuracy")
"""Of held-out text."""

_NAMED_SETTINGS = ("window", "stride", "fewshot", "max_train", "max_length", "dtype")
"""Settings of a score that are named with it: those that one task is often given in several of."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model; what is not is left out of its card."""

    config: PretrainedConfig
    dtype: str
    command: str
    """What wrote the directory."""
    certificates: Sequence[CertificateRecord] = ()
    """Of all its growths, the first one first."""
    source: str | None = None
    """The directory of the source, where it was given and not trained in the same run."""
    remarks: Sequence[str] = ()
    """On how the source was read."""
    ledger: Ledger | None = None
    data: DataRecord | None = None
    manifest: dict[str, Any] | None = None
    """Of the prepared folder that it names."""
    evaluations: Sequence[dict[str, Any]] = ()
    scores: Sequence[dict[str, Any]] = ()
    recipe: str | None = None
    """The run's recipe as resolved."""


def known_of_run(
    run: RunPaths, config: PretrainedConfig, dtype: str, command: str, ledger: Ledger | None, growths: int, step: int
) -> Known:
    """Return what a run's directory says of the model that it had after so many growths, at a step of it.

    Raises UserError where a file of the run is damaged.
    """
    recipe = read_recipe(run) if run.recipe.exists() else None
    data = read_record(run.data, DataRecord)
    manifest = None if data is None else _manifest(data)
    certificates = read_certificates(run)[:growths]
    return Known(
        config,
        dtype,
        command,
        certificates=certificates,
        source=None if recipe is None else recipe.source.path,
        # Certificates of older versions have none.
        remarks=certificates[0].get("remarks", ()) if certificates else (),
        ledger=ledger,
        data=data,
        manifest=manifest,
        evaluations=_until(JsonLines(run.evaluations, EvaluationRecord), growths, step),
        scores=_until(JsonLines(run.scores, ScoreRecord), growths, step),
        recipe=None if recipe is None else read_bytes(run.recipe).decode(),
    )


def _until(records: JsonLines, growths: int, step: int) -> list[dict[str, Any]]:
    """The records of a model and of those before it; a growth is measured at the step of what it grew."""
    found = [record for record in records.read() if record["step"] is None or record["step"] <= step]
    return [record for record in found if growths or record["stage"] == SOURCE_STAGE]


def run_of(directory: Path) -> RunPaths | None:
    """Return the run that a model belongs to: a run's directory, a checkpoint of it, or what it exported; None for others."""
    for place in (directory, directory.absolute().parent, directory.absolute().parent.parent):
        run = RunPaths(place)
        if run.recipe.is_file() and run.checkpoints.is_dir():
            return run
    return None


def growths_and_step(run: RunPaths, directory: Path) -> tuple[int, int]:
    """Return after how many growths, and at which step, a run had the model in a checkpoint of its or in what it exported."""
    progress = read_record(directory / PROGRESS, ProgressRecord)
    if progress is not None:
        return progress["phase"], progress["step"]
    steps = [
        record["step"] for record in JsonLines(run.evaluations, EvaluationRecord).read() if record["stage"] == SOURCE_STAGE
    ]
    if directory.name == run.source_model.name:
        return 0, max(steps, default=0)
    return len(list(run.certificates.glob("*.json"))), sys.maxsize


def model_card(known: Known) -> str:
    """Return the card as Markdown under Hugging Face's front matter; sections that nothing is known of are left out."""
    family, sizes, graph = family_of(known.config), sizes_of(known.config), graph_of(known.config)
    own, active, grown = sizes.present, graph.active_parameters, list(filter(grows, known.certificates))
    last = {entry["stage"]: entry for entry in known.evaluations}
    body = (
        prose.templates(cell=_cell, value=_number, scored_on=_scored_on)
        .overlay(trim_blocks=True, lstrip_blocks=True)
        .get_template("card.md")
        .render(
            known=known,
            family=family,
            kind=_KINDS[family.objective],
            sizes=own,
            size_rows=[
                ("parameters", f"{graph.parameters:,}"),
                *([] if active == graph.parameters else [("active parameters, which a token meets", f"{active:,}")]),
                *((label, f"{own[key]:,}") for key, label in _SIZES.items() if key in own),
                ("output matrix", "tied to the embedding" if sizes.tied else "a separate matrix"),
                ("stored as", known.dtype),
            ],
            growths=[_growth(certificate) for certificate in grown],
            data_format=FORMAT,
            metrics=_METRICS,
            last_evaluations=[one for one in last.values() if any(one.get(name) is not None for name in _METRICS)],
            loader="AutoModelForPreTraining" if family.pair_logits else _CLASSES[family.objective],
            sentencepiece=known.manifest is not None and known.manifest["tokenizer"].startswith(SentencePieceTokenizer.kind),
        )
    )
    # Not its base_model, which the hub takes for the name of one of its models alone.
    front_matter = ModelCardData(
        library_name="transformers",
        pipeline_tag=_PIPELINES[family.objective],
        tags=[family.name, *(["model-growth"] if grown else []), "deepspeed"],
    )
    return str(ModelCard.from_template(front_matter, template_str="---\n{{ card_data }}\n---\n\n{{ body }}", body=body))


def _growth(certificate: CertificateRecord) -> dict[str, Any]:
    before, after = dict[str, Any](certificate["source"]), dict[str, Any](certificate["target"])
    # What `auto` comes to goes without saying.
    usual = GrowthConfig(vocabulary="mean" if certificate.get("tokenizers") is None else "pieces").model_dump()
    options = {
        key: value for key, value in certificate["growth"].items() if key not in ("width", "depth") and value != usual[key]
    }
    common = [(label, before[key], after[key]) for key, label in _SIZES.items() if key in before]
    return {
        "certificate": certificate,
        "options": [f"{key} {value}" for key, value in options.items()] + [f"seed {certificate['seed']}"],
        "changed": [f"{label} {old:,} -> {new:,}" for label, old, new in common if old != new]
        + [f"{after[key]:,} {label}" for key, label in _SIZES.items() if key in after and key not in before],
        "added": sum(origin["added"] for origin in certificate["layers"]),
        "layers": [_made_of(origin) for origin in certificate["layers"]],
        "zero_output": any(origin["silent"] for origin in certificate["layers"]),
        "reasons": reasons_of(certificate),
        "over": over_both(certificate),
    }


def _made_of(layer: LayerRecord) -> str:
    """The source layer of a layer, or those of an average; with an s where it writes nothing at first."""
    average = "+".join(f"{weight:g}*{number:g}" for number, weight in layer.get("average", []))
    return "random" if layer["source"] is None else f"{average or layer['source']}{'s' * layer['silent']}"


def _scored_on(score: dict[str, Any]) -> str:
    """How much of which data, and by which settings: what distinguishes scores of one task."""
    data, settings = score.get("data") or {}, score.get("settings") or {}
    count = [] if data.get("examples") is None else [counted(data["examples"], "example")]
    named = [data[key] for key in ("note", "source") if data.get(key)]
    digest = [f"digest {data['digest']}"] if data.get("digest") else []
    how = [f"{key} {settings[key]}" for key in settings if key in _NAMED_SETTINGS and settings[key] is not None]
    return ", ".join([*count, *named, *digest, *how])


def _cell(text: str | None) -> str:
    return str(text).replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"


def _manifest(data: DataRecord) -> dict[str, Any] | None:
    """What is known of a run's data; None where its folder is gone, no prepared one any more, or holds other text by now."""
    with suppress(UserError):
        manifest = PreparedData(Path(data["prepared"])).manifest
        return manifest.model_dump(mode="json") if manifest.fingerprint == data["fingerprint"] else None
    return None
