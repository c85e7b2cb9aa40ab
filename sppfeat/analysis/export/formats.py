"""Names, suffixes and number types of the export formats; imports no other package."""

import os
from typing import NamedTuple

from sppfeat.errors import ConfigError

__all__ = ["EXPORT_DTYPES", "EXPORT_FORMATS", "ExportFormat", "dtype_of", "format_of", "paths_of"]

EXPORT_DTYPES = ("float32", "float16", "float64")


class ExportFormat(NamedTuple):
    """Properties of a format.

    Attributes:
        suffixes: file suffixes in lower case.
        holds: number types that the format can hold.
        of_float16: default type for float16 descriptors.
        has_table: True if texts and labels go into a CSV file beside the output.
        is_text: True if the format can be written to standard output.
    """

    suffixes: tuple[str, ...]
    holds: tuple[str, ...] = EXPORT_DTYPES
    of_float16: str = "float16"
    has_table: bool = False
    is_text: bool = False


# Few readers of Parquet know half precision; MATLAB has none.
EXPORT_FORMATS: dict[str, ExportFormat] = {
    "npz": ExportFormat((".npz",)),
    "npy": ExportFormat((".npy",), has_table=True),
    "parquet": ExportFormat((".parquet", ".pq"), of_float16="float32"),
    "svmlight": ExportFormat((".svm", ".svmlight", ".libsvm"), has_table=True, is_text=True),
    "mat": ExportFormat((".mat",), holds=("float32", "float64"), of_float16="float32"),
    "csv": ExportFormat((".csv", ".csv.gz"), is_text=True),
    "tsv": ExportFormat((".tsv", ".tsv.gz"), is_text=True),
}


def format_of(path: str | os.PathLike[str], name: str | None = None) -> str:
    """Name of the format of an output: the requested one, or the one that has its suffix.

    Raises:
        ConfigError: there is no such format, or the suffix belongs to none.

    Example:
        >>> format_of("train.libsvm"), format_of("train.data", "mat")
        ('svmlight', 'mat')
    """
    if name is None:
        found = _suffix(os.fspath(path))
        if found is None:
            suffixes = " ".join(s for form in EXPORT_FORMATS.values() for s in form.suffixes)
            raise ConfigError(
                f"the suffix of {os.fspath(path)!r} says no format; allowed: {suffixes}, or --format "
                f"{'|'.join(EXPORT_FORMATS)}"
            )
        return found[0]
    if name not in EXPORT_FORMATS:
        raise ConfigError(f"the format is {name!r}; allowed: {'|'.join(EXPORT_FORMATS)}")
    return name


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


def dtype_of(name: str, wanted: str | None, there: str) -> str:
    """Number type of an export: the requested one, or the feature file's if the format can hold it.

    Args:
        name: name of the format.
        wanted: the requested type; None for the default.
        there: type in the feature file.

    Raises:
        ConfigError: there is no such type, or the format cannot hold it.
    """
    form = EXPORT_FORMATS[name]
    if wanted is None:
        return form.of_float16 if there == "float16" else there
    if wanted not in form.holds:
        raise ConfigError(f"the dtype is {wanted!r}; allowed for {name}: {'|'.join(form.holds)}")
    return wanted


def _suffix(path: str) -> tuple[str, str] | None:
    """Format and suffix of a path; None if no format has its suffix."""
    file_name = os.path.basename(path).lower()
    for name, form in EXPORT_FORMATS.items():
        for suffix in form.suffixes:
            if file_name.endswith(suffix) and file_name != suffix:
                return name, suffix
    return None
