"""What ``datasets`` of Hugging Face writes beside its columns: which are images, and the names of classes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sppfeat.files.cells import encode_text, shorten
from sppfeat.inputs.tables.table_files import TableFile

__all__ = ["Features", "read_features"]

_KEY = b"huggingface"


@dataclass(frozen=True)
class Features:
    """What the columns of a table are said to be.

    Attributes:
        images: names of columns of images.
        classes: names of columns of numbers of classes, each with the names of these classes in their order.
    """

    images: tuple[str, ...]
    classes: Mapping[str, tuple[bytes, ...]]


def read_features(metadata: Mapping[bytes, bytes] | None, table: TableFile) -> Features:
    """Return what the metadata of an Arrow schema says of the columns; nothing, where it is of another make.

    Raises:
        ConfigError: names of classes that are no names, or there twice.
    """
    try:
        said = json.loads((metadata or {}).get(_KEY, b"{}"))
        features = said["info"]["features"].items()
        kinds = {name: of["_type"] for name, of in features if isinstance(of, dict) and "_type" in of}
        named = {name: of["names"] for name, of in features if kinds.get(name) == "ClassLabel"}
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        return Features((), {})
    return Features(
        images=tuple(name for name, kind in kinds.items() if kind == "Image"),
        classes={column: _class_names(names, column, table) for column, names in named.items()},
    )


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
