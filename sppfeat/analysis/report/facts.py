"""Facts and settings of a report, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from sppfeat.analysis.choices import (
    DEFAULT_EMBEDDING,
    MOST_EMBEDDED,
    MOST_NORMS,
    MOST_PICTURED,
    SHEET_NEIGHBORS,
    SHEET_QUERIES,
)
from sppfeat.analysis.probe.scores import ProbeResult
from sppfeat.analysis.show.contact_sheet import ContactSheet
from sppfeat.analysis.show.embedding import Embedding
from sppfeat.analysis.show.norms import Norms
from sppfeat.analysis.show.sizes import Sizes
from sppfeat.analysis.show.thumbnails import Thumbnail
from sppfeat.store.schema import ColumnBlock

__all__ = ["FailureGroup", "Probed", "ReportFacts", "ReportSettings", "Summary"]


@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """Extent of a report.

    Attributes:
        title: title of the page; the file's name if empty.
        method: method of the embedding, see :func:`sppfeat.analysis.show.embedding.embed_rows`.
        most_embedded: the most rows in the embedding.
        most_probed: the most rows that classifiers are trained and tested on; 0 for no probe.
        most_norms: the most rows whose norms are measured.
        n_pictured: number of rows pictured in the embedding.
        n_queries: number of lines of the contact sheet.
        k: neighbors in each line.
        most_classes, most_reasons, most_paths, most_pairs: the most lines of tables: classes, reasons of failures,
            images named for each reason, pairs of confused classes.
        seed: seed of all random draws.
        root: folder of the images now; the recorded one if None.
    """

    title: str = ""
    method: str = DEFAULT_EMBEDDING
    most_embedded: int = MOST_EMBEDDED
    most_probed: int = MOST_EMBEDDED
    most_norms: int = MOST_NORMS
    n_pictured: int = MOST_PICTURED
    n_queries: int = SHEET_QUERIES
    k: int = SHEET_NEIGHBORS
    most_classes: int = 30
    most_reasons: int = 20
    most_paths: int = 5
    most_pairs: int = 10
    seed: int = 0
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Content of a file, in numbers.

    Attributes:
        name: name of the file, without folder.
        n_bytes: size of the file.
        n_images, n_done, n_failed, n_pending: images, all and by status.
        n_rows, n_described: rows, all and those that have a descriptor.
        n_selected: rows that the report covers.
        dimension, dtype: length and type of a descriptor.
        n_columns: values of it that the report covers.
        has_boxes: True if rows are boxes.
        boxes: counts of boxes, see :meth:`sppfeat.store.reader.FeatureFile.count_boxes`; empty for whole images.
        classes: name and number of rows of each class, most frequent first; ``""`` stands for rows without class.
    """

    name: str
    n_bytes: int
    n_images: int
    n_done: int
    n_failed: int
    n_pending: int
    n_rows: int
    n_described: int
    n_selected: int
    dimension: int
    n_columns: int
    dtype: str
    has_boxes: bool
    boxes: Mapping[str, int]
    classes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class FailureGroup:
    """Images that failed for the same reason.

    Attributes:
        reason: reason of the first of them; those of the others differ in numbers at most.
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
        n_drawn: rows drawn for it.
        n_rows: rows that these were drawn from.
        n_classes: classes of these rows; if there are very many, only some of them were drawn.
        folds: folds of the cross-validation.
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
        summary: content of the file, in numbers.
        network: name of the network.
        warnings: warnings, in words.
        steps: steps that make a descriptor: the name of each, and a sentence.
        configuration, provenance: names and values.
        is_reduced: True if descriptors are components of a reduction.
        columns: columns of a descriptor.
        norms: norms of the descriptors; None without descriptors.
        sizes: sizes of images, and of boxes if there are any.
        embedding: rows as points of a plane; None without descriptors.
        pictured: centers of the pictures in it, by row.
        sheet: queries and their nearest rows; None for fewer than two rows.
        thumbnails: pictures of all rows that are pictured in the embedding and the sheet.
        probe: result of a probe; None for the reason in ``why_no_probe``.
        why_no_probe: the reason, as a sentence; empty with a probe.
        failures: failed images, by reason.
        settings: extent of the report.
    """

    title: str
    summary: Summary
    network: str
    warnings: tuple[str, ...]
    steps: tuple[tuple[str, str], ...]
    configuration: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]
    is_reduced: bool
    columns: tuple[ColumnBlock, ...]
    norms: Norms | None
    sizes: tuple[Sizes, ...]
    embedding: Embedding | None
    pictured: Mapping[int, tuple[float, float]]
    sheet: ContactSheet | None
    thumbnails: Mapping[int, Thumbnail]
    probe: Probed | None
    why_no_probe: str
    failures: tuple[FailureGroup, ...]
    settings: ReportSettings
