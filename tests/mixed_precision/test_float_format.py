"""FloatFormat bit by bit against ml_dtypes, torch's and numpy's casts, exact fractions, and the standards' tables."""

import math
from fractions import Fraction

import ml_dtypes
import numpy
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, FloatFormat
from tests.host_reads import host_reads

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


def all_patterns(float_format):
    return torch.arange(2**float_format.width)


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


@by_format
def test_bit_patterns_are_the_peers(float_format):
    peer, integer = PEERS[float_format]
    points = points_around(float_format)
    cast = peer_cast(points, peer)
    numbers = ~numpy.isnan(cast.astype(numpy.float32))
    patterns = float_format.bits(torch.from_numpy(points)).numpy()
    numpy.testing.assert_array_equal(patterns[numbers], cast.view(integer)[numbers])
    # Payloads differ among implementations; the quiet NaN without payload is the same in all.
    nans = torch.tensor([math.nan, -math.nan]).copysign(torch.tensor([1.0, -1.0]))
    numpy.testing.assert_array_equal(float_format.bits(nans).numpy(), nans.numpy().astype(peer).view(integer))


@by_format
def test_patterns_decode_as_the_peers_and_encode_back(float_format):
    patterns = all_patterns(float_format)
    decoded = float_format.from_bits(patterns)
    assert decoded.dtype == torch.float32
    assert_same_bits(decoded, values_of(float_format))
    numbers = ~decoded.isnan()
    assert torch.equal(float_format.bits(decoded)[numbers], patterns[numbers])
    assert float_format.bits(decoded)[~numbers].unique().numel() == 2
    # As torch and numpy view them: of the format's own width, with or without a sign.
    kinds = (torch.uint8, torch.int8) if float_format.width == 8 else (torch.uint16, torch.int16)
    for kind in kinds:
        assert_same_bits(float_format.from_bits(patterns.to(kind)), decoded)


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
    ("float_format", "maximum", "normal", "subnormal", "epsilon"),
    [
        # IEEE 754-2019, table 3.5; for BF16 the same formulas; OFP8 1.0, tables 1 and 2.
        (FP32, 3.4028234663852886e38, 2.0**-126, 2.0**-149, 2.0**-23),
        (FP16, 65504.0, 2.0**-14, 2.0**-24, 2.0**-10),
        (BF16, 3.3895313892515355e38, 2.0**-126, 2.0**-133, 2.0**-7),
        (FP8_E4M3, 448.0, 2.0**-6, 2.0**-9, 2.0**-3),
        (FP8_E5M2, 57344.0, 2.0**-14, 2.0**-16, 2.0**-2),
    ],
)
def test_constants_are_those_of_the_standards(float_format, maximum, normal, subnormal, epsilon):
    assert float_format.max == maximum and float_format.smallest_normal == normal
    assert float_format.smallest_subnormal == subnormal and float_format.epsilon == epsilon


@pytest.mark.parametrize(
    ("float_format", "dtype"),
    [
        (FP32, torch.float32),
        (FP16, torch.float16),
        (BF16, torch.bfloat16),
        (FP8_E4M3, torch.float8_e4m3fn),
        (FP8_E5M2, torch.float8_e5m2),
    ],
)
def test_constants_are_those_of_finfo(float_format, dtype):
    finfo = torch.finfo(dtype)
    assert (float_format.max, float_format.epsilon) == (finfo.max, finfo.eps)
    assert (float_format.smallest_normal, float_format.width) == (finfo.smallest_normal, finfo.bits)


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


def bands_by_hand(float_format, tensor):
    counts = dict.fromkeys(("zero", "subnormal", "normal", "overflow", "nan"), 0)
    for x in tensor.flatten().tolist():
        rounded = abs(
            nearest_by_fractions(x, float_format.exponent_bits, float_format.mantissa_bits, float_format.has_infinity)
        )
        if math.isnan(x):
            counts["nan"] += 1
        elif rounded > float_format.max or math.isnan(rounded):
            counts["overflow"] += 1
        elif rounded == 0:
            counts["zero"] += 1
        else:
            counts["normal" if rounded >= float_format.smallest_normal else "subnormal"] += 1
    return counts


@by_format
def test_bands_count_what_rounding_gives(float_format):
    generator = torch.Generator().manual_seed(0)
    exponents = torch.empty(400).uniform_(-150, 127, generator=generator)
    smallest, normal, largest = float_format.smallest_subnormal, float_format.smallest_normal, float_format.max
    # On the edges: half the smallest, the last below the smallest normal, ties that round up to it, the overflow.
    edges = [0.0, smallest / 2, smallest * 0.51, smallest, normal - smallest, normal - smallest / 2, normal, largest]
    edges += [largest * (1 + float_format.epsilon / 8), largest * (1 + float_format.epsilon), math.inf, math.nan]
    tensor = torch.cat([exponents.exp2() * exponents.sign(), torch.tensor(edges), -torch.tensor(edges)]).reshape(2, -1)
    bands = float_format.bands(tensor)
    counts = {band: int(count) for band, count in bands._asdict().items()}
    assert counts == bands_by_hand(float_format, tensor) and sum(counts.values()) == tensor.numel()
    torch.testing.assert_close(torch.stack(bands.shares), torch.stack(bands) / tensor.numel())


