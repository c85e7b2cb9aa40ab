"""Texts of ``sppfeat extract``: the plan before a run, and the result after it."""

from typing import TYPE_CHECKING, Any

from sppfeat.cli.output import box_counts_text, first_of, human_bytes, joined_numbers, labeled_lines
from sppfeat.config.wording import counted

if TYPE_CHECKING:
    from sppfeat.extraction.box_report import BoxSummary
    from sppfeat.extraction.extract import ExtractResult
    from sppfeat.extraction.report import PlanSummary

__all__ = ["plan_text", "result_text"]

_SHOWN_FAILURES = 5


def plan_text(plan: "PlanSummary", settings: dict[str, Any] | None) -> str:
    """Formats a plan as lines of text, with the settings at the end if they are given."""
    rounded = f" (multiples of {plan.round_to})" if plan.round_to > 1 else ""
    shapes = f" in {counted(plan.input_shapes, 'input shape')}{rounded}"
    if plan.unmeasured:
        shapes = f", the sizes of {plan.unmeasured} are learnt on the way"
    images = f"{plan.images}{shapes}, {counted(plan.rows, 'row')}"
    if plan.classes:
        images += f", {counted(plan.classes, 'class')}"
    pooling = f"levels {joined_numbers(plan.levels)}"
    if plan.head:
        pooling += f", then {plan.head}"
    if plan.normalize != "none":
        pooling += f", {plan.normalize}"
    lines = [
        ("images", images),
        *_box_lines(plan.boxes),
        ("backbone", f"{plan.backbone}, weights {plan.weights}, layer {' + '.join(plan.layers)}"),
        ("descriptor", f"{pooling}: {counted(plan.dimension, 'value')}"),
        ("output", f"{plan.output}, {human_bytes(plan.output_bytes)}"),
        ("device", f"{plan.device}, {plan.precision}, {counted(plan.workers, 'decoding process')}"),
    ]
    if plan.already_done or plan.already_failed:
        done = f"{plan.already_done} done, {plan.already_failed} failed before, {plan.to_do} to do"
        lines.insert(1, ("continuing", done))
    if plan.shard:
        lines.insert(0, ("part", plan.shard))
    if plan.unreadable:
        text = counted(plan.unreadable, "image: it", "images: they") + " will be marked as failed"
        lines.insert(1, ("unreadable", text))
    lines += [("note", note) for note in plan.notes]
    lines += [("setting", f"{part}: {values}") for part, values in (settings or {}).items()]
    return labeled_lines(lines, width=13)


def _box_lines(boxes: "BoxSummary | None") -> list[tuple[str, str]]:
    if boxes is None:
        return []
    text = f"{boxes.boxes} of {boxes.source}"
    if boxes.format:
        text += f", read as {boxes.format}: {boxes.convention}"
    if boxes.same_region:
        text += "; " + counted(boxes.same_region, "falls", "fall") + " on the region of another one"
    lines = [("boxes", text)]
    if len(boxes.scales) > 1:
        rows_of_scales = (f"{side}: {counted(n, 'row')}" for side, n in boxes.scales.items())
        lines.append(("scales", ", ".join(rows_of_scales)))
    return lines


def result_text(result: "ExtractResult", verbose: bool) -> str:
    """Formats the result of a run as lines of text, with all failures if ``verbose``."""
    rate = f", {result.images_per_second} images/s" if result.images_per_second else ""
    lines = [
        f"{result.done} of {counted(result.images, 'image')} done, {result.failed} failed "
        f"({result.done_now} + {result.failed_now} now, {result.seconds:.1f} s{rate}): {result.output}"
    ]
    if result.boxes:
        lines.append(f"  boxes: {box_counts_text(result.boxes)}")
    failures = [f"  failed: {failure.path!r}: {failure.error}" for failure in result.failures]
    shown = None if verbose else _SHOWN_FAILURES
    lines += first_of(failures, shown, more="  ... and {} more: 'sppfeat info' or -v lists them")
    if result.pending:
        lines.append(
            counted(result.pending, "image is", "images are") + " left: the same command again continues."
        )
    return "\n".join(lines)
