"""What is asked of each decoded image of a plan, and the rows that come of it."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from sppfeat.boxes.coordinates import clip_boxes
from sppfeat.config.regions import RowFlag
from sppfeat.extraction.describe import Describer, RegionRequest
from sppfeat.extraction.pipeline import Describe
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.regions import Projector
from sppfeat.extraction.row_sink import RowBlock
from sppfeat.store.schema import RowAudit
from sppfeat.store.tables import RowBoxes

__all__ = ["describe_plan"]


def describe_plan(plan: Plan, describer: Describer, projector: Projector | None) -> Describe:
    """What turns decoded images of a plan into its rows.

    Args:
        plan: with boxes or without.
        describer: computes the descriptors.
        projector: how boxes become regions; needed where there are boxes.
    """
    if plan.boxes is None:
        return _WholeImages(plan, describer)
    if projector is None:
        raise ValueError("a plan with boxes needs a projector")
    return _Boxes(plan, plan.boxes, describer, projector)


class _WholeImages:
    """One row per image."""

    def __init__(self, plan: Plan, describer: Describer) -> None:
        self._plan = plan
        self._describer = describer

    def __call__(
        self,
        images: Sequence[int],
        pixels: npt.NDArray[np.uint8],
        scale: int,  # noqa: ARG002
    ) -> Iterator[RowBlock]:
        descriptors, arrived = self._describer.deliver_images(pixels)
        for i, image in enumerate(images):
            first, stop = self._plan.rows[image].tolist()
            yield RowBlock(image, np.arange(first, stop), descriptors[i : i + 1], arrived=arrived)


class _Boxes:
    """One row per box: those of the scale in hand that have an area."""

    def __init__(self, plan: Plan, boxes: RowBoxes, describer: Describer, projector: Projector) -> None:
        self._plan = plan
        self._boxes = boxes
        self._describer = describer
        self._projector = projector

    def __call__(
        self, images: Sequence[int], pixels: npt.NDArray[np.uint8], scale: int
    ) -> Iterator[RowBlock]:
        rows = [self._rows_at(image, scale) for image in images]
        requests = [self._request(image, own) for image, own in zip(images, rows, strict=True)]
        described = self._describer.deliver_regions(pixels, requests, self._projector)
        for position, part, descriptors, regions, arrived in described:
            own = rows[position][part]
            small = np.where(regions.sub_cell.numpy(), np.uint8(RowFlag.SUB_CELL), np.uint8(0))
            audit = RowAudit(self._boxes.flag[own] | small, regions.cells.numpy().astype(np.int32))
            yield RowBlock(images[position], own, descriptors, audit, arrived)

    def _rows_at(self, image: int, scale: int) -> npt.NDArray[np.int64]:
        first, stop = self._plan.rows[image].tolist()
        return np.asarray(first + np.flatnonzero(self._boxes.scale[first:stop] == scale), dtype=np.int64)

    def _request(self, image: int, rows: npt.NDArray[np.int64]) -> RegionRequest:
        height, width = self._plan.image_hw[image].tolist()
        row_hw = np.full((len(rows), 2), (height, width), dtype=np.int32)
        clipped, _ = clip_boxes(self._boxes.boxes_px[rows], row_hw)
        mirrored = torch.from_numpy(self._boxes.mirrored[rows])
        return RegionRequest(torch.from_numpy(clipped), mirrored, (height, width))
