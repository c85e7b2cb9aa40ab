"""Reports: one HTML page about a feature file.

A selection of an open feature file goes in. :func:`gather_facts` turns it into facts, which are plain data; ``page``
turns these into one HTML page that loads nothing else. Gathering reads the file and the pictured images, and must not
know the layout of the page; the page must not read the file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from sppfeat.analysis.choices import (
    DEFAULT_EMBEDDING,
    MOST_EMBEDDED,
    MOST_NORMS,
    MOST_PICTURED,
    SHEET_NEIGHBORS,
    SHEET_QUERIES,
    ProbeSettings,
)
from sppfeat.analysis.inspection import describe
from sppfeat.analysis.probe import cross_validate
from sppfeat.analysis.report.facts import Probed, ReportFacts, group_failures
from sppfeat.analysis.report.page import check_page_path, render_page
from sppfeat.analysis.report.provenance import describe_provenance, reduction_text
from sppfeat.analysis.rows import check_described, count_labels, draw_classes, draw_stratified
from sppfeat.analysis.search.queries import describe_queries
from sppfeat.analysis.show.contact_sheet import ContactSheet, draw_queries, make_contact_sheet
from sppfeat.analysis.show.distributions import measure_norms, measure_sizes
from sppfeat.analysis.show.embedding import Embedding, choose_pictured, embed_rows
from sppfeat.analysis.show.thumbnails import find_row_pictures, read_thumbnails
from sppfeat.config.values import StrPath
from sppfeat.errors import LabelError, StoreError
from sppfeat.files.outputs import replace_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.selection import LabelSource, RowsLike, Selection

__all__ = ["gather_facts", "report"]

_STEPS = ("norms", "embedding", "neighbours", "pictures", "probe", "page")
_PICTURE_SIDE = 96  # pixels

OnStep = Callable[[int, int, str], None]


def report(
    file: StrPath,
    output: StrPath,
    *,
    title: str | None = None,
    method: str = DEFAULT_EMBEDDING,
    most: int = MOST_EMBEDDED,
    probe: bool = True,
    rows: RowsLike = None,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    labels: LabelSource = None,
    root: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: OnStep = lambda n_done, n_steps, step: None,
) -> int:
    """Writes one HTML page about a feature file, with everything in it: ``sppfeat report``.

    Args:
        file: path of the feature file, which another process may be writing.
        output: path of the page, ``.html``.
        title: title of the page; the file's name if None.
        method: method of the embedding: ``pca``, ``tsne`` or ``umap``.
        most: maximum number of rows in the embedding, and in the probe; of more rows so many are drawn.
        probe: train and test classifiers, too.
        rows, layers, levels, labels: selection; see :meth:`sppfeat.store.reader.FeatureFile.select`.
        root: folder that now holds the images; None: as recorded.
        seed: seed of all random draws.
        overwrite: replace an existing file.
        on_progress: called with the number of steps done, the number of all steps, and the name of the next one.

    Returns:
        The size of the page, in bytes.

    Raises:
        ConfigError: a package is not installed, an option is wrong, or a selected row has no descriptor.
        LabelError: the labels are malformed.
        StoreError: the file cannot be read; the output exists or cannot be written.
    """
    path = Path(output)
    check_page_path(path, inputs=[file, labels], overwrite=overwrite)
    with FeatureFile(file) as features:
        selection = features.select(rows=rows, layers=layers, levels=levels, labels=labels)
        facts = gather_facts(
            selection,
            title=title,
            method=method,
            most=most,
            most_probed=most if probe else 0,
            root=root,
            seed=seed,
            on_step=on_progress,
        )
        page = render_page(facts).encode()
    replace_file(path, page, overwrite=overwrite)
    on_progress(len(_STEPS), len(_STEPS), "")
    return len(page)


def gather_facts(
    selection: Selection,
    *,
    title: str | None = None,
    method: str = DEFAULT_EMBEDDING,
    most: int = MOST_EMBEDDED,
    most_probed: int = MOST_EMBEDDED,
    root: str | None = None,
    seed: int = 0,
    on_step: OnStep = lambda n_done, n_steps, step: None,
) -> ReportFacts:
    """Gathers the facts of a report; reads the file and the images of the rows that are pictured.

    Memory holds only those descriptors that are embedded or probed. See :func:`report` for the arguments and errors.

    Args:
        selection: rows, columns and labels of an open file.
        most_probed: maximum number of rows to train and test classifiers on; 0 for no probe.
    """

    def begin(step: str) -> None:
        on_step(_STEPS.index(step), len(_STEPS), step)

    file = selection.file
    check_described(selection)
    begin("norms")
    norms = measure_norms(selection, most=MOST_NORMS, seed=seed) if len(selection) else None
    begin("embedding")
    embedding = embed_rows(selection, method=method, most=most, seed=seed) if len(selection) else None
    if embedding is not None and not len(embedding.selection):
        embedding = None
    pictured = choose_pictured(embedding, most=MOST_PICTURED, seed=seed) if embedding is not None else {}
    begin("neighbours")
    sheet = _find_neighbors(embedding, selection, seed=seed)
    begin("pictures")
    pictures = find_row_pictures(file, [*pictured, *(sheet.rows if sheet else [])], root=root)
    thumbnails = read_thumbnails(pictures, exif=file.config.input.exif, side=_PICTURE_SIDE)
    begin("probe")
    probed, why_not = _probe(selection, most=most_probed, seed=seed)
    begin("page")
    return ReportFacts(
        title=title or file.path.name,
        name=file.path.name,
        content=describe(file),
        n_described=len(file.rows_with_descriptor()),
        n_selected=len(selection),
        n_columns=selection.dimension,
        classes=tuple(count_labels(selection)) if selection.y is not None else (),
        config=file.config,
        reduction="" if file.reduction is None else reduction_text(file.reduction),
        provenance=tuple(describe_provenance(file)),
        norms=norms,
        sizes=tuple(measure_sizes(file, of=of) for of in ("images", "boxes")[: 1 + file.has_boxes]),
        embedding=embedding,
        pictured=pictured,
        sheet=sheet,
        thumbnails=thumbnails,
        probe=probed,
        why_no_probe=why_not,
        failures=tuple(group_failures(file)),
        seed=seed,
    )


def _find_neighbors(embedding: Embedding | None, selection: Selection, *, seed: int) -> ContactSheet | None:
    """Contact sheet of some embedded rows, all of them finite, and their nearest rows in the whole selection."""
    if embedding is None or len(selection) < 2:
        return None
    queries = draw_queries(embedding.selection, SHEET_QUERIES, seed=seed)
    # Otherwise most neighbors of a box would be overlapping boxes of the same image.
    one_per_image = selection.file.has_boxes
    descriptors = describe_queries(queries, selection)
    return make_contact_sheet(selection, queries, descriptors, k=SHEET_NEIGHBORS, one_per_image=one_per_image)


def _probe(selection: Selection, *, most: int, seed: int) -> tuple[Probed | None, str]:
    """Result of a probe and an empty text, or None and the reason."""
    if not most:
        return None, "It was not asked for."
    if not len(selection):
        return None, "There are no descriptors."
    how = ProbeSettings(seed=seed)
    n_classes = sum(bool(name and n) for name, n in count_labels(selection))
    some = selection
    if most < how.folds * n_classes:  # too few rows per class for all folds
        some = draw_classes(selection, max(2, most // (2 * how.folds)), least=how.folds, seed=seed)
    drawn = draw_stratified(some, most, seed=seed)
    try:
        return Probed(cross_validate(drawn, how), len(drawn), len(selection), n_classes, how.folds), ""
    except (LabelError, StoreError) as error:
        return None, f"{error}."
