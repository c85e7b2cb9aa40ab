"""The output of a run: its path, its lock, and counts of its images."""

import contextlib
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from sppfeat.config.request import ExtractRequest
from sppfeat.errors import ConfigError
from sppfeat.extraction.shard_plan import PLACEHOLDER, shard_path
from sppfeat.files.locks import OutputLock, ShardLock
from sppfeat.files.outputs import remove_leftovers
from sppfeat.files.remote import url_of
from sppfeat.files.remote.output import LocalOutput, local_output
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

__all__ = [
    "Lock",
    "Outcome",
    "join_outcomes",
    "lock_output",
    "open_local_output",
    "read_outcome",
    "resolve_output",
]

Lock = OutputLock | ShardLock | None
"""The lock of an output; None where nothing is written."""


def resolve_output(request: ExtractRequest) -> Path:
    """Return the path of the output, with ``{shard}`` replaced by the number of the requested shard.

    Raises:
        ConfigError: the name does not suit the request.
    """
    output = request.output
    if request.shared and PLACEHOLDER in str(output):
        raise ConfigError(f"with --shared all shards have one output, and {str(output)!r} has {PLACEHOLDER}")
    return shard_path(output, request.shard)


def open_local_output(
    request: ExtractRequest, output: Path
) -> contextlib.AbstractContextManager[LocalOutput]:
    """Open the local file for an output; a URL gets a temporary file, which is uploaded later.

    Raises:
        ConfigError: the output is a URL, and several processes share it.
    """
    if request.shared and url_of(output) is not None:
        raise ConfigError(f"--shared is for an output of this machine, and {str(url_of(output))!r} is none")
    return local_output(output, scratch=request.scratch, overwrite=request.overwrite, dry_run=request.dry_run)


@contextlib.contextmanager
def lock_output(request: ExtractRequest) -> Iterator[Lock]:
    """Hold the lock of an output, and remove leftovers of killed runs; a dry run takes no lock."""
    if request.dry_run:
        yield None
    elif request.shard is not None and request.shared:
        with ShardLock(request.output, request.shard.name) as shard_lock:
            yield shard_lock
    else:
        with OutputLock(request.output) as lock:
            remove_leftovers(request.output)
            yield lock


class Outcome(NamedTuple):
    """Counts of the images in the files of a run.

    Attributes:
        outputs: paths or URLs of the files.
        images, done, failed, pending: numbers of images in this run's share of the files.
        failures: path and reason of each failed image.
        boxes: numbers of boxes by kind, as counted by :meth:`sppfeat.store.reader.FeatureFile.count_boxes`; None for
            whole images.
    """

    outputs: list[str]
    images: int
    done: int
    failed: int
    pending: int
    failures: list[tuple[str, str]]
    boxes: dict[str, int] | None

    def followed_by(self, other: "Outcome") -> "Outcome":
        """Add the outcome of further files to this one."""
        boxes = self.boxes
        if boxes is not None and other.boxes is not None:
            boxes = {name: n + other.boxes[name] for name, n in boxes.items()}
        return Outcome(
            outputs=[*self.outputs, *other.outputs],
            images=self.images + other.images,
            done=self.done + other.done,
            failed=self.failed + other.failed,
            pending=self.pending + other.pending,
            failures=[*self.failures, *other.failures],
            boxes=boxes,
        )


def read_outcome(path: Path, own: tuple[int, int]) -> Outcome:
    """Count the images ``own[0]`` to ``own[1]`` of a file by status."""
    with FeatureFile(path) as file:
        status = file.status[slice(*own)]
        failures = [(file.path_of(i), text) for i, text in file.errors.items() if own[0] <= i < own[1]]
        return Outcome(
            outputs=[str(path)],
            images=len(status),
            done=int((status == Status.DONE).sum()),
            failed=len(failures),
            pending=int((status == Status.PENDING).sum()),
            failures=failures,
            boxes=file.count_boxes() if file.has_boxes else None,
        )


def join_outcomes(outcomes: Iterable[Outcome], n_images: int) -> Outcome:
    """Add up the outcomes of files that hold ``n_images`` images in all; missing images count as pending."""
    nothing = Outcome([], 0, 0, 0, 0, [], None)
    found = list(outcomes)
    total = reduce(Outcome.followed_by, found) if found else nothing
    return total._replace(images=n_images, pending=total.pending + n_images - total.images)
