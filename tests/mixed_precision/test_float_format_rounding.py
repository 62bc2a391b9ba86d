"""FloatFormat.round bit by bit against ml_dtypes, torch's and numpy's casts, and exact fractions."""

import math

import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, FloatFormat
from tests.mixed_precision.float_peers import (
    PEERS,
    assert_same_bits,
    by_format,
    nearest_by_fractions,
    peer_cast,
    points_around,
)


@by_format
def test_rounds_values_midpoints_and_their_neighbours_as_the_peer_does(float_format):
    points = points_around(float_format)
    expected = peer_cast(points, PEERS[float_format][0]).astype(numpy.float32)
    assert_same_bits(float_format.round(torch.from_numpy(points)), expected)


@by_format
def test_rounds_random_bit_patterns_as_the_peer_does(float_format):
    patterns = numpy.random.default_rng(0).integers(0, 2**32, 200_000, dtype=numpy.uint32)
    points = patterns.view(numpy.float32)
    expected = peer_cast(points, PEERS[float_format][0]).astype(numpy.float32)
    assert_same_bits(float_format.round(torch.from_numpy(points)), expected)


@pytest.mark.parametrize(
    ("float_format", "dtype", "saturate"),
    [
        (FP16, torch.float16, False),
        (BF16, torch.bfloat16, False),
        (FP8_E5M2, torch.float8_e5m2, False),
        (FP8_E4M3, torch.float8_e4m3fn, True),
    ],
)
def test_rounds_as_torchs_casts_do_which_saturate_e4m3_only(float_format, dtype, saturate):
    points = torch.from_numpy(points_around(float_format))
    points = points[~points.isnan()]  # torch's vectorised bfloat16 cast loses the sign of NaN
    assert_same_bits(float_format.round(points, saturate=saturate), points.to(dtype).float())


def test_fp32_is_the_identity_on_float32_and_rounds_float64_as_numpy_does():
    patterns = numpy.random.default_rng(1).integers(0, 2**32, 100_000, dtype=numpy.uint32)
    special = numpy.array([0, 1, 2**31, 2**31 + 1, 0x7F7FFFFF, 0x7F800000, 0x00800000, 0x007FFFFF], dtype=numpy.uint32)
    singles = torch.from_numpy(numpy.concatenate([patterns, special]).view(numpy.float32))
    assert_same_bits(FP32.round(singles), singles)
    numbers = ~singles.isnan()
    own_patterns = FP32.bits(singles)[numbers]
    assert torch.equal(own_patterns, singles.view(torch.int32)[numbers].to(torch.int64) & 0xFFFFFFFF)
    assert_same_bits(FP32.from_bits(own_patterns), singles[numbers])

    doubles = singles.double()
    halfway = (doubles + singles.nextafter(torch.tensor(math.inf)).double()) / 2
    for points in (halfway, halfway.nextafter(doubles + 1), halfway.nextafter(doubles - 1)):
        with numpy.errstate(all="ignore"):
            expected = points.numpy().astype(numpy.float32).astype(numpy.float64)
        assert_same_bits(FP32.round(points), expected)


@pytest.mark.parametrize("float_format", [FP16, BF16])
def test_float64_is_rounded_once_where_torch_rounds_twice(float_format):
    # Just above a midpoint, but within half a float32 spacing of it: by way of float32 this would be a tie.
    x = torch.tensor([1 + float_format.epsilon / 2 + 2.0**-40], dtype=torch.float64)
    assert float_format.round(x).item() == 1 + float_format.epsilon
    assert float_format.round(x).dtype == torch.float64
    assert float_format.round(-x).item() == -1 - float_format.epsilon


