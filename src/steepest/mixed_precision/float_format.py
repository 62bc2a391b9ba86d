"""Binary floating-point formats of any width, emulated bit by bit in a wider one.

Sources: IEEE 754-2019, sections 3.3, 3.4, 4.3.1 and 7.4; Open Compute Project, "OCP 8-bit Floating Point
Specification (OFP8)", revision 1.0 (2023), for E4M3, E5M2 and saturation.

| symbol                        | here                       |
|-------------------------------|----------------------------|
| w, the exponent's bits        | `exponent_bits`            |
| t, the stored mantissa's bits | `mantissa_bits`            |
| bias = 2^(w-1) - 1            | `bias`                     |
| emin = 1 - bias               | `smallest_normal` = 2^emin |
| emax                          | `max` = (2 - 2^-t) 2^emax  |
| 2^(emin - t)                  | `smallest_subnormal`       |
| 2^-t, from 1 to its successor | `epsilon`                  |

A pattern with sign s, exponent field E and mantissa field M stands for (-1)^s (1 + M 2^-t) 2^(E - bias), or for
(-1)^s M 2^(emin - t) where E = 0: the zeros and the subnormal numbers.

Rounding is one addition. The sum of x and a power of two c has the spacing of c's binade; with c chosen so
that this is the target's spacing at x, the hardware rounds half to even there, and subtracting c is exact.
"""

from dataclasses import dataclass, field

import torch

from steepest.mixed_precision.float_bands import FloatBands
from steepest.validation import require_count, require_floating

