"""COCO's box files: an object of instances, or a list of results."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.boxes.table import ROTATION, BoxTable, BoxTableBuilder
from sppfeat.config.regions import DEFAULT_CONVENTIONS
from sppfeat.errors import BoxError
from sppfeat.files.json_text import parse_json
from sppfeat.files.tables import parse_number, parse_whole, shorten

__all__ = ["read_coco"]

# These keys make up most of a file and are unrelated to boxes. They are dropped while parsing, object by object, so
# that the 450 MB of instances_train2017.json do not become several gigabytes in memory.
_DROPPED = frozenset({
    "segmentation", "keypoints", "num_keypoints", "area",
    "license", "flickr_url", "coco_url", "date_captured",
})  # fmt: skip

_Item = TypeVar("_Item")


def read_coco(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a COCO file of instances or results.

    Instances are ``{"images": [...], "annotations": [...], "categories": [...]}``: the table has every image and every
    category, in the file's order. Results are ``[{"image_id": ..., "bbox": [...]}, ...]``, whose images are named
    by their ids, or by ``file_name`` if the entries have it.
    """
    file = source.single
    content = parse_json(file, file.read_text(), drop=_DROPPED)
    if isinstance(content, list):
        return _read_results(source, content)
    if not isinstance(content, dict):
        raise file.unexpected("", content, "an object of COCO instances or a list of results")
    if source.images or source.categories:
        what = "has its own images and categories; --box-images and --box-categories need a list of results"
        raise file.error("", what)
    categories: dict[str, str] = {}
    if "categories" in content:
        categories = _read_categories(file, content, content.get("annotations"))
    builder = BoxTableBuilder(classes=tuple(dict.fromkeys(categories.values())))
    images = {
        own: builder.add_image(file.encode(name, entry.where), hw)
        for own, (entry, name, hw) in _read_images(file, content).items()
    }
    for entry in _entries_of(file, content, "annotations"):
        label = entry.one_of("category_id", categories, "categories") if entry.has("category_id") else ""
        extra = entry.iscrowd() | entry.rotation()
        _add_box(builder, entry, entry.one_of("image_id", images, "images"), label, extra)
    return builder.build(DEFAULT_CONVENTIONS["coco"])


def _read_results(source: AnnotationFiles, results: list[Any]) -> BoxTable:
    file, images, categories = source.single, None, None
    if source.images:
        images = _read_images(source.images, _read_instances(source.images))
    if source.categories:
        categories = _read_categories(source.categories, _read_instances(source.categories), results)
    is_named = images is None and any(isinstance(entry, dict) and "file_name" in entry for entry in results)
    builder = BoxTableBuilder(classes=tuple(dict.fromkeys(categories.values())) if categories else ())
    for entry in _entries(file, results, ""):
        if images is None:
            name = entry.name("file_name") if is_named else entry.id("image_id")
            image = builder.add_image(file.encode(name, entry.where))
        else:
            named, name, hw = entry.one_of("image_id", images, "images of --box-images")
            if entry.values.get("file_name", name) != name:
                raise entry.error(
                    "file_name", f"{name!r}, the name of image {entry.id('image_id')} in --box-images"
                )
            image = builder.add_image(named.file.encode(name, named.where), hw)
        label = ""
        if entry.has("category_id"):
            known = "categories of --box-categories"
            label = (
                entry.id("category_id")
                if categories is None
                else entry.one_of("category_id", categories, known)
            )
        _add_box(builder, entry, image, label, entry.rotation())
    notes = []
    if images is None and not is_named and results:
        notes.append(
            "image ids are read as file names, or as numbers in them; name the files with --box-images "
            "INSTANCES.json"
        )
    if categories is None and any(isinstance(entry, dict) and "category_id" in entry for entry in results):
        notes.append("category ids serve as class names; name them with --box-categories INSTANCES.json")
    return builder.build(
        DEFAULT_CONVENTIONS["coco"], names="path" if images or is_named else "id", notes=notes
    )


def _read_instances(file: AnnotationFile) -> dict[str, Any]:
    content = parse_json(file, file.read_text(), drop=_DROPPED)
    if not isinstance(content, dict):
        raise file.unexpected("", content, "an object of COCO instances, with images and categories")
    return content


def _read_images(
    file: AnnotationFile, content: dict[str, Any]
) -> dict[str, tuple["_Entry", str, tuple[int, int]]]:
    """Return the entry, the name, and the height and width of each image, by its id."""
    return {
        own: (entry, name, (entry.side("height"), entry.side("width")))
        for entry, own, name in _named(file, content, "images", "file_name", "every image once")
    }


