"""JSON from other software, parsed with errors that name the line."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from sppfeat.files.tables import OTHER_ENCODING, TableSource, shorten

__all__ = ["json_objects", "parse_json"]

_MOST_DIGITS = 400  # more than a float can hold


def parse_json(
    source: TableSource, content: bytes, *, drop: Collection[str] = (), first_line: int = 1
) -> Any:
    """Parse a JSON text in UTF-8, which begins at line ``first_line`` of its source.

    Each key is allowed once in an object. Keys in ``drop`` are dropped object by object, so that their values never
    fill the memory. Errors give the line, even in a text that is nested too deeply.
    """

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) < len(pairs):
            (key, number), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"the key {shorten(key)} {number} times in an object; allowed: once")
        for key in drop:
            entry.pop(key, None)
        return entry

    text = _decode(source, content, first_line)
    try:
        return json.loads(text, object_pairs_hook=make_object, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        found = shorten(text[error.pos : error.pos + 40]) if error.pos < len(text) else "the end of the text"
        raise source.error(
            f"line {error.lineno + first_line - 1}, column {error.colno}",
            f"found {found}, which is not JSON: {error.msg}; allowed: JSON",
        ) from error
    except RecursionError as error:
        raise source.error(
            f"from line {first_line} on",
            f"found {shorten(text[:40])}, nested too deeply; allowed: a few levels",
        ) from error
    except ValueError as error:  # raised by make_object or _parse_int
        raise source.error(f"from line {first_line} on", f"found {error}") from error


def json_objects(source: TableSource, lines: Iterable[bytes]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the JSON object of each nonblank line, after the number of the line; anything else is an error."""
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        entry = parse_json(source, text, first_line=line)
        if not isinstance(entry, dict):
            raise source.error(f"line {line}", f"found {shorten(entry)}; allowed: a JSON object on each line")
        yield line, entry


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{shorten(text)}; allowed: {_MOST_DIGITS} digits")
    return int(text)


def _decode(source: TableSource, content: bytes, first_line: int) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + first_line
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise source.error(
            f"line {line}, column {column}",
            f"found {shorten(content[error.start : error.end])}, which is not UTF-8; {OTHER_ENCODING}",
        ) from error
