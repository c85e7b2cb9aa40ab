"""Text tables from other software: their rows and cells, with errors that name the line."""

import codecs
import contextlib
import csv
import io
import json
import os
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO, Protocol

from sppfeat.config.wording import counted, first_few, one_line, reason_of
from sppfeat.errors import ConfigError, SppfeatError

__all__ = [
    "COMPRESSED",
    "IMAGE_NAMES",
    "OTHER_ENCODING",
    "PATH_NAMES",
    "TEXT_RULE",
    "ErrorAt",
    "TableFile",
    "TableSource",
    "encode_paths",
    "encode_text",
    "encode_values",
    "join_fields",
    "parse_number",
    "parse_whole",
    "shorten",
    "show_names",
    "split_rows",
    "strip_blanks",
    "to_utf8",
]

TEXT_RULE = "text without zero bytes and lone surrogates"

ErrorAt = Callable[[int, str], SppfeatError]
"""Makes an error from the index of a row and a message."""

IMAGE_NAMES = ("path", "image", "image_path", "file_name", "filename", "file")
PATH_NAMES = (*IMAGE_NAMES, "filepath", "file_path", "image_file", "url", "image_url")
"""Names of the column of image paths; an image table accepts more of them than a box file or label table."""

_ROW_NAME = "row"  # name of a column of row numbers, in a label table
_UTF8 = "utf-8"
_DELIMITERS = (",", ";", "\t")
# In this order: the mark of UTF-32 begins like that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: _UTF8,
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""The first bytes of compressed files, and the names of the compressions."""

_BINARY_FILES = {
    b"PK\3\4": "a zip archive, such as an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls)",
    b"PAR1": "a Parquet file",
    **{magic: f"compressed by {name}" for magic, name in COMPRESSED.items()},
}
_HEAD_BYTES = 8  # more than the longest mark or signature

OTHER_ENCODING = "allowed: UTF-8; for text from Windows add --encoding cp1252"

_WIDTH = 60  # characters shown of a value
_SHOWN = 20  # names of columns

# reprlib reads only what it shows: the value may be a gigabyte, or nested beyond the recursion limit.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _WIDTH
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 8


class TableSource(Protocol):
    """The source of a text and the encoding that the user gave for it; makes the errors about it."""

    @property
    def encoding(self) -> str | None:
        """The encoding of a text without a byte order mark; None for UTF-8."""
        ...

    def error(self, where: str, what: str, /) -> SppfeatError:
        """Make an error that names the file, the place in it, and the fault."""
        ...


@dataclass(frozen=True)
class TableFile:
    """A file that contains a table, its encoding (see :func:`to_utf8`), and the class of errors about it."""

    path: bytes
    error_class: type[SppfeatError] = ConfigError
    encoding: str | None = None

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
        """Open the file for reading as UTF-8, without a byte order mark.

        A file in another encoding is held in memory. If a read in the context fails, the error names the file.
        """
        try:
            with open(self.path, "rb") as file:
                head = file.read(_HEAD_BYTES)
                file.seek(0)
                for magic, kind in _BINARY_FILES.items():
                    if head.startswith(magic):
                        raise self.error(
                            "", f"is {kind}; allowed: text, such as a sheet saved as 'CSV UTF-8'"
                        )
                mark, encoding = _encoding_of(head, self.encoding)
                if encoding == _UTF8:
                    file.seek(len(mark))
                    yield file
                else:
                    yield io.BytesIO(to_utf8(self, file.read(), encoding))
        except OSError as error:
            raise self.error("", f"cannot be read: {reason_of(error)}") from error

    def rows(self, file: BinaryIO) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of a separated table, as :func:`split_rows` does; a ``.tsv`` defaults to tabs."""
        return split_rows(self, file, "\t" if os.path.splitext(self.path)[1].lower() == b".tsv" else ",")


def show_names(names: Sequence[str]) -> str:
    """Quote column names for an error message."""
    return one_line(first_few(map(repr, names), _SHOWN)) or "nothing"


def to_utf8(source: TableSource, content: bytes, encoding: str | None = None) -> bytes:
    """Return a text in UTF-8, without a byte order mark.

    A byte order mark gives the encoding: UTF-8, UTF-16 or UTF-32. Text without one is in ``encoding``, or in UTF-8,
    which is returned unchecked. Bytes that are invalid in the encoding are an error.
    """
    mark, encoding = _encoding_of(content, encoding)
    content = content[len(mark) :]
    if encoding == _UTF8:
        return content
    try:
        return content.decode(encoding).encode()
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, "replace").count("\n") + 1
        found = _show_byte(content[error.start], content[max(0, error.start - 12) : error.end + 12])
        raise source.error(f"line {line}", f"{found} is not {encoding}; {OTHER_ENCODING}") from error
    except UnicodeEncodeError as error:
        raise source.error("", f"is not text in {encoding}: {error.reason}; {OTHER_ENCODING}") from error


