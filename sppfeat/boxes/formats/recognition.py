"""Recognizes the formats of box files by their content."""

import io
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sppfeat.boxes.formats.annotation_files import FOLDER_SUFFIXES, AnnotationFile, AnnotationFiles
from sppfeat.boxes.formats.arrays import MAT_V73_MAGIC, ZIP_MAGIC
from sppfeat.boxes.formats.via import VIA_COLUMNS
from sppfeat.boxes.formats.yolo_classes import SIDE_FILES
from sppfeat.config.regions import BOX_FORMATS
from sppfeat.errors import BoxError
from sppfeat.files.tables import COMPRESSED, parse_number, shorten, to_utf8

__all__ = ["find_format", "recognize_format"]

_HEAD_BYTES = 1 << 16
_FOLDERS = dict(zip(FOLDER_SUFFIXES, ("voc", "yolo", "numpy", "labelme"), strict=True))
_MOST_EMPTY = 20  # most files of a folder to read: the first ones may have no boxes
_BLANK = b" \t\r\n\0"


class FoundFormat(NamedTuple):
    """The format of a file: one of ``BOX_FORMATS``, or empty for an unsupported one, with its title and advice."""

    box_format: str
    title: str = ""
    advice: str = ""


def _unsupported(title: str, advice: str) -> FoundFormat:
    return FoundFormat("", title, advice)


_EXPORT = "export the boxes as COCO, Pascal VOC or YOLO"
_UNPACK = "unpack it, and give the file or folder of boxes in it"
_AS_CSV = "save the sheet as 'CSV UTF-8'"
_NO_PICKLE = "write the boxes as CSV or .npz, since a pickle can run any code"

_MAGIC: Mapping[bytes, FoundFormat] = {
    b"\x93NUMPY": FoundFormat("numpy"),
    b"MATLAB 5.0": FoundFormat("mat"),
    MAT_V73_MAGIC: FoundFormat("mat"),
    b"PAR1": FoundFormat("parquet"),
    b"ARROW1": _unsupported("a Feather or Arrow file", "write Parquet or CSV"),
    b"\xd0\xcf\x11\xe0": _unsupported("an Excel workbook (.xls)", _AS_CSV),
    b"\x89HDF": _unsupported("an HDF5 file", "write the boxes as CSV, or as .npz"),
    **{magic: _unsupported(f"a file compressed by {name}", _UNPACK) for magic, name in COMPRESSED.items()},
    **{bytes([0x80, version]): _unsupported("a Python pickle", _NO_PICKLE) for version in range(2, 6)},
}

_ZIPPED: Mapping[str, FoundFormat] = {  # by the end of a member's name
    "xl/workbook.xml": _unsupported("an Excel workbook (.xlsx)", _AS_CSV),
    ".npy": FoundFormat("numpy"),
}

_XML_ROOTS: Mapping[str, FoundFormat] = {
    "annotations": FoundFormat("cvat"),
    "html": _unsupported("an HTML page, which a site may send instead of a file", "download the file itself"),
}

_LABELME, _VIA, _COCO = FoundFormat("labelme"), FoundFormat("via"), FoundFormat("coco")
_CREATE_ML = _unsupported("JSON of CreateML", _EXPORT)
_LABEL_STUDIO_ADVICE = "in Label Studio, export as YOLO or COCO"
_LABEL_STUDIO = _unsupported("JSON of Label Studio", _LABEL_STUDIO_ADVICE)
_LABELBOX = _unsupported(
    "JSON of Labelbox", "convert the export to COCO or YOLO, for example with labelformat"
)
_SUPERVISELY = _unsupported(
    "JSON of Supervisely", "in Supervisely, run the app 'Export to COCO' or 'Export to YOLO'"
)

