"""LabelMe's box files: one JSON file per image, also written by X-AnyLabeling and ISAT."""

from collections import Counter
from typing import Any

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles, ImageNames, shape_notes
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.json_text import parse_json
from sppfeat.files.tables import parse_whole, shorten

__all__ = ["read_labelme"]


def read_labelme(source: AnnotationFiles) -> BoxTable:
    """Read the rectangles of a folder of LabelMe files, or of a single file.

    A rectangle is two opposite corners, or all four. Other shapes have no rows; a note of the table counts them.
    """
    builder, others = BoxTableBuilder(), Counter[str]()
    names = ImageNames(source, builder)
    for file in source.files_of_format(b".json"):
        content = parse_json(file, file.read_text(), drop=("imageData",))  # the whole image
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            raise file.error("", f"found {shorten(content)}; allowed: a LabelMe file, with a list of shapes")
        name = content.get("imagePath") or ""
        if not isinstance(name, str):
            raise file.unexpected("imagePath", name, "the name of an image")
        height, width = (parse_whole(content.get(f"image{side}")) or 0 for side in ("Height", "Width"))
        image = names.add(file, file.encode(name, "imagePath"), (height, width), "imagePath")
        for number, shape in enumerate(shapes):
            _add_shape(builder, others, image, file, shape, number)
    return builder.build(DEFAULT_CONVENTIONS["labelme"], notes=shape_notes(others))


def _add_shape(
    builder: BoxTableBuilder,
    others: Counter[str],
    image: int,
    file: AnnotationFile,
    shape: Any,
    number: int,
) -> None:
    where = f"shapes[{number}]"
    if not isinstance(shape, dict):
        raise file.unexpected(where, shape, "an object")
    kind = shape.get("shape_type") or "polygon"  # old files lack the type
    if kind != "rectangle":
        others[shorten(kind)[1:-1] if isinstance(kind, str) else shorten(kind)] += 1
        return
    points = shape.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise file.unexpected(f"{where}.points", points, "a list of points x, y")
    corners = [
        [file.number(value, f"{where}.points[{i}]") for value in point] for i, point in enumerate(points)
    ]
    xs, ys = ({corner[axis] for corner in corners} for axis in (0, 1))
    is_upright = len(corners) == 4 and len(xs) <= 2 and len(ys) <= 2
    if len(corners) == 4 and not is_upright:
        others["rotated rectangle"] += 1
        return
    if len(corners) not in (2, 4):
        raise file.unexpected(f"{where}.points", points, "two or four corners")
    label = shape.get("label")
    if label is not None and not isinstance(label, str | int | float):
        raise file.unexpected(f"{where}.label", label, "text")
    text = "" if label is None else str(label)
    file.encode(text, f"{where}.label")
    builder.add_box(
        image,
        [min(xs), min(ys), max(xs), max(ys)],
        label=text,
        score=file.number(shape.get("score"), f"{where}.score", or_blank=", or null"),
        box_id=file.name + b":%d" % (number + 1),
    )
