"""COCO's box files: an object of instances, or a list of results."""

import math
from typing import Any

from sppfeat.boxes.formats.annotation_files import AnnotationFiles
from sppfeat.boxes.table import BoxTable, BoxTableBuilder
from sppfeat.config.regions import default_convention
from sppfeat.files.cells import NUMBER_RULE, parse_number, parse_whole, shorten
from sppfeat.files.tables import encode_json_text, json_decoder, parse_json, unique_keys

__all__ = ["read_coco"]

# These keys make up most of a file and are unrelated to boxes. They are dropped while parsing, object by object, so
# that the 450 MB of instances_train2017.json do not become several gigabytes in memory.
_DROPPED = frozenset(
    [
        "segmentation",
        "keypoints",
        "num_keypoints",
        "area",
        "license",
        "flickr_url",
        "coco_url",
        "date_captured",
    ]
)


def read_coco(source: AnnotationFiles) -> BoxTable:
    """Read the boxes of a COCO file of instances or results.

    Instances are ``{"images": [...], "annotations": [...], "categories": [...]}``: every image and every category is
    in the table, in the file's order. Results are ``[{"image_id": ..., "bbox": [...]}, ...]``, whose images are named
    by their ids, or by ``file_name`` if the entries have it.

    Raises:
        BoxError: the file is malformed; the message gives the JSON path.
    """
    content = parse_json(source, source.read_text(), decoder=json_decoder(_object))
    if isinstance(content, list):
        return _read_results(source, content)
    if not isinstance(content, dict):
        raise source.error(
            "", f"found {shorten(content)}; allowed: an object of COCO instances or a list of results"
        )
    categories = _Categories(source, content)
    extra_names = ["iscrowd"] if _any_has(content.get("annotations"), "iscrowd") else []
    builder = BoxTableBuilder(extra_names=extra_names, classes=categories.names)
    images = _add_images(source, content, builder)
    for i, entry in enumerate(_list_of(source, content, "annotations")):
        where = f"annotations[{i}]"
        image = images.get(_id_of(source, entry, "image_id", where))
        if image is None:
            raise source.error(
                f"{where}.image_id", f"found {shorten(entry['image_id'])}; allowed: the id of one of images"
            )
        builder.add_box(
            image,
            _bbox(source, entry, where),
            label=categories.label(entry, where),
            score=_score(source, entry, where),
            box_id=_box_id(source, entry, where),
            extra=_iscrowd(source, entry, where) if extra_names else (),
        )
    return builder.build(default_convention("coco"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = unique_keys(pairs)
    return entry if _DROPPED.isdisjoint(entry) else {k: v for k, v in entry.items() if k not in _DROPPED}


def _read_results(source: AnnotationFiles, entries: list[Any]) -> BoxTable:
    named = _any_has(entries, "file_name")
    builder = BoxTableBuilder()
    for i, entry in enumerate(entries):
        where = f"[{i}]"
        _check_object(source, entry, where)
        image = (
            _name(source, entry, "file_name", where) if named else _id_of(source, entry, "image_id", where)
        )
        category = (
            _id_of(source, entry, "category_id", where) if entry.get("category_id") is not None else None
        )
        builder.add_box(
            builder.add_image(encode_json_text(source, image, where)),
            _bbox(source, entry, where),
            label=-1 if category is None else builder.add_class(category),
            score=_score(source, entry, where),
            box_id=_box_id(source, entry, where),
        )
    return builder.build(default_convention("coco"), names="path" if named else "id")


class _Categories:
    """The categories of an instances file, by their ids."""

    def __init__(self, source: AnnotationFiles, content: dict[str, Any]) -> None:
        self._source = source
        self._labels: dict[str, int] = {}
        first: dict[str, int] = {}
        for i, entry in enumerate(_list_of(source, content, "categories") if "categories" in content else []):
            where = f"categories[{i}]"
            category, name = _id_of(source, entry, "id", where), _name(source, entry, "name", where)
            if self._labels.setdefault(category, i) != i:
                raise source.error(
                    f"{where}.id",
                    f"found {shorten(category)}, as in categories[{self._labels[category]}]; allowed: once",
                )
            if first.setdefault(name, i) != i:
                raise source.error(
                    f"{where}.name",
                    f"found {shorten(name)}, as in categories[{first[name]}]; allowed: names that differ, as two "
                    "categories of one name would be one class",
                )
        self.names = tuple(first)

    def label(self, entry: dict[str, Any], where: str) -> int:
        """Return the number of an annotation's class; -1 for none."""
        if entry.get("category_id") is None:
            return -1
        label = self._labels.get(_id_of(self._source, entry, "category_id", where))
        if label is None:
            raise self._source.error(
                f"{where}.category_id",
                f"found {shorten(entry['category_id'])}; allowed: the id of one of categories",
            )
        return label


def _add_images(source: AnnotationFiles, content: dict[str, Any], builder: BoxTableBuilder) -> dict[str, int]:
    """Add all images; return their numbers by their ids."""
    numbers: dict[str, int] = {}
    for i, entry in enumerate(_list_of(source, content, "images")):
        where = f"images[{i}]"
        image, name = _id_of(source, entry, "id", where), _name(source, entry, "file_name", where)
        size = _side(source, entry, "height", where), _side(source, entry, "width", where)
        number = builder.add_image(encode_json_text(source, name, f"{where}.file_name"), size)
        if number != i:
            raise source.error(
                f"{where}.file_name",
                f"found {shorten(name)}, as in images[{number}]; allowed: every image once",
            )
        if numbers.setdefault(image, i) != i:
            raise source.error(
                f"{where}.id", f"found {shorten(image)}, as in images[{numbers[image]}]; allowed: once"
            )
    return numbers


def _list_of(source: AnnotationFiles, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the list of objects under a key."""
    entries = content.get(key)
    if key not in content:
        raise source.error(
            key, f"is not among the keys, {shorten(list(content))}; allowed: images and annotations"
        )
    if not isinstance(entries, list):
        raise source.error(key, f"found {shorten(entries)}; allowed: a list of objects")
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            _check_object(source, entry, f"{key}[{i}]")
    return entries


def _check_object(source: AnnotationFiles, entry: object, where: str) -> None:
    if not isinstance(entry, dict):
        raise source.error(where, f"found {shorten(entry)}; allowed: an object")


def _any_has(entries: object, key: str) -> bool:
    return isinstance(entries, list) and any(isinstance(entry, dict) and key in entry for entry in entries)


def _name(source: AnnotationFiles, entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise source.error(f"{where}.{key}", f"{_found(entry, key)}; allowed: a name, as text")
    encode_json_text(source, value, f"{where}.{key}")
    return value


def _id_of(source: AnnotationFiles, entry: dict[str, Any], key: str, where: str) -> str:
    """Return an id as text, so that 7 and "7" are equal."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise source.error(f"{where}.{key}", f"{_found(entry, key)}; allowed: an id, as whole number or text")
    if isinstance(value, int):
        return str(value)
    encode_json_text(source, value, f"{where}.{key}")
    return value


def _box_id(source: AnnotationFiles, entry: dict[str, Any], where: str) -> bytes:
    if entry.get("id") is None:
        return b""
    return encode_json_text(source, _id_of(source, entry, "id", where), where)


def _bbox(source: AnnotationFiles, entry: dict[str, Any], where: str) -> list[float]:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise source.error(f"{where}.bbox", f"{_found(entry, 'bbox')}; allowed: a list of four numbers")
    numbers = []
    for i, value in enumerate(box):
        number = parse_number(value)
        if number is None:
            raise source.error(f"{where}.bbox[{i}]", f"found {shorten(value)}; allowed: {NUMBER_RULE}")
        numbers.append(number)
    return numbers


def _score(source: AnnotationFiles, entry: dict[str, Any], where: str) -> float:
    value = entry.get("score")
    number = math.nan if value is None else parse_number(value)
    if number is None:
        raise source.error(f"{where}.score", f"found {shorten(value)}; allowed: {NUMBER_RULE}, or null")
    return number


def _iscrowd(source: AnnotationFiles, entry: dict[str, Any], where: str) -> tuple[bytes]:
    value = entry.get("iscrowd")
    if isinstance(value, bool) or value is None:
        return (b"" if value is None else b"1" if value else b"0",)
    number = parse_whole(value)
    if number is None:
        raise source.error(f"{where}.iscrowd", f"found {shorten(value)}; allowed: 0 or 1")
    return (b"%d" % number,)


def _side(source: AnnotationFiles, entry: dict[str, Any], key: str, where: str) -> int:
    """Return the height or width of an image; 0 if missing."""
    value = entry.get(key)
    side = 0 if value is None else parse_whole(value)
    if side is None:
        raise source.error(
            f"{where}.{key}", f"found {shorten(value)}; allowed: a whole number from 0 to {2**31 - 1}"
        )
    return side


def _found(entry: dict[str, Any], key: str) -> str:
    return f"found {shorten(entry[key])}" if key in entry else "is missing"
