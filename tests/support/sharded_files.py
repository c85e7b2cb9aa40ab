"""Finished feature files of whole plans and of their shards, made without a network."""

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import extraction_runs
import numpy as np
from box_rows import table_of
from feature_files import BLOCKS, DIMENSION, LAYERS, config, listing_of

from sppfeat.boxes.views import grid_views
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import BoxConvention, RegionSpec, RowFlag, parse_grid
from sppfeat.extraction.plan import Plan, ShardChoice, cut_shard, make_plan
from sppfeat.extraction.rows import rows_of_table, rows_of_views
from sppfeat.files.paths import PathTable
from sppfeat.inputs import Listing
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import RowRegions
from sppfeat.store.writer import FeatureWriter

FAILED = (2, 5)


class Work(NamedTuple):
    """A plan, the settings of its files, and the rows that an extraction would compute."""

    plan: Plan
    config: ExtractConfig

    @property
    def descriptors(self) -> np.ndarray:
        rows = np.random.default_rng(7).standard_normal((self.plan.n_rows, DIMENSION))
        return rows.astype(self.config.descriptor.dtype)

    @property
    def regions(self) -> np.ndarray:
        corner = np.random.default_rng(8).integers(0, 9, (self.plan.n_rows, len(LAYERS), 2))
        return np.concatenate((corner, corner + 3), axis=2).astype(np.int32)


def whole_images(n=11, *, dtype="float32", classes=(b"cat", b"d\xffg"), ids=True) -> Work:
    """Images of two classes with ids; some names are not UTF-8."""
    plan = make_plan(_listing(n, classes=classes, ids=ids), _sizes(n), {}, config().input)
    return Work(plan, config(dtype))


def with_box_file(n=11) -> Work:
    """Up to three boxes per image, not in the order of the images; some have no area, one has no input."""
    boxes = [(f"{i}.jpg", (x, 0, x + 2.5, 3)) for x in range(3) for i in reversed(range(n)) if (i + x) % 3]
    boxes += [("0.jpg", (2, 2, 2, 2)), (f"{n - 1}.jpg", (1, 1, 1, 5)), ("gone.jpg", (0, 0, 1, 1))]
    names = [f"{i}.jpg" for i in range(n)]
    table = table_of(boxes, images=[*names, "gone.jpg"])
    rows = rows_of_table(table, np.array([*range(n), -1]), _sizes(n))
    spec = RegionSpec(boxes="file", boxes_sha256="0" * 64, box_format="csv", convention=BoxConvention())
    return _with_rows(n, rows, spec)


def with_shared_rows(n=11) -> Work:
    """The same boxes, some of which share a row, as with --drop-duplicates."""
    work = with_box_file(n)
    boxes = work.plan.boxes
    box_row = boxes.box_row.copy()
    unused = np.flatnonzero(box_row < 0)
    box_row[unused] = work.plan.n_rows - 1
    plan = dataclasses.replace(work.plan, boxes=dataclasses.replace(boxes, box_row=box_row))
    return Work(plan, work.config)


def with_views(n=11) -> Work:
    """A grid of windows on each image; larger images have more."""
    spec = RegionSpec(boxes="grid:3x3px")
    rows = rows_of_views(lambda hw: grid_views(parse_grid(spec.boxes), hw), _sizes(n))
    return _with_rows(n, rows, spec)


def with_shared_views(n=11) -> Work:
    """The same views; the second view of each image shares the row of the first."""
    work = with_views(n)
    boxes = work.plan.boxes
    first = work.plan.rows[:, 0]
    kept = np.setdiff1d(np.arange(work.plan.n_rows), first + 1)
    box_row = np.searchsorted(
        kept, np.where(np.isin(boxes.box_row, first + 1), boxes.box_row - 1, boxes.box_row)
    )
    shared = dataclasses.replace(boxes.take(kept), box_row=box_row)
    rows = np.searchsorted(kept, work.plan.rows)
    return Work(dataclasses.replace(work.plan, boxes=shared, rows=rows), work.config)


KINDS = (whole_images, with_box_file, with_shared_rows, with_views, with_shared_views)