# Key paths that identify a format: [] is an item of a list, and * any key. The first match counts.
_JSON_KEYS: Sequence[tuple[tuple[str, ...], FoundFormat]] = (
    (("images/[]/file_name",), _COCO),
    (("images", "annotations"), _COCO),
    (("annotations/[]/image_id",), _COCO),
    (("[]/image_id", "[]/bbox"), _COCO),
    (("shapes/[]/points",), _LABELME),
    (("shapes", "imagePath"), _LABELME),
    (("imageData",), _LABELME),
    (("_via_img_metadata",), _VIA),
    (("_via_settings",), _VIA),
    (("*/regions", "*/filename"), _VIA),
    (("project/pid", "metadata"), _unsupported("JSON of VIA 3", "export as COCO, or annotate with VIA 2")),
    (("[]/annotations/[]/coordinates",), _CREATE_ML),
    (("[]/image", "[]/annotations"), _CREATE_ML),
    (("[]/annotations/[]/result",), _LABEL_STUDIO),
    (("[]/data", "[]/annotations"), _LABEL_STUDIO),
    (("[]/annotation_id", "[]/annotator"), _LABEL_STUDIO),
    (("data_row", "projects"), _LABELBOX),
    (("[]/DataRow ID",), _LABELBOX),
    (("objects/[]/classTitle",), _SUPERVISELY),
    (("objects", "tags", "size/height"), _SUPERVISELY),
    (("items", "categories"), _unsupported("JSON of Datumaro", "convert it with 'datum convert -f coco'")),
)

_COCO_KEYS = {("images",), ("annotations",)}

_COLUMNS: Sequence[tuple[tuple[str, ...], FoundFormat]] = (
    (VIA_COLUMNS, _VIA),
    (("image", "annotator", "annotation_id"), _unsupported("CSV of Label Studio", _LABEL_STUDIO_ADVICE)),
    (
        ("imageid", "labelname", "xmin", "xmax"),
        _unsupported("CSV of Open Images", "rename ImageID to image, and add --box-units normalized"),
    ),
)

_DATA_YAML = _unsupported("the description of a YOLO dataset", "give the folder of its labels")


def recognize_format(source: AnnotationFiles) -> str:
    """Recognize the format of a box file or folder, one of ``BOX_FORMATS``; anything else is a BoxError."""
    found = find_format(source)
    if not found.box_format:
        raise source.error(
            "", f"is {found.title}, which is not supported: {found.advice}; allowed: {', '.join(BOX_FORMATS)}"
        )
    return found.box_format


def find_format(source: AnnotationFiles) -> FoundFormat:
    """Find the format of a box file or folder, supported or not; BoxError if it is unknown."""
    if source.is_folder:
        return _find_in_folder(source)
    found = _find_in_file(source.single)
    if found is not None:
        return found
    head = source.single.head(_HEAD_BYTES)
    if not head.strip(_BLANK):
        raise _unrecognized(source, "an empty file")
    for first, encoding in enumerate(("utf-16-be", "utf-16-le")):  # every second byte of ASCII is zero
        if 0 < len(head) // 2 <= head[first::2].count(0) + 1:
            raise source.error(
                "", f"is in UTF-16 without a byte order mark; allowed: with --encoding {encoding}"
            )
    raise _unrecognized(source, f"bytes that are not text, {shorten(head[:20])}")


def _find_in_folder(source: AnnotationFiles) -> FoundFormat:
    files = {suffix: source.files(suffix, but=SIDE_FILES) for suffix in FOLDER_SUFFIXES}
    counts = {suffix: len(found) for suffix, found in files.items() if found}
    if len(counts) == 1:
        suffix = next(iter(counts))
        found = next(filter(None, map(_find_in_file, files[suffix][:_MOST_EMPTY])), None)
        # An unrecognized text may be a damaged label file, which the reader describes.
        is_known = found is not None and (not found.box_format or suffix in (b".xml", b".json"))
        return found if found is not None and is_known else FoundFormat(_FOLDERS[suffix])
    found_files = ", ".join(f"{count} {suffix.decode()}" for suffix, count in counts.items())
    found_files = f"files {found_files} in the folder" if counts else "none of these files in the folder"
    kinds = ", ".join(f"{suffix.decode()} ({box_format})" for suffix, box_format in _FOLDERS.items())
    raise _unrecognized(source, found_files, f"one kind of {kinds} files, or ")


def _unrecognized(source: AnnotationFiles, found: str, allowed: str = "") -> BoxError:
    allowed += f"a format that --box-format names, one of {', '.join(BOX_FORMATS)}"
    return source.error("", f"found {found}; allowed: {allowed}")


