"""A model's card: what it is, how it was made, what that cost, in the words of the files that a run leaves."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from transformers import PretrainedConfig

from data_prep.manifest import FORMAT, PreparedData
from data_prep.tokenizers.bare_sentencepiece import SentencePieceTokenizer
from pipeline.common.errors import UserError
from pipeline.common.files import read_bytes
from pipeline.families import family_of, graph_of, sizes_of
from pipeline.flops.ledger import Ledger
from pipeline.growth.token_rows import over_both
from pipeline.growth.zero_checkpoint import PROGRESS
from pipeline.recipe import SOURCE_STAGE, GrowthConfig
from pipeline.runs.json_lines import JsonLines
from pipeline.runs.paths import RunPaths
from pipeline.runs.records import (
    DataRecord,
    EvaluationRecord,
    ProgressRecord,
    ScoreRecord,
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

_TELLING = ("window", "stride", "fewshot", "max_train", "max_length", "dtype")
"""Settings of a score that are named with it: those that one task is often given in several of."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model; what is not is left out of its card."""

    config: PretrainedConfig
    dtype: str
    command: str
    """What wrote the directory."""
    certificates: Sequence[dict[str, Any]] = ()
    """Of all its growths, the first one first."""
    source: str | None = None
    """The directory of the source, where it was given and not trained in the same run."""
    remarks: Sequence[str] = ()
    """On how the source was read."""
    ledger: Ledger | None = None
    data: dict[str, Any] | None = None
    """A run's data.json."""
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
    manifest = None if data is None else _manifest(Path(data["prepared"]))
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
        # Other text may have been prepared in that place since.
        manifest=manifest if manifest is not None and manifest["fingerprint"] == data["fingerprint"] else None,
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


def standing(run: RunPaths, directory: Path) -> tuple[int, int]:
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
    sections = [_what(known), _sizes(known), _made(known), _certificate(known), _data(known), _compute(known), _scores(known)]
    sections += [_load(known), _repeat(known)]
    return f"---\n{_front_matter(known)}---\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def _front_matter(known: Known) -> str:
    family = family_of(known.config)
    content: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": _PIPELINES[family.objective]}
    content["tags"] = [family.name, *(["model-growth"] if known.certificates else []), "deepspeed"]
    return yaml.safe_dump(content, sort_keys=False)


def _what(known: Known) -> str:
    family, sizes = family_of(known.config), sizes_of(known.config)
    pairs = ", with a head on sentence pairs" if family.pair_logits else ""
    grown = ""
    if known.certificates:
        begun = known.certificates[0]["source"]
        grown = f" It was grown from one of {_depth(begun)} x {begun['hidden_size']}."
    title = f"# {family.name}, {_depth(sizes.present)} x {sizes.hidden_size}"
    # Not the front matter's base_model, which the hub takes for the name of one of its models alone.
    source = "" if known.source is None else f" Its source was `{known.source}`."
    remarks = "".join(f"\n- {remark}." for remark in known.remarks)
    source += f"\n\nHow the source was read:\n{remarks}" if remarks else ""
    what = f"{_KINDS[family.objective]} of the family {family.name} ({family.model_class.__name__}{pairs})."
    return f"{title}\n\n{what}{grown}{source}"


def _depth(sizes: Mapping[str, int]) -> str:
    layers = sizes["num_hidden_layers"]
    return f"{layers} + {sizes['num_decoder_layers']} layers" if "num_decoder_layers" in sizes else _counted(layers, "layer")


def _sizes(known: Known) -> str:
    sizes, graph = sizes_of(known.config), graph_of(known.config)
    own, active = sizes.present, graph.active_parameters
    rows = [("parameters", f"{graph.parameters:,}")]
    rows += [] if active == graph.parameters else [("active parameters, which a token meets", f"{active:,}")]
    rows += [*((words, f"{own[key]:,}") for key, words in _SIZES.items() if key in own)]
    tied = "tied to the embedding" if sizes.tied else "a matrix of its own"
    return "## Sizes\n\n" + _table(("", ""), [*rows, ("output matrix", tied), ("stored as", known.dtype)])


