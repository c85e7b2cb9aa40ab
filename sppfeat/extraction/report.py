"""Summaries of a run before it starts, and notes for the user."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import RegionSpec, RowFlag
from sppfeat.config.specs import InputSpec
from sppfeat.config.wording import counted, first_few, quoted
from sppfeat.extraction.pipeline import Progress
from sppfeat.extraction.plan import Plan
from sppfeat.extraction.run import Run
from sppfeat.networks.devices import device_name
from sppfeat.store.layout import feature_nbytes
from sppfeat.store.schema import Status
from sppfeat.store.tables import RowBoxes

__all__ = [
    "BoxSummary",
    "PlanSummary",
    "box_notes",
    "plan_notes",
    "result_notes",
    "summarize_boxes",
    "summarize_plan",
]

_SHOWN = 3
_MAX_FRACTION = 2.0  # coordinates beyond this are unlikely to be fractions of an image
_MIN_SHARE = 0.1  # share of boxes smaller than a pixel; boxes in pixels hardly ever are
_MIN_PERCENT = 5  # boxes; fewer may all lie within the first 100 x 100 pixels
_MIN_PERCENT_SIDE = 75  # the largest coordinate of boxes in percent is likely to exceed this
_FLAGGED = {
    RowFlag.CLIPPED: (
        "box extends beyond its image and is clipped to it",
        "boxes extend beyond their image and are clipped to it",
    ),
    RowFlag.DEGENERATE: (
        "box has no area inside its image: its row is NaN",
        "boxes have no area inside their image: their rows are NaN",
    ),
}


@dataclass(frozen=True, kw_only=True)
class BoxSummary:
    """Counts of the boxes of a plan.

    Attributes:
        source: the box file, ``grid:...`` or ``multiview``.
        format: format of the box file; empty without one.
        convention: its box convention in words; empty without one.
        boxes: number of boxes in the box file, or of views.
        rows: number of rows in the output.
        same_region: number of boxes that share the row of another box (``--drop-duplicates``).
        clipped: number of rows whose box extends beyond its image.
        degenerate: number of rows whose box has no area inside its image; these rows are NaN.
        of_no_input: number of boxes whose image is not among the inputs.
        images_without_boxes: number of inputs without boxes.
        class_counts: number of rows of each class of boxes, largest first; classes without rows are left out.
        scales: number of rows pooled at each short side, by its size in pixels or ``native``.
    """

    source: str
    format: str
    convention: str
    boxes: int
    rows: int
    same_region: int
    clipped: int
    degenerate: int
    of_no_input: int
    images_without_boxes: int
    class_counts: dict[str, int]
    scales: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """Sizes, settings and notes of a run, before it starts.

    Attributes:
        output: path or URL of the output.
        images: number of images.
        already_done: number of images that earlier runs extracted.
        already_failed: number of images that failed in earlier runs and are not tried again.
        to_do: number of images for this run.
        unreadable: number of images to run that are known to be unreadable.
        rows: number of rows in the output.
        shard: the shard that the run fills, in words; None for a whole run.
        dimension: length of a descriptor.
        output_bytes: size of the descriptors in bytes.
        unmeasured: number of images whose headers have not been read.
        input_shapes: number of distinct network-input sizes known so far.
        round_to: multiple to which the sides of the network input are rounded, in pixels; 1: not rounded.
        classes: number of image classes.
        class_counts: number of images of each class, largest first; classes without images are left out.
        backbone: name of the network.
        weights: name or path of its weights.
        layers: layers that are pooled.
        levels: pyramid levels; n stands for n x n bins.
        device: device that the network runs on.
        precision: precision of the network.
        workers: number of decoding processes.
        head: last fully connected layer that is run on each region; None without one.
        normalize: scaling of the descriptors.
        boxes: counts of the boxes; None for whole images.
        notes: remarks for the user on these inputs and settings.
        hints: general advice for the user; the command line prints each hint once.
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
    class_counts: dict[str, int]
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
    hints: list[str]


