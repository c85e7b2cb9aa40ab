"""Lays out the complete file of an extraction, or of a reduction, before the first row is written."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sppfeat.config.distribution import Shard
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.files.paths import PathTable
from sppfeat.store.creation import FILE_DTYPES, Entries, FileLayout, create_layout
from sppfeat.store.reader import FeatureFile
from sppfeat.store.reduction import Reduction
from sppfeat.store.schema import ColumnBlock, columns_of, scale_sides, whole_image_boxes
from sppfeat.store.tables import FileTables, RowBoxes
from sppfeat.store.writer import FeatureWriter

__all__ = ["Provenance", "create_file", "create_reduced_file", "feature_nbytes"]

_AT_ONCE = 1 << 14  # entries to handle at a time


class Provenance(NamedTuple):
    """Facts about an extraction that a file records beside the settings.

    Attributes:
        weights_path: path of the weights file; empty if the weights are named or random.
        boxes_path: path of the box file; empty without one.
        norm_factors: factor of each layer under ``meannorm``; None without it.
        shard: the shard of the plan that the file holds; None for the whole plan.
    """

    weights_path: str = ""
    boxes_path: str = ""
    norm_factors: tuple[float, ...] | None = None
    shard: Shard | None = None


def feature_nbytes(tables: FileTables, blocks: Sequence[ColumnBlock], dtype: str) -> int:
    """Return the size of ``/features`` in bytes."""
    return tables.n_rows * blocks[-1].stop * FILE_DTYPES[dtype].itemsize


def create_file(
    path: Path,
    tables: FileTables,
    config: ExtractConfig,
    blocks: Sequence[ColumnBlock],
    *,
    provenance: Provenance | None = None,
) -> None:
    """Lay out the file of an extraction; it takes its name only when the layout is complete.

    Args:
        path: the output. An existing file is replaced; of a link, the target is replaced.
        tables: every image and row.
        config: the settings, recorded with their fingerprint.
        blocks: the blocks of columns of a descriptor.
        provenance: further facts to record.

    Raises:
        StoreError: the disk has no space, or the folder is missing or not writable.
    """
    boxes = tables.boxes
    sizes = {
        "R": tables.n_rows,
        "D": blocks[-1].stop,
        "N": tables.n_images,
        "K": len(tables.classes),
        "B": len(blocks),
    }
    if boxes is not None:
        said = boxes.annotations
        sizes |= {
            "L": len(config.backbone.layers),
            "X": len(boxes.box_row),
            "Q": len(said.classes),
            "E": len(said.extra),
        }
    layout = FileLayout(
        columns=columns_of(ids=tables.ids is not None, boxes=boxes is not None),
        sizes=sizes,
        dtype=config.descriptor.dtype,
        attributes=_attributes(tables, config, provenance or Provenance()),
    )
    with create_layout(path, layout, _entries(tables, config, blocks)):
        pass  # nothing to add: the writer fills the file under its final name


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
    entries = _reduced_entries(source, reduction, layout)
    with create_layout(path, layout, entries) as part, contextlib.closing(FeatureWriter(part)) as writer:
        yield writer


def _block_entries(blocks: Sequence[ColumnBlock]) -> Iterator[Entries]:
    """Yield ``/columns``: the layer, level, channels and range of each block of columns."""
    for name in ColumnBlock._fields:
        values = [getattr(block, name) for block in blocks]
        yield f"columns/{name}", ..., values


def _attributes(tables: FileTables, config: ExtractConfig, provenance: Provenance) -> dict[str, str | bytes]:
    attributes: dict[str, str | bytes] = {
        "config": config.to_json(),
        "fingerprint": config.fingerprint,
        "weights_sha256": config.backbone.weights_sha256,
        "weights_path": os.fsencode(provenance.weights_path),
        "input_root": tables.root,
    }
    if tables.boxes is not None:
        attributes["boxes_path"] = os.fsencode(provenance.boxes_path)
    if provenance.norm_factors is not None:
        attributes["norm_factors"] = json.dumps(provenance.norm_factors)
    if provenance.shard is not None:
        attributes["shard"] = provenance.shard.to_json()
    return attributes


def _entries(tables: FileTables, config: ExtractConfig, blocks: Sequence[ColumnBlock]) -> Iterator[Entries]:
    """Yield everything that is known before the first image is decoded."""
    for first in range(0, tables.n_images, _AT_ONCE):
        stop = min(first + _AT_ONCE, tables.n_images)
        rows = slice(*tables.row_range(first, stop))
        images = np.repeat(np.arange(first, stop), np.diff(tables.rows[first:stop], axis=1).reshape(-1))
        yield "image_index", rows, images
        if tables.boxes is None:
            yield "boxes", rows, whole_image_boxes(tables.image_hw[images])
    yield from _text_entries("images/path", tables.paths)
    if tables.ids is not None:
        yield from _text_entries("images/id", tables.ids)
    yield "images/size", ..., tables.image_hw
    yield "images/rows", ..., tables.rows
    yield "images/label", ..., tables.labels
    yield "classes", ..., tables.classes
    yield from _block_entries(blocks)
    if tables.boxes is not None:
        yield from _box_entries(tables.boxes, config)


def _box_entries(boxes: RowBoxes, config: ExtractConfig) -> Iterator[Entries]:
    said = boxes.annotations
    yield "boxes", ..., boxes.boxes_px
    yield "row_source", ..., boxes.source
    yield "row_flag", ..., boxes.flag
    yield "row_scale", ..., scale_sides(boxes.scale, config.input)
    yield "row_mirrored", ..., boxes.mirrored.view(np.uint8)
    yield "row_label", ..., said.label
    yield "row_score", ..., said.score
    yield from _text_entries("row_id", said.ids)
    yield "row_classes", ..., [os.fsencode(name) for name in said.classes]
    yield "row_extra_names", ..., [os.fsencode(name) for name in said.extra_names]
    for i, column in enumerate(said.extra):
        for _, rows, texts in _text_entries("row_extra", column):
            yield "row_extra", (rows, i), texts
    yield "box_row", ..., boxes.box_row


def _reduced_entries(source: FeatureFile, reduction: Reduction, layout: FileLayout) -> Iterator[Entries]:
    for name in layout.columns:
        if not name.startswith(("columns/", "reduction/")):
            for entries, values in source.read_parts(name):
                yield name, entries, values
    for name in ("mean", "components", "scale"):
        yield f"reduction/{name}", ..., getattr(reduction, name)
    yield from _block_entries(reduction.columns)


def _text_entries(name: str, texts: PathTable) -> Iterator[Entries]:
    """Yield texts in blocks: each one takes 100 bytes or more as a Python object."""
    for first, block in zip(range(0, len(texts), _AT_ONCE), texts.blocks(_AT_ONCE), strict=True):
        yield name, slice(first, first + len(block)), block
