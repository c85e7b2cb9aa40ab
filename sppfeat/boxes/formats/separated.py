"""Box files of comma- or tab-separated text with a header, one box per row."""

import io
import math
from collections.abc import Iterator, Sequence

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.errors import BoxError
from sppfeat.files.cells import NUMBER_RULE, parse_number, shorten
from sppfeat.files.columns import COLUMN_SETS, BoxColumns, find_box_columns
from sppfeat.files.tables import decode_lines, split_rows

__all__ = ["read_csv", "read_tsv"]


def read_csv(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a CSV file.

    Raises:
        BoxError: the file is malformed.
    """
    return _read_separated(source, ",", "csv")


def read_tsv(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a TSV file.

    Raises:
        BoxError: the file is malformed.
    """
    return _read_separated(source, "\t", "tsv")


def _read_separated(source: AnnotationFiles, delimiter: str, box_format: str) -> BoxTable:
    records = _records(source, delimiter)
    line, header = next(records, (1, []))
    if header and all(parse_number(name) is not None for name in header[-4:]):
        raise source.error(
            f"line {line}", f"found {shorten(header)}; allowed: a header, the names of the columns"
        )
    if len(header) == 1 and ";" in header[0]:
        raise source.error(
            f"line {line}", f"found {shorten(header[0])}, separated by ';'; allowed: commas, or tabs (tsv)"
        )
    columns = find_box_columns(
        header,
        COLUMN_SETS,
        error=lambda what: source.error(f"line {line}", f"the header: {what}"),
    )
    builder = BoxTableBuilder(extra_names=[columns.names[i] for i in columns.extra])
    for line, row in records:
        if len(row) != len(header):
            raise source.error(
                f"line {line}",
                f"found {len(row)} fields, {shorten(row)}; allowed: {len(header)}, as in the header",
            )
        _add_row(builder, source, columns, line, row)
    return builder.build(default_convention(box_format).replace(coords=columns.coords))


def _records(source: AnnotationFiles, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the nonblank rows, each with the number of its first line."""

    def error(line: int, reason: str) -> BoxError:
        return source.error(
            f"line {line}", f"found a row that cannot be split: {reason}; allowed: fields as csv quotes them"
        )

    return split_rows(decode_lines(io.BytesIO(source.read_text())), delimiter, error=error)


def _add_row(
    builder: BoxTableBuilder, source: AnnotationFiles, columns: BoxColumns, line: int, row: Sequence[str]
) -> None:
    image = row[columns.image]
    if not image:
        raise source.error(
            f"line {line}", f"column {columns.names[columns.image]!r} is ''; allowed: the name of an image"
        )
    fields = [row[i] for i in columns.coordinates]
    try:
        box = [float(field) for field in fields]
        is_plain = "_" not in "".join(fields)
    except ValueError:
        is_plain = False
    if not is_plain:  # slow, but rare: an empty or faulty field
        box = [_number(source, columns, line, row, i) for i in columns.coordinates]
    label = row[columns.label] if columns.label is not None else ""
    builder.add_box(
        builder.add_image(_encode(image)),
        box,
        label=builder.add_class(label) if label else -1,
        score=math.nan if columns.score is None else _number(source, columns, line, row, columns.score),
        box_id=b"" if columns.box_id is None else _encode(row[columns.box_id]),
        extra=[_encode(row[i]) for i in columns.extra],
    )


def _number(
    source: AnnotationFiles, columns: BoxColumns, line: int, row: Sequence[str], column: int
) -> float:
    """Return the number in a field; an empty field is NaN, as pandas writes NaN."""
    text = row[column]
    number = parse_number(text) if text.strip() else math.nan
    if number is None:
        raise source.error(
            f"line {line}",
            f"column {columns.names[column]!r} is {shorten(text)}; allowed: {NUMBER_RULE}, or nothing",
        )
    return number


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # the inverse of the decoding
