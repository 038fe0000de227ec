"""What the files of a run directory hold, key by key, for whoever reads them: a damaged one is found when it is read.

Keys that are only shown, and those that a later version adds, are not listed, and pass.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pipeline.common.config import Typed, read_json, read_yaml, typed, validate
from pipeline.common.errors import UserError
from pipeline.recipe import GrowthConfig, Recipe
from pipeline.runs.paths import RunPaths

Step = Annotated[int, Field(ge=0, lt=2**53)]
Count = Annotated[int, Field(ge=0, lt=10**30)]
"""Of FLOPs, which may be more than 2^64; beyond it are no numbers that a run comes to."""
Finite = Annotated[float, Field(allow_inf_nan=False)]


class StepRecord(TypedDict):
    """A line of metrics.jsonl and lost.jsonl; NaN and infinities are null."""

    step: Step
    stage: str
    submodel_layers: int | None
    loss: Finite | None
    lr: Finite | None
    grad_norm: Finite | None
    tokens: Count
    flops_model: Count
    flops_executed: Count
    flops_total: Count
    seconds: Annotated[Finite, Field(ge=0)]
    mfu: Finite | None
    skipped: bool
    router_aux_loss: NotRequired[Finite | None]
    """Of mixtures of experts: the load-balancing loss of the step, without its weight."""
    router_z_loss: NotRequired[Finite | None]
    """Likewise."""
    expert_load_max: NotRequired[Finite | None]
    """The most tokens that an expert of a layer had, in units of their mean; of all layers the largest."""
    expert_load_min: NotRequired[Finite | None]
    """The fewest, likewise; of all layers the smallest."""
    expert_load_entropy: NotRequired[Finite | None]
    """Of the shares of tokens that experts had, in units of the logarithm of their number; of all layers the mean."""


ROUTER_KEYS = ("router_aux_loss", "router_z_loss", "expert_load_max", "expert_load_min", "expert_load_entropy")
"""Of a step of a mixture of experts alone."""


class EvaluationRecord(TypedDict):
    """A line of eval.jsonl."""

    step: Step
    stage: str
    loss: Finite | None
    perplexity: NotRequired[Finite | None]
    accuracy: NotRequired[Finite | None]
    scored_tokens: NotRequired[Count]
    pair_loss: NotRequired[Finite | None]
    pair_accuracy: NotRequired[Finite | None]


class ScoredData(TypedDict):
    """What a task's data were."""

    source: NotRequired[str | None]
    digest: NotRequired[str | None]
    examples: NotRequired[Count | None]
    note: NotRequired[str | None]


class ScoreRecord(TypedDict):
    """A line of scores.jsonl."""

    model: str
    model_digest: str | None
    config_digest: NotRequired[str | None]
    tokenizer_digest: NotRequired[str | None]
    stage: str | None
    step: Step | None
    task: str
    metrics: dict[str, Finite | None]
    deviations: dict[str, Finite | None] | None
    data: ScoredData
    settings: dict[str, Any]
    seconds: Finite


class RewoundRecord(TypedDict):
    """rewound.json: where a run stood when it last went back to a checkpoint by itself."""

    step: Step
    rewinds: Step
    samples: dict[str, Step]


class DataRecord(TypedDict):
    """data.json: what a run that goes on must find again."""

    run: NotRequired[str]
    """The run's id, which its checkpoints carry too; runs of older versions have none."""
    prepared: str
    fingerprint: str
    weights: dict[str, dict[str, Finite]]
    steps: dict[str, Step]
    draws: NotRequired[str]
    """What random values are made by; runs of older versions do not say it, and drew others."""


class OffloadRecord(TypedDict):
    """Where optimizer state, or weights, are kept."""

    device: NotRequired[str]


class ZeroRecord(TypedDict):
    """`zero_optimization` of DeepSpeed's."""

    stage: NotRequired[int]
    offload_optimizer: NotRequired[OffloadRecord]
    offload_param: NotRequired[OffloadRecord]


class PrecisionRecord(TypedDict):
    """`bf16` or `fp16` of DeepSpeed's."""

    enabled: NotRequired[bool]


class DsConfigRecord(TypedDict):
    """ds_config.json: DeepSpeed's configuration as it was resolved."""

    train_batch_size: NotRequired[int]
    train_micro_batch_size_per_gpu: NotRequired[int]
    gradient_clipping: NotRequired[Finite]
    bf16: NotRequired[PrecisionRecord]
    fp16: NotRequired[PrecisionRecord]
    zero_optimization: NotRequired[ZeroRecord]


