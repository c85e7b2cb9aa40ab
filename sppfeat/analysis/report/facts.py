"""Facts of a report as plain data, from a feature file and the images of the pictured rows."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sppfeat.analysis.choices import (
    DEFAULT_EMBEDDING,
    MOST_EMBEDDED,
    MOST_NORMS,
    MOST_PICTURED,
    SHEET_NEIGHBORS,
    SHEET_QUERIES,
    ProbeSettings,
)
from sppfeat.analysis.inspection import describe, describe_reduction
from sppfeat.analysis.probe import ProbeResult, cross_validate
from sppfeat.analysis.rows import check_described, count_labels, draw_classes, draw_stratified
from sppfeat.analysis.search import describe_queries
from sppfeat.analysis.show.contact_sheet import ContactSheet, draw_queries, make_contact_sheet
from sppfeat.analysis.show.distributions import Norms, Sizes, measure_norms, measure_sizes
from sppfeat.analysis.show.embedding import Embedding, choose_pictured, embed_rows
from sppfeat.analysis.show.thumbnails import Thumbnail, find_row_pictures, read_thumbnails
from sppfeat.analysis.wording import reduction_text
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError, StoreError
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reader import Selection

__all__ = ["ReportFacts", "describe_provenance", "gather_facts", "group_failures"]

_PICTURE_SIDE = 96  # pixels
_NUMBER = re.compile(r"[0-9]+")
_MOST_PATHS = 5  # named for each reason
_MOST_SOURCES = 20  # maximum number of source files to name


@dataclass(frozen=True)
class FailureGroup:
    """Images that failed for the same reason, or for reasons that differ only in numbers."""

    reason: str  # of the first image
    count: int
    paths: tuple[str, ...]  # of the first images, with their ids from the inputs, if any


@dataclass(frozen=True)
class Probed:
    """Result of a probe of the descriptors."""

    result: ProbeResult
    n_drawn: int  # rows drawn for the probe
    n_rows: int  # rows that they were drawn from
    n_classes: int  # classes of these rows; only some are drawn if there are very many
    folds: int


@dataclass(frozen=True, kw_only=True)
class ReportFacts:
    """All facts of a report."""

    title: str
    name: str  # of the file, without folder
    content: Mapping[str, Any]  # of the file, as ``sppfeat info --json`` prints it
    n_described: int  # rows with a descriptor
    n_selected: int  # rows that the report covers
    n_columns: int  # values of a descriptor that the report covers
    classes: list[tuple[str, int]]  # with numbers of rows, most frequent first; "" for rows without a class
    config: ExtractConfig
    reduction: str  # empty for descriptors that were not reduced
    provenance: list[tuple[str, str]]  # names and values
    norms: Norms | None  # None without descriptors
    sizes: list[Sizes]  # of images, and of boxes if there are any
    embedding: Embedding | None  # None without descriptors
    pictured: Mapping[int, tuple[float, float]]  # centers of the pictures in the embedding, by row
    sheet: ContactSheet | None  # None for fewer than two rows
    thumbnails: Mapping[int, Thumbnail]  # of the rows in the embedding and on the sheet, by row
    probe: Probed | None
    why_no_probe: str  # a sentence; empty with a probe, or if none is wanted
    failures: list[FailureGroup]
    seed: int  # of all random draws


def gather_facts(
    selection: Selection,
    *,
    title: str | None = None,
    method: str = DEFAULT_EMBEDDING,
    most: int = MOST_EMBEDDED,
    most_probed: int = MOST_EMBEDDED,
    root: str | None = None,
    seed: int = 0,
    on_step: Callable[[str], None] = lambda step: None,
) -> ReportFacts:
    """Gathers the facts of a report from the file and the images of the pictured rows.

    Memory holds only the descriptors for the embedding and the probe. ``most`` and ``most_probed`` are their maximum
    numbers of rows; 0 for no probe. For the other arguments and the errors see :func:`sppfeat.report`.
    """
    file = selection.file
    check_described(selection)
    on_step("norms")
    norms = measure_norms(selection, most=MOST_NORMS, seed=seed) if len(selection) else None
    on_step("embedding")
    embedding = embed_rows(selection, method=method, most=most, seed=seed) if len(selection) else None
    if embedding is not None and not len(embedding.selection):
        embedding = None
    pictured = choose_pictured(embedding, most=MOST_PICTURED, seed=seed) if embedding is not None else {}
    on_step("neighbors")
    sheet = _find_neighbors(embedding, selection, seed=seed)
    on_step("thumbnails")
    pictures = find_row_pictures(file, [*pictured, *(sheet.rows if sheet else [])], root=root)
    thumbnails = read_thumbnails(pictures, exif=file.config.input.exif, side=_PICTURE_SIDE)
    on_step("classifier")
    probed, why_not = _probe(selection, most=most_probed, seed=seed)
    on_step("page")
    return ReportFacts(
        title=title or file.path.name,
        name=file.path.name,
        content=describe(file),
        n_described=len(file.rows_with_descriptor()),
        n_selected=len(selection),
        n_columns=selection.dimension,
        classes=count_labels(selection) if selection.y is not None else [],
        config=file.config,
        reduction="" if file.reduction is None else reduction_text(describe_reduction(file.reduction)),
        provenance=describe_provenance(file),
        norms=norms,
        sizes=[measure_sizes(file, of=of) for of in ("images", "boxes")[: 1 + file.has_boxes]],
        embedding=embedding,
        pictured=pictured,
        sheet=sheet,
        thumbnails=thumbnails,
        probe=probed,
        why_no_probe=why_not,
        failures=group_failures(file),
        seed=seed,
    )


def _find_neighbors(embedding: Embedding | None, selection: Selection, *, seed: int) -> ContactSheet | None:
    """Contact sheet of some embedded rows, which are finite, and their nearest rows in the whole selection."""
    if embedding is None or len(selection) < 2:
        return None
    queries = draw_queries(embedding.selection, SHEET_QUERIES, seed=seed)
    return make_contact_sheet(
        selection,
        queries,
        describe_queries(queries, selection),
        k=SHEET_NEIGHBORS,
        # Otherwise most neighbors of a box would be overlapping boxes of the same image.
        one_per_image=selection.file.has_boxes,
    )


def _probe(selection: Selection, *, most: int, seed: int) -> tuple[Probed | None, str]:
    """Result of a probe and an empty text, or None and the reason; the reason is empty if no probe is wanted."""
    if not most:
        return None, ""
    if not len(selection):
        return None, "There are no descriptors."
    n_classes = sum(bool(name and n) for name, n in count_labels(selection))
    if n_classes < 2:
        return None, "There is only one class." if n_classes else "There are no labels."
    settings = ProbeSettings(seed=seed)
    folds, candidates = settings.folds, selection
    if most < folds * n_classes:  # too few rows per class for all folds
        candidates = draw_classes(selection, max(2, most // (2 * folds)), least=folds, seed=seed)
    drawn = draw_stratified(candidates, most, seed=seed)
    try:
        return Probed(cross_validate(drawn, settings), len(drawn), len(selection), n_classes, folds), ""
    except (LabelError, StoreError) as error:
        reason = str(error).removeprefix(f"{str(selection.file.path)!r}: ")
        return None, f"{reason[:1].upper()}{reason[1:]}."


def group_failures(file: FeatureTable) -> list[FailureGroup]:
    """Groups failed images by reason, most frequent first."""
    images: dict[str, list[int]] = {}
    errors = file.errors
    for image, reason in errors.items():
        images.setdefault(_NUMBER.sub("0", reason), []).append(image)
    groups = sorted(images.values(), key=lambda group: (-len(group), group[0]))
    return [
        FailureGroup(
            errors[group[0]] or "no recorded reason",
            len(group),
            tuple(_name(file, i) for i in group[:_MOST_PATHS]),
        )
        for group in groups
    ]


def _name(file: FeatureTable, image: int) -> str:
    ids = file.image_id_table
    path = file.path_of(image)
    return f"{path} (id {os.fsdecode(ids[image])})" if ids and ids[image] else path


def describe_provenance(file: FeatureTable) -> list[tuple[str, str]]:
    """Lists the origin of a file as names and values."""
    config, ids = file.config, file.image_id_table
    found = [
        ("file", str(file.path.absolute())),
        ("created", file.attribute("created")),
        ("written by", f"sppfeat {file.attribute('sppfeat_version')}, schema {file.schema_version}"),
        ("image folder", file.root),
        ("image ids", f"from the inputs; the first is {os.fsdecode(ids[0])}" if ids else ""),
        ("weights file", file.attribute("weights_path")),
        ("SHA-256 of weights", config.backbone.weights_sha256),
    ]
    if config.regions is not None:
        found += [
            ("boxes", file.attribute("boxes_path") or config.regions.boxes),
            ("SHA-256 of boxes", str(config.to_dict().get("boxes_sha256") or "")),
        ]
    if file.norm_factors:
        found.append(("factors of the mean norm", ", ".join(f"{factor:.6g}" for factor in file.norm_factors)))
    if (shard := file.shard) is not None:
        images = _range_text("image", shard.first_image, shard.stop_image)
        rows = _range_text("row", shard.first_row, shard.stop_row)
        text = f"{shard.index} of {shard.count}: {images} of {shard.n_images:,}, {rows} of {shard.n_rows:,}"
        found.append(("shard", text))
    if file.sources is not None:
        n = len(file.sources.files)
        found.append(("merged from", f"{counted(n, 'file', thousands=',')}, which hold the descriptors"))
        for i, source in enumerate(file.sources.files[:_MOST_SOURCES]):
            rows = _range_text("row", source.first_row, source.stop_row)
            found.append((f"file {i + 1} of {n}", f"{file.sources.path_of(i)}: {rows}"))
        if n > _MOST_SOURCES:
            found.append(("more files", f"{n - _MOST_SOURCES:,}; sppfeat info --json lists all"))
    if (reduction := file.reduction) is not None:
        found += [
            ("reduction fitted on rows", ", ".join(reduction.spec.fit_rows)),
            ("fingerprint of the source", reduction.record.source_fingerprint),
            ("fingerprint of the reduction", reduction.fingerprint),
        ]
    found.append(("fingerprint of the settings", file.attribute("fingerprint")))
    return [(name, value) for name, value in found if value]


def _range_text(what: str, first: int, stop: int) -> str:
    """First and last members of a half-open range, counted from 0."""
    return f"{what}s {first:,} to {stop - 1:,}" if stop > first else f"no {what}s"
