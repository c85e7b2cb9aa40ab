"""Texts of ``sppfeat extract``: its plan, its hints, and its result."""

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sppfeat.cli.output import box_counts_text, first_of, joined_numbers, labeled_lines, scales_text
from sppfeat.config.machine import user_cache_folder
from sppfeat.config.values import StrPath
from sppfeat.config.wording import counted, human_bytes, human_seconds, one_line

if TYPE_CHECKING:
    from sppfeat.extraction.extract import ExtractResult
    from sppfeat.extraction.report import BoxSummary, PlanSummary

__all__ = ["plan_text", "result_text", "take_new_hints"]

_SHOWN_CLASSES = 10
_SHOWN_FAILURES = 5
_LONGEST_CLASS = 40  # characters
_LABEL_WIDTH = 13
_FORMAT_NAMES = {
    "csv": "CSV",
    "tsv": "TSV",
    "jsonl": "JSON lines",
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "cvat": "CVAT",
    "labelme": "LabelMe",
    "via": "VIA",
    "parquet": "Parquet",
    "numpy": "NumPy",
    "mat": "MATLAB",
}


def plan_text(
    plan: "PlanSummary",
    *,
    output: StrPath,
    boxes: str | None,
    hints: Iterable[str] = (),
    settings: Mapping[str, Any] | None = None,
    columns: int | None = None,
) -> str:
    """Formats a plan as labeled lines.

    Args:
        output, boxes: the paths as the user gave them.
        hints: advice to print after the notes.
        settings: settings to print at the end.
        columns: width of the terminal, to which lines are wrapped; None: not wrapped.
    """
    lines = [("images", _images_text(plan))]
    if plan.class_counts:
        lines.append(("classes", _class_counts_text(plan.class_counts)))
    if plan.shard:
        lines.insert(0, ("shard", plan.shard.removeprefix("shard ")))
    if plan.already_done or plan.already_failed:
        failed = f", {plan.already_failed} failed" if plan.already_failed else ""
        lines.append(("continuing", f"{plan.already_done} done{failed}, {plan.to_do} to do"))
    if plan.unreadable:
        text = counted(plan.unreadable, "image: it", "images: they") + " will be marked as failed"
        lines.append(("unreadable", text))
    if plan.boxes is not None:
        lines += _box_lines(plan.boxes, boxes)
    pooling = [f"levels {joined_numbers(plan.levels)}"]
    if plan.head:
        pooling.append(f"then {plan.head}")
    if plan.normalize != "none":
        pooling.append(plan.normalize)
    lines += [
        ("backbone", f"{plan.backbone}, weights {plan.weights}, layer {' + '.join(plan.layers)}"),
        ("descriptor", f"{', '.join(pooling)}: {counted(plan.dimension, 'value')}"),
        ("output", f"{_as_given(plan.output, output)}, {human_bytes(plan.output_bytes)}"),
        ("device", f"{plan.device}, {plan.precision}, {counted(plan.workers, 'decoding process')}"),
    ]
    lines += [("note", note) for note in plan.notes]
    lines += [("hint", hint) for hint in hints]
    lines += [("setting", f"{part}: {values}") for part, values in (settings or {}).items()]
    return labeled_lines(lines, width=_LABEL_WIDTH, columns=columns)


def result_text(result: "ExtractResult", *, output: StrPath, verbose: bool) -> str:
    """Formats the result of a run, with all failures if ``verbose``; ``output`` is the path that the user gave."""
    path = _as_given(result.output, output)
    if len(result.files) > 1:
        path += f" ({len(result.files)} files)"
    now = result.done_now + result.failed_now
    earlier, earlier_failed = result.images - result.pending - now, result.failed - result.failed_now
    if now or result.pending:
        before = f"; before: {counted(earlier, 'image')}, {earlier_failed} failed" if earlier else ""
        lines = [f"{_work_text(result, now)} -> {path}{before}"]
    else:
        failed = f", {result.failed} failed (--retry-failed runs these again)" if result.failed else ""
        lines = [f"Nothing to do: {path} has {counted(result.images, 'image')}{failed}"]
    if result.boxes:
        lines.append(f"  boxes: {box_counts_text(result.boxes)}")
    failures = [f"  failed: {failure.path!r}: {failure.error}" for failure in result.failures]
    shown = None if verbose else _SHOWN_FAILURES
    lines += first_of(failures, shown, more="  ... and {} more: 'sppfeat info' or -v lists them")
    lines += [f"note: {note}" for note in result.notes]
    if result.pending:
        lines.append("Run the same command again to continue.")
    return "\n".join(lines)