class SizesRecord(TypedDict):
    """A model's sizes in a certificate."""

    hidden_size: Step
    num_hidden_layers: Step
    num_decoder_layers: NotRequired[Step]
    num_attention_heads: Step
    num_key_value_heads: Step
    head_dim: Step
    intermediate_size: Step
    vocab_size: Step
    max_position_embeddings: NotRequired[Step]


class MapRecord(TypedDict):
    """How often a growth copies the indices of one kind."""

    source: Step
    target: Step
    copies: Annotated[list[Step], Field(min_length=2, max_length=2)]


class LayerRecord(TypedDict):
    """Where a layer came from."""

    source: Step | None
    silent: bool
    added: bool
    average: NotRequired[list[list[Finite]]]
    scale: NotRequired[Finite]


class RoundingRecord(TypedDict):
    """By how much rounding to the engine's dtype moves the source."""

    loss: float
    max_logit_difference: float


class ComparisonRecord(TypedDict):
    """What was measured of source and grown model; a model that computes no number has none here either."""

    source_loss: float
    grown_loss: float
    loss_gap: float
    max_logit_difference: float
    by_position: NotRequired[list[dict[str, Any]]]
    scored_tokens: Count
    dtype: str
    tokens: NotRequired[str]
    rounding: NotRequired[RoundingRecord]


_OPERATORS = ("width", "depth")

if TYPE_CHECKING:
    GrowthRecord = dict[str, Any]
else:
    # The operators' options are among its keys.
    GrowthRecord = with_config(ConfigDict(extra="forbid"))(
        TypedDict(
            "GrowthRecord",
            {
                name: field.annotation if name in _OPERATORS else NotRequired[field.annotation]
                for name, field in GrowthConfig.model_fields.items()
            },
        )
    )
"""A growth's options as they were resolved; those that came later were at their defaults."""


class ReasonRecord(TypedDict):
    """Why a grown model computes something else than its source."""

    code: str
    cause: str
    meaning: str
    by_design: bool
    tensor: str | None


class CertificateRecord(TypedDict):
    """certificates/NN.json: what a growth was, what was predicted of it and what was seen."""

    family: str
    source_path: str
    source_digest: str
    source: SizesRecord
    target: SizesRecord
    context: NotRequired[dict[str, Any]]
    growth: GrowthRecord
    choices: list[str]
    remarks: NotRequired[list[str]]
    seed: Count
    maps: dict[str, MapRecord]
    tokenizers: NotRequired[dict[str, str] | None]
    """The digests of source's and target's, where growth changed the tokenizer."""
    tokens: NotRequired[dict[str, int]]
    """How many rows of the vocabulary are carried, filled in each way, and dropped."""
    layers: list[LayerRecord]
    upcycling: NotRequired[dict[str, Any] | None]
    """How a source was read as a mixture of experts before it grew."""
    verdict: Literal["exact", "approximate", "inexact by design"]
    departures: list[ReasonRecord | str]
    duplicates: NotRequired[list[str]]
    twins: NotRequired[list[Literal["residual", "heads", "ffn"]]]
    """What earlier versions called duplicates."""
    optimizer: NotRequired[str | None]
    """What steps the target, where that is known."""
    moments_departures: list[str] | None
    steps_departures: NotRequired[list[str] | None]
    """Why a step of what the target has of its source is not the source's."""
    measured: ComparisonRecord
    in_training: ComparisonRecord | None
    measured_agrees: bool


def grows(certificate: CertificateRecord) -> bool:
    """Return whether a growth changed its source: with `target: {}` a run trains the source on as it is."""
    if certificate["source"] != certificate["target"] or certificate.get("tokenizers") or certificate.get("upcycling"):
        return True
    return [layer["source"] for layer in certificate["layers"]] != list(range(len(certificate["layers"])))


def reasons_of(certificate: CertificateRecord) -> list[ReasonRecord]:
    """Return why a grown model computes something else than its source; earlier versions wrote sentences alone."""
    return [
        {"code": "", "cause": each, "meaning": "", "by_design": False, "tensor": None} if isinstance(each, str) else each
        for each in certificate["departures"]
    ]


def duplicates_of(certificate: CertificateRecord) -> Sequence[str]:
    """Return the ports whose new indices are copies that learn the same; earlier versions had another key."""
    return certificate["duplicates"] if "duplicates" in certificate else certificate.get("twins", [])


