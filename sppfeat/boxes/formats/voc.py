"""PASCAL VOC's box files: one XML file per image."""

import math
import os
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.errors import BoxError
from sppfeat.files.cells import NUMBER_RULE, parse_number, parse_whole, shorten

__all__ = ["read_voc"]

_COORDINATES = ("xmin", "ymin", "xmax", "ymax")
_EXTRA = ("difficult", "truncated", "occluded", "pose")
_MOST_BYTES = (
    2**24
)  # an annotation of a thousand objects has 2**19, and its tree takes 30 times as much memory


def read_voc(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of VOC annotations, or of a single one.

    Raises:
        BoxError: a file is malformed, declares a document type, or repeats an image; or the folder has no annotations.
    """
    names = source.files(b".xml")
    if not names:
        raise source.error("", "found no .xml file in the folder; allowed: one or more")
    builder = BoxTableBuilder(extra_names=_EXTRA)
    first: dict[int, bytes] = {}
    for name in names:
        try:
            _add_annotation(builder, source, name, _parse(source, name), first)
        except _RepeatedError as error:
            (element,) = error.args
            raise source.error(
                f"line {element.get('line')}", f"found a second {shorten(element.tag)}; allowed: one", name
            ) from error
    return builder.build(default_convention("voc"))


class _RepeatedError(Exception):
    """An element is repeated; the argument is the second one."""


def _parse(source: AnnotationFiles, name: bytes) -> Element:
    """Parse an annotation; the attribute ``line`` of each element is the number of its first line."""
    content = source.read(name)
    if len(content) > _MOST_BYTES:
        raise source.error("", f"found {len(content)} bytes; allowed: up to {_MOST_BYTES}", name)
    tree, parser = TreeBuilder(), expat.ParserCreate()

    def refuse(doctype: str, *_: object) -> None:
        # Without a document type there are no entities that could expand a thousandfold or fetch another file.
        raise source.error(
            f"line {parser.CurrentLineNumber}",
            f"found a DOCTYPE of {shorten(doctype)}; allowed: XML without declarations",
            name,
        )

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = lambda tag, _: tree.start(tag, {"line": str(parser.CurrentLineNumber)})
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        line = content.splitlines()[error.lineno - 1 : error.lineno]
        raise source.error(
            f"line {error.lineno}",
            f"found {shorten(os.fsdecode(line[0])) if line else 'the end of the file'}: "
            f"{expat.ErrorString(error.code)}; allowed: well-formed XML",
            name,
        ) from error
    except (ValueError, LookupError) as error:  # an encoding unknown to expat or to Python
        raise source.error(
            "line 1", f"found an encoding that cannot be read: {shorten(str(error))}; allowed: UTF-8", name
        ) from error
    root = tree.close()
    if root.tag != "annotation":
        raise source.error(
            f"line {root.get('line')}", f"found <{shorten(root.tag)[1:-1]}>; allowed: <annotation>", name
        )
    return root


def _child(element: Element, tag: str) -> Element | None:
    """Return the child with a tag; None if missing.

    Raises:
        _RepeatedError: several children have the tag, and other readers disagree about which one counts.
    """
    found = element.findall(tag)
    if len(found) > 1:
        raise _RepeatedError(found[1])
    return found[0] if found else None


def _text(element: Element | None) -> str:
    """The text directly in an element, without surrounding blanks; its parts are separated by them."""
    if element is None:
        return ""
    return " ".join([element.text or "", *(child.tail or "" for child in element)]).strip()


def _text_of(element: Element, tag: str) -> str:
    return _text(_child(element, tag))


def _add_annotation(
    builder: BoxTableBuilder,
    source: AnnotationFiles,
    name: bytes,
    annotation: Element,
    first: dict[int, bytes],
) -> None:
    size = _child(annotation, "size")
    image_name = _text_of(annotation, "filename") or os.fsdecode(os.path.splitext(os.path.basename(name))[0])
    image = builder.add_image(
        image_name.encode("utf-8", "surrogateescape"),
        (0, 0) if size is None else (_side(size, "height"), _side(size, "width")),
    )
    if first.setdefault(image, name) != name:
        raise source.error(
            "filename",
            f"found {shorten(image_name)}, as in {os.fsdecode(first[image])!r}; allowed: one file an image",
            name,
        )
    for number, entry in enumerate(annotation.findall("object"), start=1):
        _add_object(builder, source, name, image, entry, number)


def _side(size: Element, tag: str) -> int:
    return parse_whole(_text_of(size, tag)) or 0


def _add_object(
    builder: BoxTableBuilder, source: AnnotationFiles, name: bytes, image: int, entry: Element, number: int
) -> None:
    def error(element: Element, what: str) -> BoxError:
        return source.error(f"line {element.get('line')}, object {number}", what, name)

    bndbox = _child(entry, "bndbox")
    if bndbox is None:
        found = [child.tag for child in entry]
        raise error(
            entry, f"found {shorten(found)}, of which none is bndbox; allowed: an object with a bndbox"
        )
    box = []
    for tag in _COORDINATES:
        element = _child(bndbox, tag)
        if element is None:
            raise error(bndbox, f"bndbox without {tag}; allowed: {', '.join(_COORDINATES)}")
        coordinate = parse_number(_text(element))
        if coordinate is None:
            raise error(element, f"{tag} is {shorten(_text(element))}; allowed: {NUMBER_RULE}")
        box.append(coordinate)
    score_text = _text_of(entry, "score") or _text_of(entry, "confidence")
    score = parse_number(score_text) if score_text else math.nan
    if score is None:
        raise error(entry, f"score is {shorten(score_text)}; allowed: {NUMBER_RULE}, or nothing")
    label = _text_of(entry, "name")
    builder.add_box(
        image,
        box,
        label=builder.add_class(label) if label else -1,
        score=score,
        box_id=name + b":%d" % number,
        extra=[_text_of(entry, tag).encode() for tag in _EXTRA],
    )