def take_new_hints(hints: Iterable[str]) -> list[str]:
    """The hints that this user has not seen yet; the user's cache folder remembers them."""
    folder = user_cache_folder()
    if folder is None:
        return list(hints)
    path, seen = folder / "hints.txt", list[str]()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        seen = path.read_text(encoding="utf-8").splitlines()
    new = [hint for hint in hints if hint not in seen]
    if new:
        with contextlib.suppress(OSError):  # a read-only home, or a full disk: the next run repeats them
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.write_text("".join(f"{hint}\n" for hint in (*seen, *new)), encoding="utf-8")
    return new


def _images_text(plan: "PlanSummary") -> str:
    if plan.unmeasured:
        return f"{plan.images} (sizes of {plan.unmeasured} are read while extracting)"
    rounded = f", multiples of {plan.round_to}" if plan.round_to > 1 else ""
    return f"{plan.images} ({counted(plan.input_shapes, 'distinct input size')}{rounded})"


def _class_counts_text(counts: Mapping[str, int]) -> str:
    """Formats the numbers of members of classes, the largest ones first.

    Example:
        >>> _class_counts_text({"cat": 7, "dog": 3})
        '2: cat (7), dog (3)'
    """
    largest = list(counts.items())[:_SHOWN_CLASSES]
    shown = ", ".join(f"{one_line(name, longest=_LONGEST_CLASS)} ({n})" for name, n in largest)
    others = f", and {len(counts) - len(largest)} more" if len(counts) > len(largest) else ""
    return f"{len(counts)}: {shown}{others}"


def _box_lines(boxes: "BoxSummary", given: str | None) -> list[tuple[str, str]]:
    if boxes.format:
        format_name = _FORMAT_NAMES.get(boxes.format, boxes.format)
        text = (
            f"{boxes.boxes} from {_as_given(boxes.source, given or '')} ({format_name}: {boxes.convention})"
        )
    else:
        text = f"{boxes.boxes} ({boxes.source})"
    if boxes.rows != boxes.boxes:
        text += f", {counted(boxes.rows, 'row')}"
    lines = [("boxes", text)]
    if boxes.same_region:
        same = counted(boxes.same_region, "box pools", "boxes pool")
        lines.append(("duplicates", f"{same} the same region as another one and share its row"))
    if boxes.class_counts:
        lines.append(("box classes", _class_counts_text(boxes.class_counts)))
    if len(boxes.scales) > 1:
        lines.append(("scales", scales_text(boxes.scales)))
    return lines


def _work_text(result: "ExtractResult", n_images: int) -> str:
    seconds = result.decode_seconds + result.network_seconds + result.write_seconds
    rate = f" ({_rate_text(result.images_per_second)})" if result.images_per_second else ""
    end = f", {result.pending} left" if result.pending else ""
    return (
        f"{'Stopped' if result.pending else 'Done'}: {counted(n_images, 'image')} in "
        f"{human_seconds(seconds or result.seconds)}{rate}, {result.failed_now} failed{end}"
    )


def _rate_text(images_per_second: float) -> str:
    return f"{images_per_second:.{0 if images_per_second >= 10 else 1}f} images/s"


def _as_given(path: str, given: StrPath) -> str:
    """The path as the user gave it, if it is the same file; else unchanged."""
    in_same_folder = os.path.join(os.path.dirname(given), os.path.basename(path))  # the file of a shard
    for shown in (os.fspath(given), in_same_folder):
        if os.path.realpath(shown) == os.path.realpath(path):
            return shown
    return path
