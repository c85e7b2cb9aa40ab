"""Columns of images, paths, classes and ids, found in the Arrow schema of a table."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from sppfeat.errors import SppfeatError
from sppfeat.files.columns import (
    CLASS_NAMES,
    ID_NAMES,
    IMAGE_NAMES,
    find_path_column,
    find_unique_column,
    looks_like_boxes,
)
from sppfeat.files.tables import TableFile, encode_text, shorten, show_names

__all__ = ["ArrowColumns", "ColumnPart", "find_arrow_columns"]

# A column of bytes with any other name need not be images.
_CONTENT_NAMES = (
    "image", "img", "image_bytes", "img_bytes", "bytes", "content", "data", "picture", "photo",
    "jpg", "jpeg", "png", "webp",
)  # fmt: skip
_HUGGING_FACE = b"huggingface"  # key in the metadata of a schema
_BYTES, _PATH = "bytes", "path"  # fields of the struct of an image

# Names of types in pyarrow; those of a single text, or a single number, for each row.
_BINARIES = {"binary", "large_binary"}
_TEXTS = _BINARIES | {"string", "large_string"}
_NUMBERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {
    "bool", "halffloat", "float", "double"
}  # fmt: skip


class ColumnPart(NamedTuple):
    """A column, or a field of a column of structs.

    Attributes:
        column: name of the column.
        field: name of the field; None for the whole column.
    """

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
        label: column of classes.
        classes: names of the classes if ``label`` holds their numbers; None if it holds names, or nameless numbers.
        image_id: column of the images' ids.
        has_boxes: True if further columns look like boxes.
    """

    contents: ColumnPart | None
    paths: ColumnPart | None
    label: ColumnPart | None
    classes: tuple[bytes, ...] | None
    image_id: ColumnPart | None
    has_boxes: bool

    @property
    def beside(self) -> list[str]:
        """Names in Parquet of all columns except the images themselves."""
        return [part.dotted for part in (self.paths, self.label, self.image_id) if part is not None]


def find_arrow_columns(schema: Any, table: TableFile, is_empty: Callable[[ColumnPart], bool]) -> ArrowColumns:
    """Find the columns of images or their paths, of classes and of ids.

    Images are in a column of structs of ``bytes`` and ``path``, or in a column of bytes that has one of the usual
    names or that the metadata declare as images. If they are null in all rows, ``is_empty``, only the paths count.

    Raises:
        ConfigError: the table has neither images nor paths, or several columns that could hold them.
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
    found = ArrowColumns(
        contents=contents,
        paths=paths,
        label=None if label is None else ColumnPart(label),
        classes=None if label is None else classes.get(label),
        image_id=None if image_id is None else ColumnPart(plain[image_id]),
        has_boxes=looks_like_boxes(schema.names),
    )
    for part in (found.contents, found.paths, found.label, found.image_id):
        if part is not None and schema.names.count(part.column) > 1:
            raise table.error("", f"found the column {part.column!r} twice; allowed: once")
    return found


def _read_features(
    metadata: Mapping[bytes, bytes] | None, table: TableFile
) -> tuple[list[str], dict[str, tuple[bytes, ...]]]:
    """The columns of images, and the class names of columns of numbers, as Hugging Face's ``datasets`` records them.

    Both are empty if other software wrote the metadata of the schema.
    """
    try:
        said = json.loads((metadata or {}).get(_HUGGING_FACE, b"{}"))
        features = said["info"]["features"].items()
        kinds = {name: of["_type"] for name, of in features if isinstance(of, dict) and "_type" in of}
        named = {name: of["names"] for name, of in features if kinds.get(name) == "ClassLabel"}
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        return [], {}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    return images, {column: _class_names(names, column, table) for column, names in named.items()}


def _class_names(names: object, column: str, table: TableFile) -> tuple[bytes, ...]:
    encoded = (
        [encode_text(name) if isinstance(name, str) else None for name in names]
        if isinstance(names, list)
        else []
    )
    if not encoded or not all(encoded) or len(set(encoded)) < len(encoded):
        raise table.error(
            "",
            f"the names of the classes of {column!r} are {shorten(names)}; allowed: a list of different names",
        )
    return tuple(name for name in encoded if name)


def _find_images(
    schema: Any, images: list[str], table: TableFile
) -> tuple[ColumnPart | None, ColumnPart | None]:
    """Find the columns of images and of their paths, or only the column of paths if structs hold nothing else."""
    found: dict[str, tuple[ColumnPart | None, ColumnPart | None]] = {}
    for field in schema:
        name, is_said = field.name, field.name in images
        if str(field.type).startswith("struct<"):
            parts = {
                part.name: ColumnPart(name, part.name) for part in field.type if _kind(part.type) in _TEXTS
            }
            contents, paths = parts.get(_BYTES), parts.get(_PATH)
            if contents or (paths and (is_said or name.lower() in IMAGE_NAMES)):
                found[name] = contents, paths
        elif str(field.type) in _BINARIES and (is_said or name.lower() in _CONTENT_NAMES):
            found[name] = ColumnPart(name), None
    known = [name for name in found if name.lower() in _CONTENT_NAMES] if len(found) > 1 else list(found)
    if found and len(known) != 1:
        raise table.error(
            "",
            f"several columns could be the images: found {show_names(list(found))}; "
            f"allowed: one, or one with a name of {'|'.join(_CONTENT_NAMES)}",
        )
    return found[known[0]] if known else (None, None)


def _find_label(names: list[str], classes: Collection[str], table: TableFile) -> str | None:
    """Find the column of classes, preferring one whose numbers have names."""
    of_classes = [name for name in names if name in classes]
    choices = of_classes or names
    column = find_unique_column(choices, CLASS_NAMES, error=partial(table.error, ""))
    if column is not None:
        return choices[column]
    return of_classes[0] if of_classes else None


def _no_paths(schema: Any, table: TableFile, what: str) -> SppfeatError:
    columns = show_names([f"{field.name}: {field.type}" for field in schema])
    return table.error(
        "",
        f"{what}; or images, as structs of bytes and path, or as bytes in a column "
        f"{'|'.join(_CONTENT_NAMES)}. The columns are {columns}",
    )


def _kind(kind: Any) -> str:
    """The name of a type; for dictionaries, that of their values."""
    return str(kind.value_type if hasattr(kind, "index_type") else kind)
