"""Texts that come from files, as a terminal can show them and an error can quote them."""

import itertools
from collections.abc import Iterable

__all__ = ["escaped", "first_few", "one_line"]

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
