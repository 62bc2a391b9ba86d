"""FloatFormat's bits, constants and bands against ml_dtypes, numpy and the standards' tables; any tensor and mode."""

import math

import numpy
import pytest
import torch

from steepest.mixed_precision import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, FloatFormat
from tests.host_reads import host_reads
from tests.mixed_precision.float_peers import (
    PEERS,
    assert_same_bits,
    by_format,
    nearest_by_fractions,
    peer_cast,
    points_around,
    values_of,
)


def all_patterns(float_format):
    return torch.arange(2**float_format.width)


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
