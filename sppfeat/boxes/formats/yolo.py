"""YOLO's box files: one text file per image, one line per box."""

import dataclasses
import math
import os

import numpy as np

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.files.cells import NUMBER_RULE, parse_number, parse_whole, shorten

__all__ = ["CLASS_FILES", "read_yolo"]

CLASS_FILES = (b"classes.txt", b"obj.names")

_FIELDS = ("class", "cx", "cy", "w", "h", "score")


def read_yolo(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of label files, or of one label file.

    The first of ``CLASS_FILES`` in the folder names the classes; without such a file, the names are the class
    numbers.

    Raises:
        BoxError: a file is malformed, or the folder has no label files.
    """
    names = [name for name in source.files(b".txt") if not (source.is_folder and name in CLASS_FILES)]
    if not names:
        raise source.error("", "found no .txt file of labels in the folder; allowed: one or more")
    classes = _read_classes(source)
    builder = BoxTableBuilder(classes=classes or ())
    for name in names:
        # A file without boxes stands for an image without boxes.
        image = builder.add_image(os.path.splitext(name)[0])
        for line, content in enumerate(source.read_text(name).splitlines(), start=1):
            if fields := content.split():
                _add_line(builder, source, name, image, line, fields, classes)
    table = builder.build(default_convention("yolo"))
    if classes is not None:
        return table
    numbers, label = np.unique(table.label, return_inverse=True)
    return dataclasses.replace(
        table, label=label.reshape(-1).astype(np.int64), classes=tuple(map(str, numbers.tolist()))
    )


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


def _add_line(
    builder: BoxTableBuilder,
    source: AnnotationFiles,
    name: bytes,
    image: int,
    line: int,
    fields: list[bytes],
    classes: list[str] | None,
) -> None:
    where = f"line {line}"
    if len(fields) not in (5, 6):
        polygon = " (this is a polygon, of a label file for segmentation)" if _is_polygon(fields) else ""
        found = shorten(b" ".join(fields).decode("utf-8", "replace"))
        raise source.error(
            where, f"found {len(fields)} fields, {found}{polygon}; allowed: class cx cy w h, and score", name
        )
    label = parse_whole(fields[0])
    if label is None or (classes is not None and label >= len(classes)):
        most = "" if classes is None else f" to {len(classes) - 1}, as many as there are names of classes"
        raise source.error(where, f"class is {_show(fields[0])}; allowed: a whole number from 0{most}", name)
    numbers = [parse_number(field) for field in fields[1:]]
    for number, field, title in zip(numbers, fields[1:], _FIELDS[1:], strict=False):
        if number is None:
            raise source.error(where, f"{title} is {_show(field)}; allowed: {NUMBER_RULE}", name)
    cx, cy, w, h, *score = (number for number in numbers if number is not None)
    builder.add_box(
        image, (cx, cy, w, h), label=label, score=score[0] if score else math.nan, box_id=name + b":%d" % line
    )


def _is_polygon(fields: list[bytes]) -> bool:
    return (
        len(fields) >= 7 and len(fields) % 2 == 1 and all(parse_number(field) is not None for field in fields)
    )


def _show(field: bytes) -> str:
    return shorten(field.decode("utf-8", "surrogateescape"))
