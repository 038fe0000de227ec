import math

import numpy as np
import pytest

from pipeline.common.errors import UserError
from pipeline.planning.compared_runs import left_out
from pipeline.planning.law import Law, Phase, Training, check_enough, fit, setting_of, training_of, uncertain
from pipeline.planning.record import best_rates
from tests.pipeline.planning.made import TRAITS, TRUE, entry, record, true_law, with_losses

UNSEEN = [
    entry([(1, 1500), (12, 700)], [("stack", "grow")]),
    entry([(3, 2000), (12, 1000)], [("random", "fresh")]),
    entry([(1, 500), (3, 1500), (12, 900)], [("stack", "fresh")] * 2),
    entry([(6, 1500)], []),
]


@pytest.fixture(scope="module")
def runs():
    return [(training_of(one), one["loss"]) for one in record()]


@pytest.fixture(scope="module")
def law(runs):
    return fit(runs)


def test_runs_of_a_known_law_are_recovered_and_so_are_runs_that_were_not_among_them(runs, law):
    for one in with_losses(UNSEEN):
        # Priors draw what the runs bind weakly by less than the noise that is taken to be there.
        assert law.loss(training_of(one)) == pytest.approx(one["loss"], abs=3e-3)
    assert max(abs(law.loss(training) - loss) for training, loss in runs) < 3e-3
    values = dict(zip(law.names, law.values, strict=True))
    setting = runs[0][0].setting
    of = ("depth stack", "state grow", "optimizer adamw")
    kept = values["s"] + values[f"s:{setting}"] + sum(values[f"trait:{trait}"] for trait in of)
    assert kept == pytest.approx(TRUE["s"] + sum(TRAITS[trait] for trait in of), abs=0.3)


def test_the_fit_withstands_a_run_that_went_wrong(runs, law):
    spoilt = [(training, loss + 0.5 * (number == 4)) for number, (training, loss) in enumerate(runs)]
    robust = fit(spoilt, law)
    for one in with_losses(UNSEEN):
        assert robust.loss(training_of(one)) == pytest.approx(one["loss"], abs=0.02)


def test_at_one_size_it_is_hoffmanns_law_and_a_growth_keeps_a_share_of_the_tokens_that_the_source_is_worth():
    constants = {"E": math.log(1.69), "A": math.log(406.4 / 1e6**0.34), "B": math.log(410.7 / 1e7**0.28)}
    values = {"a": 0.34, "b": 0.28, "c": 0.0, "s": 0.5, "log_r": math.log(0.25), "trait:x": 0.5, "trait:y": -40.0}
    values |= {f"{of}:s": constants.get(of, 0.0) for of in (*constants, "a", "b", "c", "s")}
    law = Law(tuple(values), np.array(list(values.values())), 0.01)
    small, large, tokens = 70e6, 280e6, 2e9

    def hoffmann(parameters: float, tokens: float) -> float:
        return 1.69 + 406.4 / parameters**0.34 + 410.7 / tokens**0.28

    assert law.loss(Training("s", (Phase(small, tokens),), ())) == pytest.approx(hoffmann(small, tokens), rel=1e-12)

    def grown(after: float, trait: str = "x", before: float = tokens) -> float:
        return law.loss(Training("s", (Phase(small, before), Phase(large, after)), ((trait,),)))

    # What the large one takes to the small one's loss, a quarter of a power less for its size, and what its growth keeps.
    worth = (410.7 / (hoffmann(small, tokens) - 1.69 - 406.4 / large**0.34)) ** (1 / 0.28)
    kept = 4.0**-0.25 * (1.5 / (1 + math.exp(-1.0)) - 0.5)
    assert worth < tokens
    for after in (1e7, 1e10):
        assert grown(after) == pytest.approx(hoffmann(large, kept * worth + after), rel=1e-9)
    # It saturates: however long the source was trained, it is worth a little more than the large one takes to its limit.
    limit = (410.7 / (406.4 / small**0.34 - 406.4 / large**0.34)) ** (1 / 0.28)
    assert grown(1e9, before=1e40) == pytest.approx(hoffmann(large, kept * limit + 1e9), rel=1e-4)
    # A growth may cost as much as half of that, and never all that comes after it.
    assert grown(1e10, "y") == pytest.approx(hoffmann(large, 1e10 - 4.0**-0.25 * worth / 2), rel=1e-9)
    assert grown(1e7, "y") == pytest.approx(hoffmann(large, 0.2 * 1e7), rel=1e-9)
    # Grown down, as it were: worth no more than the tokens that it saw.
    down = law.loss(Training("s", (Phase(large, tokens), Phase(small, 1e8)), (("x",),)))
    assert down == pytest.approx(hoffmann(small, (1.5 / (1 + math.exp(-1.0)) - 0.5) * tokens + 1e8), rel=1e-9)
    # What it takes to a loss is the inverse of the loss, and without end below what the size can reach.
    assert law.tokens_to("s", small, hoffmann(small, tokens)) == pytest.approx(tokens, rel=1e-9)
    assert law.tokens_to("s", small, 1.69) == math.inf


