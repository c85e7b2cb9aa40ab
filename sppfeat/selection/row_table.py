"""What is known of each row beside its vector, as columns."""

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from sppfeat.extras import import_extra
from sppfeat.schema import Status

if TYPE_CHECKING:
    from sppfeat.selection.selection import Selection

__all__ = ["row_columns", "to_pandas"]


def row_columns(selection: "Selection") -> dict[str, list[Any] | npt.NDArray[Any]]:
    """Columns by name, each as long as the selection: numbers as arrays, texts as lists.

    ``row``, ``path``, ``label`` (the name of the class, empty where there is none; whatever number the caller gave
    where the classes have no names), ``x0``, ``y0``, ``x1``, ``y1`` (pixels of the upright image, edges, from 0),
    ``width``, ``height`` (of the image), ``status``, ``error``. With boxes also ``source``, ``flag``, ``scale``,
    ``mirrored``, ``score``, ``id``, and the further columns of the box file; one that is called as one of these
    with ``box_`` before its name.
    """
    file, rows = selection.file, selection.rows
    images = selection.groups
    boxes, image_hw = file.boxes[rows], file.image_hw[images]
    errors = file.errors
    names = {int(status): status.name.lower() for status in Status}
    columns: dict[str, list[Any] | npt.NDArray[Any]] = {
        "row": rows,
        "path": selection.paths,
        "label": _label_column(selection),
        **{name: boxes[:, i] for i, name in enumerate(("x0", "y0", "x1", "y1"))},
        "width": image_hw[:, 1],
        "height": image_hw[:, 0],
        "status": [names.get(number, str(number)) for number in file.status[images].tolist()],
        "error": [errors.get(image, "") for image in images.tolist()],
    }
    if file.has_boxes:
        columns |= {
            "source": file.row_source[rows],
            "flag": file.row_flag[rows],
            "scale": file.row_scale[rows],
            "mirrored": file.row_mirrored[rows],
            "score": file.row_score[rows],
            "id": [file.row_id[row] for row in rows.tolist()],
        }
        for name, texts in file.row_extra.items():
            unique = name
            while unique in columns:
                unique = f"box_{unique}"
            columns[unique] = [texts[row] for row in rows.tolist()]
    return columns


def to_pandas(selection: "Selection") -> Any:
    """A ``pandas.DataFrame`` of :func:`row_columns`, indexed by the row's number.

    Raises:
        ConfigError: pandas is not installed.
    """
    pandas = import_extra("pandas", extra="pandas", purpose="to_pandas")
    columns = row_columns(selection)
    index = pandas.Index(columns.pop("row"), name="row")
    # Texts as objects: what pandas would keep them in takes no names that are not UTF-8.
    series = {
        name: pandas.Series(values, index=index, dtype=object if isinstance(values, list) else None)
        for name, values in columns.items()
    }
    table = pandas.DataFrame(series)
    if selection.labels.names:
        codes = selection.y
        # Class by class as in the file, so that its numbers are the codes; none is no category.
        table["label"] = pandas.Categorical.from_codes(
            codes, categories=pandas.Index(_unique(selection.target_names), dtype=object)
        )
    return table


def _label_column(selection: "Selection") -> list[Any] | npt.NDArray[Any]:
    y, names = selection.y, selection.target_names
    if y is None:
        return [""] * len(selection)
    return [names[number] if 0 <= number < len(names) else "" for number in y.tolist()] if names else y


def _unique(names: list[str]) -> list[str]:
    """Return names of which none is there twice: what a damaged file may have."""
    seen: dict[str, int] = {}
    return [name if seen.setdefault(name, i) == i else f"{name} ({i})" for i, name in enumerate(names)]
