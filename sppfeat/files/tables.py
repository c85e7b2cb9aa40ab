"""JSON that somebody else wrote, with errors that say where it is wrong."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from sppfeat.errors import SppfeatError
from sppfeat.files.cells import TEXT_RULE, encode_text, shorten

__all__ = ["JsonSource", "encode_json_text", "json_decoder", "parse_json", "unique_keys"]

_MOST_DIGITS = 400  # more than float can hold; Python refuses ints beyond 4300 without saying where


class JsonSource(Protocol):
    """Where a text comes from."""

    def error(self, where: str, what: str, /) -> SppfeatError:
        """Return an error that says in which file, where there, and what is wrong."""
        ...


class _LongNumberError(ValueError):
    """An int of too many digits, which are its argument."""


def json_decoder(hook: Callable[[list[tuple[str, Any]]], Any]) -> json.JSONDecoder:
    """Return a decoder for :func:`parse_json`.

    Args:
        hook: makes each object, of its keys and values; a ValueError that it raises says what is wrong.
    """
    return json.JSONDecoder(object_pairs_hook=hook, parse_int=_parse_int)


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of its keys and values, the hook for :func:`json_decoder`.

    Raises:
        ValueError: a key is there twice.
    """
    entry = dict(pairs)
    if len(entry) < len(pairs):
        (key, number), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(key)} {number} times in an object; allowed: once")
    return entry


def parse_json(
    source: JsonSource,
    content: bytes,
    *,
    decoder: json.JSONDecoder,
    first_line: int = 1,
) -> Any:
    """Return what a JSON text says.

    Args:
        source: where it comes from.
        content: the text, in UTF-8.
        decoder: of :func:`json_decoder`.
        first_line: line of the file that the text begins on.

    Raises:
        SppfeatError: of the source: it is no JSON, or nested too deeply; with line and column.
    """
    text = _decode(source, content, first_line)
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        found = shorten(text[error.pos : error.pos + 40]) if error.pos < len(text) else "the end of the text"
        raise source.error(
            f"line {error.lineno + first_line - 1}, column {error.colno}",
            f"found {found}, which is no JSON: {error.msg}; allowed: JSON",
        ) from error
    except RecursionError as error:
        raise source.error(
            f"from line {first_line} on",
            f"found {shorten(text[:40])}, nested too deeply; allowed: a few levels",
        ) from error
    except _LongNumberError as error:
        (digits,) = error.args
        line = text.count("\n", 0, text.find(digits)) + first_line
        raise source.error(
            f"line {line}", f"found {shorten(digits)}; allowed: {_MOST_DIGITS} digits"
        ) from error
    except ValueError as error:  # by the hook
        raise source.error(f"from line {first_line} on", f"found {error}") from error


def encode_json_text(source: JsonSource, text: str, where: str) -> bytes:
    """Return the bytes of a text of a JSON file.

    Raises:
        SppfeatError: of the source: it has none that can be kept.
    """
    encoded = encode_text(text)
    if encoded is None:
        raise source.error(where, f"found {shorten(text)}; allowed: {TEXT_RULE}")
    return encoded


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise _LongNumberError(text)
    return int(text)


def _decode(source: JsonSource, content: bytes, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + first_line
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise source.error(
            f"line {line}, column {column}",
            f"found {shorten(content[error.start : error.end])}, which is no UTF-8; allowed: JSON in UTF-8",
        ) from error
