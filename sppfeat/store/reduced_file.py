"""Creates the file of ``sppfeat reduce``: the tables of another feature file, and room for reduced descriptors."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from sppfeat.store.layout import Entries, FileLayout, block_entries, create_layout
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.writer import FeatureWriter

__all__ = ["create_reduced_file"]


@contextlib.contextmanager
def create_reduced_file(
    path: Path, source: FeatureFile, reduction: Reduction, *, dtype: str
) -> Iterator[FeatureWriter]:
    """Create a file with the images and rows of another one, its reduction, and room for the reduced descriptors.

    The file takes its name when the context ends without an error.

    Args:
        path: the output; an existing file is replaced.
        source: an open file without pending images.
        reduction: the projection, which the new file records.
        dtype: type of the reduced descriptors, ``float32`` or ``float16``.

    Yields:
        A writer for the reduced descriptors; the caller must write every row.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """
    layout = FileLayout.like(source, reduction=True)
    layout = dataclasses.replace(
        layout,
        sizes={**layout.sizes, "D": reduction.dimension, "B": 1, "S": len(reduction.mean)},
        dtype=dtype,
        attributes={
            **layout.attributes,
            "fingerprint": reduction.fingerprint_of(source.config.fingerprint),
            "reduction": reduction.record.to_json(),
        },
    )
    entries = _entries(source, reduction, layout)
    with create_layout(path, layout, entries) as part, contextlib.closing(FeatureWriter(part)) as writer:
        yield writer


def _entries(source: FeatureFile, reduction: Reduction, layout: FileLayout) -> Iterator[Entries]:
    for name in layout.columns:
        if not name.startswith(("columns/", "reduction/")):
            for entries, values in source.read_parts(name):
                yield name, entries, values
    for name in ("mean", "components", "scale"):
        yield f"reduction/{name}", ..., getattr(reduction, name)
    yield from block_entries(reduction.columns)
