"""Problems of a feature file: warnings, and the reasons why images failed."""

import os
import re
from collections.abc import Iterator

from sppfeat.analysis.report.facts import FailureGroup, ReportFacts, Summary
from sppfeat.config.wording import counted
from sppfeat.store.feature_table import FeatureTable

__all__ = ["find_warnings", "group_failures"]

_MANY_SUB_CELL = 0.1
_FEW_ROWS = 5
_MOST_PATHS = 5  # to name for each reason
_NUMBER = re.compile(r"[0-9]+")


def find_warnings(facts: ReportFacts) -> Iterator[str]:
    """Yields warnings about a file, as sentences."""
    summary, norms, thumbnails = facts.summary, facts.norms, facts.thumbnails
    if not summary.n_rows:
        yield "The file has no rows."
    if summary.n_selected < summary.n_described:
        were = "was" if summary.n_selected == 1 else "were"
        yield f"Only {summary.n_selected:,} of {summary.n_described:,} rows {were} chosen for this page."
    if summary.n_columns < summary.dimension:
        yield f"Only {summary.n_columns:,} of the {summary.dimension:,} values of each row were chosen for this page."
    if summary.n_pending:
        are = "is" if summary.n_pending == 1 else "are"
        yield (
            f"The file is not complete: {summary.n_pending:,} of {summary.n_images:,} images {are} pending. The same "
            "extract command continues it."
        )
    if summary.n_failed:
        yield f"Of {summary.n_images:,} images, {summary.n_failed:,} failed; the reasons are below."
    if facts.config.backbone.weights == "none":
        yield "The network is untrained: its weights are random values."
    if norms is not None:
        for layer, n_zero in zip(norms.layers, norms.n_zero, strict=True):
            if n_zero:
                of_rows = counted(len(norms.values), "row", thousands=",")
                yield f"{n_zero:,} of {of_rows} {'is' if n_zero == 1 else 'are'} zero throughout layer {layer}."
        if norms.n_nonfinite:
            yield (
                counted(norms.n_nonfinite, "row holds", "rows hold", thousands=",")
                + " NaN or infinities, which most methods refuse."
            )
    yield from _box_warnings(summary)
    yield from _class_warnings(summary)
    unread = [thumbnail.reason for thumbnail in thumbnails.values() if thumbnail.pixels is None]
    if unread:
        yield (
            f"{len(unread)} of the {len(thumbnails)} images that would be pictured here cannot be read now; the first "
            f"of them: {unread[0]}. If they are elsewhere by now, --root says where."
        )


def _box_warnings(summary: Summary) -> Iterator[str]:
    boxes = summary.boxes
    if not boxes:
        return
    if boxes["degenerate"]:
        yield (
            counted(
                boxes["degenerate"],
                "box has no area inside its",
                "boxes have no area inside their",
                thousands=",",
            )
            + " image, and no descriptor."
        )
    n_small = boxes["sub_cell"]
    if n_small > _MANY_SUB_CELL * max(1, boxes["rows"]):
        yield (
            f"{n_small:,} of {boxes['rows']:,} boxes are smaller than a cell of the feature map: what is pooled is "
            "mostly their surroundings. A larger --size makes cells smaller."
        )


def _class_warnings(summary: Summary) -> Iterator[str]:
    classes = [(name, n) for name, n in summary.classes if name and n]
    n_unlabeled = sum(n for name, n in summary.classes if not name)
    if not summary.classes and summary.n_rows:
        yield "No labels are known: nothing can be said of how well classes are told apart."
    elif n_unlabeled:
        yield f"Rows without label: {n_unlabeled:,}."
    few = [name for name, n in classes if n < _FEW_ROWS]
    if few:
        yield f"Of {len(classes):,} classes, {len(few):,} with fewer than {_FEW_ROWS} rows."


def group_failures(file: FeatureTable) -> list[FailureGroup]:
    """Groups failed images by reason, most frequent first."""
    images: dict[str, list[int]] = {}
    errors = file.errors
    for image, reason in errors.items():
        images.setdefault(_NUMBER.sub("0", reason), []).append(image)
    groups = sorted(images.values(), key=lambda group: (-len(group), group[0]))
    return [
        FailureGroup(
            errors[group[0]] or "no reason is recorded",
            len(group),
            tuple(_name(file, i) for i in group[:_MOST_PATHS]),
        )
        for group in groups
    ]


def _name(file: FeatureTable, image: int) -> str:
    ids = file.image_id_table
    path = file.path_of(image)
    return f"{path} (id {os.fsdecode(ids[image])})" if ids and ids[image] else path
