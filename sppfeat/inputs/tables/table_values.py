"""What the cells of a table say, as bytes."""

import json
from collections.abc import Callable, Sequence

from sppfeat.errors import ConfigError
from sppfeat.files.cells import TEXT_RULE, encode_text, shorten

__all__ = ["ErrorAt", "encode_paths", "encode_values"]

ErrorAt = Callable[[int, str], ConfigError]
"""Makes an error of a position among some rows, and of what is wrong there."""


def encode_paths(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Return the bytes of paths.

    Raises:
        ConfigError: one is no path, or empty.
    """
    encoded: list[bytes | None] = [*(_encode_texts(values) or map(_encode_path, values))]
    return _checked(values, encoded, f"the path of an image, {TEXT_RULE}", error_at, nothing=(None, b""))


def encode_values(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Return the bytes of texts and numbers, empty ones for nothing and NaN.

    Raises:
        ConfigError: one is something else.
    """
    encoded: list[bytes | None] = [*(_encode_texts(values) or map(_encode_value, values))]
    return _checked(values, encoded, f"{TEXT_RULE}, a number, or nothing", error_at, nothing=(None,))


def _encode_texts(values: Sequence[object]) -> list[bytes] | None:
    """The bytes of texts, all of them at once, which is ten times as fast; None where not all can be kept."""
    try:
        encoded = encode_text("\n".join(values))  # type: ignore[arg-type]
    except TypeError:  # not all are texts
        return None
    parts = [] if encoded is None else encoded.split(b"\n")
    return parts if len(parts) == len(values) else None  # a text may have lines


def _checked(
    values: Sequence[object],
    encoded: Sequence[bytes | None],
    allowed: str,
    error_at: ErrorAt,
    *,
    nothing: tuple[bytes | None, ...],
) -> list[bytes]:
    for wrong in nothing:
        if wrong in encoded:
            position = encoded.index(wrong)
            raise error_at(position, f"found {shorten(values[position])}; allowed: {allowed}")
    return encoded  # type: ignore[return-value]


def _encode_path(value: object) -> bytes | None:
    return _encode_value(value) if isinstance(value, str | bytes) else None


def _encode_value(value: object) -> bytes | None:
    """The bytes of a text or number; None where it is neither, or cannot be kept."""
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, bytes):
        return None if b"\0" in value else value
    if value is None or value != value:
        return b""
    if type(value) is int:  # json is slow
        return b"%d" % value
    return json.dumps(value).encode() if isinstance(value, bool | int | float) else None
