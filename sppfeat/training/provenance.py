"""The provenance of a training: a record of everything that its result depends on, kept in its files and compared."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torchvision

from sppfeat._version import __version__
from sppfeat.errors import StoreError
from sppfeat.networks.backbones import Backbone
from sppfeat.training.examples import Examples
from sppfeat.training.settings import TrainSettings

__all__ = ["check_same", "describe_training"]

# Entries that may differ on resume: versions of packages, and the name of the initial weights, whose checksum counts.
_FREE = ("made_by", "torch", "torchvision", "settings.backbone.weights")


def describe_training(
    settings: TrainSettings,
    backbone: Backbone,
    teachers: Mapping[str, Backbone],
    train: Examples,
    validation: Examples | None,
) -> dict[str, Any]:
    """Records everything that the result of a training depends on, as plain values.

    Args:
        settings: settings of the training.
        backbone: backbone of the student with its initial weights.
        teachers: backbones of the teachers, by name.
        train: images to train on.
        validation: held-out images, or None.
    """
    return {
        "made_by": f"sppfeat {__version__} train",
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "settings": settings.canonical(),
        "start_sha256": backbone.spec.weights_sha256,
        "teachers_sha256": {name: teacher.spec.weights_sha256 for name, teacher in teachers.items()},
        "classes": 0 if teachers else len(train.classes),
        "images": len(train),
        "images_sha256": _images_sha256(train),
        "validation_images": len(validation) if validation else 0,
        "validation_sha256": _images_sha256(validation) if validation else "",
    }


def check_same(recorded: dict[str, Any], wanted: dict[str, Any], *, source: str) -> None:
    """Checks that a checkpoint belongs to the training that resumes from it.

    Args:
        recorded: provenance in the checkpoint.
        wanted: provenance of the training that resumes.
        source: name of the checkpoint in the error message.

    Raises:
        StoreError: they differ; the message names the differences.
    """
    before, now = _flat(recorded), _flat(wanted)
    differing = [
        f"{name} is {now.get(name)!r}, was {before.get(name)!r}"
        for name in sorted({*before, *now})
        if name not in _FREE and before.get(name) != now.get(name)
    ]
    if differing:
        raise StoreError(f"{source!r} is of another training: {'; '.join(differing)}")


def _images_sha256(examples: Examples) -> str:
    """SHA-256 of relative paths, sizes and labels, which does not change if the folder of the images moves."""
    digest = hashlib.sha256()
    for image in examples.images.tolist():
        row = (examples.listing.paths[image], *examples.image_hw[image].tolist(), int(examples.labels[image]))
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= _flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat
