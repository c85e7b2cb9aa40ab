"""The files of the parts of a run: where they are, how a plan is cut for them, and what is in them by now."""

import contextlib
import os
from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.errors import StoreError
from sppfeat.extraction.output import Outcome, outcome_of
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.sharding import PLACEHOLDER, shard_path
from sppfeat.files.versions import FileVersion
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status
from sppfeat.store.stored_file import StoredFile

__all__ = ["PartFiles", "cut_for_actors", "leads_to_parts", "part_pattern", "parts_folder"]

_IMAGES_PER_PART = 256  # seconds of work, for a file that takes some milliseconds to lay out
_MOST_PARTS = 1024  # files; of ten million images each has ten thousand


def parts_folder(output: Path) -> Path:
    """Where the files of the parts of an output are."""
    return Path(f"{output}.parts")


def part_pattern(output: Path) -> Path:
    """Name of these files, with ``{shard}`` for the number."""
    return parts_folder(output) / f"{PLACEHOLDER}.h5"


def leads_to_parts(output: Path) -> bool:
    """Whether a file has its rows in files of its folder of parts, be these there or not."""
    try:
        with contextlib.closing(StoredFile(output)) as file:
            sources = file.source_files() or ()
    except StoreError:  # something else; whoever reads it reports that
        return False
    here, folder = os.fsencode(output.parent), os.fsencode(parts_folder(output))
    folders = {os.path.realpath(os.path.join(here, os.path.dirname(source.path))) for source in sources}
    return folders == {os.path.realpath(folder)}


def cut_for_actors(plan: Plan) -> npt.NDArray[np.int64]:
    """Where parts begin and end, see :func:`sppfeat.extraction.sharding.cut_plan`: by the plan alone.

    However many actors there are, now or when the run is continued, the files are the same. Parts are many, so that
    they need not take equally long.

    Example:
        >>> from types import SimpleNamespace
        >>> cut_for_actors(SimpleNamespace(n_images=600)).tolist()
        [0, 200, 400, 600]
    """
    n_parts = min(max(1, -(-plan.n_images // _IMAGES_PER_PART)), _MOST_PARTS)
    return np.arange(n_parts + 1, dtype=np.int64) * plan.n_images // n_parts


class PartFiles:
    """The files of all parts of a plan, as many as are there.

    Args:
        pattern: their name, with ``{shard}`` for the number.
        bounds: ``(n + 1,)`` int64, part ``i`` is images ``bounds[i]`` to ``bounds[i + 1]``.

    Attributes:
        paths: of all, whether they are there or not.
    """

    def __init__(self, pattern: Path, bounds: npt.NDArray[np.int64]) -> None:
        n = len(bounds) - 1
        self.paths: Sequence[Path] = [shard_path(pattern, ShardChoice(i, n)) for i in range(1, n + 1)]
        self._bounds = bounds
        self._sizes = np.diff(bounds)
        self._counts: npt.NDArray[np.int64] = np.zeros((n, 2), dtype=np.int64)
        self._versions: list[FileVersion | None] = [None] * n

    def existing(self) -> list[int]:
        """Numbers, from 0, of those that are there."""
        return [i for i, path in enumerate(self.paths) if path.exists()]

    def check(self, plan: Plan, config: ExtractConfig) -> tuple[float, ...] | None:
        """Refuse files that are of another plan or of other settings.

        Returns:
            The factors of the mean norm that the files have; None if there are none.

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

    def counts(self) -> npt.NDArray[np.int64]:
        """``(n, 2)`` int64: images of each part that are done, and that failed; only files that changed are read."""
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
        """Numbers, from 0, of parts that have images left, or with failed ones among those to be done."""
        counts = self.counts()
        is_left = counts[:, 0] + counts[:, 1] < self._sizes
        is_wanted = is_left | (counts[:, 1] > 0) if with_failures else is_left
        return np.asarray(np.flatnonzero(is_wanted), dtype=np.int64)

    def outcome(self) -> Outcome:
        """What the files hold; images whose file is not there yet are pending."""
        none = Outcome([], 0, 0, 0, 0, [], None)
        found = [outcome_of(self.paths[i], (0, int(self._sizes[i]))) for i in self.existing()]
        every = reduce(Outcome.followed_by, found) if found else none
        n_images = int(self._bounds[-1])
        return every._replace(images=n_images, pending=every.pending + n_images - every.images)
