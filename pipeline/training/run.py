"""One run from text to a grown, trained model: data, source, growth, stages, summary."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch.distributed
from transformers import PretrainedConfig

from data_prep.config import validate
from data_prep.errors import UserError
from data_prep.files import locked, write_json
from data_prep.manifest import MANIFEST, PreparedData
from data_prep.prepare import prepare
from data_prep.settings import DataPrepConfig, TokenizerConfig
from data_prep.tokenizer import find_tokenizer
from pipeline.data.batches import Batches
from pipeline.data.corpora import effective_weights, open_batches
from pipeline.data.objectives import objective_for
from pipeline.families import FAMILIES, AxisKind, scratch_config, sizes_of, target_config
from pipeline.growth.certificate import certify
from pipeline.growth.initialization import initialized
from pipeline.growth.inspection import inspect
from pipeline.growth.plan import GrowthPlan, plan_growth
from pipeline.growth.probe import compare
from pipeline.growth.sources import open_source
from pipeline.growth.state import OptimizerState, Source, State
from pipeline.growth.weighted_norms import WeightedNorms
from pipeline.recipe import GROWN_STAGE, SOURCE_STAGE, Recipe, StageConfig
from pipeline.training import distributed
from pipeline.training.checkpoints import Checkpoints, Saved, restore_engine
from pipeline.training.ds_config import compute_dtype
from pipeline.training.engine import TrainedModel, build
from pipeline.training.export import export
from pipeline.training.loop import Position, Records, Trainer, peak_memory
from pipeline.training.measure import measure_growth
from pipeline.training.metrics import JsonLines
from pipeline.training.optimizer import layers_per_block
from pipeline.training.progress import Progress
from pipeline.training.run_directory import RunDirectory
from pipeline.training.signals import StopRequest
from pipeline.training.summary import render

_PROBE = 'The quick brown fox of 1984: naïve café, "東京"\n\tdef f(x):  return x'
"""Text on which tokenizers differ that are not the same."""


class Run:
    """A recipe under a DeepSpeed configuration, in its run directory."""

    def __init__(self, recipe: Recipe, ds_config: dict[str, Any], stop: StopRequest) -> None:
        self._recipe = recipe
        self._ds_config = ds_config
        self._stop = stop
        self._directory = RunDirectory(Path(recipe.run_dir))
        self._checkpoints = Checkpoints(self._directory.checkpoints, recipe.checkpointing.keep)

    def execute(self) -> None:
        """Do what is left of the run, and print its summary; a collective call.

        Raises UserError where the input is wrong, Stopped where the run was asked to stop.
        """
        with ExitStack() as stack:
            distributed.on_first_rank(lambda: stack.enter_context(locked(self._directory.lock, wait=False)))
            try:
                summary = self._execute()
            except UserError:
                if distributed.rank() == 0:
                    self._directory.abandon()
                raise
            self._say(render(summary))

    def _execute(self) -> dict[str, Any]:
        """Return the run's summary, after doing what is left of the run."""
        saved = distributed.on_first_rank(self._checkpoints.latest)
        distributed.on_first_rank(lambda: self._directory.check(self._recipe, self._ds_config, saved))
        done = distributed.on_first_rank(self._finished_summary)
        if done is not None:
            return done
        summary = self._work(saved)
        distributed.on_first_rank(lambda: write_json(self._directory.summary, summary))
        return summary

    def _finished_summary(self) -> dict[str, Any] | None:
        """Return the summary if it is of this run's last step: that of a run since lengthened is not."""
        if not self._directory.summary.exists():
            return None
        summary = json.loads(self._directory.summary.read_text(encoding="utf-8"))
        return summary if summary["steps"] == self._steps else None

    @property
    def _source_steps(self) -> int:
        return self._recipe.source.steps or 0

    @property
    def _steps(self) -> int:
        return self._source_steps + sum(stage.steps for stage in self._recipe.stages)

    def _work(self, saved: Saved | None) -> dict[str, Any]:
        recipe = self._recipe
        # Everything that may be refused is looked at before the first step, and what needs no text before that.
        given = distributed.on_every_rank(self._given_source)
        self._plan(self._source_config(given, vocab_size=1, eos_id=0), given)
        prepared = distributed.on_first_rank(lambda: self._prepare_data(given))
        data = distributed.on_every_rank(lambda: PreparedData(Path(prepared)))
        self._checkpoints.beside = data.tokenizer.files
        source = self._source_config(given, data.tokenizer.vocab_size, data.tokenizer.eos_id)
        self._check_fit(source, data)
        if given is not None:
            distributed.on_every_rank(lambda: _check_tokenizer(given, data))
        family = FAMILIES[source.model_type]
        target, plan = self._plan(source, given)
        per_block = layers_per_block(recipe.stages, plan.target.num_hidden_layers)
        objective = objective_for(family.objective, data.tokenizer, recipe.data.sequence_length)
        weights = distributed.on_every_rank(lambda: self._blend(data, objective.window[0]))
        unigram_entropy = distributed.on_every_rank(lambda: data.unigram_entropy(weights))
        training, heldout = distributed.on_every_rank(
            lambda: open_batches(data, weights, objective, recipe.seed, apart=recipe.data.attention == "document")
        )
        began_with = {"prepared": str(data.directory), "fingerprint": data.manifest.fingerprint, "weights": weights}
        distributed.on_first_rank(lambda: self._directory.claim(recipe, self._ds_config, began_with))
        position = Position() if saved is None else Position.restored(saved)
        records = self._open_records(position.step)

        def train(role: str, model: TrainedModel, stages: list[StageConfig], first_step: int) -> float:
            if saved is not None and saved.model == role:
                restore_engine(model.engine, saved)
                self._say(f"{role}: going on from step {saved.step}")
            return Trainer(role, model, stages, first_step, recipe, training, heldout, position, records, self._stop).train()

        def train_source() -> Source:
            if saved is None or saved.step < self._source_steps:
                # An export from before the source was lengthened must not pass for this one.
                distributed.on_first_rank(lambda: shutil.rmtree(self._directory.source_model, ignore_errors=True))
                stage = StageConfig(name=SOURCE_STAGE, steps=self._source_steps, lr=recipe.source.lr)
                if saved is None:
                    state, kept = initialized(family, source, recipe.seed), None
                else:
                    opened = self._open(saved)
                    state, kept = opened.state, opened.optimizer
                model = self._build(source, state, kept, sizes_of(source).num_hidden_layers)
                train("source", model, [stage], 0)
                model.close()
            return self._export(self._directory.source_model, data, again=False)

        if saved is not None and saved.model == "target":
            opened = self._open(saved)
            model = self._build(target, opened.state, opened.optimizer, per_block)
            self._weigh_norms(model, plan)
        else:
            given = given or train_source()
            for reason in plan.choices:
                self._say(reason)
            model = self._build(target, plan.grow(given.state), self._grown_optimizer(plan, given), per_block)
            self._weigh_norms(model, plan)
            self._certify_growth(plan, given, target, model, heldout, records, position.step)
        final = train("target", model, recipe.stages, self._source_steps)
        model.close()
        self._export(self._directory.model, data, again=True)
        records.progress.close()
        return self._summarize(position, data, unigram_entropy, final)

    def _open(self, saved: Saved) -> Source:
        return distributed.on_every_rank(lambda: self._checkpoints.open(saved))

    def _export(self, directory: Path, data: PreparedData, *, again: bool) -> Source:
        """Return the newest checkpoint, and leave it as a Hugging Face directory; `again` in place of one that is there."""
        newest = self._open(distributed.on_first_rank(self._checkpoints.latest))

        def work() -> None:
            if again or not directory.is_dir():
                export(newest, directory, data.tokenizer)

        distributed.on_first_rank(work)
        return newest

    def _build(
        self, config: PretrainedConfig, state: State, optimizer_state: OptimizerState | None, per_block: int
    ) -> TrainedModel:
        recipe = self._recipe
        return build(
            FAMILIES[config.model_type],
            config,
            state,
            self._ds_config,
            recipe.optimizer,
            per_block,
            recipe.attn_implementation,
            optimizer_state,
        )

    def _grown_optimizer(self, plan: GrowthPlan, source: Source) -> OptimizerState | None:
        return plan.grow_optimizer(source.optimizer) if self._recipe.growth.optimizer_state == "grow" else None

    @staticmethod
    def _weigh_norms(model: TrainedModel, plan: GrowthPlan) -> None:
        if plan.growth.norm_statistics == "weighted":
            residual, steps = plan.maps[AxisKind.RESIDUAL], plan.growth.norm_anneal_steps
            model.norms = WeightedNorms(model.module, plan.family, plan.target, residual, steps)

    def _given_source(self) -> Source | None:
        path = self._recipe.source.path
        return None if path is None else open_source(Path(path))

    def _prepare_data(self, given: Source | None) -> str:
        """Return the folder of the shards: the one that the run was begun with, or the one that the recipe asks for.

        Text goes through the given source's tokenizer where the recipe names none.
        """
        config, recorded = self._recipe.data, self._directory.recorded_data()
        if recorded is not None and (Path(recorded["prepared"]) / MANIFEST).exists():
            data = PreparedData(Path(recorded["prepared"]))
        elif config.shards is not None:
            data = PreparedData(Path(config.shards))
        else:
            tokenizer = config.tokenizer or TokenizerConfig(path=str(given.directory))
            request = {
                "output_dir": config.output_dir,
                "corpora": [config.text.model_dump()],
                "tokenizer": tokenizer.model_dump(),
            }
            data = prepare(validate(DataPrepConfig, request, "data"), self._say)
        if recorded is not None and data.manifest.fingerprint != recorded["fingerprint"]:
            raise UserError(
                f"{data.directory}: these are not the shards that the run was begun with ({recorded['prepared']}); put those "
                "back, or name another run_dir"
            )
        return str(data.directory)

    def _blend(self, data: PreparedData, window: int) -> dict[str, float]:
        """Return each corpus's share of the samples, and say which have none; `window` is in tokens."""
        weights, left_out = effective_weights(data, self._recipe.data.weights, window)
        recorded = self._directory.recorded_data()
        if recorded is not None and weights != recorded["weights"]:
            raise UserError(
                f"{data.directory}: the run was begun with the weights {recorded['weights']}, and now they are {weights}; go "
                "on with those, or name another run_dir"
            )
        for name, reason in left_out.items():
            self._say(f"data: the corpus {name!r} is left out, {reason}")
        return weights

    def _source_config(self, given: Source | None, vocab_size: int, eos_id: int) -> PretrainedConfig:
        if given is not None:
            return given.config
        return scratch_config(self._recipe.source.model, vocab_size, eos_id, self._recipe.data.sequence_length)

    def _plan(self, source: PretrainedConfig, given: Source | None) -> tuple[PretrainedConfig, GrowthPlan]:
        """Return the target's configuration and the way there; raises UserError where there is none."""
        recipe = self._recipe
        target = target_config(source, recipe.target)
        plan = plan_growth(source, target, recipe.growth, recipe.seed)
        layers = plan.target.num_hidden_layers
        for stage in recipe.stages:
            if stage.submodel_layers is not None and layers % stage.submodel_layers:
                raise UserError(
                    f"stages.{stage.name}.submodel_layers: {stage.submodel_layers} does not divide the target's {layers} layers"
                )
        steps, annealed = sum(stage.steps for stage in recipe.stages), plan.growth.norm_anneal_steps
        if plan.growth.norm_statistics == "weighted" and steps < annealed:
            raise UserError(
                f"growth.norm_anneal_steps: {annealed} steps are more than the target's {steps}, after which its norms are to "
                "be stock; choose fewer"
            )
        if given is not None:
            self._grown_optimizer(plan, given)
        return target, plan

    def _check_fit(self, source: PretrainedConfig, data: PreparedData) -> None:
        sizes = sizes_of(source)
        if data.tokenizer.vocab_size > sizes.vocab_size:
            raise UserError(
                f"{data.tokenizer.files[0]}: the tokenizer has ids up to {data.tokenizer.vocab_size - 1}, and the model's "
                f"vocab_size is {sizes.vocab_size}; prepare the text with the model's own tokenizer"
            )
        usable = FAMILIES[source.model_type].usable_positions(sizes)
        if self._recipe.data.sequence_length > usable:
            raise UserError(
                f"data.sequence_length: {self._recipe.data.sequence_length} is beyond the model's {usable} positions "
                f"(max_position_embeddings is {sizes.max_position_embeddings})"
            )

    def _open_records(self, step: int) -> Records:
        directory = self._directory
        records = Records(
            JsonLines(directory.metrics),
            JsonLines(directory.evaluations),
            self._checkpoints,
            Progress(self._steps, step, shown=distributed.rank() == 0),
        )
        if distributed.rank() == 0:
            records.metrics.keep(lambda record: record["step"] <= step)
            records.evaluations.keep(lambda record: record["step"] <= step)
        return records

    def _certify_growth(
        self,
        plan: GrowthPlan,
        source: Source,
        target: PretrainedConfig,
        grown: TrainedModel,
        heldout: Batches,
        records: Records,
        step: int,
    ) -> None:
        """Compare the grown model with its source, in float64 and as it will be trained, and write the certificate.

        Raises RuntimeError on every rank where a growth that is to preserve the function was seen not to.
        """
        in_training = measure_growth(
            source,
            grown,
            heldout,
            self._recipe.evaluation.windows,
            compute_dtype(self._ds_config),
        )
        if distributed.rank() == 0:
            records.evaluations.keep(lambda record: record["stage"] != GROWN_STAGE)
        records.evaluation(step, GROWN_STAGE, in_training["grown_loss"], in_training["scored_tokens"])

        def write() -> dict[str, Any]:
            digest = inspect(source.state, str(source.directory))
            certificate = certify(plan, str(source.directory), digest, compare(source, plan, target), in_training)
            write_json(self._directory.certificate, certificate)
            return certificate

        certificate = distributed.on_first_rank(write)
        if not certificate["measured_agrees"]:
            moved = certificate["measured"]["max_logit_difference"], in_training["max_logit_difference"]
            raise RuntimeError(
                f"{self._directory.certificate}: this growth should preserve the function and moves a logit by {moved[0]:.2g} "
                f"in float64, by {moved[1]:.2g} in {in_training['dtype']}; please report it"
            )

    def _summarize(self, position: Position, data: PreparedData, unigram_entropy: float, final: float) -> dict[str, Any]:
        directory = self._directory
        peaks: list[dict[str, float] | None] = [None] * distributed.world_size()
        torch.distributed.all_gather_object(peaks, peak_memory())
        certificate = json.loads(directory.certificate.read_text(encoding="utf-8"))
        return {
            "family": certificate["family"],
            "growth": certificate,
            "losses": {
                "unigram": unigram_entropy,
                "source": certificate["in_training"]["source_loss"],
                "grown": certificate["in_training"]["grown_loss"],
                "final": final,
            },
            "source_given": self._recipe.source.path is not None,
            "steps": position.step,
            "tokens": position.tokens,
            "flops_model": position.ledger.model,
            "flops_executed": position.ledger.executed,
            "seconds": position.seconds,
            "tokens_per_second": position.tokens / position.seconds,
            "peak_memory": peaks,
            "paths": {
                "model": str(directory.model),
                "checkpoints": str(directory.checkpoints),
                "certificate": str(directory.certificate),
                "metrics": str(directory.metrics),
                "data": str(data.directory),
            },
        }

    def _say(self, line: str) -> None:
        if distributed.rank() == 0:
            print(line, flush=True)


def _check_tokenizer(source: Source, data: PreparedData) -> None:
    """Raise UserError where the source comes with a tokenizer that gives other ids than the data's."""
    own = find_tokenizer(source.directory)
    if own is not None and own.encode_batch([_PROBE]) != data.tokenizer.encode_batch([_PROBE]):
        raise UserError(
            f"{own.files[0]}: gives other ids than {data.tokenizer.files[0]}, with which the data was prepared; prepare the "
            "text with the model's own tokenizer"
        )
