"""The index of the images in a tar file, including WebDataset's layout."""

import tarfile
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable
from sppfeat.inputs.archives.index import (
    ArchiveIndex,
    GrowingMembers,
    clean_name,
    encode_name,
    find_last_of_each,
    is_hidden,
    resolve_link,
)
from sppfeat.inputs.archives.samples import LONGEST_TEXT, SampleTexts, is_sample_text
from sppfeat.inputs.archives.tar_headers import tar_headers

__all__ = ["index_tar"]

_MOST_LINKS = 40  # in a chain, the limit of Linux for files

_SPARSE = "is a sparse file in its archive, which cannot be read in place"
_NOT_REGULAR = "is not a regular file in its archive"
_NO_TARGET = "is a link to something that is not in its archive"


def index_tar(file: BinaryIO) -> ArchiveIndex:
    """Find the images of a tar file.

    Args:
        file: the open file, seekable, at any position.

    Returns:
        The index, with classes and ids from the ``.cls`` and ``.json`` members of samples, if any.

    Raises:
        ConfigError: the file is not a tar file, is compressed, damaged or cut short; the message gives the position.
        OSError: the file cannot be read.
    """
    scan = _Scan(file)
    names = PathTable(scan)
    scan.follow_links(names)
    images = PathTable(names[i] for i in scan.images)
    last = find_last_of_each(images)
    own = images if len(last) == len(images) else PathTable(images[i] for i in last.tolist())
    return ArchiveIndex(
        names=own,
        members=scan.members.take(np.array(scan.images, dtype=np.int64)[last], has_headers=False),
        labels=scan.texts.labels_of(own),
        ids=scan.texts.ids_of(own),
        n_other_files=scan.n_other_files,
        n_repeated=len(images) - len(own),
    )


class _Link(NamedTuple):
    """The target of a link: the last member of this name; for a hard link, the last one before the link."""

    target: bytes | None
    is_hard: bool


class _Scan:
    """Scans the members that are files or links; can be iterated once, for their names."""

    def __init__(self, file: BinaryIO) -> None:
        self.members = GrowingMembers()
        self.images = array("q")
        self.texts = SampleTexts()
        self.n_other_files = 0
        self._file = file
        self._links: dict[int, _Link] = {}

    def __iter__(self) -> Iterator[bytes]:
        """Yield the name of each member, and collect its byte range."""
        for header in tar_headers(self._file):
            if header.isdir():
                continue
            name = clean_name(header.name)
            self._take(name, header)
            yield name

    def _take(self, name: bytes, header: tarfile.TarInfo) -> None:
        if not is_hidden(name):
            self._sort(name, header)
        if header.islnk() or header.issym():
            self._links[len(self.members)] = _link(name, header)
            self.members.refuse(_NO_TARGET)
        elif header.sparse is not None:
            self.members.refuse(_SPARSE)
        elif header.isreg():
            self.members.add(header.offset_data, header.size)
        else:
            self.members.refuse(_NOT_REGULAR)

    def _sort(self, name: bytes, header: tarfile.TarInfo) -> None:
        if has_image_suffix(name):
            self.images.append(len(self.members))
        elif header.isreg() and header.sparse is None and is_sample_text(name):
            if header.size <= LONGEST_TEXT:
                self._file.seek(header.offset_data)
                self.texts.add(name, self._file.read(header.size))
        else:
            self.n_other_files += 1

    def follow_links(self, names: Sequence[bytes]) -> None:
        """Give links the bytes of their targets; ``names`` are the names of all members."""
        if not self._links:
            return
        named: dict[bytes, list[int]] = {
            link.target: [] for link in self._links.values() if link.target is not None
        }
        for i, name in enumerate(names):
            if name in named:
                named[name].append(i)
        for i in self._links:
            end = self._end_of(i, named)
            if end is not None:
                self.members.copy(end, i)

    def _end_of(self, member: int, named: dict[bytes, list[int]]) -> int | None:
        """Follow a chain of links to the member at its end; None if there is none."""
        for _ in range(_MOST_LINKS):
            link = self._links.get(member)
            if link is None:
                return member
            found = [] if link.target is None else named[link.target]
            n_found = bisect_left(found, member) if link.is_hard else len(found)
            if n_found == 0:
                return None
            member = found[n_found - 1]
        return None


def _link(name: bytes, header: tarfile.TarInfo) -> _Link:
    if header.islnk():
        return _Link(clean_name(header.linkname), True)
    return _Link(resolve_link(encode_name(header.linkname), name.rpartition(b"/")[0]), False)
