"""What is said of a run before it starts."""

from typing import NamedTuple

from sppfeat.config.request import BoxSummary, PlanSummary
from sppfeat.extraction.box_report import summarise_boxes
from sppfeat.extraction.describe import device_name
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.setup import Equipment
from sppfeat.store.layout import feature_nbytes

__all__ = ["RunState", "summarise_plan"]


class RunState(NamedTuple):
    """What a plan alone does not tell of a run; see :class:`sppfeat.config.request.PlanSummary`."""

    output: str
    already_done: int
    already_failed: int
    to_do: int
    unreadable: int
    unmeasured: int
    shard: str | None
    workers: int
    notes: list[str]


def summarise_plan(plan: Plan, equipment: Equipment, state: RunState) -> PlanSummary:
    """What a run over a plan is going to do."""
    config = equipment.config
    spec, descriptor = config.backbone, config.descriptor
    return PlanSummary(
        **state._asdict(),
        images=plan.n_images,
        rows=plan.n_rows,
        dimension=equipment.blocks[-1].stop,
        output_bytes=feature_nbytes(plan, equipment.blocks, descriptor.dtype),
        input_shapes=plan.n_shapes,
        round_to=config.input.round_to,
        classes=len(plan.classes),
        backbone=spec.name,
        weights=equipment.backbone.weights_path or spec.weights,
        layers=list(spec.layers),
        levels=list(descriptor.levels),
        device=device_name(equipment.device),
        precision=config.precision,
        head=spec.head,
        normalize=descriptor.normalize,
        boxes=_summarise_boxes(plan, equipment),
    )


def _summarise_boxes(plan: Plan, equipment: Equipment) -> BoxSummary | None:
    config = equipment.config
    if config.regions is None or plan.boxes is None:
        return None
    return summarise_boxes(plan, plan.boxes, config.regions, config.input, equipment.request.boxes_path)
