"""A run's growth done again: the same plan over the same source, from the run's certificate."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pipeline.common.errors import UserError
from pipeline.families import MIXTURE_FORMS, Sizes, context_keys, graph_of, read_config, target_config
from pipeline.growth.inspection import inspect
from pipeline.growth.integrity import FILES
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.sources import CHECKPOINTS, checkpoint_in, open_source
from pipeline.growth.state import Source
from pipeline.growth.trainer_checkpoints import CONFIG, config_of
from pipeline.recipe import GrowthConfig, TargetConfig
from pipeline.runs import RunPaths
from pipeline.runs.records import CertificateRecord, read_certificates, read_recipe

MAX_PARAMETERS = 500_000_000
"""Of source and target each, in float32 in memory one after the other; larger ones are left out."""

_SIZES = TargetConfig.model_fields.keys() & {field.name for field in fields(Sizes)}


class AbsentError(UserError):
    """Why something cannot be shown, in a sentence for the page."""


@dataclass(frozen=True, slots=True)
class RepeatedGrowth:
    """One growth of a run, ready to be done again."""

    number: int
    """Which of the run's growths, from 1."""
    last: bool
    """Whether the run's model is what this growth led to."""
    source: Source
    target: PretrainedConfig
    plan: GrowthPlan


def repeat_growth(run: RunPaths) -> RepeatedGrowth:
    """Return the newest growth of a run whose source is there, unchanged.

    Raises AbsentError where there is none, or a model of it has more than `MAX_PARAMETERS`.
    """
    certificates = read_certificates(run)
    if not certificates:
        raise AbsentError("the run has not grown its model yet: it has no certificate")
    reasons = []
    for number in range(len(certificates), 0, -1):
        certificate = certificates[number - 1]
        try:
            if certificate.get("tokenizers") is not None:
                raise AbsentError(
                    f"growth {number} changed the tokenizer, so that its two models read other tokens of one text"
                )
            source = _source(run, number, certificate)
            growth = growth_of(certificate)
            written = dict[str, Any](certificate["target"])
            sizes: dict[str, Any] = {key: written.get(key) for key in _SIZES} | {"tie_word_embeddings": written["tied"]}
            target = target_config(source.config, TargetConfig(dropout=None, **sizes, **_mixture(certificate)), growth=growth)
            for key in context_keys(target) & certificate.get("context", {}).keys():
                setattr(target, key, certificate["context"][key])
            check_size(target)
            plan = plan_growth(source.config, target, growth, certificate["seed"])
        except UserError as reason:
            reasons.append(str(reason))
            continue
        return RepeatedGrowth(number, number == len(certificates), source, target, plan)
    raise AbsentError(reasons[-1])


def _mixture(certificate: CertificateRecord) -> dict[str, Any]:
    """Return what a target says, other than sizes, of a mixture that a dense model became."""
    upcycling = certificate.get("upcycling")
    if upcycling is None or upcycling["model_type"] == certificate["family"]:
        return {}
    return {"model_type": certificate["family"]} | {key: upcycling[key] for key in MIXTURE_FORMS if key in upcycling}


def growth_of(certificate: CertificateRecord) -> GrowthConfig:
    """Return the growth section that a certificate holds, as it was resolved."""
    options = dict[str, Any](certificate["growth"])
    if options.get("layers") is not None:
        # JSON's keys are strings.
        options["layers"] = GrowthConfig.model_validate({"depth": "list", "layers": options["layers"]}).layers
    if "added" in options:
        options["added"] = GrowthConfig(added=options["added"]).added
    # What a recipe may not combine, such as `auto`'s own choices, is not checked again.
    return GrowthConfig().model_copy(update=options)


def check_size(config: PretrainedConfig) -> None:
    """Raise AbsentError for a model of more than `MAX_PARAMETERS` parameters."""
    count = graph_of(config).parameters
    if count > MAX_PARAMETERS:
        raise AbsentError(f"the model has {count:,} parameters, and attention is shown of models of up to {MAX_PARAMETERS:,}")


def _source(run: RunPaths, number: int, certificate: CertificateRecord) -> Source:
    """Return the model that a growth began from, by the digest in its certificate."""
    reason = f"the source of growth {number}, {certificate['source_path']}, no longer exists"
    for place in _places(run, number, certificate["source_path"]):
        given = _given_config(run, place) if number == 1 else None
        config = _config(place, given)
        if config is None:
            continue
        check_size(config)
        # A checkpoint without digests is no worse here: the certificate's own digest is compared.
        source = open_source(place, config=given, untrusted=True)
        if inspect(source.state, str(place)) == certificate["source_digest"]:
            return source
        reason = f"{place} is not the source that was grown: its digest differs from the certificate's"
    raise AbsentError(reason)


def _places(run: RunPaths, number: int, written: str) -> Iterator[Path]:
    """Where the source may be; the run may have been moved since, and paths are relative to where it was started."""
    if number == 1:
        yield run.source_model
    yield Path(written)
    if Path(written).parent.name == CHECKPOINTS:
        yield run.checkpoints / Path(written).name


def _given_config(run: RunPaths, place: Path) -> Path | None:
    """The config.json that the recipe names for its source, which only a checkpoint of another tool takes."""
    checkpoint = checkpoint_in(place)
    if not run.recipe.is_file() or checkpoint is None or (checkpoint / FILES).exists():
        return None
    given = read_recipe(run).source.config
    return None if given is None else Path(given)


def _config(place: Path, given: Path | None) -> PretrainedConfig | None:
    """The configuration of the model in `place`; None where there is no model."""
    checkpoint = checkpoint_in(place)
    if checkpoint is not None and checkpoint.is_dir():
        return read_config(config_of(checkpoint, given))
    path = place / CONFIG
    return read_config(path) if path.is_file() else None
