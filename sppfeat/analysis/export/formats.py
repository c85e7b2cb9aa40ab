"""Names, suffixes and number types of the export formats; imports no other package."""

import os
from typing import NamedTuple

from sppfeat.config.values import check_choice
from sppfeat.errors import ConfigError

__all__ = ["EXPORT_DTYPES", "EXPORT_FORMATS", "ExportFormat", "dtype_of", "format_of", "paths_of"]

EXPORT_DTYPES = ("float32", "float16", "float64")


class ExportFormat(NamedTuple):
    """Properties of a format.

    Attributes:
        writer: module and function that write it.
        suffixes: file suffixes in lower case.
        has_float16: True if the format can hold float16.
        of_float16: default type for float16 descriptors.
        has_table: True if texts and labels go into a CSV file beside the output.
        is_text: True if the format can be written to standard output.
    """

    writer: str
    suffixes: tuple[str, ...]
    has_float16: bool = True
    of_float16: str = "float16"
    has_table: bool = False
    is_text: bool = False


# Few readers of Parquet know half precision; MATLAB has none.
EXPORT_FORMATS: dict[str, ExportFormat] = {
    "npz": ExportFormat("array_files:write_npz", (".npz",)),
    "npy": ExportFormat("array_files:write_npy", (".npy",), has_table=True),
    "parquet": ExportFormat("array_files:write_parquet", (".parquet", ".pq"), of_float16="float32"),
    "svmlight": ExportFormat(
        "text_files:write_svmlight", (".svm", ".svmlight", ".libsvm"), has_table=True, is_text=True
    ),
    "mat": ExportFormat("array_files:write_mat", (".mat",), has_float16=False, of_float16="float32"),
    "csv": ExportFormat("text_files:write_csv", (".csv", ".csv.gz"), is_text=True),
    "tsv": ExportFormat("text_files:write_tsv", (".tsv", ".tsv.gz"), is_text=True),
}


def format_of(path: str, name: str | None = None) -> str:
    """Name of the format of an output: the requested one, or the one that has its suffix.

    Raises:
        ConfigError: there is no such format, or the suffix belongs to none.

    Example:
        >>> format_of("train.libsvm"), format_of("train.data", "mat")
        ('svmlight', 'mat')
    """
    if name is not None:
        return check_choice("format", name, tuple(EXPORT_FORMATS))
    found = _suffix(path)
    if found is None:
        suffixes = " ".join(s for form in EXPORT_FORMATS.values() for s in form.suffixes)
        raise ConfigError(
            f"the suffix of {path!r} says no format; allowed: {suffixes}, or --format {'|'.join(EXPORT_FORMATS)}"
        )
    return found[0]


def paths_of(path: str, name: str) -> tuple[str, ...]:
    """Paths of an export: the output and, if the format has one, the table beside it.

    Example:
        >>> paths_of("out/train.npy", "npy"), paths_of("train.data", "svmlight"), paths_of("x.npz", "npz")
        (('out/train.npy', 'out/train.csv'), ('train.data', 'train.data.csv'), ('x.npz',))
    """
    if not EXPORT_FORMATS[name].has_table:
        return (path,)
    found = _suffix(path)
    stem = path[: -len(found[1])] if found is not None and found[0] == name else path
    return path, f"{stem}.csv"


def dtype_of(name: str, wanted: str | None, stored: str) -> str:
    """Number type of an export: the wanted one, or by default the feature file's if the format can hold it.

    Raises:
        ConfigError: there is no such type, or the format cannot hold it.
    """
    form = EXPORT_FORMATS[name]
    if wanted is None:
        return form.of_float16 if stored == "float16" else stored
    allowed = [dtype for dtype in EXPORT_DTYPES if dtype != "float16" or form.has_float16]
    if wanted not in allowed:
        raise ConfigError(f"the dtype is {wanted!r}; allowed for {name}: {'|'.join(allowed)}")
    return wanted


def _suffix(path: str) -> tuple[str, str] | None:
    """Format and suffix of a path; None if no format has its suffix."""
    file_name = os.path.basename(path).lower()
    for name, form in EXPORT_FORMATS.items():
        for suffix in form.suffixes:
            if file_name.endswith(suffix) and file_name != suffix:
                return name, suffix
    return None
