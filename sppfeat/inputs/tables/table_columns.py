"""Which column of a table of images is what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sppfeat.config.wording import first_few, one_line
from sppfeat.errors import ConfigError
from sppfeat.files.columns import COLUMN_SETS, IMAGE_NAMES, LABEL_NAMES, LIST_KEYS

__all__ = [
    "CLASS_NAMES",
    "ID_NAMES",
    "PATH_NAMES",
    "TableColumns",
    "find_column",
    "find_columns",
    "find_path_column",
    "looks_like_boxes",
    "show_names",
]

PATH_NAMES = (*IMAGE_NAMES, "filepath", "file_path", "image_file", "url", "image_url")
# Names of classes before their numbers, where a table has both.
CLASS_NAMES = ("class_name", "label_name", "category_name", *LABEL_NAMES)
ID_NAMES = ("image_id", "id", "key", "uid")

_SHOWN = 20


@dataclass(frozen=True)
class TableColumns:
    """Where a table says what of an image.

    Attributes:
        path: column of its path.
        label, image_id: of its class, and of what the table calls it; None where there is none.
        has_boxes: further columns look like boxes.
    """

    path: int
    label: int | None
    image_id: int | None
    has_boxes: bool


def find_columns(names: Sequence[str], *, error: Callable[[str], ConfigError]) -> TableColumns:
    """Return which column is what; names count without case and surrounding blanks.

    Args:
        names: of the columns, in their order.
        error: makes an error that says where, of a text that says what.

    Raises:
        ConfigError: no column of paths, or several; a column that counts is there twice.
    """
    return TableColumns(
        path=find_path_column(names, error=error),
        label=find_column(names, CLASS_NAMES, error=error),
        image_id=find_column(names, ID_NAMES, error=error),
        has_boxes=looks_like_boxes(names),
    )


def find_path_column(names: Sequence[str], *, error: Callable[[str], ConfigError]) -> int:
    """Return the column of paths.

    Raises:
        ConfigError: there is none, or there are several.
    """
    known = {_plain(name) for name in names}
    candidates = [name for name in PATH_NAMES if name in known]
    column = find_column(names, candidates, error=error) if len(candidates) == 1 else None
    if column is not None:
        return column
    number = "several columns could have the paths" if candidates else "no column has the paths"
    raise error(f"{number}: found {show_names(names)}; allowed: exactly one of {'|'.join(PATH_NAMES)}")


def looks_like_boxes(names: Sequence[str]) -> bool:
    """Whether some of the columns together could be a box."""
    known = {_plain(name) for name in names}
    return any(known.issuperset(box) for box in (*COLUMN_SETS, *LIST_KEYS))


def find_column(
    names: Sequence[str], choices: Sequence[str], *, error: Callable[[str], ConfigError]
) -> int | None:
    """Return the column with the first of some names that there is; None where there is none of them.

    Raises:
        ConfigError: it is there twice.
    """
    plain = [_plain(name) for name in names]
    chosen = next((choice for choice in choices if choice in plain), None)
    if chosen is None:
        return None
    if plain.count(chosen) > 1:
        raise error(f"found the column {chosen!r} twice in {show_names(names)}; allowed: once")
    return plain.index(chosen)


def _plain(name: str) -> str:
    return name.strip().lower()


def show_names(names: Sequence[str]) -> str:
    """Names of columns as an error quotes them."""
    return one_line(first_few(map(repr, names), _SHOWN)) or "nothing"
