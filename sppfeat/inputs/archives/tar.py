"""The index of the images in a tar file, including WebDataset's layout."""

import posixpath
import tarfile
from array import array
from bisect import bisect_left
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from sppfeat.files.image_names import has_image_suffix
from sppfeat.inputs.archives.index import IndexBuilder, clean_name, encode_name, is_hidden
from sppfeat.inputs.archives.samples import LONGEST_TEXT, SampleTexts, is_sample_text
from sppfeat.inputs.archives.tar_headers import tar_headers
from sppfeat.inputs.members import Members
from sppfeat.inputs.segments import Segment

__all__ = ["index_tar"]

_MOST_LINKS = 40  # in a chain, the limit of Linux for files

_SPARSE = "is a sparse file in its archive, which cannot be read in place"
_NOT_REGULAR = "is not a regular file in its archive"
_NO_TARGET = "is a link to something that is not in its archive"


class _Link(NamedTuple):
    """The target of a link: the last member of this name; for a hard link, the last one before the link."""

    target: bytes
    is_hard: bool


def index_tar(file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open tar file, with classes and ids from the ``.cls`` and ``.json`` members of samples.

    Raises:
        ConfigError: the file is not a tar file, is compressed, damaged or cut short; the message gives the position.
    """
    members, texts, images = IndexBuilder(), SampleTexts(), array("q")
    links: dict[int, _Link] = {}
    for header in tar_headers(file):
        if header.isdir():
            continue
        name = clean_name(header.name)
        is_plain = header.isreg() and header.sparse is None
        if is_hidden(name):
            pass  # but links may lead to it
        elif has_image_suffix(name):
            images.append(len(members))
        elif not (is_plain and is_sample_text(name)):
            members.n_other_files += 1
        elif header.size <= LONGEST_TEXT:
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
