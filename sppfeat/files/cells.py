"""Cells of tables from other software: parsed as numbers, encoded as bytes, and shortened for a message."""

import json
import reprlib
from collections.abc import Callable, Sequence

from sppfeat.errors import SppfeatError

__all__ = [
    "NUMBER_RULE",
    "TEXT_RULE",
    "ErrorAt",
    "encode_paths",
    "encode_text",
    "encode_values",
    "parse_number",
    "parse_whole",
    "shorten",
]

NUMBER_RULE = "a number"
TEXT_RULE = "text without zero bytes and lone surrogates"

ErrorAt = Callable[[int, str], SppfeatError]
"""Makes an error from the index of a row and a message."""

_WIDTH = 60

# reprlib reads no more than it shows: the value may be a gigabyte, or nested beyond the recursion limit.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _WIDTH
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 8


def shorten(value: object) -> str:
    """Return the repr of a value, cut to 60 characters.

    Example:
        >>> shorten("1.5px")
        "'1.5px'"
    """
    text = _REPR.repr(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def parse_number(value: object) -> float | None:
    """Parse text or a number as a float, NaN and infinities included; None for anything else.

    Example:
        >>> parse_number("1e3"), parse_number(True), parse_number(""), parse_number("1_000")
        (1000.0, None, None, None)
    """
    if type(value) is float:  # most are
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str, bytes)):
        return None
    if (isinstance(value, str) and "_" in value) or (isinstance(value, bytes) and b"_" in value):
        return None  # 1_000 is a number only in Python source
    try:
        return float(value)
    except (ValueError, OverflowError):  # not a number, or an int beyond the range of float
        return None


def parse_whole(value: object, most: int = 2**31 - 1) -> int | None:
    """Parse text or a number as a whole number from 0 to ``most``; None for anything else.

    Example:
        >>> parse_whole("15"), parse_whole(b"1.5e+01"), parse_whole("-1"), parse_whole(1.5)
        (15, 15, None, None)
    """
    number = parse_number(value)
    if number is None or not (0 <= number <= most and number.is_integer()):
        return None
    return int(number)


def encode_text(text: str) -> bytes | None:
    """Encode text in UTF-8, restoring undecodable bytes; None if it breaks ``TEXT_RULE``.

    A lone surrogate, which JSON can spell, has no bytes. Text with a zero byte names no file and does not fit into
    HDF5.
    """
    if "\0" in text:
        return None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def encode_paths(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Encode a column of paths.

    Raises:
        SppfeatError: from ``error_at``: a value is empty, or is not a path.
    """
    return _encode_all(values, _encode_path, f"the path of an image, {TEXT_RULE}", error_at)


def encode_values(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Encode a column of text and numbers; None and NaN become empty.

    Raises:
        SppfeatError: from ``error_at``: a value is neither text nor a number.
    """
    return _encode_all(values, _encode_value, f"{TEXT_RULE}, a number, or nothing", error_at)


def _encode_all(
    values: Sequence[object], encode: Callable[[object], bytes | None], allowed: str, error_at: ErrorAt
) -> list[bytes]:
    encoded = list(map(encode, values))
    if None in encoded:
        position = encoded.index(None)
        raise error_at(position, f"found {shorten(values[position])}; allowed: {allowed}")
    return encoded  # type: ignore[return-value]


def _encode_path(value: object) -> bytes | None:
    return _encode_value(value) or None if isinstance(value, str | bytes) else None


def _encode_value(value: object) -> bytes | None:
    """Encode text or a number; None for anything else, and for text that cannot be encoded."""
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, bytes):
        return None if b"\0" in value else value
    if value is None or value != value:
        return b""
    return json.dumps(value).encode() if isinstance(value, bool | int | float) else None
