"""Turns the decoded images of a batch into rows of a plan."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from sppfeat.config.regions import RowFlag
from sppfeat.extraction.describe import Describer, RegionRequest
from sppfeat.extraction.pipeline import BatchDescriber
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.row_sink import DescribedRows
from sppfeat.store.schema import RowAudit
from sppfeat.store.tables import RowBoxes

__all__ = ["make_batch_describer"]


def make_batch_describer(plan: Plan, describer: Describer, projector: Projector | None) -> BatchDescriber:
    """Make the function that turns decoded images of a plan into described rows.

    Args:
        plan: the plan, with or without boxes.
        describer: computes the descriptors.
        projector: projects boxes to cells; required if the plan has boxes.
    """
    if plan.boxes is None:
        return _WholeImageDescriber(plan, describer)
    if projector is None:
        raise ValueError("a plan with boxes needs a projector")
    return _BoxDescriber(plan, plan.boxes, describer, projector)


class _WholeImageDescriber:
    """Describes whole images, one row per image."""

    def __init__(self, plan: Plan, describer: Describer) -> None:
        self._plan = plan
        self._describer = describer

    def __call__(
        self,
        images: Sequence[int],
        pixels: npt.NDArray[np.uint8],
        scale: int,  # noqa: ARG002
    ) -> Iterator[DescribedRows]:
        descriptors, wait = self._describer.deliver_images(pixels)
        for i, image in enumerate(images):
            first, stop = self._plan.rows[image].tolist()
            yield DescribedRows(image, np.arange(first, stop), descriptors[i : i + 1], wait=wait)


class _BoxDescriber:
    """Describes the boxes that are pooled at the scale of the batch, one row per box."""

    def __init__(self, plan: Plan, boxes: RowBoxes, describer: Describer, projector: Projector) -> None:
        self._plan = plan
        self._boxes = boxes
        self._describer = describer
        self._projector = projector

    def __call__(
        self, images: Sequence[int], pixels: npt.NDArray[np.uint8], scale: int
    ) -> Iterator[DescribedRows]:
        rows = [self._rows_at(image, scale) for image in images]
        requests = [self._request(image, own) for image, own in zip(images, rows, strict=True)]
        described = self._describer.deliver_regions(pixels, requests, self._projector)
        for position, part, descriptors, regions, wait in described:
            own = rows[position][part]
            small = np.where(regions.sub_cell.numpy(), np.uint8(RowFlag.SUB_CELL), np.uint8(0))
            audit = RowAudit(self._boxes.flag[own] | small, regions.cells.numpy().astype(np.int32))
            yield DescribedRows(images[position], own, descriptors, audit, wait)

    def _rows_at(self, image: int, scale: int) -> npt.NDArray[np.int64]:
        first, stop = self._plan.rows[image].tolist()
        return np.asarray(first + np.flatnonzero(self._boxes.scale[first:stop] == scale), dtype=np.int64)

    def _request(self, image: int, rows: npt.NDArray[np.int64]) -> RegionRequest:
        height, width = self._plan.image_hw[image].tolist()
        return RegionRequest.of(self._boxes.boxes_px[rows], self._boxes.mirrored[rows], (height, width))
