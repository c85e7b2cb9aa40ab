"""Facts of a report, as plain data."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sppfeat.analysis.probe.results import ProbeResult
from sppfeat.analysis.show.contact_sheet import ContactSheet
from sppfeat.analysis.show.distributions import Norms, Sizes
from sppfeat.analysis.show.embedding import Embedding
from sppfeat.analysis.show.thumbnails import Thumbnail
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.store.feature_table import FeatureTable

__all__ = ["FailureGroup", "Probed", "ReportFacts", "group_failures"]


_NUMBER = re.compile(r"[0-9]+")
_MOST_PATHS = 5  # to name for each reason


@dataclass(frozen=True)
class FailureGroup:
    """Images that failed for the same reason.

    Attributes:
        reason: reason of the first image; the reasons of the others differ only in numbers.
        count: number of images.
        paths: paths of the first images, with their ids in the inputs if they have any.
    """

    reason: str
    count: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Probed:
    """Result of a probe of the descriptors.

    Attributes:
        result: result of the cross-validation.
        n_drawn: number of rows drawn for the probe.
        n_rows: number of rows that they were drawn from.
        n_classes: number of classes that they were drawn from; if there are very many, only some were drawn.
        folds: number of folds of the cross-validation.
    """

    result: ProbeResult
    n_drawn: int
    n_rows: int
    n_classes: int
    folds: int


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All facts of a report.

    Attributes:
        title: title of the page.
        name: name of the file, without folder.
        content: content of the file, as ``sppfeat info --json`` prints it.
        n_described, n_selected: number of rows with a descriptor, and of those that the report covers.
        n_columns: number of values of a descriptor that the report covers.
        classes: name and number of rows of each class, most frequent first; ``""`` stands for rows without a class.
        config: settings of the extraction.
        reduction: description of the reduction of the descriptors; empty without one.
        provenance: names and values of facts about the file's origin.
        norms: norms of the descriptors; None without descriptors.
        sizes: sizes of images, and of boxes if there are any.
        embedding: rows as points of a plane; None without descriptors.
        pictured: centers ``x, y`` of the pictures in the embedding, 0 to 1 of the plot from its lower left, by row.
        sheet: queries and their nearest rows; None for fewer than two rows.
        thumbnails: pictures of the rows in the embedding and on the sheet, by row.
        probe: result of a probe; None if there is none.
        why_no_probe: reason why there is no probe, as a sentence; empty if there is one.
        failures: failed images, by reason.
        seed: seed of all random draws.
    """

    title: str
    name: str
    content: Mapping[str, Any]
    n_described: int
    n_selected: int
    n_columns: int
    classes: tuple[tuple[str, int], ...]
    config: ExtractConfig
    reduction: str
    provenance: tuple[tuple[str, str], ...]
    norms: Norms | None
    sizes: tuple[Sizes, ...]
    embedding: Embedding | None
    pictured: Mapping[int, tuple[float, float]]
    sheet: ContactSheet | None
    thumbnails: Mapping[int, Thumbnail]
    probe: Probed | None
    why_no_probe: str
    failures: tuple[FailureGroup, ...]
    seed: int


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
