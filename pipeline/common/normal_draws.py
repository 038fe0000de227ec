"""Standard normal values by counter, the same bits on every CPU: Philox 4x32-10, and Box-Muller in exact operations.

Only integer operations, comparisons and single IEEE additions, multiplications and square roots: logarithm, sine and
cosine are polynomials of this file. numba contracts none of them to a fused multiply-add unless it is asked to, and each
value depends on its own counter alone, so neither the vectors' width nor threads change a bit.
"""

import math
from collections.abc import Callable

import numba
import numpy as np

PER_BLOCK = 4
"""Values that one counter makes."""

_u32, _u64, _i32, _f32 = np.uint32, np.uint64, np.int32, np.float32

# Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC11).
_ROUNDS = 10
_MULTIPLIERS = (_u64(0xD2511F53), _u64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_M0, _M1 = _MULTIPLIERS
_WORD = 0xFFFFFFFF
_SHIFT = _u64(32)

_AT_ONCE = 1024
"""Counters that are worked on together: they stay in the first cache."""

# Interpolated at Chebyshev nodes in 40 digits. -2 log(1 + z) is -2 z + z^2 P(z) for z from sqrt(1/2) - 1 to sqrt(2) - 1.
_P0, _P1, _P2, _P3, _P4, _P5, _P6, _P7, _P8 = map(
    _f32,
    (
        *(0.999999952995, -0.666666600567, 0.500015624796, -0.400024689222, 0.332532912583),
        *(-0.284097119051, 0.262551113026, -0.25445345576, 0.153472830033),
    ),
)
# cos(pi/2 y) and sin(pi/2 y) / y as polynomials in y^2, for y from -1/2 to 1/2.
_C0, _C1, _C2, _C3, _C4 = map(_f32, (1.0, -1.23370054063, 0.253669203655, -0.0208600695003, 0.00090362806638))
_S0, _S1, _S2, _S3 = map(_f32, (1.57079632195, -0.645963477665, 0.0796802176478, -0.00460214921281))

_ROOT_HALF = _i32(0x3F3504F3)
"""The bits of sqrt(1/2) in float32."""
_UPPER = _u32(0xB504F334)
"""sqrt(1/2) as a share of 2^32."""
_MINUS_2_LN_2 = _f32(-2 * math.log(2))
_ONE, _HALF = _f32(1), _f32(0.5)
_UP_8, _DOWN_8, _DOWN_22, _DOWN_32 = _f32(2.0**8), _f32(2.0**-8), _f32(2.0**-22), _f32(2.0**-32)
_LOW_8, _LOW_22, _MIDDLE_22 = _u32(0xFF), _u32(0x3FFFFF), _i32(0x200000)
_ODD, _NEGATIVE, _NONE = _u32(1 << 30), _u32(1 << 31), _u32(0)
_BITS_8, _MANTISSA = _u32(8), _i32(23)


def _compiled(function: Callable) -> Callable:
    """Compile at the first call, without the interpreter's lock, and keep the code for later processes."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # Nowhere to keep it, neither beside this file nor in the user's cache directory: a second of each process.
        return numba.njit(nogil=True)(function)


def round_keys(first: int, second: int) -> np.ndarray:
    """Return the keys of Philox's rounds, uint32 [rounds, 2]."""
    return np.array(
        [
            [(key + number * step) & _WORD for key, step in zip((first, second), _WEYL, strict=True)]
            for number in range(_ROUNDS)
        ],
        dtype=np.uint32,
    )


@_compiled
def philox(keys: np.ndarray, high: np.ndarray, first: int, words: np.ndarray) -> None:
    """Write the four words of counters first, first + 1 and so on to `words`, uint32 [4, n].

    `keys` are round_keys, `high` the upper two words of every counter, uint32 [2].
    """
    for place in range(words.shape[1]):
        counter = _u64(first) + _u64(place)
        a, b, c, d = _u32(counter), _u32(counter >> _SHIFT), high[0], high[1]
        for number in range(_ROUNDS):
            left, right = _u64(a) * _M0, _u64(c) * _M1
            a, c = _u32(_u32(right >> _SHIFT) ^ b ^ keys[number, 0]), _u32(_u32(left >> _SHIFT) ^ d ^ keys[number, 1])
            b, d = _u32(right), _u32(left)
        words[0, place], words[1, place], words[2, place], words[3, place] = a, b, c, d


@_compiled
def box_muller(radii: np.ndarray, angles: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Write two independent standard normal values of each two words, uint32, to `first` and `second`, float32.

    The radius has 40 bits, 8 of them the angle's last, so that values reach 7.5; the angle has the other 24. Values are
    within 4 units in the last place, 3e-7, of what exact functions give.
    """
    for place in range(len(radii)):
        radius, angle = radii[place], angles[place]
        # u = radius / 2^32, or 1 - u where u is above sqrt(1/2): what is small is exact.
        upper = radius >= _UPPER
        kept = _u32(~radius) if upper else radius
        rest = _u32((_u32(~angle) if upper else angle) & _LOW_8)
        whole = _f32(_i32(kept >> _BITS_8)) * _UP_8
        share = (whole + (_f32(_i32(((kept & _LOW_8) << _BITS_8) | rest)) + _HALF) * _DOWN_8) * _DOWN_32
        # u = 2^exponent (1 + z)
        bits = np.float32(share).view(np.int32)
        exponent = _i32(_i32(bits - _ROOT_HALF) >> _MANTISSA)
        z = np.int32(bits - _i32(exponent << _MANTISSA)).view(np.float32) - _ONE
        if upper:
            exponent, z = _i32(0), -share
        sum_ = ((((((((_P8 * z + _P7) * z + _P6) * z + _P5) * z + _P4) * z + _P3) * z + _P2) * z + _P1) * z) + _P0
        length = np.sqrt(_f32(exponent) * _MINUS_2_LN_2 + (z * z * sum_ - (z + z)))
        y = (_f32(_i32(_u32(angle >> _BITS_8) & _LOW_22) - _MIDDLE_22) + _HALF) * _DOWN_22
        square = y * y
        cosine = (((_C4 * square + _C3) * square + _C2) * square + _C1) * square + _C0
        sine = (((_S3 * square + _S2) * square + _S1) * square + _S0) * y
        # By quarter turns.
        odd, sign = (angle & _ODD) != _NONE, -_ONE if (angle & _NEGATIVE) != _NONE else _ONE
        first[place] = length * ((-sine if odd else cosine) * sign)
        second[place] = length * ((cosine if odd else sine) * sign)


@_compiled
def fill_normal(keys: np.ndarray, high: np.ndarray, first: int, values: np.ndarray) -> None:
    """Write the values of counters first, first + 1 and so on to `values`, float32 [counters, 4]."""
    size = min(_AT_ONCE, len(values))
    # Whole arrays, so that the loops over them are known to go through memory in a row.
    words, made = np.empty((4, size), np.uint32), np.empty((4, size), np.float32)
    for begin in range(0, len(values), size):
        philox(keys, high, first + begin, words)
        box_muller(words[0], words[1], made[0], made[1])
        box_muller(words[2], words[3], made[2], made[3])
        for place in range(min(size, len(values) - begin)):
            for number in range(4):
                values[begin + place, number] = made[number, place]


@_compiled
def fill_normal_rows(keys: np.ndarray, high: np.ndarray, start: int, width: int, values: np.ndarray) -> None:
    """Write to each row of `values`, float32 [rows, columns], the values from place `start` on; `width` places further each.

    Place p of a stream is value p % 4 of counter p // 4.
    """
    count = values.shape[1]
    made = np.empty((count // PER_BLOCK + 2, PER_BLOCK), np.float32)
    for row in range(values.shape[0]):
        begin = start + row * width
        first = begin // PER_BLOCK
        behind = (begin + count + PER_BLOCK - 1) // PER_BLOCK
        fill_normal(keys, high, first, made[: behind - first])
        values[row, :] = made.reshape(-1)[begin - first * PER_BLOCK :][:count]
