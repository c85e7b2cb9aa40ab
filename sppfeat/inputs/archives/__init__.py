"""Archives of images, read in place: tar files, such as those of WebDataset, and zip files.

The path of an archive goes in. A :class:`sppfeat.inputs.segments.Segment` comes out, whose storage knows the byte
range of each image. Indexes of large archives are cached from run to run. The package must not know the other inputs
of a run, and decodes no images.
"""

import os
import stat
from dataclasses import replace
from typing import BinaryIO

from sppfeat.errors import ConfigError
from sppfeat.files.places import FileVersion
from sppfeat.inputs.archives.index_cache import load_index, save_index
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.archives.zip import index_zip
from sppfeat.inputs.members import Members, MemberStorage
from sppfeat.inputs.segments import Segment
from sppfeat.inputs.storage import Storage

__all__ = ["index_archive", "read_archive", "segment_at"]


def index_archive(name: bytes, file: BinaryIO) -> tuple[Segment, Members]:
    """Find the images of an open tar or zip file, whose name tells which; ConfigError if it is damaged or neither."""
    return (index_tar if name.lower().endswith(b".tar") else index_zip)(file)


def segment_at(top: bytes, segment: Segment, storage: Storage) -> Segment:
    """Complete the segment of an archive with its absolute path or URL, and the storage of its images."""
    return replace(segment, top=top, above=os.path.dirname(top), storage=storage)


def read_archive(path: bytes) -> Segment:
    """Find the images of a local archive, in its order; ConfigError if it cannot be read as one."""
    where = f"the archive {os.fsdecode(path)!r}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait forever
            raise ConfigError("it is no regular file")
        with open(path, "rb") as file:
            version = FileVersion.of(file.fileno())
            index = load_index(path, version)
            if index is None:
                index = index_archive(path, file)
                if not FileVersion.of(file.fileno()).has_content_of(version):
                    raise ConfigError("it changed while it was read")
                save_index(path, version, index)
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"cannot read {where}: {error}") from error
    segment, members = index
    return segment_at(path, segment, MemberStorage(path, version, members))
