"""The files of a plan that is cut into shards, some of which may not exist yet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.distribution import ShardChoice
from sppfeat.config.extract_config import config_differences
from sppfeat.errors import StoreError
from sppfeat.extraction.output import Outcome, join_outcomes, read_outcome
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.report import PlanSummary, summarize_plan
from sppfeat.extraction.run import Run
from sppfeat.extraction.shard_plan import ShardPlan, cut_shard, shard_path
from sppfeat.files.versions import FileVersion
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import Status

__all__ = ["ShardFiles"]


class ShardFiles:
    """The files of a plan that is cut into shards, and what they hold.

    Args:
        pattern: path of the files, with ``{shard}`` in place of the number.
        plan: every image and row.
        bounds: ``(n + 1,)`` int64; shard ``i`` holds images ``bounds[i]`` to ``bounds[i + 1]``.

    Attributes:
        paths: path of each shard's file, existing or not.
    """

    def __init__(self, pattern: Path, plan: Plan, bounds: npt.NDArray[np.int64]) -> None:
        self.paths: Sequence[Path] = [
            shard_path(pattern, ShardChoice(i, len(bounds) - 1)) for i in range(1, len(bounds))
        ]
        self._plan = plan
        self._bounds = bounds
        self._status = np.zeros(plan.n_images, dtype=np.uint8)
        self._versions: list[FileVersion | None] = [None] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def existing(self) -> list[int]:
        """Return the indices, from 0, of the shards whose files exist."""
        return [i for i, path in enumerate(self.paths) if path.exists()]

    def cut(self, index: int, *, has_views: bool) -> ShardPlan:
        """Cut the plan of a shard; see :func:`sppfeat.extraction.shard_plan.cut_shard`."""
        return cut_shard(self._plan, ShardChoice(index + 1, len(self)), self._bounds, has_views=has_views)

    def check(self, run: Run) -> tuple[float, ...] | None:
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
                differences = config_differences(file.config.to_dict(), run.config.to_dict())
                if differences:
                    raise StoreError(f"{refusal}: it was made with other settings: {'; '.join(differences)}")
                shard, own = file.shard, (int(self._bounds[i]), int(self._bounds[i + 1]))
                if shard is None or shard.plan != self._plan.digest:
                    raise StoreError(f"{refusal}: its images are not of these inputs, or these have changed")
                if (shard.first_image, shard.stop_image) != own:
                    raise StoreError(f"{refusal}: it has {shard}, and is to have images {own[0]} to {own[1]}")
                factors = file.norm_factors
        return factors

    def status(self) -> npt.NDArray[np.uint8]:
        """Return ``(N,)`` uint8, the status of each image of the plan; reads only files that have changed."""
        for i, path in enumerate(self.paths):
            try:
                version = FileVersion.of(path)
            except FileNotFoundError:
                continue
            if version != self._versions[i]:
                with FeatureFile(path) as file:
                    self._status[self._bounds[i] : self._bounds[i + 1]] = file.status
                self._versions[i] = version
        return np.array(self._status)

    def unfinished(self, status: npt.NDArray[np.uint8], *, with_failures: bool) -> list[int]:
        """Return the indices, from 0, of shards with pending images, or with failed ones if those count."""
        is_left = status == Status.PENDING
        if with_failures:
            is_left |= status == Status.FAILED
        return [i for i in range(len(self)) if is_left[self._bounds[i] : self._bounds[i + 1]].any()]

    def summary(
        self, run: Run, status: npt.NDArray[np.uint8], *, output: str, shard: str | None = None
    ) -> PlanSummary:
        """Summarize a run over all shards before it starts, given the status ``(N,)`` of the images."""
        is_to_do = status == Status.PENDING
        if run.request.retry_failed:
            is_to_do |= status == Status.FAILED
        return summarize_plan(
            run,
            self._plan,
            output=output,
            status=status,
            to_do=np.flatnonzero(is_to_do),
            n_unmeasured=int(self._plan.is_unmeasured.sum()),
            shard=shard,
        )

    def outcome(self, known: dict[int, Outcome], *, reads_others: bool = True) -> Outcome:
        """Count the images of all shards by status; images without a file are pending.

        Args:
            known: the outcomes that are known already, by index from 0.
            reads_others: True to read the other files that exist; False if these are still to be replaced.
        """
        others = self.existing() if reads_others else []
        found = [known.get(i) or read_outcome(self.paths[i]) for i in sorted({*known, *others})]
        return join_outcomes(found, self._plan.n_images)