def _encoding_of(head: bytes, encoding: str | None) -> tuple[bytes, str]:
    """Return the byte order mark of a text, empty for none, and its encoding."""
    marked = ((mark, name) for mark, name in _MARKS.items() if head.startswith(mark))
    return next(marked, (b"", codecs.lookup(encoding or _UTF8).name))


def _show_byte(byte: int, around: bytes) -> str:
    return f"the byte 0x{byte:02x} in {shorten(around)}"


def split_rows(source: TableSource, file: BinaryIO, usual: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the nonblank rows of separated text, each with the number of its first line.

    Commas, semicolons or tabs separate the fields. A first line such as ``sep=;``, which Excel writes, decides;
    otherwise the separator that splits the header into an image column and the most other names, or else ``usual``.
    Rows of blank fields are skipped. The file is in UTF-8, without a byte order mark, and is closed with the rows.
    Unless the encoding is given, image names may hold any bytes, as paths do; in other fields they are an error. So is
    a row that cannot be split, or whose number of fields differs from the header.
    """
    # Do not translate newlines: they may be within quotes.
    with io.TextIOWrapper(file, encoding=_UTF8, errors="surrogateescape", newline="") as lines:
        head, delimiter = _read_head(lines, usual)
        rows = csv.reader(chain(head, lines), delimiter=delimiter, strict=True)
        n_fields, paths = None, frozenset[int]()
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
            text = "".join(row)
            if not text.strip():
                continue
            if n_fields is None:
                n_fields = len(row)
                paths = frozenset(i for i, name in enumerate(row) if name.strip().lower() in PATH_NAMES)
            if len(row) != n_fields:
                found = f"found {counted(len(row), 'field')}, {show_names(row)}"
                raise source.error(f"line {line}", f"{found}; allowed: {n_fields}, as in the header")
            if not text.isascii() or "\0" in text:
                _check_fields(source, line, row, paths)
            yield line, row


def _read_head(lines: Iterable[str], usual: str) -> tuple[list[str], str]:
    """Read the lines up to the header, and find the delimiter; a line ``sep=;`` becomes a blank one."""
    head: list[str] = []
    for line in lines:
        text = line.strip().lower()
        if text.startswith("sep=") and len(line.rstrip("\r\n")) == len("sep=") + 1:
            return [*head, "\n"], line[len("sep=")]
        head.append(line)
        if text:
            break

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            names = next(csv.reader(head[-1:], delimiter=delimiter), [])
        except csv.Error:  # the rows will report the error
            return False, 0
        return any(name.strip().lower() in (*PATH_NAMES, _ROW_NAME) for name in names), len(names)

    return head, max((usual, *_DELIMITERS), key=fit)


def _check_fields(source: TableSource, line: int, row: Sequence[str], paths: Collection[int]) -> None:
    for i, field in enumerate(row):
        if "\0" in field:
            found = f"found a zero byte in {shorten(field)}"
            utf16 = "for UTF-16 without a byte order mark add --encoding utf-16-le"
            raise source.error(f"line {line}", f"{found}; allowed: text in UTF-8; {utf16}")
        try:
            field.encode()
        except UnicodeEncodeError as error:
            if i in paths or source.encoding is not None:
                continue
            content = field.encode(_UTF8, "surrogateescape")
            found = _show_byte(ord(field[error.start]) - 0xDC00, content)
            raise source.error(f"line {line}", f"{found} is not UTF-8; {OTHER_ENCODING}") from error


def join_fields(fields: Iterable[str | None], delimiter: str = ",") -> str:
    """Join fields into a row without a line end; fields may contain delimiters, quotes and line breaks."""
    text = io.StringIO()
    # With this line end, every version of Python quotes a lone carriage return.
    csv.writer(text, delimiter=delimiter, lineterminator="\r\n").writerow(fields)
    return text.getvalue()[:-2]


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

    A lone surrogate, which JSON can spell, has no bytes. Text with a zero byte cannot name a file or be stored in HDF5.
    """
    if "\0" in text:
        return None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None


def strip_blanks(text: bytes) -> bytes:
    r"""Return an encoded text without surrounding blanks, including Unicode's.

    Example:
        >>> strip_blanks(b"\t bass\xc2\xa0")
        b'bass'
    """
    return text.decode(_UTF8, "surrogateescape").strip().encode(_UTF8, "surrogateescape")


def encode_paths(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Encode a column of paths; ``error_at`` makes the error for a value that is blank or not a path."""
    return _encode_all(values, _encode_path, f"the path of an image, {TEXT_RULE}", error_at)


def encode_values(values: Sequence[object], error_at: ErrorAt) -> list[bytes]:
    """Encode a column of text and numbers, with None and NaN as empty text; any other value is an error."""
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
    return _encode_value(value) if isinstance(value, str | bytes) and value.strip() else None


def _encode_value(value: object) -> bytes | None:
    """Encode text or a number; None for anything else, and for text that cannot be encoded."""
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, bytes):
        return None if b"\0" in value else value
    if value is None or value != value:
        return b""
    return json.dumps(value).encode() if isinstance(value, bool | int | float) else None
