"""Oracles of FloatFormat that share no code with it: other libraries' casts, and exact fractions."""

import math
from fractions import Fraction

import ml_dtypes
import numpy
import pytest

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, FloatFormat

# Casts of numpy and ml_dtypes from float32, none of which saturates.
PEERS = {
    FP16: (numpy.float16, numpy.uint16),
    BF16: (ml_dtypes.bfloat16, numpy.uint16),
    FP8_E4M3: (ml_dtypes.float8_e4m3fn, numpy.uint8),
    FP8_E5M2: (ml_dtypes.float8_e5m2, numpy.uint8),
    FloatFormat(4, 3): (ml_dtypes.float8_e4m3, numpy.uint8),
    FloatFormat(3, 4): (ml_dtypes.float8_e3m4, numpy.uint8),
}
NAMES = {float_format: float_format.name for float_format in PEERS}
by_format = pytest.mark.parametrize("float_format", PEERS, ids=NAMES.get)


def values_of(float_format):
    """All numbers of a format, decoded by the peer, as float32."""
    peer, integer = PEERS[float_format]
    return numpy.arange(2**float_format.width).astype(integer).view(peer).astype(numpy.float32)


def points_around(float_format):
    """All values of a format, all midpoints of neighbours with those beyond the largest, and the floats beside all."""
    values = values_of(float_format)
    finite = numpy.sort(values[numpy.isfinite(values)].astype(numpy.float64))
    spacing = finite[-1] - finite[-2]
    finite = numpy.concatenate([[finite[0] - spacing], finite, [finite[-1] + spacing]])
    points = numpy.concatenate(
        [values[numpy.isfinite(values)], [numpy.inf, -numpy.inf, numpy.nan], finite, (finite[1:] + finite[:-1]) / 2]
    )
    with numpy.errstate(over="ignore"):
        points = points.astype(numpy.float32)
    above, below = (numpy.nextafter(points, numpy.float32(end)) for end in (numpy.inf, -numpy.inf))
    return numpy.concatenate([points, above, below])


def peer_cast(points, peer):
    with numpy.errstate(all="ignore"):
        return points.astype(peer)


def assert_same_bits(own, peer):
    """Equal to the sign of zeros and NaNs; of a NaN only that it is one, and its sign."""
    own, peer = numpy.asarray(own), numpy.asarray(peer)
    assert own.dtype == peer.dtype
    numpy.testing.assert_array_equal(own, peer)
    numpy.testing.assert_array_equal(numpy.signbit(own), numpy.signbit(peer))


def nearest_by_fractions(x, exponent_bits, mantissa_bits, has_infinity):
    """Round half to even in exact arithmetic (IEEE 754, section 4.3.1)."""
    if math.isnan(x) or x == 0:
        return x
    bias = 2 ** (exponent_bits - 1) - 1
    largest_field = 2**exponent_bits - (2 if has_infinity else 1)
    # The last mantissa of the topmost binade is NaN without infinity.
    largest_mantissa = 2**mantissa_bits - (1 if has_infinity else 2)
    largest = (1 + Fraction(largest_mantissa, 2**mantissa_bits)) * Fraction(2) ** (largest_field - bias)
    overflow = math.copysign(math.inf if has_infinity else math.nan, x)
    if math.isinf(x):
        return overflow
    magnitude, exponent = abs(Fraction(x)), 1 - bias
    while magnitude >= Fraction(2) ** (exponent + 1):
        exponent += 1
    spacing = Fraction(2) ** (exponent - mantissa_bits)
    nearest = round(magnitude / spacing) * spacing  # Python rounds fractions half to even
    return math.copysign(float(nearest), x) if nearest <= largest else overflow
