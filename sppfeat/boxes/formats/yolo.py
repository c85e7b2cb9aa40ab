"""YOLO's box files: one text file per image, one line per box."""

import dataclasses
import math
import os

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.columns import ClassNumbers
from sppfeat.files.tables import parse_number, parse_whole, shorten

__all__ = ["CLASS_FILES", "read_yolo"]

CLASS_FILES = (b"classes.txt", b"obj.names")

_TITLES = ("cx is", "cy is", "w is", "h is", "score is")


def read_yolo(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of label files, or of one label file.

    The first of ``CLASS_FILES`` in the folder names the classes; without such a file, the names are the class
    numbers.
    """
    names = source.files_of_format(b".txt", " of labels", but=CLASS_FILES)
    classes = _read_classes(source)
    builder = BoxTableBuilder(classes=classes or ())
    for name in names:
        # A file without boxes stands for an image without boxes.
        image = builder.add_image(os.path.splitext(name)[0])
        for line, content in enumerate(source.read_text(name).splitlines(), start=1):
            if fields := content.split():
                label, box, score = _parse_line(source, name, f"line {line}", fields, classes)
                builder.add_box(image, box, label=label, score=score, box_id=name + b":%d" % line)
    table = builder.build(DEFAULT_CONVENTIONS["yolo"])
    if classes is not None:
        return table
    labels, in_order = ClassNumbers(table.classes).in_order(table.label, key=int)
    return dataclasses.replace(table, label=labels, classes=in_order)


def _read_classes(source: AnnotationFiles) -> list[str] | None:
    """Read the class names in the order of their numbers; None if no file lists them."""
    file = next((name for name in CLASS_FILES if source.has_file(name)), None)
    if file is None:
        return None
    lines = source.read_text(file).rstrip().splitlines()
    classes: dict[str, int] = {}
    for line, content in enumerate(lines, start=1):
        name = content.strip().decode("utf-8", "surrogateescape")
        if not name:
            raise source.error(f"line {line}", "found ''; allowed: the name of a class on each line", file)
        if classes.setdefault(name, line) != line:
            raise source.error(
                f"line {line}",
                f"found {shorten(name)}, as on line {classes[name]}; allowed: names that differ",
                file,
            )
    if not classes:
        raise source.error("", "found no line; allowed: the name of a class on each line", file)
    return list(classes)


def _parse_line(
    source: AnnotationFiles, name: bytes, where: str, fields: list[bytes], classes: list[str] | None
) -> tuple[str, list[float], float]:
    """Return the class, the four numbers and the score of a box."""
    if len(fields) not in (5, 6):
        polygon = " (this is a polygon, of a label file for segmentation)" if _is_polygon(fields) else ""
        shown = shorten(b" ".join(fields).decode("utf-8", "replace"))
        found = f"found {len(fields)} fields, {shown}{polygon}"
        raise source.error(where, f"{found}; allowed: class cx cy w h, and score", name)
    label = parse_whole(fields[0])
    if label is None or (classes is not None and label >= len(classes)):
        most = "" if classes is None else f" to {len(classes) - 1}, as many as there are names of classes"
        raise source.error(where, f"class is {_show(fields[0])}; allowed: a whole number from 0{most}", name)
    numbers = [
        source.number(field.decode("utf-8", "surrogateescape"), where, title=title, name=name)
        for field, title in zip(fields[1:], _TITLES, strict=False)
    ]
    score = numbers[4] if len(numbers) > 4 else math.nan
    return (str(label) if classes is None else classes[label]), numbers[:4], score


def _is_polygon(fields: list[bytes]) -> bool:
    return (
        len(fields) >= 7 and len(fields) % 2 == 1 and all(parse_number(field) is not None for field in fields)
    )


def _show(field: bytes) -> str:
    return shorten(field.decode("utf-8", "surrogateescape"))
