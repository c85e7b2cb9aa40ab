"""Archives of images, read in place: tar files, such as those of WebDataset, and zip files.

In goes the path of an archive; out comes a :class:`sppfeat.inputs.segments.Segment` whose storage knows the place of
each member. The indexes of large archives are kept from run to run.
"""

import os
import stat
from typing import BinaryIO

from sppfeat.errors import ConfigError
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.archives.index import ArchiveIndex
from sppfeat.inputs.archives.index_cache import load_index, save_index
from sppfeat.inputs.archives.storage import MemberStorage
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.archives.zip import index_zip
from sppfeat.inputs.segments import Segment

__all__ = ["index_archive", "read_archive"]


def index_archive(name: bytes, file: BinaryIO) -> ArchiveIndex:
    """Find the images of a tar or zip file.

    Args:
        name: of the archive; it ends in ``.tar`` or ``.zip``.
        file: seekable, at any position.

    Raises:
        ConfigError: the file is no such archive, is compressed as a whole, damaged or cut short.
        OSError: the file cannot be read.
    """
    return (index_tar if name.lower().endswith(b".tar") else index_zip)(file)


def read_archive(path: bytes) -> Segment:
    """Find the images of an archive of this machine, in its order.

    Args:
        path: absolute; it ends in ``.tar`` or ``.zip``.

    Raises:
        ConfigError: the file cannot be read, is no such archive, is compressed as a whole, damaged or cut short.
    """
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
    return index.segment(path, MemberStorage(path, version, index.members))
