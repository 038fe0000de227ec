"""All that a run needs before its first step: data, models, growth plans, stages. Whatever may be refused is refused here."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import is_flash_attn_2_available

from data_prep.manifest import MANIFEST, PreparedData
from data_prep.prepare import find_prepared, prepare
from data_prep.settings import DataPrepConfig, TokenizerConfig
from data_prep.tokenizers.loading import Tokenizer, given_tokenizer
from pipeline.common.background import Beside
from pipeline.common.config import validate
from pipeline.common.errors import UserError
from pipeline.common.hub import commit_of, find_directory
from pipeline.data.checks import DataChecks
from pipeline.data.objectives import objective_for
from pipeline.families import (
    FAMILIES,
    PAIR_FAMILIES,
    check_trained,
    derived_sizes,
    family_of,
    graph_of,
    layer_kind,
    scratch_config,
    sizes_of,
    target_config,
)
from pipeline.growth.inspection import inspect
from pipeline.growth.new_tokenizer import open_new_tokenizer, tokenizer_directory
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.sources import open_source, preview_source
from pipeline.growth.state import Source
from pipeline.growth.tokenizer_beside import check_beside
from pipeline.recipe import Recipe, TrainStage
from pipeline.training import distributed
from pipeline.training.background import begin_on_first_rank
from pipeline.training.blocks import check_learns, cut, naming_added
from pipeline.training.directory.checkpoints import CheckpointMetadata
from pipeline.training.directory.run_directory import RunDirectory
from pipeline.training.ds_config import compute_dtype, sequence_parallel_size
from pipeline.training.head import check_head
from pipeline.training.loop.balance import check_experts
from pipeline.training.loop.data_watch import DataWatch, Remembered
from pipeline.training.loop.tasks import check_tasks, encoder_of
from pipeline.training.plan.training_plan import DataMix, Phase, TrainingPlan, phases_of, plan_training
from pipeline.training.preparation.data_mixes import DataMixes, corpora_read
from pipeline.training.preparation.tokenizers import check_source, check_training
from pipeline.training.sequence_parallel import check_heads_divide, check_length_divides
from pipeline.training.width_rates import check_proportions


@dataclass(frozen=True, slots=True)
class Growth:
    """The way from one model of the run to the next."""

    phase: Phase
    """What the growth leads to."""
    target: PretrainedConfig
    plan: GrowthPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What a run will do, as far as it is known."""

    given: Source | None
    """The source, where it came trained."""
    source: PretrainedConfig
    growths: list[Growth]
    training_plan: TrainingPlan
    windows: Callable[[DataMix], int] | None
    """The training windows of a mix; None where the text is not prepared, and a stage of epochs is one step long."""

    def config(self, phase: int) -> PretrainedConfig:
        """The model of a phase."""
        return self.source if phase == 0 else self.growths[phase - 1].target


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation(Planned):
    """What a run is carried out with."""

    data: PreparedData
    mixes: DataMixes
    watch: DataWatch | None
    """Over what is left to be compared of the data; None where nothing is trained."""
    digest: Beside[str] | None = None
    """Of the given source, on rank 0; its result raises UserError where a weight is no number. None where it is not needed."""


def prepare_run(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    saved: CheckpointMetadata | None,
    say: Callable[[str], None],
) -> Preparation:
    """Return what the run is carried out with, from a checkpoint on where one is `saved`; a collective call.

    Raises UserError naming what is wrong, on every rank; nothing has been trained by then. The source's values are still looked
    through when this returns (`Preparation.digest`), unless text had to be prepared.
    """
    part, parts = distributed.rank(), distributed.world_size()
    place = _downloaded(recipe)
    begun = distributed.on_first_rank(lambda: directory.recorded_data() is not None)
    given = distributed.on_every_rank(
        lambda: _begin(recipe, ds_config, directory, saved, place, parts, part, parts, begun=begun)
    )
    # A run that goes on from a checkpoint reads nothing of what it began with.
    begins = given is not None and saved is None
    digest = begin_on_first_rank(lambda tick: inspect(given.state, str(given.directory), tick)) if begins else None

    def provide(config: DataPrepConfig) -> PreparedData:
        if digest is not None:
            # Preparing may take hours.
            digest.result()
        return prepare(config)

    prepared = distributed.on_first_rank(lambda: str(_find_data(recipe, directory, given, provide).directory))
    remembered = distributed.on_first_rank(lambda: Remembered.read(directory.checked))
    data, checks = distributed.on_every_rank(lambda: _check(recipe, PreparedData(Path(prepared)), remembered, part, parts, say))
    (left,) = distributed.total(sum(file.size for file in checks.left))
    if left:
        say(f"data: {left / 2**20:,.1f} MiB of shards are compared with their digests while steps run")
    watch = DataWatch(checks, directory.checked, remembered)
    opened = distributed.on_every_rank(lambda: _open(recipe, ds_config, directory, saved, given, data, parts, say, watch))
    return replace(opened, digest=digest)