def summarize_plan(
    run: Run,
    plan: Plan,
    *,
    output: str,
    status: npt.NDArray[np.uint8],
    to_do: npt.NDArray[np.int64],
    n_unmeasured: int,
    shard: str | None,
) -> PlanSummary:
    """Summarize a run before it starts, given the status ``(N,)`` of each image and the images to run ``(n,)``."""
    config = run.config
    spec, descriptor = config.backbone, config.descriptor
    kept = status.copy()
    kept[to_do] = Status.PENDING
    boxes = None
    if config.regions is not None and plan.boxes is not None:
        boxes = summarize_boxes(plan, plan.boxes, config.regions, config.input, run.request.boxes_path)
    return PlanSummary(
        output=output,
        images=plan.n_images,
        already_done=int((kept == Status.DONE).sum()),
        already_failed=int((kept == Status.FAILED).sum()),
        to_do=len(to_do),
        unreadable=sum(image in plan.errors for image in to_do.tolist()),
        rows=plan.n_rows,
        shard=shard,
        dimension=run.columns[-1].stop,
        output_bytes=feature_nbytes(plan, run.columns, descriptor.dtype),
        unmeasured=n_unmeasured,
        input_shapes=plan.n_shapes,
        round_to=config.input.round_to,
        classes=len(plan.classes),
        class_counts=_count_classes(plan.labels, [os.fsdecode(name) for name in plan.classes]),
        backbone=spec.name,
        weights=run.backbone.weights_path or spec.weights,
        layers=list(spec.layers),
        levels=list(descriptor.levels),
        device=device_name(run.device),
        precision=config.precision,
        workers=run.n_workers,
        head=spec.head,
        normalize=descriptor.normalize,
        boxes=boxes,
        notes=run.notes,
        hints=list(run.hints),
    )


def summarize_boxes(
    plan: Plan, boxes: RowBoxes, spec: RegionSpec, inputs: InputSpec, path: str
) -> BoxSummary:
    """Count the boxes of a plan by outcome; ``path`` is the path of the box file, empty without one."""
    names = ["native" if side is None else str(side) for side in inputs.short_sides]
    per_scale = np.bincount(boxes.scale[boxes.scale >= 0], minlength=len(names)).tolist()
    return BoxSummary(
        source=path or spec.boxes,
        format=spec.box_format or "",
        convention=str(spec.convention or ""),
        boxes=len(boxes.box_row),
        rows=len(boxes),
        same_region=int((boxes.box_row >= 0).sum()) - len(boxes),
        clipped=int(((boxes.flag & RowFlag.CLIPPED) != 0).sum()),
        degenerate=int(boxes.is_degenerate.sum()),
        of_no_input=int((boxes.box_row < 0).sum()),
        images_without_boxes=len(_without_boxes(plan)),
        class_counts=_count_classes(boxes.annotations.label, boxes.annotations.classes),
        scales=dict(zip(names, per_scale, strict=True)),
    )


def _count_classes(labels: npt.NDArray[np.int64], names: Sequence[str]) -> dict[str, int]:
    """Count the members of each class that has any, largest first, by labels ``(n,)``, -1 for no class."""
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return {names[i]: int(counts[i]) for i in order.tolist() if counts[i]}


def plan_notes(plan: Plan, run: Run, *, is_new: bool) -> list[str]:
    """Return the notes about a plan: fast decoding, and suspicious boxes."""
    notes = _decode_notes(plan, run.config.input.decode)
    if plan.boxes is not None and run.planner is not None:
        notes += run.planner.notes
        notes += box_notes(plan, plan.boxes, run.planner.table, is_new=is_new)
    return notes


def result_notes(progress: Progress) -> list[str]:
    """Return the note about 16-bit images with few gray values, which only their pixels show."""
    if not progress.n_narrow:
        return []
    images = counted(progress.n_narrow, "16-bit image uses", "16-bit images use")
    return [
        f"{images} less than a quarter of the range of values, such as {progress.narrow_example}, and are nearly "
        "uniform once converted to 8 bits; scale the values to 0..65535 and extract again"
    ]


