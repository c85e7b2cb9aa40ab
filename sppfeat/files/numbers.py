"""What counts as a number in a box file."""

__all__ = ["NUMBER_RULE", "parse_number", "parse_whole"]

NUMBER_RULE = "a number"


def parse_number(value: object) -> float | None:
    """Return the float that a text or a number stands for, NaN and infinities included; None if it is none.

    Example:
        >>> parse_number("1e3"), parse_number(True), parse_number(""), parse_number("1_000")
        (1000.0, None, None, None)
    """
    if type(value) is float:  # most are
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
        return None
    if (isinstance(value, str) and "_" in value) or (isinstance(value, bytes) and b"_" in value):
        return None  # 1_000 is a number in Python's source text alone
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number, an int beyond the range of float
        return None


def parse_whole(value: object, most: int = 2**31 - 1) -> int | None:
    """Return the whole number from 0 to ``most`` that a text or a number stands for; None if it is none.

    Example:
        >>> parse_whole("15"), parse_whole(b"1.5e+01"), parse_whole("-1"), parse_whole(1.5)
        (15, 15, None, None)
    """
    number = parse_number(value)
    if number is None or not (0 <= number <= most and number.is_integer()):
        return None
    return int(number)
