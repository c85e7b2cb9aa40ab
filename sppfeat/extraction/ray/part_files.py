"""The part files of a Ray run: their paths, the bounds of the parts, and counts of finished images."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.errors import StoreError
from sppfeat.extraction.output import Outcome, join_outcomes, read_outcome
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.shard_plan import PLACEHOLDER, shard_path
from sppfeat.files.versions import FileVersion
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status
from sppfeat.store.stored_file import StoredFile

__all__ = ["PartFiles", "cut_into_parts", "is_made_of_parts", "part_pattern", "parts_folder"]

_IMAGES_PER_PART = 256  # seconds of work, against milliseconds to lay out the file
_MOST_PARTS = 1024  # files; of ten million images, each has ten thousand


def parts_folder(output: Path) -> Path:
    """Return the folder of the part files of an output."""
    return Path(f"{output}.parts")


def part_pattern(output: Path) -> Path:
    """Return the path of the part files, with ``{shard}`` in place of the number."""
    return parts_folder(output) / f"{PLACEHOLDER}.h5"


def is_made_of_parts(output: Path) -> bool:
    """Return True if a file refers to rows in its folder of part files, even if these are missing."""
    try:
        with contextlib.closing(StoredFile(output)) as file:
            features = file.virtual_features()
    except StoreError:  # not a feature file; reading it reports that
        return False
    here, folder = os.fsencode(output.parent), os.fsencode(parts_folder(output))
    sources = [] if features is None else features.files
    folders = {os.path.realpath(os.path.join(here, os.path.dirname(source.path))) for source in sources}
    return folders == {os.path.realpath(folder)}


def cut_into_parts(plan: Plan) -> npt.NDArray[np.int64]:
    """Return the bounds of the parts of a plan, as in :func:`sppfeat.extraction.shard_plan.cut_plan`.

    The parts do not depend on the actors, so that other actors can continue a run. There are many parts, so they need
    not take equally long.

    Example:
        >>> from types import SimpleNamespace
        >>> cut_into_parts(SimpleNamespace(n_images=600)).tolist()
        [0, 200, 400, 600]
    """
    n_parts = min(max(1, -(-plan.n_images // _IMAGES_PER_PART)), _MOST_PARTS)
    return np.arange(n_parts + 1, dtype=np.int64) * plan.n_images // n_parts


class PartFiles:
    """The part files of a plan, some of which may not exist yet.

    Args:
        pattern: path of the files, with ``{shard}`` in place of the number.
        bounds: ``(n + 1,)`` int64; part ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.

    Attributes:
        paths: paths of all part files, existing or not.
    """

    def __init__(self, pattern: Path, bounds: npt.NDArray[np.int64]) -> None:
        n = len(bounds) - 1
        self.paths: Sequence[Path] = [shard_path(pattern, ShardChoice(i, n)) for i in range(1, n + 1)]
        self._bounds = bounds
        self._sizes = np.diff(bounds)
        self._counts: npt.NDArray[np.int64] = np.zeros((n, 2), dtype=np.int64)
        self._versions: list[FileVersion | None] = [None] * n

    def existing(self) -> list[int]:
        """Return the indices, from 0, of the parts whose files exist."""
        return [i for i, path in enumerate(self.paths) if path.exists()]

    def check(self, plan: Plan, config: ExtractConfig) -> tuple[float, ...] | None:
        """Refuse files of another plan or of other settings.

        Returns:
            The factors of ``meannorm`` in the files; None if no file has any.

        Raises:
            StoreError: a file cannot be continued.
        """
        factors = None
        for i in self.existing():
            refusal = (
                f"{str(self.paths[i])!r} exists and cannot be continued; use another output, or remove it"
            )
            with FeatureFile(self.paths[i]) as file:
                differences = config_differences(file.config.to_dict(), config.to_dict())
                if differences:
                    raise StoreError(f"{refusal}: it was made with other settings: {'; '.join(differences)}")
                shard, own = file.shard, (int(self._bounds[i]), int(self._bounds[i + 1]))
                if shard is None or shard.plan != plan.digest:
                    raise StoreError(f"{refusal}: its images are not of these inputs, or these have changed")
                if (shard.first_image, shard.stop_image) != own:
                    raise StoreError(f"{refusal}: it has {shard}, and is to have images {own[0]} to {own[1]}")
                factors = file.norm_factors
        return factors

    def count_images(self) -> npt.NDArray[np.int64]:
        """Count the done and the failed images of each part, ``(n, 2)`` int64; reads only changed files."""
        for i, path in enumerate(self.paths):
            try:
                version = FileVersion.of(path)
            except FileNotFoundError:
                continue
            if version != self._versions[i]:
                with FeatureFile(path) as file:
                    status = file.status
                self._counts[i] = (status == Status.DONE).sum(), (status == Status.FAILED).sum()
                self._versions[i] = version
        return np.array(self._counts)

    def unfinished(self, *, with_failures: bool) -> npt.NDArray[np.int64]:
        """Return the indices, from 0, of parts with pending images, or with failed ones if those count."""
        counts = self.count_images()
        is_left = counts[:, 0] + counts[:, 1] < self._sizes
        is_wanted = is_left | (counts[:, 1] > 0) if with_failures else is_left
        return np.asarray(np.flatnonzero(is_wanted), dtype=np.int64)

    def outcome(self) -> Outcome:
        """Count the images of all parts by status; images without a file are pending."""
        found = (read_outcome(self.paths[i], (0, int(self._sizes[i]))) for i in self.existing())
        return join_outcomes(found, int(self._bounds[-1]))