def test_other_fits_spread_by_noise_little_where_runs_are_and_more_beyond_them():
    runs = [(training_of(one), one["loss"]) for one in record(noise=0.004)]
    law = uncertain(fit(runs), runs, count=15)
    near, far = UNSEEN[0], entry([(1, 60_000), (12, 50_000)], [("stack", "grow")])
    spread = [float(np.std([law.loss(training_of(one), other) for other in law.others])) for one in (near, far)]
    (expected,) = with_losses([near])
    assert abs(law.loss(training_of(near)) - expected["loss"]) < 4 * spread[0] + 0.004
    assert spread[0] < 0.01 < spread[1]


def test_the_constants_of_another_text_are_its_own_and_growth_is_shared():
    # Of the other text runs at one size alone: how it grows is known from the first.
    other = [one for one in record(text="other") if not one["growths"]]
    moved = [one | {"loss": one["loss"] + 0.4} for one in other]
    runs = [(training_of(one), one["loss"]) for one in [*record(), *moved]]
    (unseen,) = with_losses([entry([(1, 1500), (12, 700)], [("stack", "grow")], text="other")])
    assert fit(runs).loss(training_of(unseen)) == pytest.approx(unseen["loss"] + 0.4, abs=0.01)


def test_how_much_a_growth_keeps_is_an_optimizers_own():
    # Under the other one stacks of a grown state alone are known, and what else is grown is predicted from there.
    other = [one | {"optimizer": "muon"} for one in record() if not one["growths"] or one["growths"][0]["depth"] == "stack"]
    runs = [(training_of(one), one["loss"]) for one in [*record(), *with_losses(other)]]
    law = fit(runs)
    for one in with_losses([unseen | {"optimizer": "muon"} for unseen in UNSEEN]):
        assert law.loss(training_of(one)) == pytest.approx(one["loss"], abs=0.01)


def test_each_grown_run_is_predicted_without_its_own_configuration():
    entries = record()[:15]
    law = fit([(training_of(one), one["loss"]) for one in entries])
    compared = left_out(law, entries, setting_of(entries[0]))
    assert len(compared) == sum(bool(one["growths"]) for one in entries)
    assert max(one.points for one in compared) < 3
    # A run that the others contradict is seen to be far off: the fit that tells of it had neither of its two seeds.
    odd = entries[10] | {"loss": entries[10]["loss"] + 0.1}
    spoilt = [*entries[:10], odd, odd | {"run": "again", "seed": 2}, *entries[11:]]
    (wrong,) = [one for one in left_out(law, spoilt, setting_of(odd)) if one.name == f"{odd['name']} and 1 with other seeds"]
    assert wrong.points > 10
    # Without any run that grew in that way, whatever its sizes: less is known.
    (unseen,) = [one for one in left_out(law, entries, setting_of(odd), ways=True) if one.name == odd["name"]]
    assert unseen.predicted != next(one for one in compared if one.name == odd["name"]).predicted
    # Measured by what scratch takes to the same loss, in the law's own curve.
    true = true_law(*entries)
    last = odd["phases"][-1]
    tokens = true.tokens_to(setting_of(odd), last["parameters"], entries[10]["loss"])
    scratch = tokens * last["flops"] / last["tokens"]
    assert compared[1].saved == pytest.approx(1 - entries[10]["flops"] / scratch, abs=0.03)


@pytest.mark.parametrize("kept", [[], [0, 1], [0, 1, 2], [0, 3, 6]])
def test_too_few_runs_at_one_size_are_refused_with_what_to_run(kept, runs):
    some = [run for number, run in enumerate(runs) if number in kept or number > 8]
    with pytest.raises(UserError, match=rf"{len(kept)} runs of the target's text at one size.*--pilot 2%"):
        check_enough(some, runs[0][0].setting)
    check_enough([runs[0], runs[1], runs[3]], runs[0][0].setting)


def test_of_a_sweep_the_best_rate_is_kept_with_all_its_seeds():
    first = entry([(1, 500)], [])
    sweep = [first | {"run": f"{lr}-{seed}", "lr": lr, "seed": seed, "loss": lr + seed} for lr in (1, 2) for seed in (1, 2)]
    # What a suite adds to its runs does not keep a trial apart from the final runs of its configuration.
    sweep[2] |= {"trial": True, "title": "one"}
    other = entry([(3, 500)], []) | {"lr": 7}
    assert [one["run"] for one in best_rates([*sweep, other])] == ["1-1", "1-2", other["run"]]
    # By the seeds that all rates have: another seed of one rate, with a loss of its own, is no reason to take the other.
    further = first | {"run": "1-3", "lr": 1, "seed": 3, "loss": 9}
    assert [one["run"] for one in best_rates([*sweep, further])] == ["1-1", "1-2", "1-3"]
    alone = first | {"run": "3-7", "lr": 3, "seed": 7, "loss": 0.5}
    assert [one["run"] for one in best_rates([*sweep, further, alone])] == ["1-1", "1-2", "1-3"]
