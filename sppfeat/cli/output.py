"""Output of the commands: results on standard output, everything else on standard error."""

import contextlib
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO, TextIO

import click

from sppfeat.config.progress import STANDARD_ERROR
from sppfeat.config.wording import counted, escaped
from sppfeat.errors import StoreError

__all__ = [
    "box_counts_text",
    "first_of",
    "joined_numbers",
    "labeled_lines",
    "print_json",
    "print_json_or_text",
    "print_result",
    "say",
    "scales_text",
    "standard_output",
    "table",
    "terminal_columns",
]


def say(text: str) -> None:
    """Prints a line for the user on standard error, above any progress bars; drops it if standard error is closed."""
    tqdm = sys.modules.get("tqdm")  # without it there is no bar
    with (
        contextlib.nullcontext() if tqdm is None else tqdm.tqdm.external_write_mode(STANDARD_ERROR),
        contextlib.suppress(OSError),
    ):
        click.echo(_printable(text), err=True)


def print_result(text: str) -> None:
    """Prints a result on standard output; raises StoreError if it cannot be written, as on a full disk."""
    _print(_printable(text))


def print_json(value: Any) -> None:
    """Prints a result as ASCII JSON on standard output, with null for NaN and infinities."""
    _print(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_json_or_text(found: Any, text: str, *, as_json: bool) -> None:
    """Prints a result on standard output, as JSON or as a text."""
    if as_json:
        print_json(found)
    else:
        print_result(text)


def standard_output() -> BinaryIO:
    """Standard output as a binary stream; raises StoreError if it is closed."""
    if sys.stdout is None:  # started with >&-
        raise StoreError("cannot write to standard output: it is closed")
    return sys.stdout.buffer


def box_counts_text(counts: Mapping[str, Any]) -> str:
    """Formats the counts of boxes as a line."""
    text = f"{counted(counts['rows'], 'row')}, {counts['with_descriptor']} with a descriptor"
    parts = {
        "of_failed_or_pending": "of failed or pending images",
        "clipped": "clipped to the image",
        "degenerate": "without area in the image (NaN)",
        "sub_cell": "smaller than one feature-map cell (a larger --size helps)",
    }
    return text + "".join(f", {counts[name]} {what}" for name, what in parts.items() if counts[name])


def scales_text(scales: dict[str, int]) -> str:
    """Formats the numbers of rows that are pooled at each scale as a line."""
    return ", ".join(f"{side}: {counted(n, 'row')}" for side, n in scales.items())


def first_of(lines: list[str], n_shown: int | None, *, more: str) -> list[str]:
    """The first lines, and a line with the number of remaining ones; all lines if ``n_shown`` is None.

    Example:
        >>> first_of(["a", "b", "c"], 1, more="{} more")
        ['a', '2 more']
    """
    if n_shown is None or len(lines) <= n_shown:
        return lines
    return [*lines[:n_shown], more.format(len(lines) - n_shown)]


def joined_numbers(numbers: Iterable[int]) -> str:
    """Joins numbers with commas, as options take them."""
    return ",".join(map(str, numbers))


def terminal_columns(stream: TextIO | None) -> int | None:
    """Width of the terminal that a stream writes to; None if it is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns if stream and stream.isatty() else None
    except (OSError, ValueError):
        return None


def labeled_lines(lines: Iterable[tuple[str, str]], *, width: int, columns: int | None = None) -> str:
    """Formats lines as labels and texts; all texts begin at column ``width``, and are wrapped before ``columns``.

    Example:
        >>> print(labeled_lines([("file", "f.h5"), ("images", "7")], width=9))
        file:    f.h5
        images:  7
    """
    formatted = [f"{label + ':':<{width - 1}} {text}" for label, text in lines]
    if columns is None or columns < 2 * width:
        return "\n".join(formatted)
    wrapper = textwrap.TextWrapper(
        width=columns - 1, subsequent_indent=" " * width, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(wrapper.fill(line) for line in formatted)


def table(header: list[str], rows: list[list[str]], *, right: set[int]) -> str:
    """Formats a table as plain text; ``right`` holds the indices of right-aligned columns."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _print(text: str) -> None:
    try:
        click.echo(text)
    except BrokenPipeError:  # not an error: the reader of a pipe has closed it
        raise
    except OSError as error:
        raise StoreError(f"cannot write to standard output: {error.strerror}") from error


def _finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _printable(text: str) -> str:
    """Escapes control characters and bytes that are not UTF-8, so that any terminal can show the text."""
    return "\n".join(map(escaped, text.split("\n")))
