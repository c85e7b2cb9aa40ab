"""Export of feature files to the formats of other programs: NumPy, Parquet, LIBSVM, MATLAB, tables of text.

A selection of an open feature file goes in, with a path or an open stream. A file of another format comes out, whole or
not at all, with the rows in the order of the selection; they pass through in blocks, because they may exceed the
memory. Writers of formats must not know how feature files are stored, nor each other. ``formats`` imports no other
package.
"""

from typing import TYPE_CHECKING, Any

from sppfeat.analysis.export.formats import EXPORT_DTYPES, EXPORT_FORMATS, format_of

if TYPE_CHECKING:
    from sppfeat.analysis.export.export import ExportResult, export_features, export_to_stream

__all__ = [
    "EXPORT_DTYPES",
    "EXPORT_FORMATS",
    "ExportResult",
    "export_features",
    "export_to_stream",
    "format_of",
]


def __getattr__(name: str) -> Any:
    # --help shows the names of the formats and must not import h5py.
    if name in ("ExportResult", "export_features", "export_to_stream"):
        from sppfeat.analysis.export import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
