"""Reports: one HTML page about a feature file.

A selection of an open feature file goes in. :func:`gather_facts` turns it into facts, which are plain data; ``page``
turns these into one HTML page that loads nothing else. Gathering reads the file and the pictured images, and must not
know the layout of the page; the page must not read the file.
"""

import json
from collections.abc import Callable

from sppfeat.analysis.choices import ProbeSettings
from sppfeat.analysis.probe import cross_validate
from sppfeat.analysis.report.facts import Probed, ReportFacts, ReportSettings, Summary
from sppfeat.analysis.report.problems import find_warnings, group_failures
from sppfeat.analysis.report.provenance import describe_provenance, describe_settings
from sppfeat.analysis.row_checks import check_described
from sppfeat.analysis.search.queries import describe_queries
from sppfeat.analysis.show.classes import count_labels
from sppfeat.analysis.show.contact_sheet import ContactSheet, draw_queries, make_contact_sheet
from sppfeat.analysis.show.embedding import Embedding, embed_rows
from sppfeat.analysis.show.embedding_picture import choose_pictured
from sppfeat.analysis.show.norms import measure_norms
from sppfeat.analysis.show.sampling import draw_classes, draw_stratified
from sppfeat.analysis.show.sizes import measure_sizes
from sppfeat.analysis.show.thumbnails import find_row_pictures, read_thumbnails
from sppfeat.errors import LabelError, StoreError
from sppfeat.store.schema import Status
from sppfeat.store.selection import Selection

__all__ = ["STEPS", "gather_facts"]

STEPS = ("norms", "embedding", "neighbours", "pictures", "probe")
_PICTURE_SIDE = 96  # pixels


def gather_facts(
    selection: Selection,
    settings: ReportSettings | None = None,
    *,
    on_step: Callable[[int, str], None] = lambda n_done, step: None,
) -> ReportFacts:
    """Gathers the facts of a report; reads the file and the images of the rows that are pictured.

    Memory holds only those descriptors that are embedded or probed.

    Args:
        selection: rows, columns and labels of an open file.
        settings: extent of the report; the defaults of :class:`ReportSettings` if None.
        on_step: called with the number of :data:`STEPS` done and the name of the next one.

    Raises:
        ConfigError: a package is not installed, the embedding method is unknown, or a row has no descriptor.
        StoreError: the file is damaged.
    """
    settings = settings or ReportSettings()
    file = selection.file
    check_described(selection)
    on_step(0, STEPS[0])
    norms = measure_norms(selection, most=settings.most_norms, seed=settings.seed) if len(selection) else None
    on_step(1, STEPS[1])
    embedding, pictured = _embed(selection, settings)
    on_step(2, STEPS[2])
    sheet = _find_neighbors(embedding, selection, settings)
    on_step(3, STEPS[3])
    rows = [*pictured, *(sheet.rows if sheet else [])]
    thumbnails = read_thumbnails(
        find_row_pictures(file, rows, root=settings.root), exif=file.config.input.exif, side=_PICTURE_SIDE
    )
    on_step(4, STEPS[4])
    probed, why_not = _probe(selection, settings)
    summary = summarize(selection)
    on_step(len(STEPS), "")
    return ReportFacts(
        title=settings.title or summary.name,
        summary=summary,
        warnings=tuple(find_warnings(file, summary, norms, thumbnails)),
        network=file.config.backbone.name,
        steps=tuple(
            describe_settings(file.config, file.extracted_columns[-1].stop, reduction=file.reduction)
        ),
        configuration=tuple(
            (name, _value_text(value)) for name, value in file.config.to_dict().items() if value is not None
        ),
        provenance=tuple(describe_provenance(file)),
        is_reduced=file.is_reduced,
        columns=file.columns,
        norms=norms,
        sizes=tuple(measure_sizes(file, of=of) for of in ("images", "boxes")[: 1 + file.has_boxes]),
        embedding=embedding,
        pictured=pictured,
        sheet=sheet,
        thumbnails=thumbnails,
        probe=probed,
        why_no_probe=why_not,
        failures=tuple(group_failures(file, most_paths=settings.most_paths)),
        settings=settings,
    )


def summarize(selection: Selection) -> Summary:
    """Counts the content of the file and of a selection of its rows."""
    file = selection.file
    status = file.status
    return Summary(
        name=file.path.name,
        n_bytes=file.nbytes,
        n_images=file.n_images,
        n_done=int((status == Status.DONE).sum()),
        n_failed=int((status == Status.FAILED).sum()),
        n_pending=int((status == Status.PENDING).sum()),
        n_rows=file.n_rows,
        n_described=len(file.rows_with_descriptor()),
        n_selected=len(selection),
        dimension=file.dimension,
        n_columns=selection.dimension,
        dtype=str(file.dtype),
        has_boxes=file.has_boxes,
        boxes=file.count_boxes() if file.has_boxes else {},
        classes=tuple(count_labels(selection)) if selection.y is not None else (),
    )


def _embed(
    selection: Selection, settings: ReportSettings
) -> tuple[Embedding | None, dict[int, tuple[float, float]]]:
    """Embedding of the rows, and the centers of the pictures in it by row number."""
    if not len(selection):
        return None, {}
    embedding = embed_rows(selection, method=settings.method, most=settings.most_embedded, seed=settings.seed)
    if not len(embedding.selection):
        return None, {}
    return embedding, choose_pictured(embedding, most=settings.n_pictured, seed=settings.seed)


def _find_neighbors(
    embedding: Embedding | None, selection: Selection, settings: ReportSettings
) -> ContactSheet | None:
    """Contact sheet of some embedded rows, all of them finite, and their nearest rows in the whole selection."""
    if embedding is None or len(selection) < 2 or not settings.n_queries:
        return None
    queries = draw_queries(embedding.selection, settings.n_queries, seed=settings.seed)
    # Otherwise most neighbors of a box would be overlapping boxes of the same image.
    one_per_image = selection.file.has_boxes
    descriptors = describe_queries(queries, selection)
    return make_contact_sheet(selection, queries, descriptors, k=settings.k, one_per_image=one_per_image)


def _probe(selection: Selection, settings: ReportSettings) -> tuple[Probed | None, str]:
    """Result of a probe and an empty text, or None and the reason."""
    if not settings.most_probed:
        return None, "It was not asked for."
    if not len(selection):
        return None, "There are no descriptors."
    how = ProbeSettings(seed=settings.seed)
    n_classes = sum(bool(name and n) for name, n in count_labels(selection))
    some = selection
    if settings.most_probed < how.folds * n_classes:  # too few rows per class for all folds
        most = max(2, settings.most_probed // (2 * how.folds))
        some = draw_classes(selection, most, least=how.folds, seed=settings.seed)
    drawn = draw_stratified(some, settings.most_probed, seed=settings.seed)
    try:
        return Probed(cross_validate(drawn, how), len(drawn), len(selection), n_classes, how.folds), ""
    except (LabelError, StoreError) as error:
        return None, f"{error}."


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
