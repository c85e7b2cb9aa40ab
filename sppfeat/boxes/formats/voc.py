"""PASCAL VOC's box files: one XML file per image."""

import os
from xml.etree.ElementTree import Element, TreeBuilder

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles, ImageNames
from sppfeat.boxes.formats.xml_text import parse_xml
from sppfeat.boxes.table import ROTATION, BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.tables import parse_whole, shorten

__all__ = ["read_voc"]

_COORDINATES = ("xmin", "ymin", "xmax", "ymax")
_EXTRA = ("difficult", "truncated", "occluded", "pose")
_MOST_BYTES = 2**23  # 20,000 objects; in the tree, a byte of an element becomes 130


def read_voc(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of VOC annotations, or of a single one."""
    builder = BoxTableBuilder(extra_names=_EXTRA)
    names = ImageNames(source, builder)
    for file in source.files_of_format(b".xml"):
        root = _parse(file)
        size = _child(file, root, "size")
        name = _text_of(file, root, "filename") or os.path.basename(os.fsdecode(file.stem))
        image_hw = (0, 0) if size is None else (_side(file, size, "height"), _side(file, size, "width"))
        image = names.add(file, name.encode("utf-8", "surrogateescape"), image_hw, "filename")
        for number, entry in enumerate(root.findall("object"), start=1):
            _add_object(builder, image, file, entry, number)
    return builder.build(DEFAULT_CONVENTIONS["voc"])


def _add_object(
    builder: BoxTableBuilder, image: int, file: AnnotationFile, entry: Element, number: int
) -> None:
    def where(element: Element) -> str:
        return f"line {element.get('line')}, object {number}"

    bndbox = _child(file, entry, "bndbox")
    if bndbox is None:
        what = f"found {shorten([child.tag for child in entry])}, without a bndbox"
        if entry.find("robndbox") is not None:
            what = "found a robndbox, which is a rotated box"
        raise file.error(where(entry), f"{what}; allowed: an object with a bndbox")
    box = []
    for tag in _COORDINATES:
        element = _child(file, bndbox, tag)
        if element is None:
            what = f"bndbox without {tag}; allowed: {', '.join(_COORDINATES)}"
            raise file.error(where(bndbox), what)
        box.append(file.number(_text(element), where(element), title=f"{tag} is"))
    score = _text_of(file, entry, "score") or _text_of(file, entry, "confidence")
    builder.add_box(
        image,
        box,
        label=_text_of(file, entry, "name"),
        score=file.number(score or None, where(entry), title="score is", or_blank=", or nothing"),
        box_id=file.name + b":%d" % number,
        extra={tag: _text_of(file, entry, tag).encode() for tag in _EXTRA} | _rotation(file, entry),
    )


def _rotation(file: AnnotationFile, entry: Element) -> dict[str, bytes]:
    """Return the column ``rotation`` of an object, which CVAT writes among its attributes; empty without one."""
    for attribute in entry.iterfind("attributes/attribute"):
        if _text_of(file, attribute, "name") == ROTATION:
            return {ROTATION: _text_of(file, attribute, "value").encode()}
    return {}


def _side(file: AnnotationFile, size: Element, tag: str) -> int:
    return parse_whole(_text_of(file, size, tag)) or 0


def _text_of(file: AnnotationFile, element: Element, tag: str) -> str:
    child = _child(file, element, tag)
    return "" if child is None else _text(child)


def _child(file: AnnotationFile, element: Element, tag: str) -> Element | None:
    """Return the child with a tag; None if missing. A second one is refused, since readers disagree on which counts."""
    found = element.findall(tag)
    if len(found) > 1:
        raise file.error(f"line {found[1].get('line')}", f"found a second {shorten(tag)}; allowed: one")
    return found[0] if found else None


def _text(element: Element) -> str:
    """The text directly in an element, without surrounding blanks; blanks separate its parts."""
    return " ".join([element.text or "", *(child.tail or "" for child in element)]).strip()


def _parse(file: AnnotationFile) -> Element:
    """Parse an annotation; the attribute ``line`` of each element is the number of its first line."""
    content = file.read()
    if len(content) > _MOST_BYTES:
        raise file.error("", f"found {len(content)} bytes; allowed: up to {_MOST_BYTES}")
    tree = TreeBuilder()
    parse_xml(
        file,
        content,
        root="annotation",
        start=lambda tag, _, line: tree.start(tag, {"line": str(line)}),
        end=tree.end,
        text=tree.data,
    )
    return tree.close()
