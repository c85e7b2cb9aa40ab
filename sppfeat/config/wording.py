"""Texts for people: what comes from files as a terminal can show it, and numbers with what they count."""

import itertools
from collections.abc import Iterable

__all__ = ["counted", "escaped", "first_few", "one_line"]

_MAX_SHOWN = 300


def one_line(text: str, *, longest: int = _MAX_SHOWN) -> str:
    r"""Return a text as an error can quote it: escaped, and cut where it is longer than ``longest``.

    Example:
        >>> print(one_line("cat\n\x1b[2J"))
        cat\n\x1b[2J
    """
    line = escaped(text[: longest + 1])
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def escaped(text: str) -> str:
    """Return a text of a file as a terminal can show it: in one line, and steering nothing."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_few(texts: Iterable[str], n_shown: int) -> str:
    """The first of some texts in one line, and whether there are more.

    Example:
        >>> first_few(["a", "b", "c"], 2)
        'a, b, ...'
    """
    shown = list(itertools.islice(texts, n_shown + 1))
    return ", ".join(shown[:n_shown]) + (", ..." if len(shown) > n_shown else "")


def counted(n: int, one: str, many: str | None = None, *, thousands: str = "") -> str:
    """A number and what it counts, in the singular for 1.

    Args:
        n: how many.
        one: for 1, with whatever else changes.
        many: for any other number; ``one`` with an ending where None.
        thousands: what separates them.

    Example:
        >>> counted(1, "row"), counted(2000, "box", thousands=","), counted(0, "row is", "rows are")
        ('1 row', '2,000 boxes', '0 rows are')
    """
    ending = "es" if one.endswith(("s", "x")) else "s"
    return f"{n:{thousands}} {one if n == 1 else many or one + ending}"
