"""Numbers in the words under a figure."""

POWERS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def scientific(value: float) -> str:
    """A positive number to one digit, or two where it needs no power of ten; spaces don't break.

    >>> scientific(3.2e-5), scientific(1e-8), scientific(0.25)
    ('3\xa0×\xa010⁻⁵', '10⁻⁸', '0.25')
    """
    if 0.01 <= value < 100:
        return f"{value:.2g}"
    digit, exponent = f"{value:.0e}".split("e")
    power = "10" + str(int(exponent)).translate(POWERS)
    return power if digit == "1" else f"{digit}\u00a0×\u00a0{power}"


def signed(value: float, digits: int) -> str:
    """A number with a real minus sign, and no minus before zero.

    >>> signed(-1.234, 1), signed(-0.001, 2), signed(12345.6, 0)
    ('−1.2', '0.00', '12,346')
    """
    shown = f"{value:,.{digits}f}"
    return shown.lstrip("-") if float(shown.replace(",", "")) == 0 else shown.replace("-", "−")