class ModelRecord(TypedDict):
    """config.json of an exported model, as far as a report looks at it."""

    transformers_version: NotRequired[str]


class RunRecord(TypedDict):
    """What a checkpoint says of the run that it belongs to: its id, and all that its directory says of its settings."""

    recipe: dict[str, Any]
    ds_config: DsConfigRecord
    data: DataRecord
    certificates: list[CertificateRecord]


class ProgressRecord(TypedDict):
    """progress.json of a checkpoint: where the run stood."""

    phase: Step
    step: Step
    samples: dict[str, Step]
    tokens: Count
    seconds: Finite
    ledger: dict[str, Any]
    rewinds: NotRequired[Step]
    norms_weighted_until: NotRequired[Step | None]
    expert_loads: NotRequired[list[list[Step]] | None]
    counters: NotRequired[dict[str, Step]]
    loss_scale: NotRequired[dict[str, Finite]]
    run: NotRequired[RunRecord | None]


class PartsRecord(TypedDict):
    """FLOPs by `flops.counts.PARTS`."""

    embedding: Count
    attention_projections: Count
    attention_scores: Count
    ffn: Count
    head: Count


class FlopsRecord(TypedDict):
    """Model and executed FLOPs."""

    model: PartsRecord
    executed: PartsRecord


class InheritedRecord(TypedDict):
    """What is known of a given source's FLOPs."""

    flops: FlopsRecord
    wasted: Count
    complete: bool


class LedgerRecord(TypedDict):
    """A ledger of FLOPs."""

    stages: dict[str, FlopsRecord]
    wasted: Count
    inherited: dict[str, InheritedRecord]


class FileRecord(TypedDict):
    """What an exported file should be."""

    size: Count
    blake2b: str


class LossesRecord(TypedDict):
    """The losses of a summary."""

    unigram: float
    source: float
    grown: float
    final: float


class ParametersRecord(TypedDict):
    """The parameters of the model that a run left."""

    total: Count
    active: Count
    """Those that a token meets: of a mixture of experts, fewer than all."""


class SpeedRecord(TypedDict):
    """A stage's speed."""

    tokens_per_second: float
    tflops: float
    mfu: float


class SummaryRecord(TypedDict):
    """summary.json: what a finished run came to."""

    run: NotRequired[str]
    family: str
    growths: Annotated[list[CertificateRecord], Field(min_length=1)]
    losses: LossesRecord
    parameters: NotRequired[ParametersRecord]
    steps: Step
    lengths: dict[str, list[str | float] | None]
    tokens: Count
    flops: LedgerRecord
    seconds: Finite
    tokens_per_second: Finite
    speeds: dict[str, SpeedRecord]
    peak: str
    peak_memory: list[dict[str, Finite]]
    paths: dict[str, str]
    missing_steps: NotRequired[list[Annotated[list[Step], Field(min_length=2, max_length=2)]]]
    files: NotRequired[dict[str, dict[str, FileRecord]]]
    """What was exported, by folder and file."""


def read_record(path: Path, kind: type[Typed], hint: str = "put it back as the run wrote it") -> Typed | None:
    """Return what a file of a run holds, None where there is no file.

    Raises UserError where it cannot be read or is not of `kind`; `hint` says what to do then.
    """
    # A link that leads nowhere is a file that cannot be read.
    if not os.path.lexists(path):
        return None
    try:
        return typed(kind, read_json(path, "it is a link that leads nowhere"), str(path))
    except UserError as error:
        raise UserError(f"{error}; {hint}") from None


def read_recipe(run: RunPaths) -> Recipe:
    """Return a run's recipe as it was resolved; raises UserError where it is missing, damaged or none."""
    return validate(Recipe, read_yaml(run.recipe), str(run.recipe))


def read_certificates(run: RunPaths) -> list[CertificateRecord]:
    """Return the certificates of a run's growths, the first one first; raises UserError where one is damaged or missing."""
    found: list[CertificateRecord] = []
    for number, path in enumerate(sorted(run.certificates.glob("[0-9][0-9].json")), 1):
        if path != run.certificate(number):
            raise UserError(f"{run.certificate(number)}: no such file, and {path.name} is there; put it back")
        if (certificate := read_record(path, CertificateRecord)) is not None:
            certificate["growth"] = GrowthConfig().model_dump() | certificate["growth"]
            found.append(certificate)
    return found
