"""YOLO's box files: one text file per image, one line per box."""

import math
import os
from functools import lru_cache

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.formats.yolo_classes import SIDE_FILES, ClassNames, find_class_names
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.config.wording import counted, first_few
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.tables import parse_number, parse_whole, shorten

__all__ = ["read_yolo"]

_TITLES = ("cx is", "cy is", "w is", "h is", "score is")


def read_yolo(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of label files, of the whole export around it, or of one label file.

    In an export, ``labels/x.txt`` belongs to the image ``images/x``. Classes get the names from
    :func:`find_class_names`, or else their numbers. Lists of images and READMEs are skipped.
    """
    files = source.files_of_format(b".txt", kind=" of labels", but=SIDE_FILES)
    classes = find_class_names(source)
    builder = BoxTableBuilder(classes=classes or ())
    skipped, n_odd = [], 0
    for file in files:
        content = file.read_text()
        if source.is_folder and not _is_label_file(file, content):
            skipped.append(repr(os.fsdecode(file.name)))
            continue
        # An empty file means an image without boxes.
        image = builder.add_image(_image_name(file, source))
        for line, text in enumerate(content.splitlines(), start=1):
            if fields := text.split():
                label, box, score = _parse_line(file, f"line {line}", fields, classes)
                n_odd += not math.isnan(score) and not 0 <= score <= 1
                builder.add_box(image, box, label=label, score=score, box_id=file.name + b":%d" % line)
    notes = []
    if n_odd:
        have = counted(n_odd, "box has", "boxes have")
        notes.append(
            f"{have} a sixth number outside 0..1, read as score; if it is the angle of a rotated box, it is not applied"
        )
    if skipped:
        notes.append(f"skipped {counted(len(skipped), 'text file')} without labels: {first_few(skipped, 3)}")
    if classes is not None and "/" in classes.path:
        notes.append(f"class names come from {classes.path!r} (relative to the labels)")
    return builder.build(DEFAULT_CONVENTIONS["yolo"], notes=notes)


def _is_label_file(file: AnnotationFile, content: bytes) -> bool:
    """Return False for a list of images, such as CVAT's train.txt, and for a README of Roboflow."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    if lines and parse_whole(lines[0].split()[0]) is None:
        is_readme = os.path.basename(file.name).lower().startswith(b"readme")
        return not (is_readme or all(map(has_image_suffix, lines)))
    return True


def _image_name(file: AnnotationFile, source: AnnotationFiles) -> bytes:
    """Return the path of a label file without its suffix, with the last folder ``labels`` as ``images``.

    A folder ``labels`` that holds images itself keeps its name.
    """
    folders, name = os.path.split(file.stem)
    parts = folders.split(b"/")
    if b"labels" not in parts or _holds_images(os.path.join(os.fsencode(source.folder), folders)):
        return file.stem
    last = len(parts) - 1 - parts[::-1].index(b"labels")
    return b"/".join((*parts[:last], b"images", *parts[last + 1 :], name))


@lru_cache(64)
def _holds_images(folder: bytes) -> bool:
    with os.scandir(folder) as entries:
        return any(has_image_suffix(entry.name) for entry in entries)


def _parse_line(
    file: AnnotationFile, where: str, fields: list[bytes], classes: ClassNames | None
) -> tuple[str, list[float], float]:
    """Return the class, the four numbers and the score of a box."""
    texts = [field.decode("utf-8", "surrogateescape") for field in fields]
    if len(fields) not in (5, 6):
        shown = shorten(b" ".join(fields).decode("utf-8", "replace"))
        found = f"found {len(fields)} fields, {shown}{_other_shape(fields)}"
        raise file.error(where, f"{found}; allowed: class cx cy w h, and score")
    label = parse_whole(fields[0])
    if label is None or (classes is not None and label >= len(classes)):
        most = "" if classes is None else f" to {len(classes) - 1}, the classes of {classes.path!r}"
        raise file.error(where, f"class is {shorten(texts[0])}; allowed: a whole number from 0{most}")
    numbers = [file.number(text, where, title=title) for text, title in zip(texts[1:], _TITLES, strict=False)]
    score = numbers[4] if len(numbers) > 4 else math.nan
    return (str(label) if classes is None else classes[label]), numbers[:4], score


def _other_shape(fields: list[bytes]) -> str:
    """Name the shape of a line without 5 or 6 fields; empty if unknown."""
    is_number = [parse_number(field) is not None for field in fields]
    if len(fields) in (9, 10) and all(is_number):
        return " (these are the four corners of a rotated box, OBB, or of a polygon)"
    if len(fields) in (9, 10) and all(is_number[:8]):
        return " (these are the four corners of a rotated box, as DOTA writes them)"
    if len(fields) >= 7 and len(fields) % 2 and all(is_number):
        return " (this is a polygon, from a label file for segmentation)"
    return ""
