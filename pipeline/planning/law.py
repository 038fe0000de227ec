"""Loss as a function of sizes and tokens, of fixed sizes and of grown ones: the law, and how it is fitted.

A model of N parameters trained on D tokens at one size (Hoffmann et al. 2022, eq. 2, which has c = 0: with few tokens a larger
model may be behind a smaller one):

    L(N, D) = E + A / N^a + B N^c / D^b

A model of N1 parameters is worth T tokens of one of N2, those on which it would have the same loss, L(N2, T) = L(N1, D1), at
most the D1 that it was trained on. A growth from N1 to N2 keeps the share K of them, and D2 tokens later

    L = L(N2, K T + D2),   K = (N1 / N2)^r (1.5 / (1 + exp(-s)) - 0.5)

A second growth goes on from these tokens. So what a source brings saturates in its tokens, as Liew et al. 2025 find for
upcycling: T grows ever more slowly with D1. s is a sum over what a growth is (`traits_of`): the operators, the optimizer and
its state, whether the schedule began again. K may be less than 0, down to a half: some growths cost more than they bring.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, NotRequired

import numpy as np
from scipy.optimize import OptimizeResult, least_squares
from typing_extensions import TypedDict

from pipeline.common.errors import UserError
from pipeline.planning.record import GrowthEntry, RunEntry, ScheduleEntry, operators_of

LEAST_FIXED = 3
"""Runs of a text at one size that its constants E, A and B take, of two sizes and two lengths at least."""

_STEP = 1e-5
"""By which slopes are taken."""

_NOISE = 0.004
"""Nats by which seeds differ, at least: residuals below it weigh no more."""
_HUBER = 2.0
"""In units of the noise: beyond it a run weighs by its distance, and not by its square."""

_PARAMETERS, _TOKENS = 1e6, 1e7
"""Where A and B are given in nats, A / N^a and B / D^b, so that they and the exponents hardly depend on each other in a fit."""

_PRIORS = {
    # Of what settings share: Hoffmann et al.'s exponents, and growths that keep some of what the source is worth.
    **{"a": (0.34, 0.15), "b": (0.28, 0.15), "c": (0.0, 0.2), "s": (1.0, 1.5), "log_r": (math.log(0.5), 1.0)},
    # Of each setting: E, A and B in logarithms of nats, and by how much the others differ from what settings share.
    **{"E:": (0.7, 0.5), "A:": (0.0, 1.0), "B:": (0.0, 1.0), "a:": (0.0, 0.03), "b:": (0.0, 0.03), "c:": (0.0, 0.1)},
    "s:": (0.0, 0.5),
    # Of what each trait of a growth adds to s.
    "trait:": (0.0, 1.0),
}
"""Where parameters lie before runs are looked at, and how far from there they may, by what their names begin with."""

_LOST = 0.8
"""The share of the tokens after a growth that it costs at most: a model is worth some tokens."""

Parameters = Mapping[str, Any]
"""Of the law, by name."""


class Phase(NamedTuple):
    """A size and what is trained at it."""

    parameters: float
    tokens: float


class Training(NamedTuple):
    """What the law looks at of a run: its sizes in turn, and what each growth is."""

    setting: str
    """What the constants E, A and B are of."""
    phases: tuple[Phase, ...]
    growths: tuple[tuple[str, ...], ...]
    """The traits of each growth, one fewer than phases."""

    @property
    def tokens(self) -> float:
        """All tokens."""
        return sum(phase.tokens for phase in self.phases)


def under(optimizer: str) -> str:
    """Return the trait of a growth that its optimizer is."""
    return f"optimizer {optimizer}"


def traits_of(growth: GrowthEntry) -> tuple[str, ...]:
    """Return in words what a growth is, as far as it may matter to the loss, but for the optimizer (`under`)."""
    traits = [f"{axis} {operator}" for axis, operator in operators_of(growth).items()]
    traits.append(f"state {growth['optimizer_state']}")
    if growth["schedule_anew"]:
        traits.append("schedule anew")
    return (*traits, *(f"{key} {value}" for key, value in sorted(growth["options"].items())))


class Setting(TypedDict):
    """What runs share whose losses are compared, for all sizes and lengths; a run of a record has these keys."""

    family: str
    text: str
    sequence_length: int
    batch_tokens: int
    optimizer: str
    schedule: ScheduleEntry
    hyperparameters: NotRequired[dict[str, Any]]


def setting_of(run: Setting | RunEntry) -> str:
    """Return the setting of a run in words."""
    schedule = run["schedule"]
    rates = f"{schedule['name']} {schedule['decay_ratio']:g}" if schedule["name"] == "wsd" else schedule["name"]
    rates += f" to {schedule['final_ratio']:g}" * bool(schedule["final_ratio"])
    words = f"text {run['text']} in windows of {run['sequence_length']}, {run['batch_tokens']} tokens a step"
    others = "".join(f", {key} {value}" for key, value in run.get("hyperparameters", {}).items())
    return f"{run['family']}, {words}, {run['optimizer']}, {rates}{others}"


def training_of(entry: RunEntry) -> Training:
    """Return what the law looks at of a run of a record."""
    phases = tuple(Phase(phase["parameters"], phase["tokens"]) for phase in entry["phases"])
    optimizer = under(entry["optimizer"])
    return Training(setting_of(entry), phases, tuple((*traits_of(growth), optimizer) for growth in entry["growths"]))


@dataclass(frozen=True)
class Law:
    """A fitted law, and others that the same runs may be explained by."""

    names: tuple[str, ...]
    """Of the parameters: those that settings share, as `a`; those of each, as `E:SETTING`; of each trait, `trait:TRAIT`."""
    values: np.ndarray
    noise: float
    """Nats by which a run's loss differs from the law's, as a standard deviation."""
    others: tuple[Parameters, ...] = ()
    """Parameters of fits on losses, and with priors, that were moved by as much as they are uncertain (`uncertain`)."""

    @cached_property
    def fitted(self) -> Parameters:
        """The parameters of the fit, by name."""
        return dict(zip(self.names, self.values.tolist(), strict=True))

    def loss(self, training: Training, parameters: Parameters | None = None) -> float:
        """Return the loss at the end of a training, by the fit or by other parameters."""
        return float(_loss(parameters or self.fitted, training))

    def fixed(self, setting: str, parameters: float, tokens: float) -> float:
        """Return the loss of a model trained at one size."""
        return float(_fixed(self.fitted, setting, parameters, tokens))

    def tokens_to(self, setting: str, parameters: float, loss: float, others: Parameters | None = None) -> float:
        """Return the tokens on which a model trained at one size has a loss; infinite where no number of them suffices."""
        return float(_tokens_to(others or self.fitted, setting, parameters, loss))

    def knows(self, traits: Sequence[str]) -> bool:
        """Whether there were runs with each of these traits."""
        return all(f"trait:{trait}" in self.names for trait in traits)


def _fixed(of: Parameters, setting: str, parameters: float, tokens: Any) -> Any:
    """L(N, D) of a model trained at one size; the law's parameters and tokens may be arrays."""
    size, data = math.log(parameters / _PARAMETERS), np.log(tokens / _TOKENS)
    a, b, c = (of[name] + of[f"{name}:{setting}"] for name in "abc")
    least = np.exp(of[f"E:{setting}"]) + np.exp(of[f"A:{setting}"] - a * size)
    return least + np.exp(of[f"B:{setting}"] + c * size - b * data)


