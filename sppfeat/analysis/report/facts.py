"""What a report says, as plain data."""

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
    """How much a report shows.

    Attributes:
        title: of the page; the file's name where empty.
        method: of the embedding, see :func:`sppfeat.analysis.show.embedding.embed_rows`.
        most_embedded: rows in it.
        most_probed: rows that classifiers are trained and tested on; 0 for no probe.
        most_norms: rows whose norms are measured.
        n_pictured: pictures of rows in the embedding.
        n_queries: lines of the contact sheet.
        k: neighbors in each.
        most_classes, most_reasons, most_paths, most_pairs: lines of tables: classes, reasons of failures and
            images named for each, pairs of confused classes.
        seed: of all that is drawn.
        root: folder of the images now; as recorded where None.
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
    """What is in the file.

    Attributes:
        name: of the file, without folder.
        n_bytes: its size.
        n_images, n_done, n_failed, n_pending: images.
        n_rows, n_described: rows, and those of them that have a descriptor.
        n_selected: rows that the report is about.
        dimension, dtype: of a descriptor.
        n_columns: values of it that the report is about.
        has_boxes: whether rows are boxes.
        boxes: counts of boxes, see :meth:`sppfeat.store.reader.FeatureFile.count_boxes`; empty for whole images.
        classes: name and number of rows of each class, most frequent first; ``""`` are rows without class.
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
    """Images that failed for one reason.

    Attributes:
        reason: why, in the words of the first of them; those of the others differ in numbers at most.
        count: how many images.
        paths: the first of them, with what the inputs called them where that is known.
    """

    reason: str
    count: int
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Probed:
    """What a linear classifier makes of the descriptors.

    Attributes:
        result: of the cross-validation.
        n_drawn: rows that it was given.
        n_rows: that these were drawn from.
        n_classes: that these have; where these are very many, some of them were drawn.
        folds: of the cross-validation.
    """

    result: ProbeResult
    n_drawn: int
    n_rows: int
    n_classes: int
    folds: int


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All that a report says of a file.

    Attributes:
        title: of the page.
        summary: what is in the file.
        network: its name.
        warnings: in words.
        steps: what was done to make a descriptor: the name of each step, and a sentence.
        configuration, provenance: names and values.
        is_reduced: whether descriptors are components of a reduction.
        columns: of a descriptor.
        norms: of descriptors; None where there are none.
        sizes: of images, and of boxes where there are any.
        embedding: None where there are no descriptors.
        pictured: rows in it whose picture is shown, and where.
        sheet: queries and their nearest rows; None where there are fewer than two rows.
        thumbnails: of all rows that are pictured in it and in the embedding.
        probe: None where there is none, for the reason in ``why_no_probe``.
        failures: by reason.
        settings: how much is shown.
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
