"""CVAT's box files: one XML file with all images of a task, "CVAT for images 1.1"."""

from collections import Counter
from collections.abc import Mapping

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles, shape_notes
from sppfeat.boxes.formats.xml_text import parse_xml
from sppfeat.boxes.table import ROTATION, BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.files.tables import parse_whole, shorten

__all__ = ["read_cvat"]

_COORDINATES = ("xtl", "ytl", "xbr", "ybr")
_EXTRA = ("occluded",)
# Elements of an image that are neither boxes nor shapes: labels of the whole image.
_NO_SHAPES = ("tag",)


def read_cvat(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of one annotation file, or of a folder of them, such as one per job.

    The table has every image. Other shapes have no rows, and rotated boxes keep their unrotated coordinates;
    notes count both.
    """
    reader = _Reader()
    for file in source.files_of_format(b".xml"):
        reader.read(file)
    return reader.builder.build(DEFAULT_CONVENTIONS["cvat"], notes=shape_notes(reader.others))


class _Reader:
    """Collects the boxes of files of annotations."""

    def __init__(self) -> None:
        self.builder = BoxTableBuilder(extra_names=_EXTRA)
        self.others: Counter[str] = Counter()  # by the kind of shape
        self._first: dict[bytes, str] = {}  # the first place of each image

    def read(self, file: AnnotationFile) -> None:
        """Read the images of a file."""
        path: list[str] = []
        image, name, n_boxes = 0, b"", 0

        def start(tag: str, attributes: Mapping[str, str], line: int) -> None:
            nonlocal image, name, n_boxes
            where = f"line {line}"
            path.append(tag)
            if path == ["annotations", "track"]:
                found = "found <track>, which 'CVAT for video' writes for frames, not images"
                raise file.error(where, f"{found}; allowed: exports as 'CVAT for images 1.1', COCO or YOLO")
            if path == ["annotations", "image"]:
                name, n_boxes = file.encode(attributes.get("name", ""), where), 0
                image = self._add_image(file, name, attributes, where)
            elif len(path) == 3 and path[1] == "image" and tag == "box":
                n_boxes += 1
                self._add_box(file, image, attributes, where, name + b":%d" % n_boxes)
            elif len(path) == 3 and path[1] == "image" and tag not in _NO_SHAPES:
                self.others[tag] += 1

        parse_xml(
            file, file.read(), root="annotations", start=start, end=lambda _: path.pop() if path else None
        )

    def _add_image(self, file: AnnotationFile, name: bytes, attributes: Mapping[str, str], where: str) -> int:
        if not name:
            raise file.error(where, "found an image without name; allowed: the name of each image")
        here = f"{file.name.decode('utf-8', 'replace')}, {where}"
        first = self._first.setdefault(name, here)
        if first != here:
            raise file.error(
                where, f"found the image {shorten(attributes['name'])}, as in {first}; allowed: once"
            )
        height, width = (parse_whole(attributes.get(side)) or 0 for side in ("height", "width"))
        return self.builder.add_image(name, (height, width))

    def _add_box(
        self, file: AnnotationFile, image: int, attributes: Mapping[str, str], where: str, box_id: bytes
    ) -> None:
        box = [file.number(attributes.get(key, ""), where, title=f"{key} is") for key in _COORDINATES]
        file.number(attributes.get(ROTATION) or None, where, title="rotation is", or_blank=", or nothing")
        tags = (*_EXTRA, ROTATION) if ROTATION in attributes else _EXTRA
        self.builder.add_box(
            image,
            box,
            label=attributes.get("label", ""),
            box_id=box_id,
            extra={key: attributes.get(key, "").encode() for key in tags},
        )
