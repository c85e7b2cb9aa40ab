"""Readers of box files.

A file or folder in any common format goes in. A :class:`~sppfeat.boxes.table.BoxTable` comes out, in the file's own
order and convention; a malformed file raises a :class:`~sppfeat.errors.BoxError` with the place and the reason. The
readers must not know the images of a run: they convert no boxes and match no names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.coco import read_coco
from sppfeat.boxes.formats.mat import read_mat
from sppfeat.boxes.formats.numpy_files import read_numpy
from sppfeat.boxes.formats.recognition import recognize_format
from sppfeat.boxes.formats.records import read_jsonl, read_separated
from sppfeat.boxes.formats.voc import read_voc
from sppfeat.boxes.formats.yolo import read_yolo
from sppfeat.boxes.table import BoxTable
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import BoxError

__all__ = ["FORMATS", "BoxFile", "read_boxes"]

_READERS: Mapping[str, Callable[[AnnotationFiles], BoxTable]] = {
    "csv": partial(read_separated, box_format="csv"),
    "tsv": partial(read_separated, box_format="tsv"),
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
    chosen = box_format or recognize_format(source)
    try:
        table = _READERS[chosen](source)
    except MemoryError as error:
        raise source.error("", "does not fit into memory; allowed: a box file that does") from error
    except BoxError as error:
        if box_format is not None:
            raise
        raise BoxError(f"{error} (read as {chosen}; --box-format says otherwise)") from error
    return BoxFile(table, chosen, source.sha256(), source.path)
