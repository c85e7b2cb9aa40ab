"""PASCAL VOC's box files: one XML file per image."""

import math
import os
from xml.parsers import expat

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.errors import BoxError
from sppfeat.files.cells import NUMBER_RULE, parse_number, parse_whole, shorten

__all__ = ["read_voc"]

_COORDINATES = ("xmin", "ymin", "xmax", "ymax")
_EXTRA = ("difficult", "truncated", "occluded", "pose")
_DEPTH = 4  # annotation, object, bndbox, xmin


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
                f"line {element.line}", f"found a second {shorten(element.tag)}; allowed: one", name
            ) from error
    return builder.build(default_convention("voc"))


class _Element:
    """An XML element: its tag, the number of its first line, its children, and the pieces of its own text."""

    __slots__ = ("children", "line", "pieces", "tag")

    def __init__(self, tag: str, line: int) -> None:
        self.tag = tag
        self.line = line
        self.pieces: list[str] = []
        self.children: list[_Element] = []

    @property
    def text(self) -> str:
        """The text directly in the element, without surrounding blanks."""
        return "".join(self.pieces).strip()

    def child(self, tag: str) -> "_Element | None":
        """Return the child with a tag; None if missing.

        Raises:
            _RepeatedError: several children have the tag, and other readers disagree about which one counts.
        """
        found = [child for child in self.children if child.tag == tag]
        if len(found) > 1:
            raise _RepeatedError(found[1])
        return found[0] if found else None

    def text_of(self, tag: str) -> str:
        """Return the text of the child with a tag; empty if missing.

        Raises:
            _RepeatedError: several children have the tag.
        """
        child = self.child(tag)
        return "" if child is None else child.text


class _RepeatedError(Exception):
    """An element is repeated; the argument is the second one."""


class _TreeBuilder:
    """Builds the upper levels of an XML document and skips deeper ones."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self._parser = parser
        self._depth = 0
        self._open = [_Element("", 0)]
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._add_text

    @property
    def root(self) -> _Element:
        """The root element of the document."""
        return self._open[0].children[0]

    def _start(self, tag: str, _: object) -> None:
        self._add_text(" ")  # so that 1<b/>2 is not 12
        self._depth += 1
        if self._depth <= _DEPTH:
            element = _Element(tag, self._parser.CurrentLineNumber)
            self._open[-1].children.append(element)
            self._open.append(element)

    def _end(self, _: str) -> None:
        if self._depth <= _DEPTH:
            self._open.pop()
        self._depth -= 1

    def _add_text(self, text: str) -> None:
        if self._depth <= _DEPTH:
            self._open[-1].pieces.append(text)


def _parse(source: AnnotationFiles, name: bytes) -> _Element:
    content = source.read(name)
    parser = expat.ParserCreate()
    tree = _TreeBuilder(parser)

    def refuse(doctype: str, *_: object) -> None:
        # Without a document type there are no entities that could expand a thousandfold or fetch another file.
        raise source.error(
            f"line {parser.CurrentLineNumber}",
            f"found a DOCTYPE of {shorten(doctype)}; allowed: XML without declarations",
            name,
        )

    parser.StartDoctypeDeclHandler = refuse
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
    if tree.root.tag != "annotation":
        raise source.error(
            f"line {tree.root.line}", f"found <{shorten(tree.root.tag)[1:-1]}>; allowed: <annotation>", name
        )
    return tree.root


def _add_annotation(
    builder: BoxTableBuilder,
    source: AnnotationFiles,
    name: bytes,
    annotation: _Element,
    first: dict[int, bytes],
) -> None:
    size = annotation.child("size")
    image_name = annotation.text_of("filename") or os.fsdecode(os.path.splitext(os.path.basename(name))[0])
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
    objects = [child for child in annotation.children if child.tag == "object"]
    for number, entry in enumerate(objects, start=1):
        _add_object(builder, source, name, image, entry, number)


def _side(size: _Element, tag: str) -> int:
    return parse_whole(size.text_of(tag)) or 0


def _add_object(
    builder: BoxTableBuilder, source: AnnotationFiles, name: bytes, image: int, entry: _Element, number: int
) -> None:
    def error(element: _Element, what: str) -> BoxError:
        return source.error(f"line {element.line}, object {number}", what, name)

    bndbox = entry.child("bndbox")
    if bndbox is None:
        found = [child.tag for child in entry.children]
        raise error(
            entry, f"found {shorten(found)}, of which none is bndbox; allowed: an object with a bndbox"
        )
    box = []
    for tag in _COORDINATES:
        element = bndbox.child(tag)
        if element is None:
            raise error(bndbox, f"bndbox without {tag}; allowed: {', '.join(_COORDINATES)}")
        coordinate = parse_number(element.text)
        if coordinate is None:
            raise error(element, f"{tag} is {shorten(element.text)}; allowed: {NUMBER_RULE}")
        box.append(coordinate)
    score_text = entry.text_of("score") or entry.text_of("confidence")
    score = parse_number(score_text) if score_text else math.nan
    if score is None:
        raise error(entry, f"score is {shorten(score_text)}; allowed: {NUMBER_RULE}, or nothing")
    label = entry.text_of("name")
    builder.add_box(
        image,
        box,
        label=builder.add_class(label) if label else -1,
        score=score,
        box_id=name + b":%d" % number,
        extra=[entry.text_of(tag).encode() for tag in _EXTRA],
    )