def preview_run(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    world_size: int,
    corpus_tokens: int | None,
    say: Callable[[str], None],
    saved: CheckpointMetadata | None = None,
) -> Planned:
    """Return what `prepare_run` would, by the same checks, and prepare no text; no collective call.

    Where the text is not prepared it is less than a Preparation. `corpus_tokens` stands for text that is not looked at.
    """
    # Alone: no other rank reads the rest of a checkpoint.
    begun = directory.recorded_data() is not None
    place = _place(recipe, weights=False)
    given = _begin(recipe, ds_config, directory, saved, place, world_size, part=0, parts=1, begun=begun, preview=True)
    if given is not None and not given.without_weights:
        inspect(given.state, str(given.directory))
    if corpus_tokens is None:
        data = _find_data(recipe, directory, given, find_prepared)
        if data is not None:
            _check(recipe, data, Remembered.read(directory.checked), 0, 1, say)
            return _open(recipe, ds_config, directory, saved, given, data, world_size, say, None)
    vocabulary, eos_id = _vocabulary(recipe, given)
    source = _source_config(recipe, given, vocabulary, eos_id)
    recipe, growths, configs = _models(recipe, source, given)
    windows = None if corpus_tokens is None else lambda mix: max(1, corpus_tokens // mix.sequence_length)
    training_plan = plan_training(recipe, configs, windows or (lambda mix: 0), ds_config, world_size)
    if windows is not None or all(plan.stage.epochs is None for plan in training_plan.stages):
        growths = _annealed(growths, training_plan, directory, saved)
        _say_rates(training_plan, growths, say)
    return Planned(given=given, source=source, growths=growths, training_plan=training_plan, windows=windows)


def prepared_text(recipe: Recipe) -> PreparedData | None:
    """Return the prepared text of a recipe whose source is a model to build; None where it is still to be prepared."""
    return _find_data(recipe, RunDirectory(Path(recipe.run_dir)), None, find_prepared)


def _place(recipe: Recipe, commit: str | None = None, *, weights: bool = True) -> Path | None:
    """The directory of the given source; of a name on the hub it is downloaded to, at a commit or as the recipe says."""
    path = recipe.source.path
    if path is None:
        return None
    absent = f"source.path: {path!r} is no directory here"
    return find_directory(path, commit or recipe.source.revision, absent, weights=weights)


def _downloaded(recipe: Recipe) -> Path | None:
    """Return the directory of the given source, once a node downloaded and on all of one commit; a collective call."""
    place = distributed.on_first_rank(lambda: _place(recipe))
    commit = None if place is None else commit_of(place)
    return place if commit is None else distributed.node_by_node(lambda: _place(recipe, commit))


def _begin(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    saved: CheckpointMetadata | None,
    place: Path | None,
    world_size: int,
    part: int,
    parts: int,
    *,
    begun: bool,
    preview: bool = False,
) -> Source | None:
    """Return the source where it is given, in `place`; what needs no text is looked at before the text is prepared.

    Of `parts` processes that call it together each compares its `part` of a checkpoint with its digests. A source that is only
    `preview` may be a config.json without weights.
    """
    if recipe.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError("attn_implementation: flash_attention_2 needs the package flash-attn and a GPU it knows; sdpa would do")
    given = _given_source(recipe, place, part, parts, preview=preview)
    # A run that goes on has its text, and needs no tokenizer to prepare it with.
    tokenizer = None if begun else _known_tokenizer(recipe, given)
    vocabulary, eos_id = _known_vocabulary(recipe, tokenizer)
    # A vocabulary that is not known yet is taken to be as small as can be.
    source = _source_config(recipe, given, vocabulary or 1, eos_id)
    if recipe.attn_implementation == "sdpa" and not family_of(source).fused_attention:
        raise UserError(
            f"attn_implementation: sdpa, torch's fused attention, does not compute the capped scores of {source.model_type}; "
            "set attn_implementation: eager"
        )
    check_head(graph_of(source).head, recipe.make_vocab_size_divisible_by, with_loss=recipe.fused_linear_cross_entropy)
    recipe, growths, configs = _models(recipe, source, given)
    check_experts(recipe, configs, compute_dtype(ds_config))
    _check_fit(recipe, configs, vocabulary, "data.tokenizer" if tokenizer is None else str(tokenizer.files[0]))
    _check_sharing(recipe, configs, sequence_parallel_size(ds_config))
    if recipe.data.tokenizer is not None:
        check_training(recipe.data.tokenizer, family_of(source))
    check_tasks(recipe, family_of(source))
    if tokenizer is not None:
        _check_tokenizer(recipe, given, tokenizer, source)
    training_plan = plan_training(recipe, configs, lambda mix: 0, ds_config, world_size)
    if all(plan.stage.epochs is None for plan in training_plan.stages):
        _annealed(growths, training_plan, directory, saved)
    return given


def _known_tokenizer(recipe: Recipe, given: Source | None) -> Tokenizer | None:
    """Return the tokenizer of text that is to be prepared; None where it is trained on that, or comes with shards."""
    config = recipe.data.tokenizer
    if recipe.data.text is None or (config is not None and config.path is None):
        return None
    config = _tokenizer_of_text(recipe, given)
    directory = config.directory
    return None if directory is None else given_tokenizer(directory, config.split_special_tokens)


def _tokenizer_of_text(recipe: Recipe, given: Source | None) -> TokenizerConfig:
    """The tokenizer that text is prepared with: the recipe's, or the target's own."""
    return recipe.data.tokenizer or TokenizerConfig(path=recipe.target.tokenizer or str(given.beside))


def _known_vocabulary(recipe: Recipe, tokenizer: Tokenizer | None) -> tuple[int | None, int]:
    """Return the ids of text that is not prepared yet, and that of the end of a document, as far as they are known."""
    if tokenizer is not None:
        return tokenizer.vocab_size, tokenizer.eos_id
    # One that is trained may come to fewer, where the text is short.
    return None if recipe.data.tokenizer is None else recipe.data.tokenizer.vocab_size, 0


def _check(
    recipe: Recipe,
    data: PreparedData,
    remembered: Remembered,
    part: int,
    parts: int,
    say: Callable[[str], None],
) -> tuple[PreparedData, DataChecks]:
    """Return the data and what is left to be compared of it, after this process's share of a first look.

    Raises UserError naming what is not as it was prepared.
    """
    checks = DataChecks(data, corpora_read(recipe, data), part, parts)
    for remark in checks.remarks:
        say(remark)
    checks.at_start(remembered.files, (recipe.seed, remembered.step))
    return data, checks


def _open(
    recipe: Recipe,
    ds_config: dict[str, Any],
    directory: RunDirectory,
    saved: CheckpointMetadata | None,
    given: Source | None,
    data: PreparedData,
    world_size: int,
    say: Callable[[str], None],
    watch: DataWatch | None,
) -> Preparation:
    """Return the run over prepared data; raises UserError where data, models and stages do not go together."""
    source = _source_config(recipe, given, data.tokenizer.vocab_size, data.tokenizer.eos_id)
    for remark in data.remarks:
        say(remark)
    recipe, growths, configs = _models(recipe, source, given)
    _check_fit(recipe, configs, data.tokenizer.vocab_size, str(data.tokenizer.files[0]))
    _check_tokenizer(recipe, given, data.tokenizer, source)
    mixes = DataMixes(recipe, family_of(source), data, say)
    training_plan = plan_training(recipe, configs, mixes.windows, ds_config, world_size)
    mixes.open(plan.mix for plan in training_plan.stages)
    directory.check_data({"prepared": str(data.directory), "weights": mixes.weights})
    growths = _annealed(growths, training_plan, directory, saved)
    _say_rates(training_plan, growths, say)
    return Preparation(
        given=given,
        source=source,
        growths=growths,
        training_plan=training_plan,
        windows=mixes.windows,
        data=data,
        mixes=mixes,
        watch=watch,
    )


def _models(
    recipe: Recipe, source: PretrainedConfig, given: Source | None
) -> tuple[Recipe, list[Growth], dict[int, PretrainedConfig]]:
    """Return the recipe with the layers that its stages select by name, the growths, and each phase's model."""
    growths, stages = _plan(recipe, source, given)
    if recipe.final_model is not None:
        _check_final(recipe, source, growths[-1].target)
    named = recipe.model_copy(update={"stages": [stages.get(stage.name, stage) for stage in recipe.stages]})
    return named, growths, {0: source} | {growth.phase.number: growth.target for growth in growths}


def _vocabulary(recipe: Recipe, given: Source | None) -> tuple[int, int]:
    """Return the ids of text that is not looked at, and that of the end of a document, as far as it is known."""
    known, eos_id = _known_vocabulary(recipe, _known_tokenizer(recipe, given))
    if known is None:
        known = recipe.source.model.vocab_size if given is None else sizes_of(given.config).vocab_size
    if known is None:
        raise UserError("source.model.vocab_size: not known without the prepared text; name it, or leave --corpus_tokens out")
    return known, eos_id


def _given_source(recipe: Recipe, place: Path | None, part: int, parts: int, *, preview: bool) -> Source | None:
    source = recipe.source
    if place is None:
        return None
    if not place.is_dir():
        raise UserError(
            f"source.path: {source.path!r} is no directory here; name one with a Hugging Face model, a run directory, a "
            "DeepSpeed checkpoint or a folder of those"
        )
    config = None if source.config is None else Path(source.config)
    if preview:
        given = preview_source(place, config=config, untrusted=source.foreign)
    else:
        given = open_source(place, config=config, untrusted=source.foreign, part=part, parts=parts)
    check_trained(given.family, f"source.path: {source.path}")
    return given


def _source_config(recipe: Recipe, given: Source | None, vocab_size: int, eos_id: int) -> PretrainedConfig:
    pairs = recipe.data.pairs is not None
    if given is None:
        return scratch_config(recipe.source.model, vocab_size, eos_id, max(_lengths(recipe)), pairs=pairs)
    _check_pairs(given, pairs)
    return given.config


def _check_pairs(source: Source, pairs: bool) -> None:
    """Raise UserError where the source has no head on sentence pairs and needs one, or has one that would learn nothing."""
    with_pairs, has = PAIR_FAMILIES.get(source.family.name), source.family.pair_logits is not None
    where = f"{source.beside}/config.json: architectures"
    if pairs and with_pairs is None:
        raise UserError(f"data.pairs: {source.family.name} has no head on sentence pairs; leave the key out")
    if pairs and not has:
        raise UserError(
            f"{where}: a {source.family.model_class.__name__} has no head on sentence pairs, which data.pairs needs and "
            f"growth does not add; name {with_pairs.model_class.__name__} there if the weights hold one (published BERTs' do), "
            "or leave data.pairs out"
        )
    if has and not pairs:
        raise UserError(
            f"{where}: a {source.family.model_class.__name__} has a head on sentence pairs, which learns nothing without "
            f"data.pairs; set that, or name {FAMILIES[source.family.name].model_class.__name__} there to leave the head out"
        )


def _lengths(recipe: Recipe) -> list[int]:
    """The sequence lengths that a run reads."""
    stages = [stage for stage in recipe.stages if isinstance(stage, TrainStage)]
    return [recipe.data.sequence_length, *(stage.sequence_length for stage in stages if stage.sequence_length is not None)]


def _plan(recipe: Recipe, source: PretrainedConfig, given: Source | None) -> tuple[list[Growth], dict[str, TrainStage]]:
    """Return the growths of a run, and its train stages by name with their layers named.

    Raises UserError where there is no way, or a stage does not fit its model.
    """
    growths: list[Growth] = []
    named: dict[str, TrainStage] = {}
    added: list[int] = []
    before, new_tokens = source, False
    for phase in phases_of(recipe):
        if phase.growth is not None:
            where = "target." if phase.number == 1 else f"stages.{phase.name}.grow."
            new = phase.target.tokenizer
            tokenizer = None if new is None else open_new_tokenizer(given, new)
            sizes = phase.target if tokenizer is None else tokenizer.sized(phase.target, where)
            with _named_by_stage(recipe, phase):
                target = target_config(before, sizes, where, phase.growth)
                derived = derived_sizes(before, target, phase.target, phase.growth)
                plan = plan_growth(
                    before,
                    target,
                    phase.growth,
                    recipe.seed,
                    derived=derived,
                    tokenizer=tokenizer,
                    where=where,
                    optimizer=recipe.optimizer.name,
                )
            check_trained(plan.family, f"{where}model_type")
            if plan.takes_gates and plan.tokenizer is None:
                plan = plan.measuring_gates()
            if phase.number == 1 and given is not None and plan.growth.optimizer_state == "grow":
                plan.grow_optimizer(given.optimizer)
            check_proportions(graph_of(before), plan.graph, recipe.optimizer, where)
            growths.append(Growth(phase, plan.config, plan))
            before = plan.config
            new_tokens = len(plan.new_tokens) > 0
            added = [layer for layer, origin in enumerate(plan.layers) if origin.added]
        stages = [naming_added(stage, added) for stage in phase.stages]
        graph = graph_of(before)
        cut(len(graph.layers), stages, graph.mixtures)
        for stage in stages:
            check_learns(graph, stage, new_tokens=new_tokens)
            named[stage.name] = stage
    return growths, named


@contextmanager
def _named_by_stage(recipe: Recipe, phase: Phase) -> Iterator[None]:
    """Name keys of a stage's own growth section by their place, in what is raised within; all others as they are."""
    try:
        yield
    except UserError as error:
        key = str(error)
        if phase.growth is recipe.growth or not key.startswith("growth."):
            raise
        raise UserError(f"stages.{phase.name}.{key}") from None


def _check_final(recipe: Recipe, source: PretrainedConfig, grown: PretrainedConfig) -> None:
    """Raise UserError where the run's growths come to another model than the recipe says it ends with."""
    eos_id, pairs = source.eos_token_id or 0, recipe.data.pairs is not None
    wanted = scratch_config(recipe.final_model, sizes_of(source).vocab_size, eos_id, max(_lengths(recipe)), pairs=pairs)
    ours, theirs = asdict(sizes_of(grown)), asdict(sizes_of(wanted))
    for key in [key for key in ours if ours[key] != theirs[key]]:
        raise UserError(
            f"final_model.{key}: the run's growths come to {ours[key]}, and the model's own is {theirs[key]}; name {key} in "
            "each size and in the model (progressive.sizes, progressive.model), or in each `grow` of the stages"
        )
    for layer in range(wanted.num_hidden_layers):
        grew, own = layer_kind(grown, layer), layer_kind(wanted, layer)
        for key in [key for key in own if grew[key] != own[key]]:
            raise UserError(
                f"final_model: layer {layer} of the grown model has {key} {grew[key]!r}, as the layer that it is made of, and "
                f"the model's own has {own[key]!r}; choose sizes that have a layer of each kind, and growth: auto, or depth: "
                "list with layers of the same kind"
            )


def _annealed(
    growths: list[Growth], training_plan: TrainingPlan, directory: RunDirectory, saved: CheckpointMetadata | None
) -> list[Growth]:
    """Return the growths, norms that `auto` weighted turning to stock norms within the steps that their model is trained for.

    Raises UserError where norms that the recipe weights are annealed for longer than that.
    """
    settled = []
    for growth in growths:
        begin, end = training_plan.bounds(growth.phase.number)
        annealed = growth.plan.growth.norm_anneal_steps
        if growth.plan.growth.norm_statistics == "weighted":
            if growth.phase.growth.width == "auto":
                # A stage that is lengthened since must not anneal once more what is annealed.
                steps = directory.begun_annealing(growth.phase.number, saved) or min(annealed, end - begin)
                growth = growth if steps == annealed else replace(growth, plan=growth.plan.annealed_over(steps))
            elif end - begin < annealed:
                raise UserError(
                    f"growth.norm_anneal_steps: {annealed} steps are more than the target's {end - begin}, after which its "
                    "norms are to be stock; choose fewer"
                )
        settled.append(growth)
    return settled


def _say_rates(training_plan: TrainingPlan, growths: Sequence[Growth], say: Callable[[str], None]) -> None:
    """Say what warms up for longer than its steps, or falls too early; no refusal, since trials of long recipes are common."""
    for warning in (*training_plan.long_warmups(), *training_plan.early_decay()):
        say(warning)
    for growth in growths:
        (begin, end), steps = training_plan.bounds(growth.phase.number), growth.plan.growth.added.steps
        if begin < end < begin + steps:
            say(
                f"warning: growth.added: {steps:,} steps are more than the {end - begin:,} that the grown model is trained "
                f"for, {begin + 1:,} to {end:,} of the run; what {growth.phase.name} adds does not reach the common rate there"
            )


def _find_data(
    recipe: Recipe, directory: RunDirectory, given: Source | None, provide: Callable[[DataPrepConfig], PreparedData | None]
) -> PreparedData | None:
    """Return the data: that which the run was begun with, or that which the recipe asks for, text by way of `provide`.

    Text goes through the target's tokenizer where the recipe names none.
    """
    config, recorded = recipe.data, directory.recorded_data()
    if recorded is not None and (Path(recorded["prepared"]) / MANIFEST).exists():
        data = PreparedData(Path(recorded["prepared"]))
    elif config.shards is not None:
        data = PreparedData(Path(config.shards))
    else:
        tokenizer = _tokenizer_of_text(recipe, given)
        request = {
            "output_dir": config.output_dir,
            "corpora": [config.text.model_dump()],
            "tokenizer": tokenizer.model_dump(),
            **({} if config.pairs is None else {"sequences": "sentence"}),
        }
        data = provide(validate(DataPrepConfig, request, "data"))
    if recorded is not None and data is not None and data.manifest.fingerprint != recorded["fingerprint"]:
        raise UserError(
            f"{data.directory}: these are not the shards that the run was begun with ({recorded['prepared']}); put those "
            "back, or name another run_dir"
        )
    return data


def _check_fit(recipe: Recipe, configs: dict[int, PretrainedConfig], vocabulary: int | None, tokenizer: str) -> None:
    """Raise UserError where a model lacks ids, if known, or positions that the text needs; `tokenizer` has given the ids."""
    # A source whose tokenizer gives way reads none of the text.
    reads = sizes_of(configs[0 if recipe.target.tokenizer is None else 1])
    if vocabulary is not None and vocabulary > reads.vocab_size:
        raise UserError(
            f"{tokenizer}: the tokenizer has ids up to {vocabulary - 1}, and the model's vocab_size is "
            f"{reads.vocab_size}; prepare the text with the model's own tokenizer"
        )
    read = {0: [("data.", recipe.data.sequence_length)]}
    for phase in phases_of(recipe):
        here = read.setdefault(phase.number, [])
        here += [(f"stages.{stage.name}.", stage.sequence_length) for stage in phase.stages if stage.sequence_length]
    for number, lengths in read.items():
        sizes = sizes_of(configs[number])
        usable = family_of(configs[number]).usable_positions(sizes)
        for where, length in lengths:
            if length > usable:
                raise UserError(
                    f"{where}sequence_length: {length} is beyond the model's {usable} positions "
                    f"(max_position_embeddings is {sizes.max_position_embeddings})"
                )


def _check_sharing(recipe: Recipe, configs: dict[int, PretrainedConfig], ranks: int) -> None:
    """Raise UserError where heads or positions do not divide over the ranks that share a sequence."""
    for config in configs.values():
        check_heads_divide(config, ranks)
    check_length_divides(recipe.data.sequence_length, ranks, "data.")
    for stage in recipe.stages:
        if isinstance(stage, TrainStage) and stage.sequence_length is not None:
            check_length_divides(stage.sequence_length, ranks, f"stages.{stage.name}.")


def _check_tokenizer(recipe: Recipe, given: Source | None, tokenizer: Tokenizer, source: PretrainedConfig) -> None:
    """Raise UserError where the text's tokenizer gives other ids than the source's, or lacks what model or tasks need."""
    named = None if recipe.target.tokenizer is None else tokenizer_directory(recipe.target.tokenizer)
    if given is not None:
        check_source(given, tokenizer, named)
    check_beside(tokenizer, source)
    for length in _lengths(recipe):
        objective_for(family_of(source).objective, tokenizer, length)
    encoder_of(recipe, tokenizer, source)