def _tokens_to(of: Parameters, setting: str, parameters: float, loss: Any) -> Any:
    """The inverse of L(N, D) in D; infinite where no number of tokens suffices."""
    size = math.log(parameters / _PARAMETERS)
    a, b, c = (of[name] + of[f"{name}:{setting}"] for name in "abc")
    left = loss - np.exp(of[f"E:{setting}"]) - np.exp(of[f"A:{setting}"] - a * size)
    with np.errstate(all="ignore"):
        tokens = _TOKENS * np.exp((of[f"B:{setting}"] + c * size - np.log(left)) / b)
    return np.where((left > 0) & (b > 0), tokens, np.inf)


def _loss(of: Parameters, training: Training) -> Any:
    """The loss at the end of a training; parameters may be arrays. Traits that no run has add nothing."""
    setting, worth = training.setting, training.phases[0].tokens
    for before, phase, traits in zip(training.phases, training.phases[1:], training.growths, strict=False):
        as_large = _tokens_to(of, setting, phase.parameters, _fixed(of, setting, before.parameters, worth))
        s = of["s"] + of[f"s:{setting}"] + sum(of.get(f"trait:{trait}", 0.0) for trait in traits)
        smaller = min(0.0, math.log(before.parameters / phase.parameters))
        kept = np.exp(np.exp(of["log_r"]) * smaller) * (1.5 / (1 + np.exp(-s)) - 0.5)
        worth = np.maximum(kept * np.minimum(worth, as_large), -_LOST * phase.tokens) + phase.tokens
    return _fixed(of, setting, training.phases[-1].parameters, worth)


