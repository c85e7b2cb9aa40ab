"""What the files of a run hold when it has ended."""

from pathlib import Path
from typing import NamedTuple

from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

__all__ = ["Outcome", "outcome_of"]


class Outcome(NamedTuple):
    """What the files of a run hold.

    Attributes:
        outputs: how the files are called.
        images, done, failed, pending: how many of them there are, of this run's part.
        failures: path and reason of each failed image.
        boxes: how many of which kind, see :meth:`sppfeat.store.reader.FeatureFile.count_boxes`; None for whole images.
    """

    outputs: list[str]
    images: int
    done: int
    failed: int
    pending: int
    failures: list[tuple[str, str]]
    boxes: dict[str, int] | None

    def followed_by(self, other: "Outcome") -> "Outcome":
        """Return this and that of further files together."""
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


def outcome_of(path: Path, own: tuple[int, int]) -> Outcome:
    """What a file holds of a half-open range of its images."""
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