# The stored mantissa's bits, the integers of the same width, and the mask of the exponent field.
SOURCES = {
    torch.float32: (23, torch.int32, 0x7F800000),
    torch.float64: (52, torch.int64, 0x7FF0000000000000),
}
DOUBLE_MANTISSA_BITS, DOUBLE_BIAS = 52, 1023
NARROW = (torch.float16, torch.bfloat16)
INTEGERS = (torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class FloatFormat:
    """A binary floating-point format up to FP32's width: its numbers, its rounding and its bit patterns.

    Args:
        exponent_bits: from 2 to 8.
        mantissa_bits: stored bits of the significand, from 1 to 23; the leading one isn't stored.
        has_infinity: True for IEEE 754's encoding, where exponent field of all ones means infinity or NaN. False for
            that of OFP8's E4M3, called 'fn' (finite, with NaN): only a pattern of all ones after the sign is NaN,
            and the others extend the range by nearly one binade; needs `exponent_bits` < 8.
        name: for printing, E and M with their bits by default; formats are equal if all else is.

    Raises:
        TypeError: a width isn't an int.
        ValueError: a width is out of range, for the encoding.

    Example:
        >>> FP16.max, FP16.smallest_normal, FP16.smallest_subnormal
        (65504.0, 6.103515625e-05, 5.960464477539063e-08)
        >>> FloatFormat(exponent_bits=4, mantissa_bits=3).max, FP8_E4M3.max
        (240.0, 448.0)
    """

    exponent_bits: int
    mantissa_bits: int
    has_infinity: bool = True
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name, minimum, maximum in (("exponent_bits", 2, 8), ("mantissa_bits", 1, 23)):
            require_count(name, getattr(self, name), minimum)
            if getattr(self, name) > maximum:
                raise ValueError(f"{name} must be <= {maximum}, FP32's, got {getattr(self, name)}")
        if self.exponent_bits == 8 and not self.has_infinity:
            raise ValueError("has_infinity must be True with exponent_bits=8, or numbers exceed FP32's range")
        if not self.name:
            object.__setattr__(self, "name", f"E{self.exponent_bits}M{self.mantissa_bits}")

    @property
    def width(self) -> int:
        """Bits of a number, sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def bias(self) -> int:
        """What is subtracted from the exponent field to get the exponent of two."""
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def max(self) -> float:
        """The largest finite number."""
        # Of the topmost exponent field, IEEE 754 makes infinity and NaN, 'fn' only its last pattern NaN.
        if self.has_infinity:
            return (2 - self.epsilon) * 2.0 ** (2**self.exponent_bits - 2 - self.bias)
        return (2 - 2 * self.epsilon) * 2.0 ** (2**self.exponent_bits - 1 - self.bias)

    @property
    def smallest_normal(self) -> float:
        """The smallest positive number with full precision."""
        return 2.0 ** (1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number, and the spacing of all numbers below twice the smallest normal one."""
        return self.smallest_normal * self.epsilon

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next larger number, `torch.finfo.eps`; rounding errs by half of it at most."""
        return 2.0**-self.mantissa_bits

    @torch.no_grad()
    def round(self, tensor: torch.Tensor, saturate: bool = False) -> torch.Tensor:
        """Return the nearest numbers of the format, ties to the even mantissa (IEEE 754, section 4.3.1).

        The signs of zeros and the NaNs are kept. A magnitude overflows if it is still larger than `max` after
        rounding as if exponents had no upper limit. OFP8 knows two conversions: non-saturating, where overflow
        gives infinity, or NaN in a format without it, and saturating, where overflow and infinities give ±`max`.
        The former is IEEE 754's and ml_dtypes', and torch 2.13's except for float8_e4m3fn, where it saturates.

        Args:
            tensor: any shape; float32 or float64, or float16 or bfloat16, which are widened to float32 first.
            saturate: ±`max` on overflow instead of infinity or NaN.

        Returns:
            The rounded values, detached: the derivative of rounding is zero almost everywhere. In the dtype of
            `tensor`, or float32 for float16 and bfloat16, which can't hold the numbers of every other format.

        Raises:
            TypeError: `tensor` isn't a dense tensor of one of these dtypes.

        Example:
            >>> FP16.round(torch.tensor([65519.0, 65520.0, 2**-25, 1.0001 * 2**-25]))
            tensor([6.5504e+04,        inf, 0.0000e+00, 5.9605e-08])
            >>> FP8_E4M3.round(torch.tensor([464.0, 465.0])), FP8_E4M3.round(torch.tensor([465.0]), saturate=True)
            (tensor([448.,  nan]), tensor([448.]))
        """
        source = self._widened(tensor)
        beyond = self.max if saturate else torch.inf if self.has_infinity else torch.nan
        magnitude = self._rounded_magnitude(source)
        return magnitude.masked_fill_(magnitude > self.max, beyond).copysign_(source)

    @torch.no_grad()
    def bits(self, tensor: torch.Tensor, saturate: bool = False) -> torch.Tensor:
        """Return the bit patterns of the rounded values as int64 from 0 to 2^`width` - 1.

        NaNs keep their sign and lose their payload: the pattern is IEEE 754's quiet one (first mantissa bit set,
        the others clear), or all ones without infinity.

        Args:
            tensor, saturate: as for `round`.

        Raises:
            TypeError: as for `round`.

        Example:
            >>> [f"{pattern:016b}" for pattern in FP16.bits(torch.tensor([1.0, -2.0, 2**-24]))]
            ['0011110000000000', '1100000000000000', '0000000000000001']
        """
        rounded = self.round(tensor, saturate).double()
        magnitude = rounded.abs()
        # In float64 every number but 0 is normal: dropping trailing mantissa bits leaves exponent and mantissa.
        normal = magnitude.view(torch.int64) >> (DOUBLE_MANTISSA_BITS - self.mantissa_bits)
        normal -= (DOUBLE_BIAS - self.bias) << self.mantissa_bits
        subnormal = (magnitude / self.smallest_subnormal).to(torch.int64)
        pattern = torch.where(magnitude < self.smallest_normal, subnormal, normal)
        all_ones = (1 << (self.width - 1)) - 1
        infinity = all_ones - ((1 << self.mantissa_bits) - 1)
        nan = infinity + (1 << (self.mantissa_bits - 1)) if self.has_infinity else all_ones
        pattern = pattern.masked_fill(magnitude.isinf(), infinity).masked_fill(magnitude.isnan(), nan)
        return pattern + (rounded.signbit().to(torch.int64) << (self.width - 1))

    def from_bits(self, bits: torch.Tensor) -> torch.Tensor:
        """Return the numbers that bit patterns stand for, as float32, which holds every one of them exactly.

        Args:
            bits: integers of any shape; only the lowest `width` bits count.

        Raises:
            TypeError: `bits` isn't a tensor of integers.

        Example:
            >>> FP8_E4M3.from_bits(torch.tensor([0b0_1111_110, 0b0_1111_111, 0b1_0000_001]))
            tensor([ 4.4800e+02,         nan, -1.9531e-03])
        """
        if not isinstance(bits, torch.Tensor) or bits.dtype not in INTEGERS:
            kind = bits.dtype if isinstance(bits, torch.Tensor) else type(bits).__name__
            raise TypeError(f"bits must be a tensor of integers, got {kind}")
        bits = bits.to(torch.int64)
        exponent = (bits >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        mantissa = bits & ((1 << self.mantissa_bits) - 1)
        normal = (exponent + (DOUBLE_BIAS - self.bias)) << DOUBLE_MANTISSA_BITS
        normal += mantissa << (DOUBLE_MANTISSA_BITS - self.mantissa_bits)
        subnormal = mantissa.double() * self.smallest_subnormal
        value = torch.where(exponent == 0, subnormal, normal.view(torch.float64)).float()
        topmost = exponent == (1 << self.exponent_bits) - 1
        if self.has_infinity:
            value = value.masked_fill(topmost, torch.inf)
        nan = mantissa > 0 if self.has_infinity else mantissa == (1 << self.mantissa_bits) - 1
        value = value.masked_fill(topmost & nan, torch.nan)
        return torch.where((bits >> (self.width - 1)) & 1 == 1, -value, value)

    def bands(self, tensor: torch.Tensor) -> FloatBands:
        """Count the entries by where they fall when rounded to the format, without saturation.

        Args:
            tensor: as for `round`.

        Returns:
            Counts as tensors on the device of `tensor`; the host reads none of them.

        Raises:
            TypeError: as for `round`.

        Example:
            >>> counts = FP16.bands(torch.tensor([0.0, 1e-8, 1e-7, 1e-3, 1.0, 1e5]))
            >>> {band: int(count) for band, count in counts._asdict().items()}
            {'zero': 2, 'subnormal': 1, 'normal': 2, 'overflow': 1, 'nan': 0}
        """
        magnitude = self._rounded_magnitude(self._widened(tensor))
        zero, nan = magnitude == 0, magnitude.isnan()
        overflow = magnitude > self.max
        normal = (magnitude >= self.smallest_normal) & ~overflow
        subnormal = (magnitude < self.smallest_normal) & ~zero
        return FloatBands(*(band.sum() for band in (zero, subnormal, normal, overflow, nan)))

    def _widened(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor detached and in a dtype that holds every number of the format."""
        require_floating("tensor", tensor)
        if tensor.dtype not in (*SOURCES, *NARROW):
            raise TypeError(f"tensor must be float16, bfloat16, float32 or float64; convert it from {tensor.dtype}")
        return tensor.detach().float() if tensor.dtype in NARROW else tensor.detach()

    def _rounded_magnitude(self, source: torch.Tensor) -> torch.Tensor:
        """Return |source| rounded with no upper limit of the exponent, at most twice the topmost power of two."""
        if source.dtype == torch.float32 and (self.exponent_bits == 8 or self.mantissa_bits == 23):
            # No room in float32: c would overflow, or have the spacing above the target's.
            return self._rounded_magnitude(source.double()).float()
        source_mantissa, integer, exponent_mask = SOURCES[source.dtype]
        overflowing = 2.0 ** (2**self.exponent_bits - self.bias)
        magnitude = source.abs().clamp_(max=overflowing)  # NaN stays NaN
        binade = (magnitude.view(integer) & exponent_mask).view(source.dtype).clamp_(min=self.smallest_normal)
        shift = binade.mul_(2.0 ** (source_mantissa - self.mantissa_bits))
        return magnitude.add_(shift).sub_(shift)


FP32 = FloatFormat(8, 23, name="FP32")
FP16 = FloatFormat(5, 10, name="FP16")
BF16 = FloatFormat(8, 7, name="BF16")
FP8_E4M3 = FloatFormat(4, 3, has_infinity=False, name="FP8_E4M3")
FP8_E5M2 = FloatFormat(5, 2, name="FP8_E5M2")