def check_enough(runs: Sequence[tuple[Training, float]], setting: str) -> None:
    """Raise UserError, saying what to run, where the runs of a setting at one size are too few for its constants."""
    fixed = [training.phases[0] for training, _ in runs if training.setting == setting and len(training.phases) == 1]
    sizes, lengths = ({getattr(phase, of) for phase in fixed} for of in Phase._fields)
    if len(fixed) < LEAST_FIXED or min(len(sizes), len(lengths)) < 2:
        raise UserError(
            f"--record: {len(fixed)} runs of the target's text at one size, of {len(sizes)} sizes and {len(lengths)} lengths, "
            f"are too few to fit a law on; it takes {LEAST_FIXED}, of two sizes and two lengths at least: plan some with "
            "--pilot 2%, and start them with --run"
        )


def check_tokens(runs: Sequence[tuple[Training, float]], setting: str, tokens: int) -> None:
    """Raise UserError where a plan is for far fewer tokens than any run of its setting had, of which the law knows nothing."""
    fewest = min(training.tokens for training, _ in runs if training.setting == setting)
    if tokens < fewest / 2:
        raise UserError(
            f"--tokens: {tokens:,} are less than half of the {fewest:,.0f} of the shortest run with the target's text, and the "
            "law says nothing of so few; name more, or add shorter runs to the record"
        )


