"""The files of a training: checkpoints to continue from, the weights, the log and the list of images."""

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from sppfeat.errors import StoreError, WeightsError
from sppfeat.files.atomic import replace_file
from sppfeat.files.locks import OutputLock
from sppfeat.files.tables import join_fields
from sppfeat.networks.weights import read_tensors
from sppfeat.training.examples import Examples

__all__ = ["TrainFolder"]

_FORMAT = "sppfeat-training"
_VERSION = 1


class TrainFolder:
    """The folder of a training; all its files stay complete, even if the process dies while writing.

    Args:
        folder: path of the folder, which is created if needed; its parent must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint.pth"
        self.weights = folder / "model.pth"
        self.log = folder / "log.jsonl"
        self.images = folder / "images.csv"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Checks that a training can begin in the folder, or resume if ``resume`` is True.

        Raises:
            StoreError: it is not a folder, its parent does not exist, it already holds a training, or it holds none to
                resume.
        """
        shown = repr(str(self.folder))
        # os.path, because methods of Path raise if a name is too long or a folder must not be entered.
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise StoreError(f"the output {shown} is no folder")
        if not os.path.isdir(self.folder.absolute().parent):
            raise StoreError(
                f"the folder of the output does not exist: {str(self.folder.absolute().parent)!r}"
            )
        has_checkpoint = os.path.exists(self.checkpoint)
        if resume and not has_checkpoint:
            raise StoreError(f"there is no training to resume: {str(self.checkpoint)!r} does not exist")
        if has_checkpoint and not (resume or overwrite):
            raise StoreError(
                f"{shown} holds a training already; --resume continues it, --overwrite starts anew"
            )

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Creates the folder and locks it against other trainings; removes it at the end if it is empty.

        Raises:
            StoreError: it cannot be created or written to, or another process is training in it.
        """
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
                with contextlib.suppress(OSError):  # it is not empty
                    self.folder.rmdir()

    def clear(self) -> None:
        """Removes the weights and the log of an earlier training, so that all files belong to the same one.

        Raises:
            StoreError: a file cannot be removed.
        """
        for path in (self.weights, self.log):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise StoreError(f"cannot remove {str(path)!r}: {error.strerror}") from error

    def write_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, which replaces the previous one.

        Raises:
            StoreError: it cannot be written; the previous checkpoint remains.
        """
        _save(self.checkpoint, {"format": _FORMAT, "version": _VERSION, **state})

    def read_checkpoint(self) -> dict[str, Any]:
        """Reads the last checkpoint.

        Raises:
            StoreError: it cannot be read, or has another format or version.
        """
        try:
            content = read_tensors(self.checkpoint)
        except WeightsError as error:
            raise StoreError(str(error)) from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise StoreError(f"{str(self.checkpoint)!r} is no checkpoint of a training")
        if content.get("version") != _VERSION:
            raise StoreError(
                f"{str(self.checkpoint)!r} has version {content.get('version')!r}; this sppfeat reads {_VERSION}"
            )
        return content

    def write_weights(self, content: Mapping[str, Any]) -> None:
        """Writes the weights file, which ``--weights`` takes.

        Raises:
            StoreError: it cannot be written.
        """
        _save(self.weights, dict(content))

    def write_log(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Writes the log: one line of JSON per epoch.

        Raises:
            StoreError: it cannot be written.
        """
        lines = [json.dumps(entry) for entry in history]
        replace_file(self.log, "".join(f"{line}\n" for line in lines).encode())

    def write_images(self, sets: Mapping[str, Examples]) -> None:
        """Writes the list of all images as CSV: ``set,class,path``.

        Raises:
            StoreError: it cannot be written.
        """
        lines = [join_fields(["set", "class", "path"])]
        for name, examples in sets.items():
            for image in examples.images.tolist():
                label = examples.labels[image]
                path = examples.name(image)
                known = examples.classes[label] if label >= 0 else ""
                lines.append(join_fields([name, known, path]))
        replace_file(self.images, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))


def _save(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(path, buffer.getbuffer())
