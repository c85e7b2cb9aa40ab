"""An export as arrays with names, as files that hold several have them."""

from collections.abc import Mapping

import numpy as np

from sppfeat.analysis.export.contents import Contents
from sppfeat.store.mat73 import NamedArray
from sppfeat.store.selection.row_table import EXTRA, TextColumn

__all__ = ["VECTORS", "arrays_beside"]

VECTORS = "X"


def arrays_beside(contents: Contents) -> Mapping[str, NamedArray]:
    """All but the vectors: ``y``, ``rows``, ``paths``, ``boxes``, ``classes``, ``columns``, ``about``.

    Where the inputs named their images also ``image_id``. Of boxes also ``flag``, ``scale``, ``mirrored``, ``score``,
    ``id``, ``source``, and where there are any ``extra`` and ``extra_names``.
    """
    table = dict(contents.table)
    arrays: dict[str, NamedArray] = {
        "y": table.pop("label_number"),
        "rows": table.pop("row"),
        "paths": table.pop("path"),
        "boxes": np.stack([np.asarray(table.pop(name)) for name in ("x0", "y0", "x1", "y1")], axis=1),
        "classes": contents.selection.target_names,
        "columns": list(contents.selection.columns.names()),
        "about": [contents.about_json()],
    }
    del table["label"]
    extra = {name: table.pop(name) for name in list(table) if name.startswith(EXTRA)}
    arrays.update(table)
    if extra:
        arrays["extra"] = tuple(column for column in extra.values() if isinstance(column, TextColumn))
        arrays["extra_names"] = [name.removeprefix(EXTRA) for name in extra]
    return arrays