def _find_in_file(file: AnnotationFile) -> FoundFormat | None:
    """Find the format of a file; None if it is empty or not text."""
    head = file.head(_HEAD_BYTES)
    if head.startswith(ZIP_MAGIC):
        return _find_in_zip(file)
    if (
        found := next((found for magic, found in _MAGIC.items() if head.startswith(magic)), None)
    ) is not None:
        return found
    suffix = os.path.splitext(file.name)[1].lower()
    text = _text_of(head, file)
    if not text.strip(_BLANK):
        return None
    if b"\0" in text:
        return FoundFormat("mat") if suffix == b".mat" else None  # version 4 has no magic bytes
    return _find_in_text(text.lstrip(), suffix)


def _text_of(head: bytes, file: AnnotationFile) -> bytes:
    """Return the beginning of a text in UTF-8, up to an incomplete or invalid character."""
    for cut in range(4):
        try:
            return to_utf8(file, head[: len(head) - cut], file.encoding)
        except BoxError:
            continue
    return head


def _find_in_zip(file: AnnotationFile) -> FoundFormat:
    try:
        with zipfile.ZipFile(io.BytesIO(file.read())) as archive:
            names = archive.namelist()
    except Exception:  # zipfile raises nearly anything on a damaged file; the .npz reader describes it
        return FoundFormat("numpy")
    ends = (found for end, found in _ZIPPED.items() if any(name.endswith(end) for name in names))
    if (found := next(ends, None)) is not None:
        return found
    if not names:
        return FoundFormat("numpy")
    return _unsupported(f"a zip archive with {shorten(names[0])} and other files", _UNPACK)


def _find_in_text(head: bytes, suffix: bytes) -> FoundFormat:
    """Find the format of a text by its beginning, without leading blanks."""
    if head.startswith(b"<"):
        root = re.search(rb"<(?:!doctype\s+)?(?:\w+:)?(\w+)", head, re.IGNORECASE)
        name = root[1].decode("latin-1").lower() if root else ""
        return _XML_ROOTS.get(name, FoundFormat("voc"))
    line = head.partition(b"\n")[0]
    if head[:1] in (b"[", b"{"):
        keys = _key_paths(head)
        for needed, found in _JSON_KEYS:
            if all(any(_fits(key, pattern) for key in keys) for pattern in needed):
                return found
        is_lines = suffix in (b".jsonl", b".ndjson") or (head[:1] == b"{" and _is_whole(line))
        return FoundFormat("jsonl") if is_lines and keys.isdisjoint(_COCO_KEYS) else _COCO
    fields = line.split()
    if len(fields) >= 5 and all(parse_number(field) is not None for field in fields):
        return FoundFormat("yolo")  # more than 6 fields are a polygon, which the YOLO reader refuses
    if suffix in (b".yaml", b".yml") or re.match(rb"(?:train|val|test|path|nc|names)\s*:", line):
        return _DATA_YAML
    columns = {name.strip(b' "\r#').decode("latin-1").lower() for name in re.split(rb"[,;\t]", line)}
    for names, found in _COLUMNS:
        if columns.issuperset(names):
            return found
    return FoundFormat("tsv" if b"\t" in line else "csv")


_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:]', re.DOTALL)


def _key_paths(head: bytes, deepest: int = 6) -> set[tuple[str, ...]]:
    """Find the key paths of the objects at the beginning of a JSON text; [] is an item of a list."""
    found: set[tuple[str, ...]] = set()
    path: list[str] = []
    text = b""
    for token in _TOKEN.findall(head):
        if token == b"[":
            path.append("[]")
        elif token == b"{":
            path.append("")
        elif token in (b"}", b"]"):
            if path:
                path.pop()
        elif token != b":":
            text = token
        elif path and path[-1] != "[]":
            path[-1] = text[1:-1].decode("utf-8", "replace")
            if len(path) <= deepest:
                found.add(tuple(path))
    return found


def _fits(key: tuple[str, ...], pattern: str) -> bool:
    parts = pattern.split("/")
    return len(key) == len(parts) and all(part in ("*", own) for part, own in zip(parts, key, strict=True))


def _is_whole(line: bytes) -> bool:
    """Return True if a line is a complete JSON object, not cut by the size limit."""
    depth = 0
    for token in _TOKEN.findall(line):
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
    return depth == 0
