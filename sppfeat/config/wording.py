"""Building blocks of messages: text that is safe to print on a terminal, short lists, and numbers with their nouns."""

import itertools
from collections.abc import Iterable

__all__ = ["counted", "escaped", "first_few", "one_line", "reason_of"]

_MAX_SHOWN = 300


def one_line(text: str, *, longest: int = _MAX_SHOWN) -> str:
    r"""Return a text for a message: on one line, escaped, and cut after ``longest`` characters.

    Example:
        >>> print(one_line("cat\n\x1b[2J"))
        cat\n\x1b[2J
    """
    line = escaped(text[: longest + 1])
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


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
