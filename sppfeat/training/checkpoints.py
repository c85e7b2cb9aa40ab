"""The files of a training: checkpoints, weights, log and list of images."""

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision

from sppfeat._version import __version__
from sppfeat.errors import StoreError, WeightsError
from sppfeat.files.outputs import OutputLock, replace_file
from sppfeat.files.tables import join_fields
from sppfeat.networks.backbones import Backbone
from sppfeat.networks.weight_files import read_tensors
from sppfeat.training.examples import Examples, ImageSets
from sppfeat.training.settings import TrainSettings

__all__ = ["TrainFolder", "describe_training"]

_FORMAT = "sppfeat-training"
_VERSION = 1

# Entries that may differ on resume: versions of packages, and the name of the initial weights (their checksum counts).
_FREE = ("made_by", "torch", "torchvision", "settings.backbone.weights")


def describe_training(
    settings: TrainSettings, backbone: Backbone, teachers: Mapping[str, Backbone], sets: ImageSets
) -> dict[str, Any]:
    """Records everything that the result of a training depends on, as plain values."""
    train, validation = sets.train, sets.validation
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


class TrainFolder:
    """The folder of a training, whose files stay complete even if the process dies while writing.

    Methods raise StoreError if a file cannot be written, and keep its previous version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pth"
        self.weights = folder / "model.pth"
        self.log = folder / "log.jsonl"
        self.images = folder / "images.csv"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Raises StoreError unless a training can begin in the folder, or resume if ``resume`` is True."""
        shown = repr(str(self.folder))
        # os.path, because methods of Path raise if a name is too long or a folder must not be entered.
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise StoreError(f"the output {shown} is not a folder")
        parent = self.folder.absolute().parent
        if not os.path.isdir(parent):
            raise StoreError(f"the folder of the output does not exist: {str(parent)!r}")
        has_checkpoint = os.path.exists(self.checkpoint)
        if resume and not has_checkpoint:
            raise StoreError(f"no training to resume: {str(self.checkpoint)!r} does not exist")
        if has_checkpoint and not (resume or overwrite):
            raise StoreError(
                f"{shown} already holds a training; --resume continues it, --overwrite starts over"
            )

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Creates the folder, whose parent must exist, and locks it; removes it at the end if it is new and empty."""
        is_new = not os.path.lexists(self.folder)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {str(self.folder)!r}: {error.strerror}") from error
        try:
            with OutputLock(self.checkpoint):
                yield
        finally:
            if is_new:
                with contextlib.suppress(OSError):  # not empty
                    self.folder.rmdir()

    def clear(self) -> None:
        """Removes the weights and the log of an earlier training, so that all files belong to the same one."""
        for path in (self.weights, self.log):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot remove {str(path)!r}: {error.strerror}") from error

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, which replaces the previous one."""
        _save(self.checkpoint, {"format": _FORMAT, "version": _VERSION, **state})

    def read_checkpoint(self, provenance: dict[str, Any] | None = None) -> dict[str, Any]:
        """Reads the last checkpoint; StoreError names each difference between its record and ``provenance``."""
        shown = repr(str(self.checkpoint))
        try:
            content = read_tensors(self.checkpoint)
        except WeightsError as error:
            raise StoreError(f"the training cannot be resumed: {error}") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise StoreError(f"{shown} is not a checkpoint of a training")
        if content.get("version") != _VERSION:
            raise StoreError(f"{shown} has version {content.get('version')!r}; this sppfeat reads {_VERSION}")
        if provenance is not None:
            before, now = _flatten(json.loads(content["provenance"])), _flatten(provenance)
            differing = [
                f"{name} is {now.get(name)!r}, was {before.get(name)!r}"
                for name in sorted({*before, *now})
                if name not in _FREE and before.get(name) != now.get(name)
            ]
            if differing:
                raise StoreError(f"{shown} belongs to another training: {'; '.join(differing)}")
        return content

    def write_weights(self, content: Mapping[str, Any]) -> None:
        """Writes the weights file, for ``--weights``."""
        _save(self.weights, dict(content))

    def write_log(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Writes the log: one line of JSON per epoch."""
        replace_file(self.log, "".join(f"{json.dumps(entry)}\n" for entry in history).encode())

    def write_images(self, sets: ImageSets) -> None:
        """Writes the list of all images as CSV: ``set,class,path``."""
        lines = [join_fields(["set", "class", "path"])]
        validation = {} if sets.validation is None else {"validation": sets.validation}
        for name, examples in {"train": sets.train, **validation}.items():
            for image in examples.images.tolist():
                label = examples.labels[image]
                known = examples.classes[label] if label >= 0 else ""
                lines.append(join_fields([name, known, examples.name(image)]))
        replace_file(self.images, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def _save(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(path, buffer.getbuffer())


def _images_sha256(examples: Examples) -> str:
    """SHA-256 of relative paths, sizes and labels, which stays the same when the folder of the images moves."""
    digest = hashlib.sha256()
    for image in examples.images.tolist():
        row = (examples.listing.paths[image], *examples.image_hw[image].tolist(), int(examples.labels[image]))
        digest.update(repr(row).encode())
    return digest.hexdigest()


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        flat |= _flatten(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return flat
