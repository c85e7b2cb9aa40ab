"""Readers of box files.

A file or folder in any common format goes in. A :class:`~sppfeat.boxes.table.BoxTable` comes out, in the file's own
order and convention; a malformed file raises a :class:`~sppfeat.errors.BoxError` with the place and the reason. The
readers must not know the images of a run: they convert no boxes and match no names.
"""

import codecs
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from sppfeat.boxes.formats.annotation_files import FOLDER_SUFFIXES, AnnotationFiles
from sppfeat.boxes.formats.arrays import MAT_V73_MAGIC, ZIP_MAGIC, read_mat, read_numpy
from sppfeat.boxes.formats.coco import read_coco
from sppfeat.boxes.formats.records import read_jsonl, read_separated
from sppfeat.boxes.formats.voc import read_voc
from sppfeat.boxes.formats.yolo import CLASS_FILES, read_yolo
from sppfeat.boxes.table import BoxTable
from sppfeat.config.regions import BOX_FORMATS
from sppfeat.config.values import StrPath, check_choice
from sppfeat.errors import BoxError
from sppfeat.files.tables import has_utf16_mark, parse_number, shorten

__all__ = ["BoxFile", "read_boxes", "recognize_format"]

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
_HEAD_BYTES = 2**20  # no line of a table is longer
_MAGIC = {b"\x93NUMPY": "numpy", ZIP_MAGIC: "numpy", b"MATLAB 5.0": "mat", MAT_V73_MAGIC: "mat"}
_FOLDERS = dict(zip(FOLDER_SUFFIXES, ("voc", "yolo", "numpy"), strict=True))
_BLANK = b" \t\r\n\0" + codecs.BOM_UTF8 + codecs.BOM_UTF16  # with the zero bytes of UTF-16


@dataclass(frozen=True)
class BoxFile:
    """The contents of a box file, with its format and digest.

    Attributes:
        table: the boxes.
        box_format: one of ``BOX_FORMATS``.
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
        box_format: one of ``BOX_FORMATS``; None to recognize it.

    Raises:
        BoxError: the file cannot be read or recognized, or is malformed; the message gives the place and the reason.
        ConfigError: ``box_format`` is not one of ``BOX_FORMATS``.
    """
    if box_format is not None:
        check_choice("box-format", box_format, BOX_FORMATS)
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


def recognize_format(source: AnnotationFiles) -> str:
    """Recognize the format of a box file or folder, one of ``BOX_FORMATS``; anything else is a BoxError."""
    if source.is_folder:
        return _recognize_folder(source)
    head = source.single.head(_HEAD_BYTES)
    for magic, box_format in _MAGIC.items():
        if head.startswith(magic):
            return box_format
    if not head.strip(_BLANK):
        raise _unrecognized(source, "an empty file")
    suffix = os.path.splitext(source.single.name)[1].lower()
    if head.lstrip(_BLANK)[:1] == b"<":
        return "voc"
    if b"\0" in head and not has_utf16_mark(head):
        if suffix == b".mat":  # version 4 has no magic bytes
            return "mat"
        raise _unrecognized(source, f"bytes that are no text, {shorten(head[:20])}")
    return _recognize_text(head.removeprefix(codecs.BOM_UTF8).lstrip(), suffix)


def _recognize_folder(source: AnnotationFiles) -> str:
    files = {suffix: source.files(suffix, but=CLASS_FILES) for suffix in FOLDER_SUFFIXES}
    counts = {suffix: len(found) for suffix, found in files.items() if found}
    if len(counts) == 1:
        return _FOLDERS[next(iter(counts))]
    found = ", ".join(f"{count} {suffix.decode()}" for suffix, count in counts.items())
    found = f"files {found} in the folder" if counts else "none of these files in the folder"
    kinds = ", ".join(f"{suffix.decode()} ({box_format})" for suffix, box_format in _FOLDERS.items())
    raise _unrecognized(source, found, f"one kind of {kinds} files, or ")


def _recognize_text(head: bytes, suffix: bytes) -> str:
    """Recognize the format of a text file from its first bytes, without leading blanks."""
    if head.startswith(b"["):
        return "coco"
    line = head.partition(b"\n")[0]
    if head.startswith(b"{"):
        # A line cut off by the limit is not valid JSON, either.
        return "jsonl" if suffix in (b".jsonl", b".ndjson") or _is_entry(line) else "coco"
    fields = line.split()
    if len(fields) >= 5 and all(parse_number(field) is not None for field in fields):
        return "yolo"  # more than 6 fields are a polygon, which the YOLO reader refuses with a message of its own
    return "tsv" if b"\t" in line else "csv"


def _is_entry(line: bytes) -> bool:
    """Return True if a line is a complete JSON object, but not a COCO file."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):  # ValueError: not JSON, not UTF-8, or an int of thousands of digits
        return False
    return isinstance(entry, dict) and not {"images", "annotations"} & entry.keys()


def _unrecognized(source: AnnotationFiles, found: str, allowed: str = "") -> BoxError:
    allowed += f"a format that --box-format names, one of {', '.join(BOX_FORMATS)}"
    return source.error("", f"found {found}; allowed: {allowed}")
