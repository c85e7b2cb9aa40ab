"""CNN descriptors of whole images and of boxes: one forward pass per image, pooled over a spatial pyramid.

Images go in; fixed-length descriptors come out, as arrays from :class:`~sppfeat.extractor.Extractor` or as a feature
file, which :func:`open` reads. :mod:`sppfeat.pyramid`, :mod:`sppfeat.geometry` and :mod:`sppfeat.sklearn` are public,
too. Importing the package must not load torch, h5py or numpy, so names are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sppfeat._version import __version__

if TYPE_CHECKING:
    from sppfeat.analysis.export import export
    from sppfeat.analysis.inspection import info, verify
    from sppfeat.analysis.probe import predict, probe
    from sppfeat.analysis.reduce import reduce
    from sppfeat.analysis.report import report
    from sppfeat.analysis.search import search
    from sppfeat.analysis.show.contact_sheet import show_neighbors
    from sppfeat.analysis.show.distributions import show_norms, show_sizes
    from sppfeat.analysis.show.embedding import show_embedding
    from sppfeat.analysis.show.image_picture import show_image
    from sppfeat.extraction.extract import extract
    from sppfeat.extractor import Extractor
    from sppfeat.store.merge import merge_shards as merge
    from sppfeat.store.reader import open_features as open  # noqa: A004 - shadows the builtin on purpose

__all__ = [
    "Extractor",
    "__version__",
    "export",
    "extract",
    "info",
    "merge",
    "open",
    "predict",
    "probe",
    "reduce",
    "report",
    "search",
    "show_embedding",
    "show_image",
    "show_neighbors",
    "show_norms",
    "show_sizes",
    "verify",
]

# `sppfeat --help` and the decoding workers import the package, and must start fast.
_LAZY = {
    "Extractor": "sppfeat.extractor",
    "export": "sppfeat.analysis.export",
    "extract": "sppfeat.extraction.extract",
    "info": "sppfeat.analysis.inspection",
    "merge": "sppfeat.store.merge:merge_shards",
    "open": "sppfeat.store.reader:open_features",
    "predict": "sppfeat.analysis.probe",
    "probe": "sppfeat.analysis.probe",
    "reduce": "sppfeat.analysis.reduce",
    "report": "sppfeat.analysis.report",
    "search": "sppfeat.analysis.search",
    "show_embedding": "sppfeat.analysis.show.embedding",
    "show_image": "sppfeat.analysis.show.image_picture",
    "show_neighbors": "sppfeat.analysis.show.contact_sheet",
    "show_norms": "sppfeat.analysis.show.distributions",
    "show_sizes": "sppfeat.analysis.show.distributions",
    "verify": "sppfeat.analysis.inspection",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, alias = _LAZY[name].partition(":")
    return getattr(importlib.import_module(module), alias or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
