"""The output of a part: its path, its lock, its upload, and counts of its images."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sppfeat.config.request import Request
from sppfeat.errors import ConfigError, StoreError
from sppfeat.files.outputs import (
    OutputLock,
    check_output,
    is_being_written,
    refuse_input,
    remove_leftovers,
)
from sppfeat.files.remote import url_of
from sppfeat.files.remote.output import LocalOutput, local_output
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status, count_boxes

__all__ = ["Failure", "Outcome", "Output", "join_outcomes", "open_output", "read_outcome"]

_RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """The path of an image that failed, relative to the root of the inputs, and the reason."""

    path: str
    error: str


@dataclass(frozen=True)
class Output:
    """The file of one part on this machine, which ``local`` uploads if the output is a URL; no lock for a dry run."""

    path: Path
    local: LocalOutput
    lock: OutputLock | None


@contextlib.contextmanager
def open_output(request: Request, path: Path, *, lock_seconds: float = 0.0) -> Iterator[Output]:
    """Check and lock the output of a part; a URL gets a local file, which :meth:`LocalOutput.publish` uploads.

    A lock that another process holds is awaited for ``lock_seconds``.

    Raises:
        ConfigError: the output is one of the inputs, or a URL that several processes share.
        StoreError: no file can be written there, or another process writes it.
    """
    if request.shared and url_of(path) is not None:
        raise ConfigError(f"--shared is for an output of this machine, and {str(url_of(path))!r} is none")
    with local_output(
        path, scratch=request.scratch, overwrite=request.overwrite, dry_run=request.dry_run
    ) as local:
        if local.url is None:
            check_output(local.path)
        refuse_input(local.path, request.inputs)
        real = Path(os.path.realpath(local.path))  # the target of a link is locked, written and replaced
        if request.dry_run:
            yield Output(real, local, None)
            return
        with _lock(request, real, time.monotonic() + lock_seconds) as lock:
            if not request.shared:
                remove_leftovers(real)
            yield Output(real, local, lock)


def _lock(request: Request, path: Path, until: float) -> OutputLock:
    shard = request.shard.name if request.shard is not None and request.shared else None
    while True:
        try:
            return OutputLock(path, shard=shard)
        except StoreError:
            if time.monotonic() >= until or not is_being_written(path):
                raise
            time.sleep(_RETRY_SECONDS)


class Outcome(NamedTuple):
    """Counts of the images in the files of a run; :class:`sppfeat.extraction.extract.ExtractResult` has the same."""

    files: list[str]
    images: int
    done: int
    failed: int
    pending: int
    failures: list[Failure]
    boxes: dict[str, int] | None


def read_outcome(path: Path, *, name: str | None = None, images: tuple[int, int] | None = None) -> Outcome:
    """Read a file, and count its images, or those of a half-open range; ``name`` is the file's name if not ``path``."""
    with FeatureFile(path) as file:
        first, stop = images or (0, len(file.status))
        status, boxes = file.status[first:stop], None
        failures = [Failure(file.path_of(i), why) for i, why in file.errors.items() if first <= i < stop]
        if file.has_boxes:
            rows = slice(*np.searchsorted(file.image_index, (first, stop)))
            is_done = status[file.image_index[rows] - first] == Status.DONE
            boxes = count_boxes(file.row_flag[rows], np.asarray(is_done))
    pending, done, failed = np.bincount(status, minlength=len(Status))[: len(Status)].tolist()
    return Outcome([name or str(path)], len(status), done, failed, pending, failures, boxes)


def join_outcomes(outcomes: Sequence[Outcome], n_images: int) -> Outcome:
    """Add up the outcomes of files that hold ``n_images`` images in all; missing images count as pending."""
    done, failed = sum(own.done for own in outcomes), sum(own.failed for own in outcomes)
    boxes = [own.boxes for own in outcomes if own.boxes is not None]
    return Outcome(
        files=[file for own in outcomes for file in own.files],
        images=n_images,
        done=done,
        failed=failed,
        pending=n_images - done - failed,
        failures=[failure for own in outcomes for failure in own.failures],
        boxes={name: sum(own[name] for own in boxes) for name in boxes[0]} if boxes else None,
    )