def test_shares_of_nothing_are_zero():
    assert torch.stack(FP16.bands(torch.empty(0, 3)).shares).tolist() == [0.0] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_inputs_are_widened(dtype):
    x = torch.tensor([1.0, 65504.0, 2.0**-24, -0.1, math.inf]).to(dtype)
    for float_format in (FP16, BF16, FP8_E4M3):
        assert float_format.round(x).dtype == torch.float32
        assert_same_bits(float_format.round(x), float_format.round(x.float()))
        assert torch.equal(float_format.bits(x), float_format.bits(x.float()))
        assert float_format.bands(x) == float_format.bands(x.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("float_format", [FP32, BF16, FP16])
def test_any_shape_stride_and_mode_without_touching_the_input(float_format, dtype):
    x = torch.linspace(-3, 3, 24, dtype=dtype).reshape(4, 6).T.requires_grad_()
    before = x.detach().clone()
    rounded = float_format.round(x)
    assert rounded.shape == x.shape and rounded.dtype == dtype and not rounded.requires_grad
    assert_same_bits(rounded, float_format.round(before.contiguous()))
    float_format.bits(x), float_format.bands(x)
    assert torch.equal(x, before)
    assert float_format.round(torch.empty(0, 2, dtype=dtype)).shape == (0, 2)
    assert float_format.round(torch.tensor(0.1, dtype=dtype)).shape == ()
    with torch.inference_mode():
        assert_same_bits(float_format.round(x), rounded)
    rounded.zero_()
    assert torch.equal(x, before)


def test_the_host_reads_nothing():
    x = torch.randn(100)
    with host_reads() as reads:
        for float_format in (FP32, FP16, FP8_E4M3):
            float_format.from_bits(float_format.bits(x))
            float_format.round(x, saturate=True)
            torch.stack(float_format.bands(x).shares)
    assert reads == []


@pytest.mark.parametrize("float_format", [BF16, FP16, FP8_E4M3])
def test_compiles_without_graph_breaks(float_format):
    x = torch.randn(50) * 1e3
    compiled = torch.compile(lambda x: float_format.round(x), backend="aot_eager", fullgraph=True)
    assert_same_bits(compiled(x), float_format.round(x))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_default_dtype_does_not_matter(default):
    x = torch.tensor([0.1, 1e-7, -1e6, math.nan, -0.0], dtype=torch.float32)
    patterns = torch.arange(-5, 70000)
    expected = FP16.round(x), FP16.bits(x), FP16.from_bits(patterns)
    torch.set_default_dtype(default)
    try:
        got = FP16.round(x), FP16.bits(x), FP16.from_bits(patterns)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(got, expected, strict=True):
        assert_same_bits(one, other)
    # Bits above the width don't count.
    assert_same_bits(expected[2][5 + 2**16 :], expected[2][5 : 70000 - 2**16 + 5])


def test_bf16_counting_stalls_at_256():
    x = torch.zeros(())
    for _ in range(300):
        x = BF16.round(x + 1)
    assert x.item() == 256


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, 3), ValueError, "exponent_bits must be >= 2"),
        ((9, 3), ValueError, "exponent_bits must be <= 8"),
        ((5, 0), ValueError, "mantissa_bits must be >= 1"),
        ((5, 24), ValueError, "mantissa_bits must be <= 23"),
        ((8, 3, False), ValueError, "has_infinity must be True with exponent_bits=8"),
        ((5.0, 3), TypeError, "exponent_bits must be a Python int"),
    ],
)
def test_wrong_widths_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        FloatFormat(*arguments)


def test_wrong_tensors_are_named():
    for call in (FP16.round, FP16.bits, FP16.bands):
        with pytest.raises(TypeError, match=r"tensor must be a torch\.Tensor"):
            call(1.0)
        with pytest.raises(TypeError, match="tensor must have a real floating dtype"):
            call(torch.arange(3))
        with pytest.raises(TypeError, match="tensor must be float16, bfloat16, float32 or float64"):
            call(torch.ones(2).to(torch.float8_e5m2))
    with pytest.raises(TypeError, match=r"bits must be a tensor of integers, got torch.float32"):
        FP16.from_bits(torch.ones(2))
    with pytest.raises(TypeError, match="bits must be a tensor of integers, got int"):
        FP16.from_bits(3)


def test_formats_are_named_and_compare_by_value():
    assert FloatFormat(4, 3).name == "E4M3" and FP16.name == "FP16"
    assert FloatFormat(5, 10) == FP16 and len({FloatFormat(5, 10), FP16, FloatFormat(8, 7), BF16}) == 2
    assert FloatFormat(4, 3) != FP8_E4M3


@pytest.mark.gpu
@pytest.mark.parametrize("float_format", [FP32, *PEERS], ids=lambda float_format: float_format.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cuda_gives_the_bits_of_the_cpu(float_format, dtype):
    patterns = numpy.random.default_rng(0).integers(0, 2**32, 200_000, dtype=numpy.uint32)
    points = torch.from_numpy(numpy.concatenate([patterns.view(numpy.float32), points_around(FP16)])).to(dtype)
    on_gpu = points.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        rounded, bits, bands = float_format.round(on_gpu), float_format.bits(on_gpu), float_format.bands(on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same_bits(rounded.cpu(), float_format.round(points))
    assert torch.equal(bits.cpu(), float_format.bits(points))
    assert [band.item() for band in bands] == [band.item() for band in float_format.bands(points)]