class _Problem:
    """Runs whose losses a law is to give."""

    def __init__(self, runs: Sequence[tuple[Training, float]]) -> None:
        self.trainings = [training for training, _ in runs]
        self.losses = np.array([loss for _, loss in runs])
        self.settings = list(dict.fromkeys(training.setting for training in self.trainings))
        traits = list(dict.fromkeys(trait for training in self.trainings for growth in training.growths for trait in growth))
        shared = [of for of in _PRIORS if not of.endswith(":")]
        of_settings = [f"{of}:{setting}" for setting in self.settings for of in "EABabcs"]
        self.names = (*shared, *of_settings, *(f"trait:{trait}" for trait in traits))
        priors = [_PRIORS["".join(name.partition(":")[:2])] for name in self.names]
        self.centre, self.spread = np.array(priors).T

    def predicted(self, values: np.ndarray) -> np.ndarray:
        """The law's losses, by parameters in the last axis."""
        of = {name: values[..., number] for number, name in enumerate(self.names)}
        return np.stack([_loss(of, training) for training in self.trainings], axis=-1)

    def starts(self) -> Iterator[np.ndarray]:
        """Parameters to begin with: those of the runs at one size alone, and growths that keep little, some and most."""
        fixed = [(training, loss) for training, loss in zip(self.trainings, self.losses, strict=True) if not training.growths]
        sizes = _Problem(fixed)
        found = sizes.solved(sizes._guesses(), sizes.losses, sizes.centre)
        known = dict(zip(sizes.names, found.x, strict=True))
        start = np.array([known.get(name, guess) for name, guess in zip(self.names, next(self._guesses()), strict=True)])
        for more in (0.0, 1.0, -1.0):
            yield start + more * np.array([name == "s" for name in self.names])

    def _guesses(self) -> Iterator[np.ndarray]:
        """Parameters of models that were trained at one size, by how much of the loss no model gets rid of."""
        lowest: dict[str, float] = {}
        for training, loss in zip(self.trainings, self.losses, strict=True):
            lowest[training.setting] = min(loss, lowest.get(training.setting, math.inf))
        for share in (0.5, 0.75, 0.9):
            start = dict(zip(self.names, self.centre, strict=True))
            for setting, loss in lowest.items():
                start[f"E:{setting}"] = math.log(share * loss)
                start |= dict.fromkeys((f"A:{setting}", f"B:{setting}"), math.log((1 - share) * loss / 2))
            yield np.array(list(start.values()))

    def near(self, law: Law) -> np.ndarray:
        """The parameters of another law, as far as it has them."""
        known = dict(zip(law.names, law.values, strict=True))
        return np.array([known.get(name, centre) for name, centre in zip(self.names, self.centre, strict=True)])

    def solved(self, starts: Iterable[np.ndarray], losses: np.ndarray, centre: np.ndarray) -> OptimizeResult:
        """Return the best fit on such losses, with priors around `centre`."""

        def residuals(values: np.ndarray) -> np.ndarray:
            with np.errstate(all="ignore"):
                far = (np.log(self.predicted(values)) - np.log(losses)) * losses / _NOISE
            far = np.nan_to_num(far, nan=1e6, posinf=1e6, neginf=-1e6)
            size = np.abs(far)
            # Huber's loss as the square of a residual, so that priors stay quadratic.
            robust = np.where(size <= _HUBER, far, np.sign(far) * np.sqrt(np.maximum(2 * _HUBER * size - _HUBER**2, 0)))
            return np.concatenate([robust, (values - centre) / self.spread], axis=-1)

        def slopes(values: np.ndarray) -> np.ndarray:
            moved = _STEP * np.eye(len(values))
            return (residuals(values + moved) - residuals(values - moved)).T / (2 * _STEP)

        found = [least_squares(residuals, start, slopes, x_scale=self.spread, max_nfev=300) for start in starts]
        return min(found, key=lambda one: one.cost)


def fit(runs: Sequence[tuple[Training, float]], near: Law | None = None) -> Law:
    """Fit the law on trainings and their losses, by Huber's loss on log L as Hoffmann et al. do.

    From several starts, or from a law that most of the runs were fitted to before.
    """
    problem = _Problem(runs)
    starts = problem.starts() if near is None else [problem.near(near)]
    best = problem.solved(starts, problem.losses, problem.centre)
    # How many of the parameters the runs determine, and not the priors.
    of_runs = best.jac[: len(runs)].T @ best.jac[: len(runs)]
    taken = float(np.trace(np.linalg.solve(best.jac.T @ best.jac, of_runs)))
    far = problem.losses - problem.predicted(best.x)
    return Law(problem.names, best.x, max(_NOISE, math.sqrt(float(far @ far) / max(1.0, len(runs) - taken))))


def uncertain(law: Law, runs: Sequence[tuple[Training, float]], count: int) -> Law:
    """Return the law with `others`: a bootstrap over the runs, of losses that are drawn again around the law's own.

    Priors are drawn again too, or what no run informs would look certain.
    """
    problem, draw = _Problem(runs), np.random.default_rng(0)
    start = problem.near(law)
    predicted = problem.predicted(start)
    others = []
    for _ in range(count):
        losses = predicted + law.noise * draw.standard_normal(len(predicted))
        centre = problem.centre + problem.spread * draw.standard_normal(len(problem.centre))
        found = problem.solved([start], losses, centre)
        others.append(dict(zip(problem.names, found.x.tolist(), strict=True)))
    return replace(law, others=tuple(others))
