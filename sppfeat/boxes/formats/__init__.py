"""Box files in any of the usual formats, read into a table in the file's own order and convention."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.coco import read_coco
from sppfeat.boxes.formats.jsonl import read_jsonl
from sppfeat.boxes.formats.mat import read_mat
from sppfeat.boxes.formats.numpy_files import read_numpy
from sppfeat.boxes.formats.recognition import recognize_format, recognize_source
from sppfeat.boxes.formats.separated import read_csv, read_tsv
from sppfeat.boxes.formats.voc import read_voc
from sppfeat.boxes.formats.yolo import read_yolo
from sppfeat.boxes.table import BoxTable
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import BoxError

__all__ = ["FORMATS", "BoxFile", "read_boxes", "recognize_format"]

_READERS: Mapping[str, Callable[[AnnotationFiles], BoxTable]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
    "numpy": read_numpy,
    "mat": read_mat,
}
FORMATS = tuple(_READERS)
"""The formats that box files can have."""


@dataclass(frozen=True)
class BoxFile:
    """A box file that was read.

    Attributes:
        table: the boxes.
        box_format: one of ``FORMATS``.
        sha256: digest of the bytes of the file, in hexadecimal; for a folder, digest of the names and digests of the
            files that were read, independent of the folder's own path.
        path: path as it was given.
    """

    table: BoxTable
    box_format: str
    sha256: str
    path: str


def read_boxes(path: StrPath, *, box_format: str | None = None) -> BoxFile:
    """Read the boxes of a file or folder.

    Args:
        path: path of the file; for ``voc``, ``yolo`` and ``numpy`` also of a folder, which is read recursively
            without hidden names.
        box_format: one of ``FORMATS``; None to recognize it.

    Raises:
        BoxError: the file cannot be read or recognized, or is malformed; tells where and why.
        ConfigError: ``box_format`` is not one of ``FORMATS``.
    """
    if box_format is not None:
        check_choice("box-format", box_format, FORMATS)
    source = AnnotationFiles(path)
    if box_format is not None:
        return BoxFile(_read_table(source, box_format), box_format, source.sha256(), source.path)
    box_format = recognize_source(source)
    try:
        table = _read_table(source, box_format)
    except BoxError as error:
        raise BoxError(f"{error} (read as {box_format}; --box-format says otherwise)") from error
    return BoxFile(table, box_format, source.sha256(), source.path)


def _read_table(source: AnnotationFiles, box_format: str) -> BoxTable:
    try:
        return _READERS[box_format](source)
    except MemoryError as error:
        raise source.error("", "does not fit into memory; allowed: a box file that does") from error
