import hashlib
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from scipy.stats import kstest, norm

from pipeline.common import keyed, normal_draws
from pipeline.common.normal_draws import box_muller, philox, round_keys

SOME = ("a key", 5)


def made(radii, angles):
    first, second = np.empty(len(radii), np.float32), np.empty(len(radii), np.float32)
    box_muller(radii, angles, first, second)
    return first, second


def exact(radii, angles):
    """What the two words mean, by the machine's own functions in float64."""
    uniform = (radii.astype(np.float64) * 256 + (angles & 0xFF) + 0.5) * 2.0**-40
    turn = (np.float64(angles >> 8) + 0.5) * 2.0**-24
    # The first quarter turn is from -1/8 to 1/8, which loses nothing near 0.
    turn -= 0.125
    radius = np.sqrt(-2 * np.where(uniform > 0.5, np.log1p(uniform - 1), np.log(uniform)))
    return radius * np.cos(2 * math.pi * turn), radius * np.sin(2 * math.pi * turn)


def words_at_the_seams():
    """Random words, and those where the sums take another branch."""
    drawn = np.random.default_rng(0).integers(0, 1 << 32, (2, 200_000), dtype=np.uint32)
    cuts = [0, 1, 2, 3, 255, 256, (1 << 22) - 1, 1 << 22, 1 << 24, 0x80000000, 0xB504F333, 0xB504F334, 0xFFFFFFFE, 0xFFFFFFFF]
    pairs = np.array([(one, other) for one in cuts for other in cuts], dtype=np.uint32).T
    # Radii that are all small, so that each of the largest values comes up.
    small = np.stack([np.repeat(np.arange(64, dtype=np.uint32), 1000), drawn[1, :64_000]])
    return np.concatenate([drawn, pairs, small], axis=1)


def test_the_generator_is_philox_4x32_10():
    # Known answers of Random123, the generator's first implementation.
    for counter, key, answer in [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]:
        words = np.empty((4, 1), np.uint32)
        philox(round_keys(*key), np.array(counter[2:], np.uint32), np.uint64(counter[0] + (counter[1] << 32)), words)
        assert tuple(words[:, 0]) == answer


def test_normal_values_are_the_exact_functions_of_their_words_but_for_rounding():
    radii, angles = words_at_the_seams()
    for found, wanted in zip(made(radii, angles), exact(radii, angles), strict=True):
        # Units in the last place of float32.
        assert np.all(np.abs(found - wanted) <= 4 * np.spacing(np.abs(wanted).astype(np.float32)))


def test_normal_values_are_the_same_in_numpy_one_operation_at_a_time():
    radii, angles = words_at_the_seams()
    f, one = np.float32, np.float32(1)
    upper = radii >= normal_draws._UPPER
    kept, rest = np.where(upper, ~radii, radii), np.where(upper, ~angles, angles) & np.uint32(255)
    low = ((kept & np.uint32(255)) << np.uint32(8)) | rest
    share = ((kept >> np.uint32(8)).astype(f) * f(256) + (low.astype(f) + f(0.5)) * f(2.0**-8)) * f(2.0**-32)
    exponent = (share.view(np.int32) - normal_draws._ROOT_HALF) >> np.int32(23)
    z = (share.view(np.int32) - (exponent << np.int32(23))).view(f) - one
    exponent, z = np.where(upper, np.int32(0), exponent), np.where(upper, -share, z)

    def polynomial(x, *names):
        value = getattr(normal_draws, names[-1])
        for name in reversed(names[:-1]):
            value = value * x + getattr(normal_draws, name)
        return value

    curve = polynomial(z, *(f"_P{number}" for number in range(9)))
    length = np.sqrt(exponent.astype(f) * normal_draws._MINUS_2_LN_2 + (z * z * curve - (z + z)))
    y = (((angles >> np.uint32(8)) & np.uint32(0x3FFFFF)).astype(np.int32) - np.int32(0x200000)).astype(f)
    y = (y + f(0.5)) * f(2.0**-22)
    cosine = polynomial(y * y, *(f"_C{number}" for number in range(5)))
    sine = polynomial(y * y, *(f"_S{number}" for number in range(4))) * y
    quarter = angles >> np.uint32(30)
    sign = np.where(quarter >= 2, -one, one)
    wanted = (
        length * (np.where(quarter % 2 == 1, -sine, cosine) * sign),
        length * (np.where(quarter % 2 == 1, cosine, sine) * sign),
    )
    assert all(value.dtype == f for value in wanted)
    for found, value in zip(made(radii, angles), wanted, strict=True):
        assert np.array_equal(found.view(np.int32), value.view(np.int32))