def _read_categories(file: AnnotationFile, content: dict[str, Any], boxes: object) -> dict[str, str]:
    """Return the name of each category by its id, without unused ones that are not classes.

    The latter are the root that Roboflow writes, the supercategory of all others, and namesakes of other categories.
    Two categories of one name are refused if boxes use both.
    """
    entries = boxes if isinstance(boxes, list) else []
    used = {str(entry.get("category_id")) for entry in entries if isinstance(entry, dict)}
    named = list(_named(file, content, "categories", "name", None))
    parents = {str(entry.values.get("supercategory")) for entry, _, _ in named}
    categories: dict[str, str] = {}
    kept: dict[str, tuple[str, _Entry]] = {}
    for entry, own, name in named:
        is_root = entry.values.get("supercategory") == "none" and name in parents
        if is_root and own not in used:
            continue
        other_own, other = kept.get(name, ("", entry))
        is_used, other_used = own in used, other_own in used
        if is_used and other_used:
            found = f"found {shorten(name)}, as in {other.where}"
            rule = "different names, since two categories of one name would become one class"
            raise file.error(f"{entry.where}.name", f"{found}, and boxes use both; allowed: {rule}")
        if name in kept and not is_used:
            continue
        categories.pop(other_own, None)
        kept[name] = (own, entry)
        categories[own] = name
    return categories


def _add_box(
    builder: BoxTableBuilder, entry: "_Entry", image: int, label: str, extra: Mapping[str, bytes]
) -> None:
    box_id = entry.file.encode(entry.id("id"), entry.where) if entry.has("id") else b""
    builder.add_box(image, entry.box(), label=label, score=entry.score(), box_id=box_id, extra=extra)


def _named(
    file: AnnotationFile, content: dict[str, Any], key: str, name_key: str, rule: str | None
) -> Iterator[tuple["_Entry", str, str]]:
    """Yield each object in a list with its id and name. Ids are unique; so are names if ``rule`` describes that."""
    first: dict[tuple[str, str], str] = {}
    for entry in _entries_of(file, content, key):
        own, name = entry.id("id"), entry.name(name_key)
        for field, value, allowed in (("id", own, "once"), (name_key, name, rule)):
            other = first.setdefault((field, value), entry.where)
            if other != entry.where and allowed is not None:
                found = f"found {shorten(value)}, as in {other}"
                raise file.error(f"{entry.where}.{field}", f"{found}; allowed: {allowed}")
        yield entry, own, name


def _entries_of(file: AnnotationFile, content: dict[str, Any], key: str) -> Iterator["_Entry"]:
    """Yield the objects in the list under a key."""
    if key not in content:
        keys = shorten(list(content))
        raise file.error(key, f"is missing among the keys {keys}; allowed: images and annotations")
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

    def has(self, key: str) -> bool:
        """Return True if the object has a key and its value is not null."""
        return self.values.get(key) is not None

    def name(self, key: str) -> str:
        """Return a name as text."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise self.error(key, "a name, as text")
        self.file.encode(value, f"{self.where}.{key}")
        return value

    def id(self, key: str) -> str:
        """Return an id as text, so that 7 and "7" are equal."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise self.error(key, "an id, as whole number or text")
        self.file.encode(str(value), f"{self.where}.{key}")
        return str(value)

    def one_of(self, key: str, known: Mapping[str, _Item], kind: str) -> _Item:
        """Return the image or class with an id."""
        found = known.get(self.id(key))
        if found is None:
            raise self.error(key, f"the id of one of {kind}")
        return found

    def box(self) -> list[float]:
        box = self.values.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            other = {
                5: " (five numbers are a rotated box)",
                8: " (eight numbers are the corners of a rotated box)",
            }
            hint = other.get(len(box), "") if isinstance(box, list) else ""
            raise self.error("bbox", f"a list of four numbers{hint}")
        return [self.file.number(value, f"{self.where}.bbox[{i}]") for i, value in enumerate(box)]

    def score(self) -> float:
        """Return the score; NaN without one."""
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

    def rotation(self) -> dict[str, bytes]:
        """Return the column ``rotation`` of the box, which CVAT writes among its attributes; empty without one."""
        attributes = self.values.get("attributes")
        values = (attributes if isinstance(attributes, dict) else {}, self.values)
        angle = next((parse_number(of[ROTATION]) for of in values if ROTATION in of), None)
        return {} if angle is None else {ROTATION: b"%g" % angle}

    def side(self, key: str) -> int:
        """Return the height or width of an image; 0 if missing."""
        side = parse_whole(self.values[key]) if self.has(key) else 0
        if side is None:
            raise self.error(key, f"a whole number from 0 to {2**31 - 1}")
        return side