@settings(max_examples=400)
@given(
    x=st.one_of(st.floats(), st.floats(-600, 600), st.floats(-1e-4, 1e-4)),
    exponent_bits=st.integers(2, 8),
    mantissa_bits=st.integers(1, 23),
    has_infinity=st.booleans(),
    coarse=st.integers(1, 30),
)
@example(x=2.0**-149, exponent_bits=8, mantissa_bits=23, has_infinity=True, coarse=30)
@example(x=-(2.0**-150), exponent_bits=8, mantissa_bits=23, has_infinity=True, coarse=30)
@example(x=3.4028235677973366e38, exponent_bits=8, mantissa_bits=23, has_infinity=True, coarse=30)
@example(x=1.0000001192092896, exponent_bits=5, mantissa_bits=23, has_infinity=True, coarse=30)
def test_any_width_rounds_as_exact_fractions_do(x, exponent_bits, mantissa_bits, has_infinity, coarse):
    # Few significant bits make ties and exact numbers frequent.
    if math.isfinite(x):
        mantissa, exponent = math.frexp(x)
        x = math.ldexp(math.floor(mantissa * 2**coarse), exponent - coarse)
    has_infinity |= exponent_bits == 8
    float_format = FloatFormat(exponent_bits, mantissa_bits, has_infinity)
    own = float_format.round(torch.tensor([x], dtype=torch.float64))
    expected = nearest_by_fractions(x, exponent_bits, mantissa_bits, has_infinity)
    assert_same_bits(own, torch.tensor([expected], dtype=torch.float64))
    single = torch.tensor([x], dtype=torch.float32)
    expected = nearest_by_fractions(single.item(), exponent_bits, mantissa_bits, has_infinity)
    assert_same_bits(float_format.round(single), torch.tensor([expected], dtype=torch.float32))
    if not math.isnan(expected):
        assert_same_bits(
            float_format.from_bits(float_format.bits(single)), torch.tensor([expected], dtype=torch.float32)
        )


@settings(max_examples=100)
@given(x=st.floats(width=32), name=st.sampled_from([FP16, BF16, FP8_E4M3, FP8_E5M2]))
def test_rounding_is_idempotent_odd_and_monotone(x, name):
    x = torch.tensor([x])
    once = name.round(x)
    assert_same_bits(name.round(once), once)
    if not x.isnan():
        assert_same_bits(name.round(-x), -once)
        above = name.round(x.nextafter(torch.tensor(math.inf)), saturate=True)
        assert name.round(x, saturate=True) <= above


@pytest.mark.parametrize(
    ("float_format", "x", "rounded"),
    [
        (FP16, 65519.0, 65504.0),
        (FP16, 65520.0, math.inf),
        (FP16, 2.0**-25, 0.0),
        (FP16, 1.0001 * 2.0**-25, 2.0**-24),
        (FP16, 2049.0, 2048.0),
        (FP16, 2051.0, 2052.0),
        (BF16, 257.0, 256.0),
        (BF16, 2.0**-134, 0.0),
        (BF16, 1e5, 99840.0),
        (FP8_E4M3, 464.0, 448.0),
        (FP8_E4M3, 464.0001, math.nan),
        (FP8_E4M3, math.inf, math.nan),
        (FP8_E4M3, 240.0, 240.0),
        (FP8_E5M2, 61439.0, 57344.0),
        (FP8_E5M2, 61440.0, math.inf),
    ],
)
def test_landmarks(float_format, x, rounded):
    assert_same_bits(
        float_format.round(torch.tensor([x, -x])), torch.tensor([rounded, -rounded]).copysign(torch.tensor([1.0, -1.0]))
    )


@by_format
def test_saturation_gives_the_largest_number_and_keeps_nan(float_format):
    x = torch.tensor([math.inf, -math.inf, 1e30, -2 * float_format.max, float_format.max, math.nan])
    if float_format == BF16:
        x[2] = 3.4e38
    largest = float_format.max
    expected = torch.tensor([largest, -largest, largest, -largest, largest, math.nan])
    assert_same_bits(float_format.round(x, saturate=True), expected)
    assert torch.equal(float_format.bits(x, saturate=True)[:5], float_format.bits(expected[:5]))


def test_bf16_counting_stalls_at_256():
    x = torch.zeros(())
    for _ in range(300):
        x = BF16.round(x + 1)
    assert x.item() == 256
