"""Readers of box files.

A file or folder in any common format goes in. A :class:`~sppfeat.boxes.table.BoxTable` comes out, in the file's own
order and convention. The readers must not know the images of a run: they convert no boxes and match no names.
"""

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
"""Names of the formats of box files."""


@dataclass(frozen=True)
class BoxFile:
    """The contents of a box file, with its format and digest.

    Attributes:
        table: the boxes.
        box_format: one of ``FORMATS``.
        sha256: digest of the file's bytes, in hexadecimal; for a folder, digest of the names and digests of all files
            read, independent of the folder's own path.
        path: path as the user gave it.
    """

    table: BoxTable
    box_format: str
    sha256: str
    path: str


def read_boxes(path: StrPath, *, box_format: str | None = None) -> BoxFile:
    """Read the boxes of a file or folder.

    Args:
        path: path of the file; for ``voc``, ``yolo`` and ``numpy`` also of a folder, which is read recursively,
            without hidden files.
        box_format: one of ``FORMATS``; None to recognize it.

    Raises:
        BoxError: the file cannot be read or recognized, or is malformed; the message gives the place and the reason.
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
