"""Whether one learning rate serves several widths, with and without `optimizer.width_rates`: how far steps move what a model
computes, and losses over a grid of rates.

python -m tests.benchmarks.width_rates [--text GLOB ...] [--rules none mup] [--optimizer adamw]
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn

from pipeline.common.quiet import quieten
from pipeline.data.batches import Batches
from pipeline.data.objectives import CausalObjective
from pipeline.families import FAMILIES, graph_of
from pipeline.growth.initialization import initialized
from pipeline.recipe import OptimizerConfig, ScheduleConfig
from pipeline.training.muon import FreezableMuon
from pipeline.training.optimizer import build_optimizer, optimizer_groups
from pipeline.training.parameter_groups import cut
from pipeline.training.plan.schedule import rate_factor
from tests.benchmarks.made_up import batches, scratch
from tests.benchmarks.measuring import add_text, described, part_parser, publish, say, table, table_row
from tests.pipeline.training.optimizers import locate_whole
from tests.shards import MemoryShard

_FAMILY, _LAYERS, _HEAD, _VOCABULARY, _LENGTH, _SEQUENCES = FAMILIES["gpt2"], 2, 32, 1024, 64, 16
_BASE = 64
_HELDOUT = 128
"""Windows that a loss is measured on."""
_RULES = ("none", "mup", "spectral")
MODULES = {
    f"{words} {layer}": f"transformer.h.{layer}.{name}"
    for layer in range(_LAYERS)
    for name, words in (("attn", "attention"), ("mlp", "FFN"))
} | {"logits": "lm_head"}
"""What is looked at after some steps, in the order in which it runs."""
_MOVED, _MOVED_RATE = 10, 0.004
"""Steps after which it is, and their learning rate."""


@dataclass(frozen=True)
class Size:
    widths: tuple[int, ...]
    rates: tuple[float, ...]
    steps: int
    megabytes: float


FULL = Size((32, 64, 128, 256), tuple(0.0005 * 2**place for place in range(8)), 200, 1)
QUICK = Size((32, 64), (0.001, 0.002), 4, 0.4)


@dataclass(frozen=True)
class Trial:
    width: int
    optimizer: OptimizerConfig
    model: Mapping[str, object]
    """What the model's section says beside sizes."""

    def loss(self, training: Batches, heldout: Batches, steps: int) -> float:
        """Return the held-out loss behind so many steps, warmed up over a fifth of them and falling to zero."""
        model, stepper = self._built()
        self._train(model, stepper, training, ScheduleConfig(warmup_steps=steps // 5), steps)
        with torch.no_grad():
            parts = np.arange(_HELDOUT).reshape(-1, _SEQUENCES)
            return float(np.mean([_loss(model, heldout.heldout(part)).item() for part in parts]))

    def moves(self, training: Batches, heldout: Batches, steps: int) -> list[float]:
        """Return by how much each of `MODULES` gives something else behind so many steps at the full rate, root mean square."""
        model, stepper = self._built()
        looked_at = [model.get_submodule(name) for name in MODULES.values()]
        batch = heldout.heldout(np.arange(_SEQUENCES))
        before = outputs(model, looked_at, batch.input_ids)
        self._train(model, stepper, training, ScheduleConfig(name="constant"), steps)
        after = outputs(model, looked_at, batch.input_ids)
        return [(one - other).square().mean().sqrt().item() for one, other in zip(after, before, strict=True)]

    def _built(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        heads = max(1, self.width // _HEAD)
        _, config = scratch(_FAMILY.name, _LAYERS, self.width, _VOCABULARY, _LENGTH, heads=heads, **self.model)
        graph, model = graph_of(config), _FAMILY.model_class(config)
        with torch.no_grad():
            for name, rows in initialized(_FAMILY, config, 1).items():
                model.get_parameter(name).copy_(rows.rows(0, rows.shape[0]))
        stepper = build_optimizer(graph, optimizer_groups(model, graph, cut(_LAYERS, []), self.optimizer), self.optimizer, {})
        if isinstance(stepper, FreezableMuon):
            locate_whole(stepper, model)
        return model, stepper

    def _train(
        self, model: nn.Module, stepper: torch.optim.Optimizer, training: Batches, schedule: ScheduleConfig, steps: int
    ) -> None:
        for step in range(steps):
            for group in stepper.param_groups:
                group["lr"] = self.optimizer.lr * group["rate_ratio"] * rate_factor(schedule, step, steps)
            _loss(model, training.training(np.arange(step * _SEQUENCES, (step + 1) * _SEQUENCES))).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.optimizer.gradient_clipping)
            stepper.step()
            model.zero_grad()


def outputs(model: nn.Module, modules: Sequence[nn.Module], input_ids: torch.Tensor) -> list[torch.Tensor]:
    given: list[torch.Tensor] = []

    def keep(module: nn.Module, inputs: object, output: object) -> None:
        given.append(output[0] if isinstance(output, tuple) else output)

    handles = [module.register_forward_hook(keep) for module in modules]
    with torch.no_grad():
        model(input_ids=input_ids)
    for handle in handles:
        handle.remove()
    return given


def _loss(model: nn.Module, batch: object) -> torch.Tensor:
    logits = model(input_ids=batch.input_ids).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())


def text(files: list[str], megabytes: float) -> tuple[Batches, Batches]:
    """Return batches to train on and held-out ones, of text by a tokenizer of its own."""
    # It takes tools that only benchmarks need, and a test takes the rest of this file.
    from tests.benchmarks.data_prep import documents

    given = documents(megabytes, files)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(given, vocab_size=_VOCABULARY, show_progress=False)
    ids = np.concatenate([each.ids for each in tokenizer.encode_batch(given)])
    objective = CausalObjective(_LENGTH)
    last = len(ids) - _HELDOUT * _LENGTH - 1
    return batches([MemoryShard(ids[:last])], objective), batches([MemoryShard(ids[last:])], objective)


def searched(loss: Callable[[float], float], rates: Sequence[float], begin: int) -> dict[int, float]:
    """Return the losses at some of the rates, by place: at the lowest, at its neighbours, and on the way there from `begin`."""
    tried: dict[int, float] = {}
    lowest, place = begin, -1
    while lowest != place:
        place = lowest
        for near in range(max(0, place - 1), min(len(rates), place + 2)):
            if near not in tried:
                tried[near] = loss(rates[near])
        lowest = min(tried, key=tried.__getitem__)
    return tried


def grid(
    out: Path | None, rule: str, name: str, size: Size, data: tuple[Batches, Batches], model: Mapping[str, object]
) -> list[int]:
    """Say a table of losses row by row; return the place of each width's best rate."""
    say(out, table(["hidden_size", *(f"{rate:.4g}" for rate in size.rates), "minutes"], []) + "\n")
    best = [len(size.rates) // 2]
    for width in size.widths:
        began = time.perf_counter()

        def loss(rate: float, width: int = width) -> float:
            return Trial(width, OptimizerConfig(name=name, lr=rate, **options(rule)), model).loss(*data, size.steps)

        tried = searched(loss, size.rates, best[-1])
        best.append(min(tried, key=tried.__getitem__))
        cells = [f"{tried[place]:.3f}" if place in tried else "" for place in range(len(size.rates))]
        cells[best[-1]] = f"**{cells[best[-1]]}**"
        say(out, table_row([str(width), *cells, f"{(time.perf_counter() - began) / 60:.1f}"]) + "\n")
    return best[1:]


def options(rule: str) -> dict[str, object]:
    """Return what the optimizer's section says of a rule."""
    return {"betas": (0.9, 0.95)} | ({} if rule == "none" else {"width_rates": rule, "base_width": _BASE})


def main() -> None:
    parser = part_parser(__doc__.split(":")[0] + ".", ["moves", "losses"])
    add_text(parser)
    parser.add_argument("--rules", nargs="+", choices=_RULES, default=["none", "mup"])
    parser.add_argument("--optimizer", choices=["adamw", "lion", "muon"], default="adamw")
    parser.add_argument("--widths", nargs="+", type=int, help="hidden sizes (default: 32 64 128 256)")
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates (default: 0.0005 to 0.064, a factor of 2 apart)")
    ranges = {"choices": ["width", "stock"], "default": "width"}
    parser.add_argument("--initializer_range", **ranges, help="by width, or 0.02 (default: width)")
    parser.add_argument("--tied", action="store_true", help="share the embedding with the head")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    size = QUICK if arguments.quick else FULL
    size = replace(size, widths=tuple(arguments.widths or size.widths), rates=tuple(arguments.rates or size.rates))
    stock = {} if arguments.initializer_range == "stock" else {"initializer_range": "width"}
    model = {"tie_word_embeddings": arguments.tied, **stock}
    data, out, name = text(arguments.text, size.megabytes), arguments.out, arguments.optimizer
    about = (
        f"GPT-2 of {_LAYERS} layers and heads of {_HEAD} channels, {'tied' if arguments.tied else 'untied'}, initializer_range "
        f"{arguments.initializer_range}, a vocabulary of {_VOCABULARY:,}, steps of {_SEQUENCES * _LENGTH:,} tokens, one seed. "
        f"The text: {described(arguments.text)}."
    )
    for rule in arguments.rules:
        heading = f"{name}, width_rates {rule}" + ("" if rule == "none" else f", base_width {_BASE}")
        if "moves" in arguments.parts:
            chosen = OptimizerConfig(name=name, lr=_MOVED_RATE, **options(rule))
            rows = [[str(width), *Trial(width, chosen, model).moves(*data, _MOVED)] for width in size.widths]
            publish(
                out,
                f"What {_MOVED} steps change at several widths: {heading}",
                f"Root mean square of the change of what modules give for held-out text, at a rate of {_MOVED_RATE:g}. {about}",
                table(["hidden_size", *MODULES], rows),
            )
        if "losses" in arguments.parts:
            publish(
                out,
                f"Learning rates at several widths: {heading}",
                f"Held-out loss in nats after {size.steps} steps, by `optimizer.lr`. In bold is a loss below both of its "
                f"neighbours; others were not looked at. {about}",
            )
            best = grid(out, rule, name, size, data, model)
            say(out, f"\nBetween the best rates of these widths lie at most {max(best) - min(best)} steps of the grid.\n\n")


if __name__ == "__main__":
    main()
