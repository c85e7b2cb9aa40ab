"""Export of feature files to the formats of other programs: NumPy, Parquet, LIBSVM, MATLAB, tables of text.

A selection of an open file goes in, with a path or an open stream; a file of another format comes out, whole or not at
all, in the order of the selection. Rows pass in blocks, as the selection may exceed the memory. The formats must not
know how feature files are stored, nor each other; the names of the formats are loaded without any package.
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
    # The names of the formats are needed by --help, which must not import h5py.
    if name in ("ExportResult", "export_features", "export_to_stream"):
        from sppfeat.analysis.export import export

        return getattr(export, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