def _made(known: Known) -> str:
    lines = []
    for number, certificate in enumerate(known.certificates, 1):
        growth, before, after = (certificate[key] for key in ("growth", "source", "target"))
        own = {key: words for key, words in _SIZES.items() if key in before}
        changed = [f"{words} {before[key]:,} -> {after[key]:,}" for key, words in own.items() if before[key] != after[key]]
        changed += [f"{after[key]:,} {words}" for key, words in _SIZES.items() if key in after and key not in before]
        added = sum(origin["added"] for origin in certificate["layers"])
        changed_tokenizer = certificate.get("tokenizers") is not None
        # What `auto` comes to goes without saying.
        usual = GrowthConfig(vocabulary="pieces" if changed_tokenizer else "mean").model_dump()
        options = [f"{key} {value}" for key, value in growth.items() if key not in ("width", "depth") and value != usual[key]]
        options.append(f"seed {certificate['seed']}")
        lines += [
            f"{number}. Width by `{growth['width']}`, depth by `{growth['depth']}` ({', '.join(options)}): "
            f"{', '.join(changed) or 'no size changed'}; {_counted(added, 'layer')} added. "
            f"Layers are made of the source's {_origins(certificate['layers'])}.",
            *(f"   Not named, and chosen: {choice}." for choice in certificate["choices"]),
        ]
    return _section("How it was made", lines)


def _origins(layers: Sequence[dict[str, Any]]) -> str:
    """The source layer of each layer, or those of an average; s where it writes nothing at first."""
    names = []
    for layer in layers:
        average = "+".join(f"{weight:g}*{number:g}" for number, weight in layer.get("average", []))
        names.append("random" if layer["source"] is None else f"{average or layer['source']}{'s' * layer['silent']}")
    silent = " (s: writes nothing at first)" if any(layer["silent"] for layer in layers) else ""
    return ", ".join(names) + silent


def _certificate(known: Known) -> str:
    lines = []
    for number, certificate in enumerate(known.certificates, 1):
        measured, seen = certificate["measured"], certificate["in_training"]
        lines += [
            f"{number}. Predicted: {certificate['verdict']}{over_both(certificate)}"
            + "".join(f"; {departure['cause']}" for departure in reasons_of(certificate))
            + f". In {measured['dtype']} on {measured['tokens']} tokens a logit moved by at most "
            f"{measured['max_logit_difference']:.3g} and the loss from {measured['source_loss']:.6f} to "
            f"{measured['grown_loss']:.6f}. Digest of the source: `{certificate['source_digest']}`."
        ]
        if seen is not None:
            lines.append(
                f"   As training began, in {seen['dtype']} on held-out text: a logit by at most "
                f"{seen['max_logit_difference']:.3g}, the loss from {seen['source_loss']:.4f} to {seen['grown_loss']:.4f}."
                + _rounding(seen)
            )
    return _section("Whether growth kept the function", lines)


def _rounding(seen: dict[str, Any]) -> str:
    """What the precision of training does to the source without any growth, where it is known and not nothing."""
    rounding = seen.get("rounding")
    if rounding is None or seen["dtype"] == "float32":
        return ""
    return f" Rounding to {seen['dtype']} alone moves the source's loss by {rounding['loss']:+.4f}."


def _data(known: Known) -> str:
    if known.data is None:
        return ""
    lines = [f"Prepared text with the fingerprint `{known.data['fingerprint']}`."]
    if known.manifest is not None:
        lines += ["", _table(("corpus", "documents", "training tokens", "held-out tokens"), _corpora(known.manifest)), ""]
        lines.append(
            f"Tokenizer: {known.manifest['vocab_size']:,} ids; class and digests of its files: `{known.manifest['tokenizer']}`."
        )
        # Earlier versions read them by other rules.
        if known.manifest["format"] >= FORMAT:
            split = known.manifest["config"]["tokenizer"]["split_special_tokens"]
            lines.append(f"Special tokens that the text spelled: read with `split_special_tokens={split}`.")
    return _section("Data", lines)


