"""Small feature files with labels that a classifier can learn."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
from box_rows import plan_of as plan_of_boxes
from box_rows import rows_of
from feature_files import BLOCKS, CHANNELS, DIMENSION, LAYERS, LEVELS, config, plan_of

from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import InputSpec
from sppfeat.store.layout import create_file
from sppfeat.store.schema import Status, column_blocks


def separable(labels, *, seed=0, noise=1.0):
    """Descriptors around a mean for each class; around 0 without a class."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((max(labels, default=0) + 2, DIMENSION))
    means[-1] = 0
    x = means[np.array(labels, dtype=int)] + noise * rng.standard_normal((len(labels), DIMENSION))
    return x.astype(np.float32)


def image_file(
    path: Path,
    labels,
    *,
    classes=None,
    features=None,
    channels=CHANNELS,
    dtype="float32",
    root=b"/data",
    **descriptor,
):
    """A finished file of whole images; ``descriptor`` changes settings of the descriptor."""
    if classes is None:
        classes = [f"c{i}".encode() for i in range(max(labels, default=-1) + 1)]
    paths = [b"%d.jpg" % i for i in range(len(labels))]
    blocks = column_blocks(LAYERS, channels, LEVELS)
    create_file(
        path, plan_of(paths, labels=labels, classes=classes, root=root), _config(dtype, descriptor), blocks
    )
    _fill(path, separable(labels) if features is None else features)
    return path


def box_file(path: Path, labels_of_images, *, features=None):
    """A file of boxes: a list of labels for each image."""
    labels = [label for own in labels_of_images for label in own]
    boxes = [[[0, 0, 10 + i, 20] for i, _ in enumerate(own)] for own in labels_of_images]
    image_hw = [(40, 60)] * len(boxes)
    settings = dataclasses.replace(_config("float32", {}), regions=RegionSpec(boxes="multiview"))
    create_file(path, plan_of_boxes(rows_of(boxes, image_hw), image_hw, InputSpec()), settings, BLOCKS)
    _fill(path, separable(labels) if features is None else features)
    with h5py.File(path, "r+") as file:
        file["row_label"][:] = labels
    return path


def _config(dtype, descriptor):
    settings = config(dtype)
    return dataclasses.replace(settings, descriptor=dataclasses.replace(settings.descriptor, **descriptor))


def _fill(path, features):
    with h5py.File(path, "r+") as file:
        file["features"][:] = features
        file["images/status"][:] = Status.DONE
