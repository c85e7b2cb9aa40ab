"""Recognition of box file formats: by content, or by name if the content is ambiguous."""

import codecs
import json
import os
from collections import Counter

from sppfeat.boxes.formats.annotation_files import FOLDER_SUFFIXES, AnnotationFiles
from sppfeat.boxes.formats.mat import MAT_V73_MAGIC
from sppfeat.boxes.formats.numpy_files import ZIP_MAGIC
from sppfeat.boxes.formats.yolo import CLASS_FILES
from sppfeat.config.regions import BOX_FORMATS
from sppfeat.errors import BoxError
from sppfeat.files.cells import parse_number, shorten
from sppfeat.files.tables import has_utf16_mark

__all__ = ["recognize_format"]

_HEAD_BYTES = 2**20  # no line of a table is longer
_MAGIC = {b"\x93NUMPY": "numpy", ZIP_MAGIC: "numpy", b"MATLAB 5.0": "mat", MAT_V73_MAGIC: "mat"}
_FOLDERS = dict(zip(FOLDER_SUFFIXES, ("voc", "yolo", "numpy"), strict=True))
_BLANK = b" \t\r\n\0" + codecs.BOM_UTF8 + codecs.BOM_UTF16  # with the zero bytes of UTF-16


def recognize_format(source: AnnotationFiles) -> str:
    """Recognize the format of a box file or folder, one of ``BOX_FORMATS``; anything else is a BoxError."""
    if source.is_folder:
        return _recognize_folder(source)
    head = source.head(_HEAD_BYTES)
    for magic, box_format in _MAGIC.items():
        if head.startswith(magic):
            return box_format
    if not head.strip(_BLANK):
        raise _unrecognized(source, "an empty file")
    suffix = os.path.splitext(source.name)[1].lower()
    if head.lstrip(_BLANK)[:1] == b"<":
        return "voc"
    if b"\0" in head and not has_utf16_mark(head):
        if suffix == b".mat":  # version 4 has no magic bytes
            return "mat"
        raise _unrecognized(source, f"bytes that are no text, {shorten(head[:20])}")
    return _recognize_text(head.removeprefix(codecs.BOM_UTF8).lstrip(), suffix)


def _recognize_folder(source: AnnotationFiles) -> str:
    names = {suffix: source.files(suffix) for suffix in FOLDER_SUFFIXES}
    names[b".txt"] = [name for name in names[b".txt"] if name not in CLASS_FILES]
    counts = Counter({suffix: len(found) for suffix, found in names.items() if found})
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
