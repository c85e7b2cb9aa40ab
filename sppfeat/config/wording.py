"""Building blocks of messages: text that is safe to print on a terminal, short lists, and numbers with their nouns."""

import itertools
import os
from collections.abc import Iterable

__all__ = [
    "counted",
    "escaped",
    "first_few",
    "human_bytes",
    "human_seconds",
    "one_line",
    "quoted",
    "reason_of",
]

_MAX_SHOWN = 300


def one_line(text: str, *, longest: int = _MAX_SHOWN) -> str:
    r"""Return a text for a message: on one line, escaped, and cut after ``longest`` characters.

    Example:
        >>> print(one_line("cat\n\x1b[2J"))
        cat\n\x1b[2J
    """
    line = escaped(text[: longest + 1])
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def quoted(name: str | bytes) -> str:
    """Return a name or a path for a message: in quotes, escaped, and cut if it is long."""
    return one_line(repr(os.fsdecode(name)))


def escaped(text: str) -> str:
    """Return a text on one line, with control characters escaped so that it cannot control a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason_of(error: OSError) -> str:
    """Return the reason of an OSError for a message, without its number and its path."""
    return one_line(error.strerror or str(error))


def first_few(texts: Iterable[str], n_shown: int) -> str:
    """Join the first few texts, at most ``n_shown``; three dots follow if there are more.

    Example:
        >>> first_few(["a", "b", "c"], 2)
        'a, b, ...'
    """
    shown = list(itertools.islice(texts, n_shown + 1))
    return ", ".join(shown[:n_shown]) + (", ..." if len(shown) > n_shown else "")


def counted(n: int, one: str, many: str | None = None, *, thousands: str = "") -> str:
    """Return a number with its noun, in the singular for 1.

    Args:
        n: the number.
        one: the noun in the singular, with any other words that change with the number.
        many: the same in the plural; None to add the usual ending to ``one``.
        thousands: separator of thousands.

    Example:
        >>> counted(1, "row"), counted(2000, "box", thousands=","), counted(0, "row is", "rows are")
        ('1 row', '2,000 boxes', '0 rows are')
    """
    ending = "es" if one.endswith(("s", "x")) else "s"
    return f"{n:{thousands}} {one if n == 1 else many or one + ending}"


def human_bytes(n: int) -> str:
    """Return a number of bytes in a suitable unit.

    Example:
        >>> human_bytes(1_234_567), human_bytes(769_000)
        ('1.2 MB', '769 kB')
    """
    value, units = float(n), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    digits = 0 if units[0] == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f} {units[0]}"


def human_seconds(seconds: float, *, digits: int = 1) -> str:
    """Return a duration in suitable units, with this many digits after the point if it is short.

    Example:
        >>> human_seconds(4.83), human_seconds(200), human_seconds(7300)
        ('4.8 s', '3 min 20 s', '2 h 1 min')
    """
    if seconds < 100:
        return f"{seconds:.{digits}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
