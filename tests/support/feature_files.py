"""Small feature files without a network: settings, plans, and files filled with random rows."""

import contextlib
from pathlib import Path

import h5py
import numpy as np

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec
from sppfeat.extraction.plan import Plan, make_plan
from sppfeat.files.paths import PathTable
from sppfeat.inputs import FileStorage, Listing
from sppfeat.store.layout import create_file
from sppfeat.store.schema import column_blocks
from sppfeat.store.writer import FeatureWriter

LAYERS, CHANNELS, LEVELS = ("layer3", "layer4"), (2, 1), (1, 2)
BLOCKS = column_blocks(LAYERS, CHANNELS, LEVELS)
DIMENSION = 15


def config(dtype="float32", **backbone):
    backbone = {
        "name": "resnet18",
        "weights": "none",
        "weights_sha256": "0" * 64,
        "layers": LAYERS,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
        "interpolation": "bilinear",
        "seed": 0,
        **backbone,
    }
    return ExtractConfig(
        backbone=BackboneSpec(**backbone),
        input=InputSpec(),
        descriptor=DescriptorSpec(levels=LEVELS, dtype=dtype),
    )


def listing_of(root: bytes, paths: PathTable, labels, classes) -> Listing:
    """A listing of files below a folder of this machine."""
    return Listing(root, paths, labels, classes, FileStorage(root, paths))


def plan_of(paths, *, sizes=None, labels=None, classes=(), root=b"/data") -> Plan:
    """A plan of whole images, 4 x 6 pixels unless ``sizes`` are given."""
    n = len(paths)
    listing = listing_of(
        root=root,
        paths=PathTable(paths),
        labels=np.full(n, -1, dtype=np.int64) if labels is None else np.array(labels, dtype=np.int64),
        classes=tuple(classes),
    )
    image_hw = np.array([[4, 6]] * n if sizes is None else sizes, dtype=np.int32).reshape(n, 2)
    return make_plan(listing, image_hw, {}, InputSpec())


def new_file(path: Path, n=5, *, dtype="float32", **options):
    """Creates a file of ``n`` pending images."""
    plan = plan_of([f"{i}.jpg" for i in range(n)], **options)
    create_file(path, plan, config(dtype), BLOCKS)
    return path


def descriptors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, DIMENSION)).astype(np.float32)


def write(writer, first, values):
    """Writes rows from ``first`` on."""
    writer.write_rows(np.arange(first, first + len(values)), values)


def fill(path: Path, rows, *, failed=(), reason="broken", pending=()):
    """Writes a row for each image that has not failed, pending images included."""
    with contextlib.closing(FeatureWriter(path)) as writer:
        for i, row in enumerate(rows):
            if i in failed:
                writer.mark_failed(i, reason)
            else:
                write(writer, i, row[None])
                if i not in pending:
                    writer.mark_done(i)
    return path


def name_images(path: Path, ids):
    """Adds ids of images, as input tables do."""
    with h5py.File(path, "r+") as file:
        file.create_dataset("images/id", data=ids, dtype=h5py.string_dtype())