def _decode_notes(plan: Plan, decode: str) -> list[str]:
    """Note fast decoding, with the number of images large enough for it, JPEGs or not."""
    if decode == "exact":
        return []
    is_known = (plan.input_hw > 0).all(axis=2)
    is_twice = (plan.image_hw[:, None] // 2 >= plan.input_hw).all(axis=2)
    n_images = int((is_known & is_twice & plan.scales_in_use(np.arange(plan.n_images))).any(axis=1).sum())
    return [
        "--decode fast decodes JPEGs of at least twice the size of their network input at 1/2, 1/4 or 1/8 of their "
        f"size, which moves their descriptors by 2 to 15 %; {n_images} of "
        f"{counted(plan.n_images, 'image is', 'images are')} large enough"
    ]


def box_notes(plan: Plan, boxes: RowBoxes, table: BoxTable | None, *, is_new: bool = True) -> list[str]:
    """Describe suspicious boxes of a plan: one note per kind, with a count and the first examples.

    If ``is_new``, the plan holds all inputs; otherwise it holds the images of the file that is continued.
    """
    notes = [] if table is None else list(_file_notes(plan, boxes, table, is_new=is_new))
    empty = _without_boxes(plan)
    if len(empty):
        names = _examples([plan.paths[i] for i in empty.tolist()])
        notes.append(
            f"{counted(len(empty), 'image has no boxes and gets', 'images have no boxes and get')} no rows: {names}"
        )
    for flag, nouns in _FLAGGED.items():
        rows = np.flatnonzero(boxes.flag & flag)
        if len(rows):
            notes.append(f"{counted(len(rows), *nouns)}: {_example_boxes(plan, boxes, rows)}")
    return notes


def _file_notes(plan: Plan, boxes: RowBoxes, table: BoxTable, *, is_new: bool) -> Iterator[str]:
    """Yield the notes about a box file and how it fits the images."""
    yield from table.notes
    yield from _unit_notes(table)
    if table.names == "single" and plan.n_images == 1 and len(table.images):
        stem = os.path.splitext(os.path.basename(plan.paths[0]))[0]
        if stem != table.images[0]:
            yield (
                f"the box file {os.fsdecode(table.images[0])!r} names no image; its boxes are used for the only "
                f"input, {os.fsdecode(plan.paths[0])!r}"
            )
    unused = np.flatnonzero(boxes.box_row < 0)
    if len(unused):
        names = [table.images[i] for i in np.unique(table.image[unused]).tolist()]
        place = "input" if is_new else "feature file"
        yield (
            f"{counted(len(unused), 'box refers', 'boxes refer')} to "
            f"{counted(len(names), 'image that is', 'images that are')} not in the {place}: {_examples(names)}"
        )
    yield from _percent_notes(plan, boxes, table)
    yield from _size_notes(plan, boxes, table)
    yield from _label_notes(boxes, table)


def _unit_notes(table: BoxTable) -> Iterator[str]:
    """Note boxes that look like fractions read as pixels or percent, or the reverse: the most common mistake."""
    if not len(table):
        yield "the box file has no boxes"
    numbers = table.boxes[np.isfinite(table.boxes).all(axis=1)]
    units, n = table.convention.units, len(numbers)
    is_within = ((numbers >= 0) & (numbers <= 1)).all(axis=1)
    n_within, n_fractions = int(is_within.sum()), int((is_within & (numbers % 1 != 0).any(axis=1)).sum())
    if units != "normalized" and (n_within > n / 2 or n_fractions > _MIN_SHARE * n):
        yield (
            f"all coordinates are within 0..1 in {n_within} of {counted(n, 'box')} read as "
            f"{'pixels' if units == 'absolute' else units}; if they are fractions of the image, add --box-units "
            "normalized"
        )
    if units == "absolute":
        return
    name, full = ("fractions", 1) if units == "normalized" else ("percent", 100)
    beyond = np.flatnonzero((numbers > _MAX_FRACTION * full).any(axis=1))
    if len(beyond):
        or_percent = "; if percent, --box-units percent" if units == "normalized" else ""
        yield (
            f"coordinates are far beyond {full} in {len(beyond)} of {counted(n, 'box')} read as {name} of the image, "
            f"such as {numbers[beyond[0]].tolist()}; if they are pixels, add --box-units absolute{or_percent}"
        )


def _percent_notes(plan: Plan, boxes: RowBoxes, table: BoxTable) -> Iterator[str]:
    """Note boxes that look like percent read as pixels: none extends beyond 100 in larger images."""
    known = boxes.boxes_px[np.isfinite(boxes.boxes_px).all(axis=1)]
    hw = plan.image_hw[np.unique(plan.row_images)]
    is_fraction = (known % 1 != 0).any(axis=1)
    if (
        table.convention.units == "absolute"
        and len(known) >= _MIN_PERCENT
        and _MIN_PERCENT_SIDE < known.max() <= 101
        and known.min() >= -1
        and is_fraction.mean() > 0.5
        and len(hw)
        and hw.min() > 2 * 100
    ):
        yield (
            "no box extends beyond 100 pixels, although all images with boxes are larger than 200 x 200; "
            "if the numbers are percent of the image, add --box-units percent"
        )


def _label_notes(boxes: RowBoxes, table: BoxTable) -> Iterator[str]:
    """Note boxes that share the row of a box of another class, after duplicates were dropped."""
    known = np.flatnonzero(boxes.box_row >= 0)
    of_row = boxes.annotations.label
    differs = known[table.label[known] != of_row[boxes.box_row[known]]]
    if len(differs):
        first, row = int(differs[0]), int(boxes.box_row[differs[0]])
        own, other = (
            repr(table.classes[label]) if label >= 0 else "no class"
            for label in (table.label[first], of_row[row])
        )
        yield (
            f"{counted(len(differs), 'box shares', 'boxes share')} the row of a box of another class, such as box "
            f"{first}, {own}, in row {row}, {other}: the row keeps the class of its first box, and /box_row maps each "
            "box to its row"
        )


def _size_notes(plan: Plan, boxes: RowBoxes, table: BoxTable) -> Iterator[str]:
    """Note images whose size differs from the box file: the boxes may belong to another version."""
    images, first = np.unique(plan.row_images, return_index=True)
    recorded = table.image_hw[table.image[boxes.source[first]]]
    found = plan.image_hw[images]
    differs = (recorded > 0).all(axis=1) & (found > 0).all(axis=1) & (recorded != found).any(axis=1)
    if differs.any():
        i = int(np.flatnonzero(differs)[0])
        turned = differs & (recorded == found[:, ::-1]).all(axis=1)
        hint = "; for boxes drawn on images as stored, add --exif ignore" if turned.any() else ""
        yield (
            f"{counted(int(differs.sum()), 'image differs', 'images differ')} in size from the box file, such as "
            f"{os.fsdecode(plan.paths[int(images[i])])!r}: {_size(found[i])}, in the box file "
            f"{_size(recorded[i])}{hint}"
        )


def _without_boxes(plan: Plan) -> npt.NDArray[np.int64]:
    return np.flatnonzero(plan.rows[:, 0] == plan.rows[:, 1])


def _examples(names: Sequence[bytes]) -> str:
    return first_few(map(quoted, names), _SHOWN)


def _example_boxes(plan: Plan, boxes: RowBoxes, rows: npt.NDArray[np.int64]) -> str:
    shown, images = [], plan.row_images[rows[:_SHOWN]].tolist()
    for row, image in zip(rows.tolist(), images, strict=False):
        numbers = ", ".join(f"{value:g}" for value in boxes.boxes_px[row].tolist())
        shown.append(f"[{numbers}] of {os.fsdecode(plan.paths[image])!r} ({_size(plan.image_hw[image])})")
    return "; ".join(shown) + ("; ..." if len(rows) > _SHOWN else "")


def _size(hw: npt.NDArray[np.int32]) -> str:
    return f"{hw[1]} x {hw[0]}"
