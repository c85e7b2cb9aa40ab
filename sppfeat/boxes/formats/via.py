"""Box files of the VGG Image Annotator, VIA 1 and 2: a project, or annotations as JSON or CSV."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles, shape_notes
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.config.wording import first_few
from sppfeat.files.columns import CLASS_NAMES
from sppfeat.files.json_text import parse_json
from sppfeat.files.tables import shorten, split_rows

__all__ = ["VIA_COLUMNS", "read_via"]

VIA_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
"""Some columns that VIA writes; only the first one is likely in other files."""

_RECTANGLE = ("x", "y", "width", "height")
_USUAL = (*CLASS_NAMES, "name", "type", "object")
_SHOWN = 10


class _Region(NamedTuple):
    """A region of an image; ``where`` is its place in the file."""

    image: str
    where: str
    shape: dict[str, Any]
    attributes: dict[str, Any]


def read_via(source: AnnotationFiles) -> BoxTable:
    """Read the rectangles of a VIA file. Other shapes have no rows; a note of the table counts them.

    The class is the region attribute that ``source.label`` names, the only one, or the only one of a usual name. A
    note names it, or lists the candidates if there are several.
    """
    file = source.single
    content = file.read_text()
    is_json = content.lstrip()[:1] == b"{"
    names, regions = (_read_json if is_json else _read_csv)(file, content)
    others = Counter(_kind(region) for region in regions if _kind(region) != "rect")
    rectangles = [region for region in regions if _kind(region) == "rect"]
    attribute, note = _find_attribute(file, rectangles, source.label)
    builder = BoxTableBuilder()
    for name in names:
        builder.add_image(file.encode(name, "filename"))
    for region in rectangles:
        label = "" if attribute is None else _label_of(file, region, attribute)
        builder.add_box(
            builder.add_image(file.encode(region.image, region.where)),
            [file.number(region.shape.get(key, ""), region.where, title=f"{key} is") for key in _RECTANGLE],
            label=label,
            box_id=file.encode(region.where, region.where),
        )
    notes = [*note, *shape_notes(others)]
    return builder.build(DEFAULT_CONVENTIONS["via"], notes=notes)


def _kind(region: _Region) -> str:
    kind = region.shape.get("name")
    return kind if isinstance(kind, str) else shorten(kind)


def _read_json(file: AnnotationFile, content: bytes) -> tuple[list[str], list[_Region]]:
    """Read the names of all images, and all regions."""
    parsed = parse_json(file, content)
    entries = _object(file, parsed.get("_via_img_metadata", parsed), "_via_img_metadata")
    names: dict[str, None] = {}
    regions: list[_Region] = []
    for key, entry in entries.items():
        entry = _object(file, entry, shorten(key))
        name = _name(file, entry.get("filename"), f"{shorten(key)}.filename")
        if name in names:
            raise file.error(shorten(key), f"found the image {shorten(name)} again; allowed: once")
        names[name] = None
        found = entry.get("regions")
        found = list(found.values()) if isinstance(found, dict) else found or []  # VIA 1 numbers them
        if not isinstance(found, list):
            raise file.unexpected(f"{shorten(key)}.regions", found, "a list of regions")
        for i, region in enumerate(found):
            where = f"{shorten(name)}, regions[{i}]"
            region = _object(file, region, where)
            shape = _object(file, region.get("shape_attributes"), f"{where}.shape_attributes")
            attributes = _object(file, region.get("region_attributes") or {}, f"{where}.region_attributes")
            regions.append(_Region(name, where, shape, attributes))
    return list(names), regions


def _read_csv(file: AnnotationFile, content: bytes) -> tuple[list[str], list[_Region]]:
    """Read the names of all images, and all regions; an image without regions has a row of its own."""
    rows = split_rows(file, io.BytesIO(content), ",")
    line, header = next(rows, (1, []))
    columns = [name.strip().lstrip("#").lower() for name in header]
    if missing := [name for name in VIA_COLUMNS if name not in columns]:
        raise file.unexpected(f"line {line}", header, f"VIA's header, with {missing[0]}")
    name_of, shape_of, attributes_of = map(columns.index, VIA_COLUMNS)
    names: dict[str, None] = {}
    regions: list[_Region] = []
    for line, row in rows:
        where = f"line {line}"
        name = _name(file, row[name_of], where)
        names[name] = None
        shape, attributes = (
            _object(
                file,
                parse_json(file, (row[i] or "{}").encode("utf-8", "surrogateescape"), first_line=line),
                where,
            )
            for i in (shape_of, attributes_of)
        )
        if shape:
            regions.append(_Region(name, where, shape, attributes))
    return list(names), regions


def _name(file: AnnotationFile, value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise file.unexpected(where, value, "the name of an image")
    return value


def _object(file: AnnotationFile, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise file.unexpected(where, value, "an object, as in VIA's files")
    return value


def _find_attribute(
    file: AnnotationFile, regions: Sequence[_Region], label: str | None
) -> tuple[str | None, list[str]]:
    """Find the attribute of classes, and the notes about it."""
    counts = Counter(name for region in regions for name in region.attributes)
    shown = first_few(map(repr, counts), _SHOWN)
    if label is not None:
        if label not in counts and regions:
            raise file.error(
                "", f"found the region attributes {shown or 'none'}; --box-label must name one of them"
            )
        return label, []
    usual = [name for name in counts if name.strip().lower() in _USUAL]
    choice = usual if len(counts) > 1 else list(counts)
    if len(choice) == 1:
        others = f" (of {shown}; choose another with --box-label)" if len(counts) > 1 else ""
        return choice[0], [f"the class of a box is its region attribute {choice[0]!r}{others}"]
    if counts:
        return None, [
            f"boxes have no class: several region attributes could be it, {shown}; choose one with --box-label NAME"
        ]
    return None, []


def _label_of(file: AnnotationFile, region: _Region, attribute: str) -> str:
    """Return the class of a region; a checkbox attribute is an object whose checked options are true."""
    value = region.attributes.get(attribute)
    if isinstance(value, dict):
        checked = [name for name, is_checked in value.items() if is_checked]
        if len(checked) > 1:
            found = f"the region attribute {attribute!r} is {', '.join(map(repr, checked))}"
            raise file.error(region.where, f"{found}; allowed: one class per box")
        value = checked[0] if checked else ""
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise file.unexpected(region.where, value, "text")
    text = str(value).strip()
    file.encode(text, region.where)
    return text
