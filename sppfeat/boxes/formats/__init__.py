"""Readers of box files.

A file or folder in any common format goes in. A :class:`~sppfeat.boxes.table.BoxTable` comes out, in the file's own
order and convention; a malformed file raises a :class:`~sppfeat.errors.BoxError` with the place and the reason. The
readers must not know the images of a run: they convert no boxes and match no names.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.formats.arrays import read_mat, read_numpy
from sppfeat.boxes.formats.coco import read_coco
from sppfeat.boxes.formats.cvat import read_cvat
from sppfeat.boxes.formats.labelme import read_labelme
from sppfeat.boxes.formats.parquet import read_parquet_boxes
from sppfeat.boxes.formats.recognition import find_format, recognize_format
from sppfeat.boxes.formats.records import read_jsonl, read_separated
from sppfeat.boxes.formats.via import read_via
from sppfeat.boxes.formats.voc import read_voc
from sppfeat.boxes.formats.yolo import read_yolo
from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import BOX_FORMATS
from sppfeat.config.values import CHOICES, StrPath, check_choice, check_encoding
from sppfeat.errors import BoxError, ConfigError

__all__ = ["BoxFile", "read_boxes", "recognize_format"]

_READERS: Mapping[str, Callable[[AnnotationFiles], BoxTable]] = {
    "csv": partial(read_separated, box_format="csv"),
    "tsv": partial(read_separated, box_format="tsv"),
    "jsonl": read_jsonl,
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
    "cvat": read_cvat,
    "labelme": read_labelme,
    "via": read_via,
    "parquet": read_parquet_boxes,
    "numpy": read_numpy,
    "mat": read_mat,
}
_WITH_LABEL = ("csv", "tsv", "jsonl", "via", "parquet")  # formats in which any column may be the class

_WITH_NAMES = ("voc", "labelme")  # formats with one file per image, which also names the image


@dataclass(frozen=True)
class BoxFile:
    """The contents of a box file, with its format and digest.

    Attributes:
        table: the boxes.
        box_format: one of ``BOX_FORMATS``.
        sha256: digest of the file's bytes, in hexadecimal; for a folder, digest of the names and digests of all files
            read, independent of the folder's own path. Options that change the meaning of the content are part of it.
        path: path as the user gave it.
    """

    table: BoxTable
    box_format: str
    sha256: str
    path: str


def read_boxes(
    path: StrPath,
    *,
    box_format: str | None = None,
    encoding: str | None = None,
    label: str | None = None,
    names: str | None = None,
    images: StrPath | None = None,
    categories: StrPath | None = None,
) -> BoxFile:
    """Read the boxes of a file or folder.

    Args:
        path: path of the file; for ``voc``, ``yolo``, ``cvat``, ``labelme`` and ``numpy`` also of a folder, which is
            read recursively, without hidden files.
        box_format: one of ``BOX_FORMATS``; None to recognize it.
        encoding: encoding of text without a byte order mark; None for UTF-8.
        label: column, key or region attribute that names the class; None for the usual names.
        names: ``inside`` to take the image name inside an annotation, ``file`` to take the name of its file; None for
            the one inside, with the other one in the table's ``own_names``.
        images, categories: COCO instances that name the ids of a results file.

    Raises:
        BoxError: the file cannot be read or recognized, or is malformed; the message gives the place and the reason.
        ConfigError: ``box_format`` is not one of ``BOX_FORMATS``, ``encoding`` is unknown, or an option belongs
            to another format.
    """
    if box_format is not None:
        check_choice("box-format", box_format, BOX_FORMATS)
    check_encoding(encoding)
    if names is not None:
        check_choice("box-names", names, CHOICES["box_names"])
    source = AnnotationFiles(
        path, encoding=encoding, label=label, names=names, images=images, categories=categories
    )
    chosen = box_format or recognize_format(source)
    for name, value, formats in (
        ("box-label", label, _WITH_LABEL),
        ("box-names", names, _WITH_NAMES),
        ("box-images", images, ("coco",)),
        ("box-categories", categories, ("coco",)),
    ):
        if value is not None and chosen not in formats:
            found = f"{name} is {os.fspath(value)!r}, but the boxes are in {chosen}"
            raise ConfigError(f"{found}; allowed: {', '.join(formats)}")
    try:
        table = _READERS[chosen](source)
    except MemoryError as error:
        raise source.error("", "does not fit into memory; allowed: a smaller file") from error
    except BoxError as error:
        if hint := _hint(source, chosen, is_given=box_format is not None):
            raise BoxError(f"{error} ({hint})") from error
        raise
    return BoxFile(table, chosen, source.sha256(), source.path)


def _hint(source: AnnotationFiles, chosen: str, *, is_given: bool) -> str:
    """Suggest another format for a malformed file; empty without one."""
    if not is_given:
        return f"read as {chosen}; choose another format with --box-format"
    try:
        found = find_format(source)
    except BoxError:
        return ""
    if found.box_format == chosen:
        return ""
    return f"it looks like {found.title or found.box_format}"
