"""Text tables from other software: their rows and cells, with errors that name the line."""

import codecs
import contextlib
import csv
import io
import json
import os
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from sppfeat.config.wording import counted, first_few, one_line, reason_of
from sppfeat.errors import ConfigError, SppfeatError

__all__ = [
    "NUMBER_RULE",
    "TEXT_RULE",
    "ErrorAt",
    "TableFile",
    "TableSource",
    "encode_json_text",
    "encode_paths",
    "encode_text",
    "encode_values",
    "has_utf16_mark",
    "join_fields",
    "json_objects",
    "parse_json",
    "parse_number",
    "parse_whole",
    "shorten",
    "show_names",
    "split_rows",
    "unique_keys",
]

NUMBER_RULE = "a number"
TEXT_RULE = "text without zero bytes and lone surrogates"

ErrorAt = Callable[[int, str], SppfeatError]
"""Makes an error from the index of a row and a message."""

_WIDTH = 60  # characters shown of a value
_SHOWN = 20  # names of columns
_MOST_DIGITS = 400  # more than a float can hold

# reprlib reads no more than it shows: the value may be a gigabyte, or nested beyond the recursion limit.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _WIDTH
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 8


class TableSource(Protocol):
    """The source of a text, which makes the errors about it."""

    def error(self, where: str, what: str, /) -> SppfeatError:
        """Make an error that names the file, the place in it, and the fault."""
        ...


@dataclass(frozen=True)
class TableFile:
    """A file that contains a table, and the class of the errors that name it."""

    path: bytes
    error_class: type[SppfeatError] = ConfigError

    @property
    def folder(self) -> bytes:
        """The folder of the file."""
        return os.path.dirname(self.path)

    def error(self, where: str, what: str) -> SppfeatError:
        """Make an error that names the file, the place in it, and the fault."""
        name = repr(os.fsdecode(self.path))
        return self.error_class(f"{name}, {where}: {what}" if where else f"{name}: {what}")

    @contextlib.contextmanager
    def open_text(self) -> Iterator[BinaryIO]:
        """Open the file for reading, after its byte order mark if it has one; UTF-16 is an error.

        A read that fails in the context is an error that names the file, too.
        """
        try:
            with open(self.path, "rb") as file:
                head = file.read(len(codecs.BOM_UTF8))
                if has_utf16_mark(head):
                    raise self.error("", "is in UTF-16; allowed: UTF-8")
                if head != codecs.BOM_UTF8:
                    file.seek(0)
                yield file
        except OSError as error:
            raise self.error("", f"cannot be read: {reason_of(error)}") from error

    def rows(self, file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of a separated table, as :func:`split_rows` does: by tabs if the name ends in ``.tsv``."""
        return split_rows(self, file, "\t" if os.path.splitext(self.path)[1].lower() == b".tsv" else ",")


def show_names(names: Sequence[str]) -> str:
    """Quote column names for an error message."""
    return one_line(first_few(map(repr, names), _SHOWN)) or "nothing"


def has_utf16_mark(content: bytes) -> bool:
    """Return True if a text begins with the byte order mark of UTF-16."""
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def split_rows(source: TableSource, file: BinaryIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the nonblank rows of separated text, each with the number of its first line.

    Bytes that are not UTF-8, as paths may have, survive. The file has no byte order mark, and is closed with the rows.
    A row that cannot be split, or has not as many fields as the header, is an error.
    """
    # No newline is translated, since it may be within quotes.
    with io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        n_fields = None
        while True:
            line = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                allowed = "fields as csv quotes them"
                raise source.error(
                    f"line {line}", f"cannot be split into fields: {error}; allowed: {allowed}"
                ) from error
            if row is None:
                return
            if len(row) < 2 and not "".join(row).strip():
                continue
            if n_fields is None and len(row) == 1 and ";" in row[0]:
                found = f"found {shorten(row[0])}, separated by ';'"
                raise source.error(f"line {line}", f"{found}; allowed: commas, or tabs (.tsv)")
            if len(row) != (n_fields := n_fields or len(row)):
                found = f"found {counted(len(row), 'field')}, {show_names(row)}"
                raise source.error(f"line {line}", f"{found}; allowed: {n_fields}, as in the header")
            yield line, row


def join_fields(fields: Iterable[str | None], delimiter: str = ",") -> str:
    """Join fields to a row without its line end; fields may contain delimiters, quotes and line breaks."""
    text = io.StringIO()
    # With this line end all versions of Python quote a lone carriage return.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    return text.getvalue()[:-2]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object from its keys and values, each key once; a hook for :func:`parse_json`."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        (key, number), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {shorten(key)} {number} times in an object; allowed: once")
    return entry


def parse_json(
    source: TableSource,
    content: bytes,
    *,
    hook: Callable[[list[tuple[str, Any]]], Any] = unique_keys,
    first_line: int = 1,
) -> Any:
    """Parse a JSON text in UTF-8, which begins at line ``first_line`` of its source.

    ``hook`` makes each object from its keys and values; it raises ValueError with a message for an invalid one. Errors
    give the line, also for a text that is nested too deeply.
    """
    text = _decode(source, content, first_line)
    try:
        return json.loads(text, object_pairs_hook=hook, parse_int=_parse_int)
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
    except ValueError as error:  # raised by the hook or _parse_int
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


def encode_json_text(source: TableSource, text: str, where: str) -> bytes:
    """Encode a string from a JSON file; one that breaks ``TEXT_RULE`` is an error."""
    encoded = encode_text(text)
    if encoded is None:
        raise source.error(where, f"found {shorten(text)}; allowed: {TEXT_RULE}")
    return encoded


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
            f"found {shorten(content[error.start : error.end])}, which is no UTF-8; allowed: JSON in UTF-8",
        ) from error


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
    """Encode a column of paths; a value that is empty or no path is an error, made by ``error_at``."""
    return _encode_all(values, _encode_path, f"the path of an image, {TEXT_RULE}", error_at)


def encode_values(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Encode a column of text and numbers, with None and NaN as empty; any other value is an error."""
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
