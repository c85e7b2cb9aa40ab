"""Reports: one HTML page about a feature file.

A selection of an open feature file goes in. ``facts`` reads the file and the pictured images into plain data and must
not know the layout of the page; ``page`` turns the data into one HTML page that loads nothing, and must not read the
file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from sppfeat.analysis.choices import DEFAULT_EMBEDDING, MOST_EMBEDDED
from sppfeat.analysis.report.facts import gather_facts
from sppfeat.analysis.report.page import check_page_path, render_page
from sppfeat.config.values import StrPath
from sppfeat.files.outputs import replace_file
from sppfeat.store.labels import LabelSource
from sppfeat.store.reader import FeatureFile
from sppfeat.store.rows import RowsLike

__all__ = ["report"]

_STEPS = ("norms", "embedding", "neighbors", "thumbnails", "classifier", "page")


def report(
    file: StrPath,
    output: StrPath,
    *,
    title: str | None = None,
    method: str = DEFAULT_EMBEDDING,
    max_rows: int = MOST_EMBEDDED,
    probe: bool = True,
    rows: RowsLike = None,
    layers: Iterable[str] | str | None = None,
    levels: Iterable[int] | int | None = None,
    labels: LabelSource = None,
    root: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int, str], None] = lambda n_done, n_steps, step: None,
) -> int:
    """Writes a self-contained HTML page about a feature file: ``sppfeat report``.

    Args:
        file: path of the feature file, which another process may be writing.
        output: path of the page, ``.html``.
        title: title of the page; the file's name if None.
        method: method of the embedding: ``pca``, ``tsne`` or ``umap``.
        max_rows: maximum number of rows in the embedding and for the classifier; more rows are sampled at random.
        probe: cross-validate a linear classifier, too.
        rows, layers, levels, labels: selection; see :meth:`sppfeat.store.reader.FeatureFile.select`.
        root: folder that now holds the images; the recorded one if None.
        seed: seed of all random draws.
        overwrite: replace an existing file.
        on_progress: called with the numbers of finished steps and of all steps, and the name of the next step.

    Returns:
        Size of the page in bytes.

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
            most=max_rows,
            most_probed=max_rows if probe else 0,
            root=root,
            seed=seed,
            on_step=lambda step: on_progress(_STEPS.index(step), len(_STEPS), step),
        )
        page = render_page(facts).encode()
    replace_file(path, page, overwrite=overwrite)
    on_progress(len(_STEPS), len(_STEPS), "")
    return len(page)
