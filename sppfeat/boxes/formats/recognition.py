"""Recognition of box files by their content: the formats that are read, and those of other tools that are not.

Of a format that is not read, the name is told, and what to export instead.
"""

import io
import os
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sppfeat.boxes.formats.annotation_files import FOLDER_SUFFIXES, AnnotationFile, AnnotationFiles
from sppfeat.boxes.formats.arrays import MAT_V73_MAGIC, ZIP_MAGIC
from sppfeat.boxes.formats.via import VIA_COLUMNS
from sppfeat.boxes.formats.yolo import CLASS_FILES
from sppfeat.config.regions import BOX_FORMATS
from sppfeat.errors import BoxError
from sppfeat.files.tables import parse_number, shorten, to_utf8

__all__ = ["FoundFormat", "find_format", "recognize_format"]

_HEAD_BYTES = 1 << 16
_FOLDERS = dict(zip(FOLDER_SUFFIXES, ("voc", "yolo", "numpy", "labelme"), strict=True))
_MOST_EMPTY = 20  # files of a folder, of images without boxes
_BLANK = b" \t\r\n\0"


class FoundFormat(NamedTuple):
    """The format of a file: one of ``BOX_FORMATS``, or empty for one that is not read, with its title and advice."""

    box_format: str
    title: str = ""
    advice: str = ""


_EXPORT = "export the boxes as COCO, Pascal VOC or YOLO"
_UNPACK = "unpack it, and give the file or folder of boxes in it"