def _corpora(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    def total(corpus: dict[str, Any], split: str, what: str) -> int:
        return sum(shard[what] for shard in corpus["splits"][split]["shards"])

    return [
        (
            corpus["name"],
            f"{sum(total(corpus, split, 'documents') for split in corpus['splits']):,}",
            f"{total(corpus, 'train', 'tokens'):,}",
            f"{total(corpus, 'heldout', 'tokens'):,}",
        )
        for corpus in manifest["corpora"]
    ]


def _compute(known: Known) -> str:
    ledger = known.ledger
    if ledger is None:
        return ""
    rows = [(stage, _flops(flops.model_total), _flops(flops.executed_total)) for stage, flops in ledger.stages.items()]
    if ledger.wasted:
        rows.append(("taken again after a crash or a rewind", "", _flops(ledger.wasted)))
    for origin, line in ledger.inherited.items():
        model = line.told(_flops(line.flops.model_total)) if line.spent else ""
        rows.append((f"pre-training of {origin}", model, line.told(_flops(line.spent))))
    whole = ledger.whole
    rows.append(("all that is known", _flops(whole.flops.model_total), _flops(whole.spent)))
    return _section("Compute", [_table(("stage", "model FLOPs", "executed FLOPs"), rows)])


def _scores(known: Known) -> str:
    rows = []
    for stage, last in {entry["stage"]: entry for entry in known.evaluations}.items():
        named = {key: last[key] for key in ("loss", "perplexity", "accuracy") if last.get(key) is not None}
        on = "" if last.get("scored_tokens") is None else f"{last['scored_tokens']:,} tokens"
        rows += [("held-out text", f"{stage}, step {last['step']}", name, _number(value), on) for name, value in named.items()]
    for score in known.scores:
        where = "" if score["step"] is None else f"{score['stage']}, step {score['step']}"
        for name, value in score["metrics"].items():
            deviation = (score["deviations"] or {}).get(name)
            spread = "" if deviation is None else f" +- {_number(deviation)}"
            told = "no number" if value is None else _number(value) + spread
            rows.append((score["task"], where, name, told, _scored_on(score)))
    return _section("Scores", [_table(("task", "model", "metric", "value", "scored on"), rows)] if rows else [])


def _scored_on(score: dict[str, Any]) -> str:
    """How much of which data, and by which settings: what tells two scores of one task apart."""
    data = score.get("data") or {}
    count = [] if data.get("examples") is None else [_counted(data["examples"], "example")]
    named = [data[key] for key in ("note", "source") if data.get(key)]
    digest = [f"digest {data['digest']}"] if data.get("digest") else []
    settings = [
        f"{key} {value}" for key, value in (score.get("settings") or {}).items() if key in _TELLING and value is not None
    ]
    return ", ".join([*count, *named, *digest, *settings])


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _load(known: Known) -> str:
    family = family_of(known.config)
    loader = "AutoModelForPreTraining" if family.pair_logits else _CLASSES[family.objective]
    own = 'AutoTokenizer.from_pretrained("path/to/this/directory")'
    imports = f"from transformers import {', '.join(sorted((loader, 'AutoTokenizer')))}"
    if known.manifest is not None and known.manifest["tokenizer"].startswith(SentencePieceTokenizer.kind):
        # AutoTokenizer would make something else of it.
        own = 'SentencePieceProcessor(model_file="path/to/this/directory/tokenizer.model")'
        imports = f"from sentencepiece import SentencePieceProcessor\nfrom transformers import {loader}"
    return (
        "## How to load it\n\n```python\n"
        f"{imports}\n\n"
        f'model = {loader}.from_pretrained("path/to/this/directory")\n'
        f"tokenizer = {own}\n```"
    )


def _repeat(known: Known) -> str:
    lines = [f"Written by\n\n    {known.command}"]
    if known.recipe is not None:
        lines.append(f"\nThe run's recipe, with every default:\n\n```yaml\n{known.recipe.rstrip()}\n```")
    return _section("How to repeat it", lines)


def _section(title: str, lines: Iterable[str]) -> str:
    text = "\n".join(lines)
    return f"## {title}\n\n{text}" if text else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _flops(count: int) -> str:
    return f"{count:.4g}"


def _number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"


def _manifest(prepared: Path) -> dict[str, Any] | None:
    """What is known of the data; None where the folder is gone or no prepared one any more: it is not the run's own."""
    with suppress(UserError):
        return PreparedData(prepared).manifest.model_dump(mode="json")
    return None
