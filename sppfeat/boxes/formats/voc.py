"""PASCAL VOC's box files: one XML file per image."""

import os
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.tables import parse_whole, shorten

__all__ = ["read_voc"]

_COORDINATES = ("xmin", "ymin", "xmax", "ymax")
_EXTRA = ("difficult", "truncated", "occluded", "pose")
_MOST_BYTES = 2**23  # 20,000 objects; in the tree, a byte of an element becomes 130


def read_voc(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a folder of VOC annotations, or of a single one."""
    builder = BoxTableBuilder(extra_names=_EXTRA)
    first: dict[int, bytes] = {}
    for name in source.files_of_format(b".xml", ""):
        _Annotation(source, name).add_to(builder, first)
    return builder.build(DEFAULT_CONVENTIONS["voc"])


class _Annotation:
    """The annotation of an image: the file ``name`` of a file or folder."""

    def __init__(self, source: AnnotationFiles, name: bytes) -> None:
        self._source = source
        self._name = name
        self._root = _parse(source, name)

    def add_to(self, builder: BoxTableBuilder, first: dict[int, bytes]) -> None:
        """Add the image and its boxes; ``first`` has the annotation of each image so far."""
        size = self._child(self._root, "size")
        stem = os.fsdecode(os.path.splitext(os.path.basename(self._name))[0])
        image_name = self._text_of(self._root, "filename") or stem
        image = builder.add_image(
            image_name.encode("utf-8", "surrogateescape"),
            (0, 0) if size is None else (self._side(size, "height"), self._side(size, "width")),
        )
        if first.setdefault(image, self._name) != self._name:
            found = f"found {shorten(image_name)}, as in {os.fsdecode(first[image])!r}"
            raise self._source.error("filename", f"{found}; allowed: one file an image", self._name)
        for number, entry in enumerate(self._root.findall("object"), start=1):
            self._add_object(builder, image, entry, number)

    def _add_object(self, builder: BoxTableBuilder, image: int, entry: Element, number: int) -> None:
        def where(element: Element) -> str:
            return f"line {element.get('line')}, object {number}"

        bndbox = self._child(entry, "bndbox")
        if bndbox is None:
            what = f"found {shorten([child.tag for child in entry])}, of which none is bndbox"
            raise self._source.error(where(entry), f"{what}; allowed: an object with a bndbox", self._name)
        box = []
        for tag in _COORDINATES:
            element = self._child(bndbox, tag)
            if element is None:
                what = f"bndbox without {tag}; allowed: {', '.join(_COORDINATES)}"
                raise self._source.error(where(bndbox), what, self._name)
            box.append(self._number(_text(element), where(element), f"{tag} is"))
        score = self._text_of(entry, "score") or self._text_of(entry, "confidence")
        builder.add_box(
            image,
            box,
            label=self._text_of(entry, "name"),
            score=self._number(score or None, where(entry), "score is", or_blank=", or nothing"),
            box_id=self._name + b":%d" % number,
            extra={tag: self._text_of(entry, tag).encode() for tag in _EXTRA},
        )

    def _number(self, text: str | None, where: str, title: str, *, or_blank: str = "") -> float:
        return self._source.number(text, where, title=title, or_blank=or_blank, name=self._name)

    def _side(self, size: Element, tag: str) -> int:
        return parse_whole(self._text_of(size, tag)) or 0

    def _text_of(self, element: Element, tag: str) -> str:
        child = self._child(element, tag)
        return "" if child is None else _text(child)

    def _child(self, element: Element, tag: str) -> Element | None:
        """Return the child with a tag; None if missing. Other readers disagree about which of several counts."""
        found = element.findall(tag)
        if len(found) > 1:
            what = f"found a second {shorten(tag)}; allowed: one"
            raise self._source.error(f"line {found[1].get('line')}", what, self._name)
        return found[0] if found else None


def _text(element: Element) -> str:
    """The text directly in an element, without surrounding blanks; its parts are separated by them."""
    return " ".join([element.text or "", *(child.tail or "" for child in element)]).strip()


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
