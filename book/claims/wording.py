"""Numbers as a reader reads them, for the sentences of verdicts."""

from collections.abc import Sequence
from math import floor, log10

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 2) -> str:
    """A number at `digits` significant digits, with a power of ten where it is far from 1.

    >>> number(0.0123), number(3.0625e22, 3), number(-2e-13), number(1234.0, 2), number(0)
    ('0.012', '3.06 × 10²²', '−2 × 10⁻¹³', '1,200', '0')
    """
    if value == 0:
        return "0"
    sign = "−" if value < 0 else ""
    rounded = float(f"{abs(value):.{digits}g}")
    exponent = floor(log10(rounded))
    if -4 <= exponent < 5:
        return f"{sign}{rounded:,.{max(digits - 1 - exponent, 0)}f}"
    mantissa = f"{rounded / 10.0**exponent:.{digits - 1}f}"
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{sign}{mantissa} × 10{str(exponent).translate(SUPERSCRIPTS)}"


def percent(share: float) -> str:
    """A share in percent, without decimals.

    >>> percent(0.256)
    '26%'
    """
    return f"{100 * share:.0f}%"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median of several runs with the smallest and the largest, where these look different.

    >>> spread([0.1, 0.3, 0.2]), spread([1.0, 1.0])
    ('0.20 (0.10 to 0.30)', '1.0')
    """
    middle, low, high = (number(value, digits) for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones.

    >>> median([3.0, 1.0, 2.0]), median([1.0, 2.0])
    (2.0, 1.5)
    """
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def decimal_bytes(count: float) -> str:
    """Bytes in decimal units.

    >>> decimal_bytes(4e8), decimal_bytes(72)
    ('400 MB', '72 B')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    step = 0
    while count >= 1000 and step < len(units) - 1:
        count, step = count / 1000, step + 1
    return f"{number(count, 3) if step else int(count)} {units[step]}"
