"""What is known of each row beside its vector, for pandas."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sppfeat.config.machine import import_extra
from sppfeat.store.schema import Status
from sppfeat.store.selection.row_table import RowColumn, TextColumn, row_table

if TYPE_CHECKING:
    from sppfeat.store.selection.selection import Selection

__all__ = ["to_pandas"]


def to_pandas(selection: "Selection") -> Any:
    """A ``pandas.DataFrame`` of :func:`sppfeat.store.selection.row_table.row_table`, indexed by the row's number.

    And of the row's image ``width``, ``height``, ``status`` and ``error``. ``label`` is categorical, with the numbers
    of ``y`` as codes, where classes have names; else these numbers; empty where nothing is known.

    Raises:
        ConfigError: pandas is not installed.
        LabelError: labels that are no numbers, or several for each row.
    """
    pandas = import_extra("pandas", extra="pandas", purpose="to_pandas")
    columns = {**row_table(selection), **_of_images(selection)}
    index = pandas.Index(columns.pop("row"), name="row")
    numbers = columns.pop("label_number")
    if selection.y is not None and not selection.labels.names:
        columns["label"] = numbers
    table = pandas.DataFrame({name: _series(pandas, values, index) for name, values in columns.items()})
    label = columns["label"]
    if selection.labels.names and isinstance(label, TextColumn):
        # Class by class as in the file, so that its numbers are the codes; none is no category, and no class of a
        # damaged file either.
        names = pandas.Index(_unique(selection.target_names), dtype=object)
        table["label"] = pandas.Categorical.from_codes(label.index, categories=names)
    return table


def _of_images(selection: "Selection") -> dict[str, RowColumn]:
    file, images = selection.file, selection.groups
    image_hw, errors = file.image_hw[images], file.errors
    statuses = [status.name.lower() for status in Status]
    failed = {image: i for i, image in enumerate(errors)}
    return {
        "width": image_hw[:, 1],
        "height": image_hw[:, 0],
        "status": TextColumn(statuses, file.status[images].astype(np.int64)),
        "error": TextColumn(
            list(errors.values()),
            np.array([failed.get(image, -1) for image in images.tolist()], dtype=np.int64),
        ),
    }


def _series(pandas: Any, values: RowColumn, index: Any) -> Any:
    if isinstance(values, TextColumn):
        # As objects: what pandas would keep texts in takes no names that are not UTF-8.
        texts = [text or "" for text in values[:]]
        return pandas.Series(texts, index=index, dtype=object)
    return pandas.Series(values, index=index)


def _unique(names: list[str]) -> list[str]:
    """Return names of which none is there twice: what a damaged file may have."""
    seen: dict[str, int] = {}
    return [name if seen.setdefault(name, i) == i else f"{name} ({i})" for i, name in enumerate(names)]
