"""The summary of a run before it starts, and notes for the user."""

from dataclasses import dataclass
from typing import NamedTuple

from sppfeat.config.wording import counted
from sppfeat.extraction.box_report import BoxSummary, box_notes, summarize_boxes
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.setup import RunSetup
from sppfeat.inputs import Listing
from sppfeat.networks.devices import device_name
from sppfeat.store.layout import feature_nbytes

__all__ = ["PlanSummary", "RunState", "listing_notes", "plan_notes", "summarize_plan"]


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Sizes, settings and notes of a run, before it starts.

    Attributes:
        output: path or URL of the output.
        images, already_done, already_failed, to_do: numbers of images: in the plan, done by earlier runs, failed in
            earlier runs and not retried, and to be run now.
        unreadable: number of images to run that are known to be unreadable.
        rows: number of rows in the output.
        shard: the shard that the run fills, in words; None for all images.
        dimension: length of a descriptor.
        output_bytes: size of the descriptors in bytes.
        unmeasured: number of images whose headers have not been read.
        input_shapes: number of distinct network-input sizes known so far.
        round_to: multiple to which the sides of the network input are rounded, in pixels; 1: not rounded.
        classes: number of image classes.
        backbone, weights, layers, levels, device, precision, head, normalize: settings of the descriptors.
        workers: number of decoding processes.
        boxes: counts of the boxes; None for whole images.
        notes: remarks for the user.
    """

    output: str
    images: int
    already_done: int
    already_failed: int
    to_do: int
    unreadable: int
    rows: int
    shard: str | None
    dimension: int
    output_bytes: int
    unmeasured: int
    input_shapes: int
    round_to: int
    classes: int
    backbone: str
    weights: str
    layers: list[str]
    levels: list[int]
    device: str
    precision: str
    workers: int
    head: str | None
    normalize: str
    boxes: BoxSummary | None
    notes: list[str]


class RunState(NamedTuple):
    """The fields of :class:`PlanSummary` that plan and setup do not determine."""

    output: str
    already_done: int
    already_failed: int
    to_do: int
    unreadable: int
    unmeasured: int
    shard: str | None
    workers: int
    notes: list[str]


def summarize_plan(plan: Plan, setup: RunSetup, state: RunState) -> PlanSummary:
    """Summarize a run from its plan, its setup and its state."""
    config = setup.config
    spec, descriptor = config.backbone, config.descriptor
    return PlanSummary(
        **state._asdict(),
        images=plan.n_images,
        rows=plan.n_rows,
        dimension=setup.columns[-1].stop,
        output_bytes=feature_nbytes(plan, setup.columns, descriptor.dtype),
        input_shapes=plan.n_shapes,
        round_to=config.input.round_to,
        classes=len(plan.classes),
        backbone=spec.name,
        weights=setup.backbone.weights_path or spec.weights,
        layers=list(spec.layers),
        levels=list(descriptor.levels),
        device=device_name(setup.device),
        precision=config.precision,
        head=spec.head,
        normalize=descriptor.normalize,
        boxes=_summarize_boxes(plan, setup),
    )


def _summarize_boxes(plan: Plan, setup: RunSetup) -> BoxSummary | None:
    config = setup.config
    if config.regions is None or plan.boxes is None:
        return None
    return summarize_boxes(plan, plan.boxes, config.regions, config.input, setup.request.boxes_path)


def plan_notes(plan: Plan, setup: RunSetup, *, is_new: bool) -> list[str]:
    """Describe what the user should know about a plan: fast decoding, and suspicious boxes."""
    notes = _decode_notes(plan, setup.config.input.decode)
    if plan.boxes is not None:
        table = setup.box_file.table if setup.box_file else None
        notes += box_notes(plan, plan.boxes, table, is_new=is_new)
    return notes


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """Note fast decoding, with the number of images large enough for it; not all of them need be JPEGs."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.uses).any(axis=1).sum())
    return [
        "--decode fast: JPEGs at least twice as large as their network input are decoded at 1/2, 1/4 or 1/8 of "
        f"their size, which moves their descriptors by 2 to 15 %; {n_images} of "
        f"{counted(plan.n_images, 'image is', 'images are')} as large"
    ]


def listing_notes(listing: Listing, labels: str) -> list[str]:
    """Describe what the user should know about the inputs: skipped files, repeated images, missing labels."""
    notes = []
    if listing.n_other_files:
        notes.append(
            counted(
                listing.n_other_files,
                "file in folders and archives has",
                "files in folders and archives have",
            )
            + " no suffix of an image: left out"
        )
    if listing.n_repeated:
        notes.append(
            counted(listing.n_repeated, "image is", "images are")
            + " named more than once: each is taken once"
        )
    if labels == "folder" and not listing.classes:
        notes.append("no labels: no image lies in a folder below the inputs")
    elif listing.n_unlabelled and listing.classes:
        notes.append(
            counted(listing.n_unlabelled, "image is of no class: its", "images are of no class: their")
            + " label is -1"
        )
    elif listing.n_unlabelled and labels == "auto":
        notes.append(
            f"no labels: {counted(listing.n_unlabelled, 'image lies', 'images lie')} outside class folders; --labels "
            "folder labels the others"
        )
    return notes
