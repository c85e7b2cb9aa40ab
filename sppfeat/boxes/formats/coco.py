"""COCO's box files: an object of instances, or a list of results."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.errors import BoxError
from sppfeat.files.json_text import encode_json_text, parse_json, unique_keys
from sppfeat.files.tables import parse_whole, shorten

__all__ = ["read_coco"]

# These keys make up most of a file and are unrelated to boxes. They are dropped while parsing, object by object, so
# that the 450 MB of instances_train2017.json do not become several gigabytes in memory.
_DROPPED = frozenset({
    "segmentation", "keypoints", "num_keypoints", "area",
    "license", "flickr_url", "coco_url", "date_captured",
})  # fmt: skip

_Item = TypeVar("_Item", int, str)


def read_coco(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a COCO file of instances or results.

    Instances are ``{"images": [...], "annotations": [...], "categories": [...]}``: every image and every category is
    in the table, in the file's order. Results are ``[{"image_id": ..., "bbox": [...]}, ...]``, whose images are named
    by their ids, or by ``file_name`` if the entries have it.
    """
    file = source.single
    content = parse_json(file, file.read_text(), hook=_object)
    if isinstance(content, list):
        return _read_results(file, content)
    if not isinstance(content, dict):
        raise file.unexpected("", content, "an object of COCO instances or a list of results")
    categories: dict[str, str] = {}
    if "categories" in content:
        rule = "names that differ, as two categories of one name would be one class"
        categories = {own: name for _, own, name in _named(file, content, "categories", "name", rule)}
    builder = BoxTableBuilder(classes=tuple(categories.values()))
    images = {
        own: builder.add_image(entry.encode(name), (entry.side("height"), entry.side("width")))
        for entry, own, name in _named(file, content, "images", "file_name", "every image once")
    }
    for entry in _entries_of(file, content, "annotations"):
        label = entry.one_of("category_id", categories, "categories") if entry.has("category_id") else ""
        _add_box(builder, entry, entry.one_of("image_id", images, "images"), label, entry.iscrowd())
    return builder.build(DEFAULT_CONVENTIONS["coco"])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = unique_keys(pairs)
    return entry if _DROPPED.isdisjoint(entry) else {k: v for k, v in entry.items() if k not in _DROPPED}


def _read_results(file: AnnotationFile, results: list[Any]) -> BoxTable:
    is_named = any(isinstance(result, dict) and "file_name" in result for result in results)
    builder = BoxTableBuilder()
    for entry in _entries(file, results, ""):
        image = entry.name("file_name") if is_named else entry.id("image_id")
        label = entry.id("category_id") if entry.has("category_id") else ""
        _add_box(builder, entry, builder.add_image(entry.encode(image)), label, {})
    return builder.build(DEFAULT_CONVENTIONS["coco"], names="path" if is_named else "id")


def _add_box(
    builder: BoxTableBuilder, entry: "_Entry", image: int, label: str, extra: Mapping[str, bytes]
) -> None:
    box_id = entry.encode(entry.id("id")) if entry.has("id") else b""
    builder.add_box(image, entry.box(), label=label, score=entry.score(), box_id=box_id, extra=extra)


def _named(
    file: AnnotationFile, content: dict[str, Any], key: str, name_key: str, rule: str
) -> Iterator[tuple["_Entry", str, str]]:
    """Yield each object in a list with its id and name, which differ; ``rule`` says so of the names."""
    first: dict[tuple[str, str], str] = {}
    for entry in _entries_of(file, content, key):
        own, name = entry.id("id"), entry.name(name_key)
        for field, value, allowed in (("id", own, "once"), (name_key, name, rule)):
            other = first.setdefault((field, value), entry.where)
            if other != entry.where:
                found = f"found {shorten(value)}, as in {other}"
                raise file.error(f"{entry.where}.{field}", f"{found}; allowed: {allowed}")
        yield entry, own, name


def _entries_of(file: AnnotationFile, content: dict[str, Any], key: str) -> Iterator["_Entry"]:
    """Yield the objects in the list under a key."""
    if key not in content:
        keys = shorten(list(content))
        raise file.error(key, f"is not among the keys, {keys}; allowed: images and annotations")
    if not isinstance(content[key], list):
        raise file.unexpected(key, content[key], "a list of objects")
    return _entries(file, content[key], key)


def _entries(file: AnnotationFile, values: list[Any], key: str) -> Iterator["_Entry"]:
    for i, value in enumerate(values):
        if not isinstance(value, dict):
            raise file.unexpected(f"{key}[{i}]", value, "an object")
        yield _Entry(file, f"{key}[{i}]", value)


class _Entry(NamedTuple):
    """An object in the file, whose values are checked as they are read; ``where`` is its JSON path."""

    file: AnnotationFile
    where: str
    values: dict[str, Any]

    def error(self, key: str, allowed: str) -> BoxError:
        found = f"found {shorten(self.values[key])}" if key in self.values else "is missing"
        return self.file.error(f"{self.where}.{key}", f"{found}; allowed: {allowed}")

    def encode(self, text: str) -> bytes:
        return encode_json_text(self.file, text, self.where)

    def has(self, key: str) -> bool:
        """Return True if the value of a key is there, and not null."""
        return self.values.get(key) is not None

    def name(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "a name, as text")
        encode_json_text(self.file, value, f"{self.where}.{key}")
        return value

    def id(self, key: str) -> str:
        """Return an id as text, so that 7 and "7" are equal."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error(key, "an id, as whole number or text")
        encode_json_text(self.file, str(value), f"{self.where}.{key}")
        return str(value)

    def one_of(self, key: str, known: Mapping[str, _Item], kind: str) -> _Item:
        """Return the image or class of an id."""
        found = known.get(self.id(key))
        if found is None:
            raise self.error(key, f"the id of one of {kind}")
        return found

    def box(self) -> list[float]:
        box = self.values.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise self.error("bbox", "a list of four numbers")
        return [self.file.number(value, f"{self.where}.bbox[{i}]") for i, value in enumerate(box)]

    def score(self) -> float:
        """Return the score; NaN if there is none."""
        return self.file.number(self.values.get("score"), f"{self.where}.score", or_blank=", or null")

    def iscrowd(self) -> dict[str, bytes]:
        """Return the column ``iscrowd`` of the box, if the object has this key."""
        value = self.values.get("iscrowd")
        if value is None:
            return {"iscrowd": b""} if "iscrowd" in self.values else {}
        number = int(value) if isinstance(value, bool) else parse_whole(value)
        if number is None:
            raise self.error("iscrowd", "0 or 1")
        return {"iscrowd": b"%d" % number}

    def side(self, key: str) -> int:
        """Return the height or width of an image; 0 if missing."""
        side = parse_whole(self.values[key]) if self.has(key) else 0
        if side is None:
            raise self.error(key, f"a whole number from 0 to {2**31 - 1}")
        return side
