"""The text format of LIBSVM and SVM-light: a label, and ``column:value`` of what is not zero, from 1."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from sppfeat.analysis.export.contents import Contents
from sppfeat.analysis.export.number_texts import TEXT_BLOCK_NBYTES, printable, printf_format
from sppfeat.analysis.export.text_files import write_table
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError

__all__ = ["write_svmlight"]


def write_svmlight(contents: Contents, files: list[BinaryIO]) -> None:
    """Write a line for each row; without comments, which LIBSVM does not read: the table is another file.

    Where no classes are known, each label is 0: LIBSVM wants a number, whatever it is.

    Raises:
        LabelError: rows of no class among others that have one: no number would say so.
    """
    labels = _labels(contents)
    for rows, vectors in contents.blocks(TEXT_BLOCK_NBYTES):
        lines = zip(labels[rows].tolist(), _sparse_text_rows(vectors), strict=True)
        files[0].write("".join(f"{label!r}{text}\n" for label, text in lines).encode())
    for table in files[1:]:
        write_table(contents, table)


def _labels(contents: Contents) -> npt.NDArray[Any]:
    numbers = np.asarray(contents.table["label_number"])
    if contents.selection.y is None:
        return np.zeros_like(numbers)
    unknown = np.flatnonzero(numbers < 0) if contents.selection.target_names else numbers[:0]
    if len(unknown):
        at = int(unknown[0])
        (path,) = contents.table["path"][at : at + 1]
        raise LabelError(
            f"{counted(len(unknown), 'row has', 'rows have')} no label, the first is row "
            f"{contents.selection.rows[at]} ({path!r}); allowed in this format: rows with labels, such as --rows "
            "'label=*', or a file without any"
        )
    return numbers


def _sparse_text_rows(vectors: npt.NDArray[np.floating[Any]]) -> Iterator[str]:
    """Yield each row's values as text, a space before each."""
    value = printf_format(vectors.dtype)
    fields = np.array([f" {i}:{value}" for i in range(1, vectors.shape[1] + 1)], dtype=object)
    is_there = vectors != 0
    for row, there in zip(printable(vectors), is_there, strict=True):
        yield "".join(fields[there].tolist()) % tuple(row[there].tolist())
