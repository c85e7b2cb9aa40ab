"""Reads Arrow files, and finds the columns and rows of Arrow tables of images or paths.

Hugging Face's ``datasets`` writes such files with ``save_to_disk``.
"""

import contextlib
import json
import mmap
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SppfeatError
from sppfeat.files.columns import (
    CLASS_NAMES,
    ID_NAMES,
    IMAGE_NAMES,
    describe_columns,
    find_path_column,
    find_unique_column,
    looks_like_boxes,
)
from sppfeat.files.places import FileVersion
from sppfeat.files.tables import (
    ErrorAt,
    TableFile,
    encode_paths,
    encode_text,
    encode_values,
    shorten,
    show_names,
)
from sppfeat.inputs.segments import FIRST_REFUSAL, STORED_MEMBER, Members, MemberStorage, Segment, Storage
from sppfeat.inputs.tables import Rows, make_segment, row_error

__all__ = [
    "ColumnPart",
    "arrow_errors",
    "find_arrow_columns",
    "import_pyarrow",
    "make_arrow_segment",
    "read_arrow",
]

_FILE_MAGIC = b"ARROW1"  # begins a file with a footer; anything else is a stream
_NULL = -1
_AS_BYTES = {"string": "binary", "large_string": "large_binary"}

# A column of bytes with any other name need not be images.
_CONTENT_NAMES = (
    "image", "img", "image_bytes", "img_bytes", "bytes", "content", "data", "picture", "photo",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
_HUGGING_FACE = b"huggingface"  # key in the metadata of a schema

# Names of pyarrow types with a single text, or a single number, per row.
_BINARIES = {"binary", "large_binary"}
_TEXTS = _BINARIES | {"string", "large_string"}
_NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {
    "bool", "halffloat", "float", "double"
}  # fmt: skip


class ColumnPart(NamedTuple):
    """The name of a column, or of a field of a column of structs."""

    column: str
    field: str | None = None

    @property
    def dotted(self) -> str:
        """The name of the column, or field, in Parquet."""
        return self.column if self.field is None else f"{self.column}.{self.field}"

    def of(self, batch: Any) -> Any:
        """Return the values of the column in a ``pyarrow.RecordBatch``; null where the whole struct is null."""
        array = batch.column(self.column)
        return array if self.field is None else array.flatten()[array.type.get_field_index(self.field)]


@dataclass(frozen=True)
class ArrowColumns:
    """The columns of a table of images.

    Attributes:
        contents: column of the encoded images; None if the table only has paths.
        paths: column of the images' paths; with ``contents``, the original ones.
        classes: names of the classes if ``label`` holds their numbers; None if it holds names, or nameless numbers.
        has_boxes: True if further columns look like boxes.
        text: the purpose of each column, in words.
    """

    contents: ColumnPart | None
    paths: ColumnPart | None
    label: ColumnPart | None
    classes: tuple[bytes, ...] | None
    image_id: ColumnPart | None
    has_boxes: bool
    text: str

    @property
    def beside(self) -> list[str]:
        """Names in Parquet of all columns except the images themselves."""
        return [part.dotted for part in (self.paths, self.label, self.image_id) if part is not None]


def read_arrow(path: bytes) -> Segment:
    """Find the images that the rows of an Arrow file contain or name, with classes and ids if it has them.

    The images themselves are not read: they are parts of the file. Raises ConfigError if they are not usable parts.
    """
    table, pa = TableFile(path), import_pyarrow()
    with arrow_errors(path, "Arrow", ConfigError), open(path, "rb") as file:
        version = FileVersion.of(file.fileno())
        # The mapping is closed with the last buffer that views it.
        content = pa.py_buffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        if content[: len(_FILE_MAGIC)].to_pybytes() == _FILE_MAGIC:
            reader = pa.ipc.open_file(content)
            batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        else:
            reader = pa.ipc.open_stream(content)
            batches = list(reader)
        columns = find_arrow_columns(
            reader.schema,
            table,
            lambda part: all(part.of(batch).null_count == batch.num_rows for batch in batches),
        )
        storage = None
        if columns.contents is not None:
            members = _members(columns.contents, batches, content, table)
            storage = MemberStorage(path, version, members, is_table=True)
        return make_arrow_segment(table, columns, batches, storage)


def _members(contents: ColumnPart, batches: Sequence[Any], content: Any, table: TableFile) -> Members:
    """Find the byte ranges of the images of all batches, which view the ``content`` of the file."""
    places = [_places(contents.of(batch), content, table) for batch in batches]
    offsets, sizes = np.concatenate([np.empty((2, 0), dtype=np.int64), *places], axis=1)
    packing = np.where(sizes > 0, STORED_MEMBER, FIRST_REFUSAL + (sizes == 0))
    reasons = ("null in its table", "empty: no bytes in its table")
    return Members(np.stack((offsets, sizes, packing, sizes), axis=1), reasons, has_headers=False)


def _places(values: Any, content: Any, table: TableFile) -> npt.NDArray[np.int64]:
    """Offset and size in bytes of each of ``n`` images, ``(2, n)`` int64."""
    values.validate(full=True)  # checks that the bounds ascend and stay within the bytes
    is_null = values.is_null().to_numpy(zero_copy_only=False)
    nothing = np.zeros(len(values), np.int64)
    _, bounds_buffer, image_buffer = values.buffers()
    if is_null.all():  # such a column may lack its buffers
        return np.stack((nothing, nothing + _NULL))
    kind = np.int64 if str(values.type).startswith("large_") else np.int32
    bounds = np.frombuffer(bounds_buffer, kind)[values.offset :][: len(values) + 1].astype(np.int64)
    sizes = np.where(is_null, _NULL, np.diff(bounds))
    if not (sizes > 0).any():  # the buffer of bytes may be missing
        return np.stack((nothing, sizes))
    start = image_buffer.address - content.address
    if not 0 <= start <= start + image_buffer.size <= content.size:
        raise table.error("", "is compressed; allowed: uncompressed Arrow files, or Parquet")
    return np.stack((start + bounds[:-1], sizes))


def find_arrow_columns(schema: Any, table: TableFile, is_empty: Callable[[ColumnPart], bool]) -> ArrowColumns:
    """Find the columns of images or their paths, of classes and of ids; ConfigError if they are missing or ambiguous.

    Images are in a column of structs of ``bytes`` and ``path``, or in a column of bytes that has one of the usual
    names or that the metadata declare as images. If they are null in all rows, ``is_empty``, only the paths count.
    """
    images, classes = _read_features(schema.metadata, table)
    contents, paths = _find_images(schema, images, table)
    if contents is not None and is_empty(contents):
        contents = None
    if contents is None and paths is None:
        texts = [field.name for field in schema if _kind(field.type) in _TEXTS]
        paths = ColumnPart(texts[find_path_column(texts, error=partial(_no_paths, schema, table))])
    plain = [field.name for field in schema if _kind(field.type) in _TEXTS | _NUMBERS]
    label = _find_label(plain, classes, table)
    image_id = find_unique_column(plain, ID_NAMES, error=partial(table.error, ""))
    parts = {"images": contents, "paths": paths if contents is None else None}
    used = {what: schema.names.index(part.column) for what, part in parts.items() if part is not None}
    named = {"classes": label, "ids": None if image_id is None else plain[image_id]}
    used |= {what: schema.names.index(name) for what, name in named.items() if name is not None}
    found = ArrowColumns(
        contents=contents,
        paths=paths,
        label=None if label is None else ColumnPart(label),
        classes=None if label is None else classes.get(label),
        image_id=None if image_id is None else ColumnPart(plain[image_id]),
        has_boxes=looks_like_boxes(schema.names),
        text=describe_columns(schema.names, used),
    )
    for part in (found.contents, found.paths, found.label, found.image_id):
        if part is not None and schema.names.count(part.column) > 1:
            raise table.error("", f"found the column {part.column!r} twice; allowed: once")
    return found


def _read_features(
    metadata: Mapping[bytes, bytes] | None, table: TableFile
) -> tuple[list[str], dict[str, tuple[bytes, ...]]]:
    """The image columns, and the class names of number columns, as recorded by Hugging Face's ``datasets``.

    Both are empty if other software wrote the schema's metadata.
    """
    try:
        recorded = json.loads((metadata or {}).get(_HUGGING_FACE, b"{}"))
        features = recorded["info"]["features"].items()
        kinds = {name: of["_type"] for name, of in features if isinstance(of, dict) and "_type" in of}
        named = {name: of["names"] for name, of in features if kinds.get(name) == "ClassLabel"}
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        return [], {}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    return images, {column: _class_names(names, column, table) for column, names in named.items()}


def _class_names(names: object, column: str, table: TableFile) -> tuple[bytes, ...]:
    given = names if isinstance(names, list) else []
    encoded = {encode_text(name) if isinstance(name, str) else None: None for name in given}
    classes = tuple(name for name in encoded if name)
    if not classes or len(classes) < len(given):
        found = f"the names of the classes of {column!r} are {shorten(names)}"
        raise table.error("", f"{found}; allowed: a list of different names")
    return classes


def _find_images(
    schema: Any, images: list[str], table: TableFile
) -> tuple[ColumnPart | None, ColumnPart | None]:
    """Find the columns of images and of their paths, or only the column of paths if structs hold nothing else."""
    found: dict[str, tuple[ColumnPart | None, ColumnPart | None]] = {}
    for field in schema:
        name, is_declared = field.name, field.name in images
        if str(field.type).startswith("struct<"):
            parts = {
                part.name: ColumnPart(name, part.name) for part in field.type if _kind(part.type) in _TEXTS
            }
            contents, paths = parts.get("bytes"), parts.get("path")
            if contents or (paths and (is_declared or name.lower() in IMAGE_NAMES)):
                found[name] = contents, paths
        elif str(field.type) in _BINARIES and (is_declared or name.lower() in _CONTENT_NAMES):
            found[name] = ColumnPart(name), None
    known = [name for name in found if name.lower() in _CONTENT_NAMES] if len(found) > 1 else list(found)
    if found and len(known) != 1:
        allowed = f"one, or one with a name of {'|'.join(_CONTENT_NAMES)}"
        shown = show_names(list(found))
        raise table.error("", f"several columns could be the images: found {shown}; allowed: {allowed}")
    return found[known[0]] if known else (None, None)


def _find_label(names: list[str], classes: Collection[str], table: TableFile) -> str | None:
    """Find the column of classes, preferring numbers that have names."""
    of_classes = [name for name in names if name in classes]
    choices = of_classes or names
    column = find_unique_column(choices, CLASS_NAMES, error=partial(table.error, ""))
    return next(iter(of_classes), None) if column is None else choices[column]


def _no_paths(schema: Any, table: TableFile, what: str) -> SppfeatError:
    columns = show_names([f"{field.name}: {field.type}" for field in schema])
    images = f"images, as structs of bytes and path, or as bytes in a column {'|'.join(_CONTENT_NAMES)}"
    return table.error("", f"{what}; or {images}. The columns are {columns}")


def _kind(kind: Any) -> str:
    """The name of a type; for a dictionary, the name of its value type."""
    return str(kind.value_type if hasattr(kind, "index_type") else kind)


def make_arrow_segment(
    table: TableFile, columns: ArrowColumns, batches: Iterable[Any], storage: Storage | None
) -> Segment:
    """Make a segment from the rows of all batches; ``storage`` fetches the images that the table contains."""
    rows, classes = _rows(table, columns, batches), columns.classes
    return make_segment(
        table,
        rows,
        has_boxes=columns.has_boxes,
        columns=columns.text,
        classes=classes,
        unit="row",
        storage=storage,
    )


def _rows(table: TableFile, columns: ArrowColumns, batches: Iterable[Any]) -> Iterator[Rows]:
    """Yield the rows of each ``pyarrow.RecordBatch``, numbered from 0."""
    first = 0
    for batch in batches:
        numbers = range(first, first + batch.num_rows)
        error_at = partial(row_error, table, "row", numbers)
        paths, labels, ids = (
            _values(batch, part) for part in (columns.paths, columns.label, columns.image_id)
        )
        if columns.classes is not None:
            labels = _names_of(labels, columns.classes, error_at)
        yield Rows(
            numbers,
            (encode_paths if columns.contents is None else encode_values)(paths, error_at),
            encode_values(labels, error_at),
            encode_values(ids, error_at),
        )
        first += batch.num_rows


def _values(batch: Any, part: ColumnPart | None) -> list[Any]:
    """The values of a column, with text as bytes, not necessarily UTF-8."""
    if part is None:
        return [None] * batch.num_rows
    array = part.of(batch)
    if hasattr(array, "dictionary_decode"):
        array = array.dictionary_decode()
    to_bytes = _AS_BYTES.get(str(array.type))
    values = array if to_bytes is None else array.cast(to_bytes)
    values.validate(full=True)  # damaged values would crash the process
    return list(values.to_pylist())


def _names_of(numbers: list[Any], classes: tuple[bytes, ...], error_at: ErrorAt) -> list[bytes]:
    """Class names by their numbers; empty for null and -1, which mean no class."""
    name_of: dict[Any, bytes] = dict(enumerate(classes))
    name_of |= {None: b"", -1: b""}
    unknown = next((i for i, number in enumerate(numbers) if number not in name_of), None)
    if unknown is not None:
        found = f"the class is {shorten(numbers[unknown])}"
        raise error_at(unknown, f"{found}; allowed: 0 to {len(classes) - 1}, or -1 for none")
    return [name_of[number] for number in numbers]


def import_pyarrow(submodule: str = "") -> Any:
    """Import pyarrow, or ``.parquet`` of it; ConfigError if it is not installed."""
    return import_extra(f"pyarrow{submodule}", extra="parquet", purpose="reading a table of images")


@contextlib.contextmanager
def arrow_errors(path: bytes, kind: str, error_class: type[SppfeatError]) -> Iterator[None]:
    """Convert errors from pyarrow and the system to ``error_class``, naming the file and its kind."""
    pa = import_pyarrow()
    try:
        yield
    except SppfeatError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = one_line(getattr(error, "strerror", None) or str(error) or type(error).__name__)
        raise error_class(f"{os.fsdecode(path)!r} cannot be read as {kind}: {reason}") from error
