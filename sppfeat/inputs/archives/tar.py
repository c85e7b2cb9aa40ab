"""The index of the images in a tar file, with the classes and ids of samples in WebDataset's layout.

A damaged or truncated file is refused rather than read as far as possible.
"""

import json
import os
import posixpath
import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple, cast

from sppfeat.errors import ConfigError
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable
from sppfeat.files.tables import COMPRESSED, strip_blanks
from sppfeat.inputs.archives.index import IndexBuilder, clean_name, encode_name
from sppfeat.inputs.segments import Members, OwnLabels, Segment, if_any, own_classes

__all__ = ["index_tar"]

_BLOCK = 512
_LONGEST_HEADER = 16 << 20  # an extended header contains a name and attributes
_READ_AFTER_END = 1 << 20  # writers fill their last record, usually of 10 kB, with zeros

_LONGEST_TEXT = 1 << 20  # bytes of a member that describes a sample
_LONGEST_CLASS = 1000
_CLASS_KEYS = ("class_name", "label", "class", "cls", "category")  # names come before numbers
_ID_KEYS = ("id", "key")

_MOST_LINKS = 40  # in a chain; Linux has the same limit for files
_SPARSE = "is a sparse file in its archive, which cannot be read in place"
_NOT_REGULAR = "is not a regular file in its archive"
_NO_TARGET = "is a link to something that is not in its archive"


