"""The index of the images in a zip file."""

import os
import stat
import zipfile
from typing import BinaryIO

from sppfeat.errors import ConfigError
from sppfeat.files.image_names import has_image_suffix
from sppfeat.inputs.archives.index import IndexBuilder, clean_name, is_hidden
from sppfeat.inputs.segments import DEFLATED_MEMBER, HEADER_NBYTES, Members, Segment

__all__ = ["index_zip"]

# A deflated image is unpacked in memory, to a thousand times its size. This is uncompressed 16-bit RGB with the most
# pixels that are decoded by default.
_MOST_UNPACKED_NBYTES = 1 << 30

_ENCRYPTED = 0x1 | 0x40 | 0x2000  # by the classic cipher; by a strong one; with the central directory
_PATCH = 0x20
_METHODS = {
    1: "shrinking",
    6: "imploding",
    9: "deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "xz",
    98: "PPMd",
}


def index_zip(file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open zip file; ConfigError if it is none, damaged or cut short."""
    nbytes = file.seek(0, os.SEEK_END)
    if nbytes == 0:
        raise ConfigError("it is empty")
    try:
        entries = zipfile.ZipFile(file).infolist()
    except OSError:
        raise
    except Exception as error:  # many types, if the central directory is damaged
        raise ConfigError(f"it is no zip file, damaged or cut short: {error}") from error
    members = IndexBuilder()
    for entry in entries:
        name = clean_name(entry.filename)
        if entry.filename.endswith("/") or is_hidden(name):
            continue
        if not has_image_suffix(name):
            members.n_other_files += 1
        elif refusal := _refusal(entry, nbytes):
            members.refuse(name, refusal)
        elif entry.compress_type == zipfile.ZIP_DEFLATED and entry.file_size:
            members.add(name, entry.header_offset, entry.compress_size, DEFLATED_MEMBER, entry.file_size)
        else:
            members.add(name, entry.header_offset, entry.file_size)
    return members.build(has_headers=True)


def _refusal(member: zipfile.ZipInfo, archive_nbytes: int) -> str | None:
    """Return the reason why a member cannot be read in place; None if it can."""
    if member.flag_bits & _ENCRYPTED:
        return "is encrypted in its archive"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & _PATCH:
        method = _METHODS.get(member.compress_type, "another method")
        return f"is compressed by {method} in its archive; allowed: stored, deflated"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link in its archive"
    if not 0 <= member.header_offset <= archive_nbytes - HEADER_NBYTES - member.compress_size:
        return "damaged in its archive: it would end behind the end of that"
    if member.compress_type == zipfile.ZIP_STORED and member.compress_size != member.file_size:
        return "damaged in its archive: stored with two different sizes"
    if member.compress_type == zipfile.ZIP_DEFLATED and member.file_size > _MOST_UNPACKED_NBYTES:
        return f"would unpack to more than {_MOST_UNPACKED_NBYTES} bytes"
    return None
