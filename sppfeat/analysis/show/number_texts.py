"""Numbers as pictures and pages show them."""

import math

__all__ = ["rounded"]

_MOST = 1e9  # from which on digits before the point are too many to be read


def rounded(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, zeros included; without exponent, where it can be read without one.

    Example:
        >>> rounded(21452.7), rounded(0.4, 3), rounded(9.9996), rounded(0.0), rounded(2.5e-7)
        ('21,453', '0.400', '10.00', '0', '2.500e-07')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # after rounding: of 9.9996 it is 1
    if abs(value) >= _MOST or exponent < -digits:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"
