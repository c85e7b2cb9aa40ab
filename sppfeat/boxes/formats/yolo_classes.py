"""The class names of YOLO label files, in the places where exporters put them: text files and YAML files.

Label Studio and labelImg write ``classes.txt``, CVAT ``obj.names``, Roboflow ``data.yaml`` or ``_darknet.labels``, and
Ultralytics a ``.yaml`` with a list or a map of names.
"""

import os
import re
from collections.abc import Iterator

from sppfeat.boxes.formats.annotation_files import AnnotationFile, AnnotationFiles
from sppfeat.files.tables import shorten

__all__ = ["SIDE_FILES", "ClassNames", "find_class_names"]

_USUAL = (
    b"classes.txt",
    b"obj.names",
    b"_darknet.labels",
    b"data.yaml",
)  # in order of precedence
SIDE_FILES = (*_USUAL, b"notes.json")
"""Text files among labels that are not labels."""

_YAML = (b".yaml", b".yml")
_NAMES = re.compile(r"^names[ \t]*:[ \t]*", re.MULTILINE)
_QUOTED = r"""(?:'(?:[^']|'')*'|"(?:[^"\\]|\\.)*")"""
_ITEM = re.compile(rf"(?:[0-9]+[ \t]*:[ \t]*)?(?:{_QUOTED}|[^,\[\]{{}}'\"#\n][^,\[\]{{}}#\n]*)")
_BETWEEN = re.compile(r"(?:[\s,]|#[^\n]*)*")  # the items
_QUOTED_LINE = re.compile(rf"([^'\"#]*{_QUOTED})\s*(?:#.*)?")
_KEY = re.compile(r"""\s*['"]?([0-9]{1,9})['"]?\s*:\s*(.*)""", re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s)#.*")


class ClassNames(list[str]):
    """Class names in the order of their numbers, with the path of their file relative to the labels."""

    def __init__(self, names: list[str], path: bytes) -> None:
        super().__init__(names)
        self.path = os.fsdecode(path)


def find_class_names(source: AnnotationFiles) -> ClassNames | None:
    """Find the class names of label files: in their folder, above it, or in the folders directly in it.

    The folder two levels above counts if it is above a folder called ``labels``.

    Raises:
        BoxError: two files at the same level name different classes, or one cannot be read.
    """
    for folders in _levels(source):
        found: ClassNames | None = None
        for name in (name for folder in folders for name in _candidates(source, folder)):
            names = _read(source.beside(name))
            if names is None:
                continue
            if found is not None and names != found:
                other = f"differs from {found.path!r}: {shorten(names)} and {shorten(list(found))}"
                raise source.beside(name).error("", f"{other}; allowed: one list of classes")
            found = found if found is not None else ClassNames(names, name)
        if found is not None:
            return found
    return None


def _levels(source: AnnotationFiles) -> Iterator[list[bytes]]:
    """Yield the folders to search, relative to the labels' folder and with a final slash, level by level."""
    yield [b""]
    folder = os.path.abspath(os.fsencode(source.folder))
    above = os.path.dirname(folder)
    if above != folder:
        yield [b"../"]
    if b"labels" in (os.path.basename(folder), os.path.basename(above)) and os.path.dirname(above) != above:
        yield [b"../../"]
    if source.is_folder:
        yield sorted(name + b"/" for name in _listed(folder) if os.path.isdir(os.path.join(folder, name)))


def _listed(folder: bytes) -> list[bytes]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(b".")]
    except OSError:  # a folder above the labels may be unreadable
        return []


def _candidates(source: AnnotationFiles, folder: bytes) -> list[bytes]:
    """Return the files in a folder that may name classes, the usual names first."""
    names = sorted(_listed(os.path.join(os.fsencode(source.folder), folder)))
    usual = [known for known in _USUAL if known in names]
    others = [name for name in names if name not in usual and name.lower().endswith((b".names", *_YAML))]
    return [folder + name for name in (*usual, *others)]


def _read(file: AnnotationFile) -> list[str] | None:
    """Read the class names in the order of their numbers; None for a YAML file without a list or map of them."""
    if not file.name.lower().endswith(_YAML):
        lines = file.read_text().rstrip().splitlines()
        named = [(f"line {i}", _decode(line.strip())) for i, line in enumerate(lines, start=1)]
    else:
        items = _yaml_items(file, _decode(file.read_text()))
        if items is None:
            file.digest = b""  # no part of the boxes
            return None
        named = [(f"item {i} of names", item) for i, item in enumerate(_in_order(file, items))]
    first: dict[str, str] = {}
    for where, name in named:
        if not name:
            raise file.unexpected(where, name, "the name of a class")
        if first.setdefault(name, where) != where:
            raise file.error(where, f"found {shorten(name)}, as on {first[name]}; allowed: different names")
    if not first:
        raise file.error("", "found no class; allowed: the name of a class on each line")
    return list(first)


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def _yaml_items(file: AnnotationFile, text: str) -> list[str] | None:
    """Return the items of the key ``names`` in a YAML text, those of a map with their keys; None without any."""
    key = _NAMES.search(text)
    if key is None:
        return None
    rest = text[key.end() :]
    if rest[:1] in ("[", "{"):
        return _flow_items(file, rest)
    first, _, block = rest.partition("\n")
    if _without_comment(first).strip():
        return None  # a single value, not a list
    items = []
    for line in block.splitlines():
        item = _without_comment(line).rstrip()
        if item and not item.startswith((" ", "\t", "-")):
            break
        items += [item.strip().removeprefix("- ").strip()] if item else []
    return items or None


def _flow_items(file: AnnotationFile, text: str) -> list[str]:
    """Return the items between brackets, which may span lines."""
    items, start = [], 1
    while (end := _BETWEEN.match(text, start)) and not text[end.end() :].startswith(("]", "}")):
        item = _ITEM.match(text, end.end())
        if item is None:
            found = shorten(text[end.end() :][:20])
            raise file.error("names", f"found {found}; allowed: a list or map of class names, to its bracket")
        items.append(item[0].strip())
        start = item.end()
    return items


def _without_comment(line: str) -> str:
    quoted = _QUOTED_LINE.fullmatch(line)
    return quoted[1] if quoted else _COMMENT.sub("", line)


def _in_order(file: AnnotationFile, items: list[str]) -> list[str]:
    """Return class names without quotes, those of a map in the order of its keys, which must be 0, 1, 2, ..."""
    keys = [_KEY.fullmatch(item) for item in items]
    if not all(keys):
        return [_unquoted(item) for item in items]
    by_number = {int(key[1]): _unquoted(key[2].strip()) for key in keys if key}
    if sorted(by_number) != list(range(len(items))):
        raise file.error(
            "names", f"found the numbers {shorten(sorted(by_number))}; allowed: 0, 1, 2, ..., each once"
        )
    return [by_number[i] for i in range(len(items))]


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        inner = text[1:-1]
        return inner.replace("''", "'") if text[0] == "'" else re.sub(r"\\(.)", r"\1", inner)
    return text