_MAGIC: Mapping[bytes, FoundFormat] = {
    b"\x93NUMPY": FoundFormat("numpy"),
    b"MATLAB 5.0": FoundFormat("mat"),
    MAT_V73_MAGIC: FoundFormat("mat"),
    b"PAR1": FoundFormat("parquet"),
    b"ARROW1": FoundFormat(
        "", "a Feather or Arrow file", "write Parquet or CSV, with DataFrame.to_parquet or to_csv"
    ),
    b"FEA1": FoundFormat("", "a Feather file", "write Parquet or CSV, with DataFrame.to_parquet or to_csv"),
    b"\xd0\xcf\x11\xe0": FoundFormat("", "an Excel workbook (.xls)", "save the sheet as 'CSV UTF-8'"),
    b"\x89HDF": FoundFormat("", "an HDF5 file", "write the boxes as CSV, or as .npz"),
    b"SQLite format 3": FoundFormat("", "an SQLite database", "write the table as CSV"),
    b"\x1f\x8b": FoundFormat("", "a file compressed by gzip", _UNPACK),
    b"BZh": FoundFormat("", "a file compressed by bzip2", _UNPACK),
    b"\xfd7zXZ": FoundFormat("", "a file compressed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": FoundFormat("", "a file compressed by zstd", _UNPACK),
    b"7z\xbc\xaf": FoundFormat("", "a 7-Zip archive", _UNPACK),
    b"Rar!": FoundFormat("", "a RAR archive", _UNPACK),
    b"%PDF": FoundFormat("", "a PDF document", _EXPORT),
    b"\xff\xd8\xff": FoundFormat("", "a JPEG image", "give the file of its boxes"),
    b"\x89PNG\r\n\x1a\n": FoundFormat("", "a PNG image", "give the file of its boxes"),
    **{
        b"\x80" + bytes([protocol]): FoundFormat(
            "", "a Python pickle, which could run any code", "write the boxes as CSV, or as .npz"
        )
        for protocol in range(2, 6)
    },
}

_ZIPPED: Mapping[str, FoundFormat] = {  # by the end of the name of a member
    "xl/workbook.xml": FoundFormat("", "an Excel workbook (.xlsx)", "save the sheet as 'CSV UTF-8'"),
    "xl/workbook.bin": FoundFormat("", "an Excel workbook (.xlsb)", "save the sheet as 'CSV UTF-8'"),
    "META-INF/manifest.xml": FoundFormat(
        "", "an OpenDocument spreadsheet", "save the sheet as CSV, in UTF-8"
    ),
    "/data.pkl": FoundFormat("", "a file that torch.save wrote", "write the boxes as CSV, or as .npz"),
    ".npy": FoundFormat("numpy"),
}

_XML: Mapping[str, FoundFormat] = {  # by the outermost element
    "annotation": FoundFormat("voc"),
    "annotations": FoundFormat("cvat"),
    "dataset": FoundFormat("", "dlib's XML (imglab)", "convert it to COCO, Pascal VOC or CSV"),
    "pcgts": FoundFormat("", "PAGE XML", _EXPORT),
    "alto": FoundFormat("", "ALTO XML", _EXPORT),
    "gpx": FoundFormat("", "GPX", _EXPORT),
    "html": FoundFormat(
        "", "an HTML page, such as a site sends in place of a file", "download the file itself"
    ),
}

_LABELME, _VIA, _COCO = FoundFormat("labelme"), FoundFormat("via"), FoundFormat("coco")
_LABEL_STUDIO = FoundFormat("", "JSON of Label Studio", "in Label Studio, export as YOLO or COCO")
_CREATE_ML = FoundFormat("", "JSON of CreateML", _EXPORT)
_LABELBOX = FoundFormat(
    "", "JSON of Labelbox", "convert the export to COCO or YOLO, for example with labelformat"
)
_SUPERVISELY = FoundFormat(
    "", "JSON of Supervisely", "in Supervisely, run the app 'Export to COCO' or 'Export to YOLO'"
)
_DARWIN = FoundFormat("", "JSON of V7 Darwin", "in V7, export as COCO, Pascal VOC or YOLO")

# Keys that tell a format, each by its path: [] is an item of a list, and * any key. The first that fits counts.
_JSON: tuple[tuple[tuple[str, ...], FoundFormat], ...] = (
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
    (("project/pid", "metadata"), FoundFormat("", "JSON of VIA 3", "export as COCO, or annotate with VIA 2")),
    (("[]/annotations/[]/coordinates",), _CREATE_ML),
    (("[]/image", "[]/annotations"), _CREATE_ML),
    (("[]/imagefilename", "[]/annotation"), _CREATE_ML),
    (("[]/annotations/[]/result",), _LABEL_STUDIO),
    (("[]/completions",), _LABEL_STUDIO),
    (("[]/data", "[]/predictions"), _LABEL_STUDIO),
    (("[]/data", "[]/annotations"), _LABEL_STUDIO),
    (("[]/lead_time",), _LABEL_STUDIO),
    (("[]/annotation_id", "[]/annotator"), _LABEL_STUDIO),
    (("result", "task"), _LABEL_STUDIO),
    (("data_row", "projects"), _LABELBOX),
    (("[]/data_row",), _LABELBOX),
    (("[]/DataRow ID",), _LABELBOX),
    (("[]/Labeled Data",), _LABELBOX),
    (("objects/[]/classTitle",), _SUPERVISELY),
    (("objects", "tags", "size/height"), _SUPERVISELY),
    (("classes/[]/shape",), _SUPERVISELY),
    (("annotations/[]/bounding_box",), _DARWIN),
    (("annotations", "item/slots"), _DARWIN),
    (
        ("items", "categories"),
        FoundFormat("", "JSON of Datumaro", "convert it, with 'datum convert -f coco'"),
    ),
    (
        ("items/[]/annotations",),
        FoundFormat("", "JSON of Datumaro", "convert it, with 'datum convert -f coco'"),
    ),
    (("instances", "metadata"), FoundFormat("", "JSON of SuperAnnotate", "convert it to COCO")),
    (("images/[]/labels",), FoundFormat("", "JSON of Hasty", "in Hasty, export as COCO")),
    (("imgHeight", "objects"), FoundFormat("", "JSON of Cityscapes", "convert it to COCO")),
    (("[]/labels/[]/box2d",), FoundFormat("", "JSON of BDD100K", "convert it, with bdd100k.label.to_coco")),
    (
        ("frames/[]/objects/[]/box2d",),
        FoundFormat("", "JSON of BDD100K", "convert it, with bdd100k.label.to_coco"),
    ),
    (
        ("samples/[]/filepath",),
        FoundFormat("", "JSON of FiftyOne", "in FiftyOne, export as COCODetectionDataset"),
    ),
    (("features/[]/geometry",), FoundFormat("", "GeoJSON, as QuPath writes it", _EXPORT)),
    (("features", "type"), FoundFormat("", "GeoJSON, as QuPath writes it", _EXPORT)),
    (("source-ref",), FoundFormat("", "a manifest of SageMaker Ground Truth", "convert it to COCO")),
    (("imageGcsUri",), FoundFormat("", "JSON lines of Vertex AI", _EXPORT)),
    (("spans/[]/points",), FoundFormat("", "JSON lines of Prodigy", "convert it to COCO")),
)

_CSV_COLUMNS: tuple[tuple[tuple[str, ...], FoundFormat], ...] = (
    (VIA_COLUMNS, _VIA),
    (("image", "annotator", "annotation_id"), FoundFormat("", "CSV of Label Studio", _LABEL_STUDIO.advice)),
    (("datarow id",), FoundFormat("", "CSV of Labelbox", _LABELBOX.advice)),
    (
        ("imageid", "labelname", "xmin", "xmax"),
        FoundFormat("", "CSV of Open Images", "rename ImageID to image, and say --box-units normalized"),
    ),
)


def recognize_format(source: AnnotationFiles) -> str:
    """Recognize the format of a box file or folder, one of ``BOX_FORMATS``; anything else is a BoxError."""
    found = find_format(source)
    if not found.box_format:
        raise source.error(
            "", f"is {found.title}, which is not read: {found.advice}; allowed: {', '.join(BOX_FORMATS)}"
        )
    return found.box_format


def find_format(source: AnnotationFiles) -> FoundFormat:
    """Find the format of a box file or folder, which need not be read; BoxError if it is unknown."""
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
    raise _unrecognized(source, f"bytes that are no text, {shorten(head[:20])}")


def _find_in_folder(source: AnnotationFiles) -> FoundFormat:
    files = {suffix: source.files(suffix, but=CLASS_FILES) for suffix in FOLDER_SUFFIXES}
    counts = {suffix: len(found) for suffix, found in files.items() if found}
    if len(counts) == 1:
        suffix = next(iter(counts))
        found = next(filter(None, map(_find_in_file, files[suffix][:_MOST_EMPTY])), None)
        # A text that is not recognised may be a damaged label file, and the reader says how.
        is_known = found is not None and (not found.box_format or suffix in (b".xml", b".json"))
        return found if found is not None and is_known else FoundFormat(_FOLDERS[suffix])
    said = ", ".join(f"{count} {suffix.decode()}" for suffix, count in counts.items())
    said = f"files {said} in the folder" if counts else "none of these files in the folder"
    kinds = ", ".join(f"{suffix.decode()} ({box_format})" for suffix, box_format in _FOLDERS.items())
    raise _unrecognized(source, said, f"one kind of {kinds} files, or ")


def _unrecognized(source: AnnotationFiles, found: str, allowed: str = "") -> BoxError:
    allowed += f"a format that --box-format names, one of {', '.join(BOX_FORMATS)}"
    return source.error("", f"found {found}; allowed: {allowed}")


def _find_in_file(file: AnnotationFile) -> FoundFormat | None:
    """Find the format of a file; None if it is empty, or bytes that are no text."""
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
        if suffix == b".mat":  # version 4 has no magic bytes
            return FoundFormat("mat")
        is_record = len(head) > 13 and head[12:13] == b"\n" and not any(head[4:8])
        advice = f"{_EXPORT}, or write CSV"
        return FoundFormat("", "a TFRecord file", advice) if is_record else None
    return _find_in_text(text.lstrip(), suffix)


def _text_of(head: bytes, file: AnnotationFile) -> bytes:
    """Return the beginning of a text in UTF-8, cut where a character was cut, or is none."""
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
    except Exception:  # zipfile raises nearly anything on a damaged file, which the reader of .npz describes
        return FoundFormat("numpy")
    ends = (found for end, found in _ZIPPED.items() if any(name.endswith(end) for name in names))
    if (found := next(ends, None)) is not None:
        return found
    if not names:
        return FoundFormat("numpy")
    return FoundFormat("", f"a zip archive, of {shorten(names[0])} and others", _UNPACK)


def _find_in_text(head: bytes, suffix: bytes) -> FoundFormat:
    """Find the format of a text by its beginning, without leading blanks."""
    if head.startswith(b"<"):
        root = re.search(rb"<(?:!doctype\s+)?(?:\w+:)?(\w+)", head, re.IGNORECASE)
        name = root[1].decode("latin-1").lower() if root else ""
        if name == "annotation" and b"<polygon>" in head and b"<bndbox>" not in head:
            return FoundFormat("", "XML of the web tool LabelMe, with polygons", _EXPORT)
        return _XML.get(name, FoundFormat("voc"))
    line = head.partition(b"\n")[0]
    if head[:1] in (b"[", b"{"):
        keys = _key_paths(head)
        for needed, found in _JSON:
            if all(any(_fits(key, pattern) for key in keys) for pattern in needed):
                return found
        is_lines = suffix in (b".jsonl", b".ndjson") or (head[:1] == b"{" and _is_whole(line))
        return FoundFormat("jsonl") if is_lines and not _has_coco(keys) else _COCO
    fields = line.split()
    if len(fields) >= 5 and all(parse_number(field) is not None for field in fields):
        return FoundFormat("yolo")  # more than 6 fields are a polygon, which the YOLO reader refuses
    if (of_lines := _find_in_line(line, fields, suffix)) is not None:
        return of_lines
    columns = {name.strip(b' "\r#').decode("latin-1").lower() for name in re.split(rb"[,;\t]", line)}
    for names, found in _CSV_COLUMNS:
        if columns.issuperset(names):
            return found
    return FoundFormat("tsv" if b"\t" in line else "csv")


def _find_in_line(line: bytes, fields: Sequence[bytes], suffix: bytes) -> FoundFormat | None:
    """Find a format without a header by its first line; None if it is none of those known."""
    are_numbers = [parse_number(field) is not None for field in fields]
    if len(fields) in (15, 16) and not are_numbers[0] and all(are_numbers[1:]):
        return FoundFormat("", "a label file of KITTI", "convert the labels to YOLO, COCO or CSV")
    if line.startswith(b"imagesource:") or (
        len(fields) in (9, 10) and all(are_numbers[:8]) and not are_numbers[8]
    ):
        return FoundFormat(
            "", "a label file of DOTA, with turned boxes", "convert the labels to YOLO, COCO or CSV"
        )
    cells = line.split(b",")
    if len(cells) >= 7 and all(parse_number(cell) is not None for cell in cells):
        return FoundFormat(
            "", "a file of MOT tracks, of frames", "write CSV, with a header and the names of images"
        )
    if suffix in (b".yaml", b".yml") or re.match(rb"(?:train|val|test|path|nc|names)\s*:", line):
        return FoundFormat("", "the description of a YOLO data set", "give the folder of its labels")
    return None


def _has_coco(keys: Iterable[tuple[str, ...]]) -> bool:
    return bool({("images",), ("annotations",)} & set(keys))


_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]:]', re.DOTALL)


def _key_paths(head: bytes, deepest: int = 6) -> set[tuple[str, ...]]:
    """Find the keys of the objects in the beginning of a JSON text, each with those around it; [] is an item."""
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
    """Return True if a line is a complete JSON object; one that the limit cut is not."""
    depth = 0
    for token in _TOKEN.findall(line):
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
    return depth == 0
