"""Archives of this machine as inputs."""

import os
import stat
from collections.abc import Callable
from typing import BinaryIO

from sppfeat.errors import ConfigError
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.archives.index import ArchiveIndex
from sppfeat.inputs.archives.index_cache import load_index, save_index
from sppfeat.inputs.archives.storage import MemberStorage
from sppfeat.inputs.archives.tar import index_tar
from sppfeat.inputs.archives.zip import index_zip
from sppfeat.inputs.segments import Segment

__all__ = ["read_tar", "read_zip"]


def read_tar(path: bytes) -> Segment:
    """The images of a tar file, in its order.

    Args:
        path: absolute.

    Raises:
        ConfigError: it cannot be read, is no tar file, is compressed, damaged or cut short.
    """
    return _read(path, index_tar)


def read_zip(path: bytes) -> Segment:
    """The images of a zip file, in its order.

    Args:
        path: absolute.

    Raises:
        ConfigError: it cannot be read, is no zip file, is damaged or cut short.
    """
    return _read(path, index_zip)


def _read(path: bytes, build: Callable[[BinaryIO], ArchiveIndex]) -> Segment:
    where = f"the archive {os.fsdecode(path)!r}"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a FIFO would wait for ever
            raise ConfigError("it is no regular file")
        with open(path, "rb") as file:
            version = FileVersion.of(file.fileno())
            index = load_index(path, version)
            if index is None:
                index = build(file)
                if not FileVersion.of(file.fileno()).has_content_of(version):
                    raise ConfigError("it changed while it was read")
                save_index(path, version, index)
    except OSError as error:
        raise ConfigError(f"cannot read {where}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"cannot read {where}: {error}") from error
    return Segment(
        top=path,
        names=index.names,
        above=os.path.dirname(path),
        storage=MemberStorage(path, version, index.members),
        own_labels=index.labels,
        ids=index.ids,
        n_other_files=index.n_other_files,
        n_repeated=index.n_repeated,
    )