def index_tar(file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open tar file, with classes and ids from the ``.cls`` and ``.json`` members of samples.

    Raises ConfigError with the position if it is not a tar file, compressed, damaged or cut short.
    """
    members, texts, images = IndexBuilder(), _SampleTexts(), array("q")
    links: dict[int, _Link] = {}
    for header in _tar_headers(file):
        if header.isdir():
            continue
        name = clean_name(header.name)
        is_plain = header.isreg() and header.sparse is None
        if members.hides(name):
            pass  # but links may lead to it
        elif has_image_suffix(name):
            images.append(len(members))
        elif not (is_plain and _is_sample_text(name)):
            members.skip(name)
        elif header.size <= _LONGEST_TEXT:
            file.seek(header.offset_data)
            texts.add(name, file.read(header.size))
        if header.islnk() or header.issym():
            links[len(members)] = _link(name, header)
            members.refuse(name, _NO_TARGET)
        elif is_plain:
            members.add(name, header.offset_data, header.size)
        else:
            members.refuse(name, _NOT_REGULAR if header.sparse is None else _SPARSE)
    if links:
        _follow_links(members, links)
    found, ranges = members.build(images, has_headers=False)
    return replace(found, own_labels=texts.labels_of(found.names), ids=texts.ids_of(found.names)), ranges


class _Link(NamedTuple):
    """The target of a link: the last member of this name; for a hard link, the last one before the link."""

    target: bytes
    is_hard: bool


def _link(name: bytes, header: tarfile.TarInfo) -> _Link:
    if header.islnk():
        return _Link(clean_name(header.linkname), True)
    path = posixpath.join(posixpath.dirname(name), encode_name(header.linkname))
    return _Link(posixpath.normpath(path), False)  # outside the archive, no member has this name


def _follow_links(members: IndexBuilder, links: dict[int, _Link]) -> None:
    """Give links the bytes of their targets."""
    named: dict[bytes, list[int]] = {link.target: [] for link in links.values()}
    for i, name in enumerate(members.names):
        if name in named:
            named[name].append(i)
    for i in links:
        member = i
        for _ in range(_MOST_LINKS):
            link = links.get(member)
            if link is None:
                members.copy(member, i)
                break
            found = named[link.target]
            n_found = bisect_left(found, member) if link.is_hard else len(found)
            if n_found == 0:
                break
            member = found[n_found - 1]


def _tar_headers(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the header of each member of an open tar file; the caller may read the file in between."""
    nbytes = file.seek(0, os.SEEK_END)
    _check_start(file, nbytes)
    file.seek(0)
    place = 0
    try:
        # surrogateescape keeps names that are not UTF-8.
        archive = tarfile.open(  # noqa: SIM115 - whoever opened the file closes it
            fileobj=cast(BinaryIO, _Guarded(file)), mode="r:", encoding="utf-8", errors="surrogateescape"
        )
        while (header := archive.next()) is not None:
            vars(archive)["members"].clear()  # or it would keep all of them
            if header.size < 0 or archive.offset <= place:
                raise tarfile.ReadError("a size below 0")
            place = archive.offset
            if place > nbytes:
                raise _cut_short(nbytes, place)
            yield header
    except (OSError, ConfigError):
        raise
    except Exception as error:  # many types: ValueError, RecursionError, UnicodeError, ...
        raise ConfigError(f"no tar header at byte {place}: {error}") from error
    _check_end(file, archive.offset, nbytes)


class _Guarded:
    """A file that limits each read to the largest allowed header, since a damaged header may claim any size."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = file.read
        self.seek = file.seek
        self.tell = file.tell

    def read(self, nbytes: int) -> bytes:
        if not 0 <= nbytes <= _LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {nbytes} bytes; allowed: 0 to {_LONGEST_HEADER}")
        return self._read(nbytes)


def _check_start(file: BinaryIO, nbytes: int) -> None:
    """Refuse an empty or compressed file."""
    if nbytes == 0:
        raise ConfigError("it is empty")
    file.seek(0)
    start = file.read(8)
    for signature, name in COMPRESSED.items():
        if start.startswith(signature):
            raise ConfigError(
                f"it is compressed by {name}, so images cannot be read in place: decompress it first with "
                f"'{name} -d'"
            )


def _check_end(file: BinaryIO, end: int, nbytes: int) -> None:
    """Refuse a file without an end mark, or with another archive after it."""
    file.seek(end)
    block = file.read(_BLOCK)
    if not block:
        raise ConfigError(
            f"it ends at byte {nbytes} without an end mark, so members may be missing; if it is complete, "
            "add the mark with 'head -c 1024 /dev/zero >> FILE'"
        )
    if block.strip(b"\0"):
        if len(block) < _BLOCK:
            raise _cut_short(nbytes, end + _BLOCK)
        raise ConfigError(f"it is damaged: no member header at byte {end}")
    behind = end + _BLOCK
    rest = file.read(_READ_AFTER_END)
    empty = len(rest) - len(rest.lstrip(b"\0"))
    start = empty // _BLOCK * _BLOCK
    if _is_header(rest[start : start + _BLOCK]):
        raise ConfigError(
            f"another archive begins at byte {behind + start}, after the end of the first: join tar files with "
            "'tar --concatenate', not with cat"
        )


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _cut_short(nbytes: int, needed: int) -> ConfigError:
    return ConfigError(
        f"it is cut short: it ends at byte {nbytes}, inside a member that extends to byte {needed}"
    )


def _sample_key(name: bytes) -> tuple[bytes, bytes]:
    """Split the name of a member at the first dot of its file name, into the key of its sample and the extension.

    Example:
        >>> _sample_key(b"a.b/0001.seg.PNG")
        (b'a.b/0001', b'seg.png')
    """
    folder, slash, last = name.rpartition(b"/")
    stem, _, extension = last.partition(b".")
    return folder + slash + stem, extension.lower()


def _is_sample_text(name: bytes) -> bool:
    """Return True if a member describes the images of its sample."""
    return _sample_key(name)[1] in (b"cls", b"json")


class _SampleTexts:
    """Collects classes and ids from the members ``KEY.cls`` and ``KEY.json``; the last one of each name counts."""

    def __init__(self) -> None:
        self._by_cls: dict[bytes, bytes] = {}
        self._by_json: dict[bytes, bytes] = {}
        self._ids: dict[bytes, bytes] = {}
        self._known: dict[bytes, bytes] = {}  # one object for all samples of a class

    def add(self, name: bytes, text: bytes) -> None:
        key, extension = _sample_key(name)
        if extension == b"cls":
            self._by_cls[key] = self._class(text)
            return
        facts = _object(text)
        self._by_json[key] = self._class(_first_text(facts, _CLASS_KEYS))
        self._ids[key] = _first_text(facts, _ID_KEYS)

    def _class(self, name: bytes) -> bytes:
        """Return the name of a class; empty if the text is not a name."""
        name = strip_blanks(name.partition(b"\0")[0])
        return self._known.setdefault(name, name) if len(name) <= _LONGEST_CLASS else b""

    def labels_of(self, names: Iterable[bytes]) -> OwnLabels | None:
        keys = (_sample_key(name)[0] for name in names)
        return own_classes(self._by_cls.get(key) or self._by_json.get(key, b"") for key in keys)

    def ids_of(self, names: Iterable[bytes]) -> PathTable | None:
        return if_any(PathTable(self._ids.get(_sample_key(name)[0], b"") for name in names))


def _object(text: bytes) -> dict[str, Any]:
    """Parse a JSON object; empty if the text is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _first_text(facts: dict[str, Any], keys: Sequence[str]) -> bytes:
    """Encode the first value that is text or a whole number; empty without one."""
    for value in map(facts.get, keys):
        if isinstance(value, str) and value.partition("\0")[0]:
            return value.partition("\0")[0].encode("utf-8", "surrogatepass")
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
            return str(value).encode()
    return b""