def write_whole(path: Path, work: Work, **options) -> Path:
    """Writes the file of all images."""
    return _write(path, work, work.plan, 0, 0, None, **options)


def write_shards(folder: Path, work: Work, bounds, **options) -> list[Path]:
    """Writes a file for each range of images between two bounds."""
    bounds, paths = np.array(bounds), []
    for i in range(1, len(bounds)):
        choice = ShardChoice(i, len(bounds) - 1)
        path = folder / f"{choice.name}.h5"
        paths.append(write_shard(path, work, bounds, choice, **options))
    return paths


def write_shard(path: Path, work: Work, bounds, choice: ShardChoice, **options) -> Path:
    regions = work.config.regions
    has_views = regions is not None and regions.boxes != "file"
    part, shard, _ = cut_shard(work.plan, choice, np.array(bounds), has_views=has_views)
    return _write(path, work, part, shard.first_image, shard.first_row, shard, **options)


def contents(path: Path) -> dict:
    """Every dataset and attribute of a file except its shard and its sources."""
    found = extraction_runs.contents(path)
    return {name: found[name] for name in found if name != "@shard" and not name.startswith("sources/")}


def assert_same_bytes(path: Path, other: Path) -> None:
    """Checks that plain h5py reads the same from both files."""
    ours, theirs = contents(path), contents(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        a, b = np.asarray(value), np.asarray(theirs[name])
        assert (a.dtype, a.shape) == (b.dtype, b.shape), name
        assert a.tolist() == b.tolist() if a.dtype.kind == "O" else a.tobytes() == b.tobytes(), name


def _listing(n, *, classes=(), ids=False) -> Listing:
    names = [os.fsencode(f"{i}.jpg") if classes == () else b"\xfe/%d.jpg" % i for i in range(n)]
    labels = np.arange(n) % 2 if classes else np.full(n, -1)
    listing = listing_of(
        root=b"/data", paths=PathTable(names), labels=labels.astype(np.int64), classes=tuple(classes)
    )
    return dataclasses.replace(listing, ids=PathTable(b"id %d" % i for i in range(n)) if ids else None)


def _sizes(n) -> np.ndarray:
    return np.array([[4 + i % 3, 6 + i % 2] for i in range(n)], dtype=np.int32)


def _with_rows(n, rows, spec: RegionSpec) -> Work:
    plain = config()
    settings = dataclasses.replace(plain, regions=spec)
    boxes = dataclasses.replace(rows.boxes, scale=np.where(rows.boxes.is_degenerate, -1, 0).astype(np.int16))
    plan = make_plan(_listing(n), _sizes(n), {}, plain.input, rows._replace(boxes=boxes))
    return Work(plan, settings)


def _write(
    path: Path,
    work: Work,
    part: Plan,
    first_image: int,
    first_row: int,
    shard,
    *,
    failed=FAILED,
    pending=(),
    factors=None,
    root=None,
) -> Path:
    """Creates a file and fills it as an extraction would."""
    if root is not None:
        part = dataclasses.replace(part, root=root)
    facts = {"weights_path": "w.pth", "boxes_path": "b.csv", "norm_factors": factors, "shard": shard}
    create_file(path, part, work.config, BLOCKS, **facts)
    own = slice(first_row, first_row + part.n_rows)
    descriptors, regions = work.descriptors[own], work.regions[own]
    with contextlib.closing(FeatureWriter(path)) as writer:
        for image, (start, stop) in enumerate(part.rows.tolist()):
            rows = np.arange(start, stop)
            if first_image + image in failed:
                writer.mark_failed(image, f"broken: {first_image + image}")
            elif first_image + image not in pending:
                if part.boxes is None:
                    writer.write_rows(rows, descriptors[rows])
                else:
                    pooled = rows[~part.boxes.is_degenerate[rows]]
                    writer.write_rows(
                        pooled, descriptors[pooled], RowRegions(part.boxes.flag[pooled], regions[pooled])
                    )
                    writer.write_no_descriptor(np.setdiff1d(rows, pooled))
                writer.mark_done(image)
    with FeatureFile(path) as file:
        assert not file.has_boxes or (file.row_flag <= RowFlag.SUB_CELL + 3).all()
    return path