@pytest.mark.parametrize("cpu", [{"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_OPT": "0"}])
def test_code_for_another_cpu_makes_the_same_bits(cpu, tmp_path):
    # Without AVX and FMA, and without vectors.
    code = (
        "import hashlib; from pipeline.common import keyed; "
        "print(hashlib.sha256(keyed.normal(('a key', 5), 3, 50_001).tobytes()).hexdigest())"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)} | cpu
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert said.stdout.strip() == hashlib.sha256(keyed.normal(SOME, 3, 50_001).tobytes()).hexdigest()


def test_the_values_stay_what_they_were():
    # Whoever changes these changes DRAWS too, so that runs started before are not continued.
    assert keyed.DRAWS == "philox4x32-10, box-muller, float32"
    assert [value.hex() for value in keyed.normal(SOME, 1_000_001, 4).astype(float)] == [
        "0x1.c82f7c0000000p-1",
        "0x1.2da8040000000p+0",
        "0x1.ddf2a40000000p-10",
        "-0x1.7af4c80000000p-2",
    ]


def test_threads_draw_the_same_bits():
    whole = keyed.normal(SOME, 0, 100_000)
    with ThreadPoolExecutor(4) as pool:
        pieces = list(pool.map(lambda start: keyed.normal(SOME, start, 10_000), range(0, 100_000, 10_000)))
    assert np.array_equal(np.concatenate(pieces), whole)


def test_normal_values_are_normal():
    count = 4_000_000
    values = keyed.normal(SOME, 0, count).astype(float)
    # Deviations of the estimates are sqrt(var(z^n) / count) = 5e-4 * sqrt(1, 2, 15, 96); four of them.
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], 1):
        assert abs((values**power).mean() - moment) < 4 * math.sqrt(variance / count)
    assert kstest(values, norm.cdf).pvalue > 1e-3
    # In each of four lanes, which come from different words, and of neighbours together.
    for lane in range(4):
        assert kstest(values[lane::4], norm.cdf).pvalue > 1e-3
    for apart in (1, 2, 3, 4):
        assert abs((values[:-apart] * values[apart:]).mean()) < 4 / math.sqrt(count)
        assert abs((values[:-apart] ** 2 * values[apart:] ** 2).mean() - 1) < 4 * math.sqrt(8 / count)
    for least in (3.0, 4.0):
        expected = 2 * norm.sf(least) * count
        assert abs((np.abs(values) > least).sum() - expected) < 4 * math.sqrt(expected)


def test_the_tails_reach_beyond_seven_deviations():
    # Of 2^40 radii, how many are beyond r is known: 2^40 exp(-r^2 / 2).
    last = np.arange(256, dtype=np.uint32)
    radii, angles = np.repeat(np.arange(4, dtype=np.uint32), 256), np.tile(last, 4)
    radius = np.sort(np.hypot(*(value.astype(float) for value in made(radii, angles))))
    assert radius[-1] > 7.5
    for beyond in (6.5, 6.75, 7.0, 7.25):
        assert abs((radius > beyond).sum() - 2.0**40 * math.exp(-(beyond**2) / 2)) <= 1


def test_where_compiled_code_cannot_be_kept_it_is_compiled_all_the_same(monkeypatch):
    njit = numba.njit

    def unkept(*args, cache=False, **options):
        if cache:
            return lambda function: (_ for _ in ()).throw(RuntimeError("cannot cache function: no locator available"))
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", unkept)
    assert normal_draws._compiled(lambda value: value + 1)(1) == 2
