"""Lists of inputs: files, or standard input, that name one thing a line."""

import codecs
import sys
from collections.abc import Iterable, Iterator

from sppfeat.errors import ConfigError

__all__ = ["is_list", "read_list"]


def is_list(text: str) -> bool:
    """Whether an input is a list, ``@FILE`` or ``-``, and no name."""
    return text == "-" or text.startswith("@")


def read_list(text: str, *, stdin: Iterable[bytes] | None = None) -> list[bytes]:
    """The entries of a list, which are separated by newlines, or by NUL if there is one; empty ones are left out.

    Args:
        text: ``@FILE``, or ``-`` for standard input.
        stdin: what ``-`` reads, in chunks; standard input where None.

    Raises:
        ConfigError: the list cannot be read, or is in UTF-16.
    """
    if text == "-":
        content, where = b"".join(_standard_input() if stdin is None else stdin), "the list on standard input"
    else:
        where = f"the list {text[1:]!r}"
        try:
            with open(text[1:], "rb") as file:
                content = file.read()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot read {where}: {reason}") from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError(f"{where} is in UTF-16; allowed: UTF-8, or names as the file system has them")
    content = content.removeprefix(codecs.BOM_UTF8)
    if b"\0" in content:
        entries = content.split(b"\0")
    else:
        entries = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    return [entry for entry in entries if entry]


def _standard_input() -> Iterator[bytes]:
    if sys.stdin is None:  # started with <&-
        raise ConfigError("cannot read the list on standard input: it is closed")
    return iter(lambda: sys.stdin.buffer.read(1 << 20), b"")
