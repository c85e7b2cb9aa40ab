"""YOLO's box files: one text file per image, one line per box."""

import math

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.tables import parse_number, parse_whole, shorten

__all__ = ["CLASS_FILES", "read_yolo"]

CLASS_FILES = (b"classes.txt", b"obj.names")

_TITLES = ("cx is", "cy is", "w is", "h is", "score is")


def read_yolo(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of label files, or of one label file.

    The first of ``CLASS_FILES`` in the folder names the classes; without such a file, the names are the class
    numbers.
    """
    files = source.files_of_format(b".txt", kind=" of labels", but=CLASS_FILES)
    class_file = next(filter(None, map(source.find, CLASS_FILES)), None)
    classes = None if class_file is None else _read_classes(class_file)
    builder = BoxTableBuilder(classes=classes or ())
    for file in files:
        # A file without boxes stands for an image without boxes.
        image = builder.add_image(file.stem)
        for line, content in enumerate(file.read_text().splitlines(), start=1):
            if fields := content.split():
                label, box, score = _parse_line(file, f"line {line}", fields, classes)
                builder.add_box(image, box, label=label, score=score, box_id=file.name + b":%d" % line)
    return builder.build(DEFAULT_CONVENTIONS["yolo"])


def _read_classes(file: AnnotationFile) -> list[str]:
    """Read the class names in the order of their numbers."""
    lines = file.read_text().rstrip().splitlines()
    classes: dict[str, int] = {}
    for line, content in enumerate(lines, start=1):
        name = content.strip().decode("utf-8", "surrogateescape")
        if not name:
            raise file.unexpected(f"line {line}", name, "the name of a class on each line")
        if classes.setdefault(name, line) != line:
            found = f"found {shorten(name)}, as on line {classes[name]}"
            raise file.error(f"line {line}", f"{found}; allowed: names that differ")
    if not classes:
        raise file.error("", "found no line; allowed: the name of a class on each line")
    return list(classes)


def _parse_line(
    file: AnnotationFile, where: str, fields: list[bytes], classes: list[str] | None
) -> tuple[str, list[float], float]:
    """Return the class, the four numbers and the score of a box."""
    texts = [field.decode("utf-8", "surrogateescape") for field in fields]
    if len(fields) not in (5, 6):
        shown = shorten(b" ".join(fields).decode("utf-8", "replace"))
        found = f"found {len(fields)} fields, {shown}{_other_shape(fields)}"
        raise file.error(where, f"{found}; allowed: class cx cy w h, and score")
    label = parse_whole(fields[0])
    if label is None or (classes is not None and label >= len(classes)):
        most = "" if classes is None else f" to {len(classes) - 1}, as many as there are names of classes"
        raise file.error(where, f"class is {shorten(texts[0])}; allowed: a whole number from 0{most}")
    numbers = [file.number(text, where, title=title) for text, title in zip(texts[1:], _TITLES, strict=False)]
    score = numbers[4] if len(numbers) > 4 else math.nan
    return (str(label) if classes is None else classes[label]), numbers[:4], score


def _other_shape(fields: list[bytes]) -> str:
    """Name the shape that a line of other than 5 or 6 fields is; empty if it is none."""
    is_number = [parse_number(field) is not None for field in fields]
    if len(fields) in (9, 10) and all(is_number):
        return " (these are the four corners of a rotated box, OBB, or of a polygon)"
    if len(fields) in (9, 10) and all(is_number[:8]):
        return " (these are the four corners of a rotated box, as DOTA writes them)"
    if len(fields) >= 7 and len(fields) % 2 and all(is_number):
        return " (this is a polygon, of a label file for segmentation)"
    return ""
