"""Whether one learning rate serves several widths: losses over a grid of rates, with and without `optimizer.width_rates`.

python -m tests.benchmarks.width_rates [--text GLOB ...] [--rules none mup] [--optimizer adamw]
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import ByteLevelBPETokenizer
from torch import nn

from pipeline.command import quieten
from pipeline.data.batches import Batches
from pipeline.data.objectives import CausalObjective
from pipeline.families import FAMILIES, graph_of, scratch_config
from pipeline.growth.initialization import initialized
from pipeline.recipe import ModelConfig, OptimizerConfig, ScheduleConfig
from pipeline.training.blocks import cut
from pipeline.training.muon import FreezableMuon, Piece
from pipeline.training.optimizer import build_optimizer, parameter_groups
from pipeline.training.schedule import rate_factor
from tests.benchmarks.data_prep import documents
from tests.benchmarks.made_up import batches
from tests.benchmarks.measuring import add_text, described, part_parser, publish, say, table_row
from tests.shards import MemoryShard

_FAMILY, _LAYERS, _HEAD, _VOCABULARY, _LENGTH, _SEQUENCES = FAMILIES["gpt2"], 2, 32, 1024, 128, 16
_BASE = 64
_HELDOUT = 128
"""Windows that a loss is measured on."""
_RULES = ("none", "mup", "spectral")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    widths: tuple[int, ...]
    rates: tuple[float, ...]
    steps: int
    megabytes: float


FULL = Size((32, 64, 128, 256), tuple(0.016 / 2**place for place in range(5, -1, -1)), 250, 4)
QUICK = Size((32, 64), (0.001, 0.002), 4, 0.4)


@dataclass(frozen=True)
class Trial:
    """One model's training."""

    width: int
    optimizer: OptimizerConfig
    tied: bool

    def loss(self, training: Batches, heldout: Batches, steps: int) -> float:
        """Return the held-out loss behind so many steps, warmed up over a fifth of them and falling to zero."""
        model_config = ModelConfig(
            family=_FAMILY.name,
            hidden_size=self.width,
            num_hidden_layers=_LAYERS,
            num_attention_heads=max(1, self.width // _HEAD),
            tie_word_embeddings=self.tied,
        )
        config = scratch_config(model_config, _VOCABULARY, 0, _LENGTH)
        graph, model = graph_of(config), _FAMILY.model_class(config)
        with torch.no_grad():
            for name, rows in initialized(_FAMILY, config, 1).items():
                model.get_parameter(name).copy_(rows.rows(0, rows.shape[0]))
        stepper = build_optimizer(graph, parameter_groups(model, graph, cut(_LAYERS, []), self.optimizer), self.optimizer, {})
        if isinstance(stepper, FreezableMuon):
            names = {parameter: name for name, parameter in model.named_parameters()}
            matrices = [parameter for group in stepper.param_groups if group["muon"] for parameter in group["params"]]
            stepper.locate([(each, [Piece(names[each], 0, each.numel(), 0)]) for each in matrices])
        schedule = ScheduleConfig(warmup_steps=steps // 5)
        for step in range(steps):
            for group in stepper.param_groups:
                group["lr"] = self.optimizer.lr * group["rate_ratio"] * rate_factor(schedule, step, steps)
            _loss(model, training.training(np.arange(step * _SEQUENCES, (step + 1) * _SEQUENCES))).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), self.optimizer.gradient_clipping)
            stepper.step()
            model.zero_grad()
        model.eval()
        with torch.no_grad():
            parts = np.arange(_HELDOUT).reshape(-1, _SEQUENCES)
            return float(np.mean([_loss(model, heldout.heldout(part)).item() for part in parts]))


def _loss(model: nn.Module, batch: object) -> torch.Tensor:
    logits = model(input_ids=batch.input_ids).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten())


def text(files: list[str], megabytes: float) -> tuple[Batches, Batches]:
    """Return batches to train on and held-out ones, of text by a tokenizer of its own."""
    given = documents(megabytes, files)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(given, vocab_size=_VOCABULARY, show_progress=False)
    ids = np.concatenate([each.ids for each in tokenizer.encode_batch(given)])
    objective = CausalObjective(_LENGTH)
    last = len(ids) - _HELDOUT * _LENGTH - 1
    return batches([MemoryShard(ids[:last])], objective), batches([MemoryShard(ids[last:])], objective)


def grid(out: Path | None, rule: str, name: str, size: Size, data: tuple[Batches, Batches], *, tied: bool) -> dict[int, float]:
    """Say a table of losses row by row; return the best rate of each width."""
    head: list[object] = ["hidden_size", *(f"{rate:.4g}" for rate in size.rates), "best", "minutes"]
    say(out, "\n".join(map(table_row, [head, [":--"] + ["--:"] * (len(head) - 1)])) + "\n")
    best = {}
    for width in size.widths:
        began, losses = time.perf_counter(), []
        for rate in size.rates:
            widths = {} if rule == "none" else {"width_rates": rule, "base_width": _BASE}
            chosen = OptimizerConfig(name=name, lr=rate, betas=(0.9, 0.95), **widths)
            losses.append(Trial(width, chosen, tied).loss(*data, size.steps))
        best[width] = size.rates[int(np.argmin(losses))]
        cells = [f"**{loss:.3f}**" if loss == min(losses) else f"{loss:.3f}" for loss in losses]
        say(out, table_row([str(width), *cells, f"{best[width]:.4g}", f"{(time.perf_counter() - began) / 60:.1f}"]) + "\n")
    return best


def main() -> None:
    """Print a table for each rule."""
    parser = part_parser(__doc__.splitlines()[0])
    add_text(parser)
    parser.add_argument("--rules", nargs="+", choices=_RULES, default=["none", "mup"])
    parser.add_argument("--optimizer", choices=["adamw", "lion", "muon"], default="adamw")
    parser.add_argument("--widths", nargs="+", type=int, help="hidden sizes (default: 32 64 128 256)")
    parser.add_argument("--rates", nargs="+", type=float, help="learning rates (default: 0.0005 to 0.016, a factor of 2 apart)")
    parser.add_argument("--tied", action="store_true", help="share the embedding with the head")
    arguments = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    size = QUICK if arguments.quick else FULL
    size = replace(size, widths=tuple(arguments.widths or size.widths), rates=tuple(arguments.rates or size.rates))
    data, out = text(arguments.text, size.megabytes), arguments.out
    for rule in arguments.rules:
        with_base = "" if rule == "none" else f", base_width {_BASE}"
        publish(
            out,
            f"Learning rates at several widths: {arguments.optimizer}, width_rates {rule}{with_base}",
            f"GPT-2 of {_LAYERS} layers and heads of {_HEAD} channels, {'tied' if arguments.tied else 'untied'}, {size.steps} "
            f"steps of {_SEQUENCES * _LENGTH:,} tokens, a vocabulary of {_VOCABULARY:,}, one seed; held-out loss in nats by "
            f"`optimizer.lr`, the lowest of a width in bold. The text: {described(arguments.text)}.",
        )
        best = grid(out, rule, arguments.optimizer, size, data, tied=arguments.tied)
        apart = math.log2(max(best.values()) / min(best.values()))
        say(out, f"\nThe best rates of these widths lie within {apart:.0f} steps of a factor of 2.\n\n")


if __name__ == "__main__":
    main()
