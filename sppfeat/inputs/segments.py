"""Segments, which are the images of one input each, and the storages that fetch their bytes."""

import contextlib
import os
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.errors import StoreError
from sppfeat.files.columns import NO_CLASS, ClassNumbers
from sppfeat.files.globs import PathFilter
from sppfeat.files.paths import PathTable
from sppfeat.files.places import FileVersion, Place
from sppfeat.inputs.names import SCHEME, below, is_below

__all__ = [
    "DEFLATED_MEMBER",
    "FIRST_REFUSAL",
    "HEADER_NBYTES",
    "STORED_MEMBER",
    "FileStorage",
    "JoinedStorage",
    "MemberStorage",
    "Members",
    "OwnLabels",
    "Segment",
    "Storage",
    "choose_images",
    "find_members",
    "if_any",
    "local_places",
    "own_classes",
]


_N_ASKING = 16  # threads
_ASKED_AT_ONCE = 1024  # files, by one thread


class Storage(ABC):
    """A source of image bytes; images are numbered from 0 and kept as columns, not as one object per image."""

    @property
    def is_local(self) -> bool:
        """True if the places of images are known without fetching, copying or unpacking anything."""
        return True

    @abstractmethod
    def fetch(
        self, images: npt.NDArray[np.int64], scratch: Path
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Fetch images to this machine.

        Args:
            images: ``(n,)`` int64, numbers of the images; ascending ones are faster, since neighbors are read
                together.
            scratch: an existing folder for copies, which are deleted when the context ends.

        Returns:
            A context that gives, for each image, its place or the reason why it has none. Places are valid until the
                context ends.
        """

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bytes to fetch from another machine for each of these images, ``(n,)`` int64; 0 if none or unknown."""
        return np.zeros(len(images), dtype=np.int64)

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return ``(n, 2)`` int64, bytes and modification time in ns of each of these images; -1 if unknown.

        They are known without reading an image or asking a service. A member of an archive has its own size.
        """
        return np.full((len(images), 2), -1, dtype=np.int64)

    def cancel(self) -> None:  # noqa: B027 - local storages have no transfers
        """Cancel a :meth:`fetch` of another thread, which raises SourceError if it was transferring."""


@dataclass(frozen=True)
class OwnLabels:
    """The classes that an input gives its ``n`` images."""

    labels: npt.NDArray[np.int64]  # (n,), index into classes; -1 for no class
    classes: tuple[bytes, ...]  # in the input's own order if it has one

    @classmethod
    def none(cls, n: int) -> "OwnLabels":
        """Return the labels of ``n`` images without classes."""
        return cls(np.full(n, NO_CLASS, dtype=np.int64), ())


@dataclass(frozen=True)
class Segment:
    """The images of one input, in order."""

    # Absolute path or URL of the folder, archive or table that was read; None for files named one by one.
    top: bytes | None
    # Unique names relative to top, with / separators; if top is None, absolute paths, repeated as often as
    # they were named.
    names: PathTable
    above: bytes | None = None  # root of the listing if this is the only input; None for top
    storage: Storage | None = None  # fetches the images; None for local files
    own_labels: OwnLabels | None = None  # classes that the input gives; None if folders decide
    ids: PathTable | None = None  # ids that the input gives its images; None if it gives none
    n_other_files: int = 0  # number of files skipped because they have no image suffix
    other_files: tuple[bytes, ...] = ()  # the first few of them
    n_repeated: int = 0  # number of repeated images; each image is listed once
    system_folders: tuple[bytes, ...] = ()  # skipped system folders, relative to top
    # Skipped tables that describe archives in the same folder, relative to top.
    side_tables: tuple[bytes, ...] = ()
    columns: tuple[bytes, str] | None = None  # path of the table that was read, and its columns in words
    notes: tuple[str, ...] = ()  # remarks for the user

    def only(self, images: npt.NDArray[np.int64]) -> "Segment":
        """Return the images at these positions, ``(n,)`` int64, without unused classes."""
        own = self.own_labels
        if own is not None:
            gone = set(np.setdiff1d(own.labels, own.labels[images]).tolist())
            known = ClassNumbers(name for i, name in enumerate(own.classes) if i not in gone)
            names = (*own.classes, b"")
            labels = np.fromiter(known.numbers(names[i] for i in own.labels[images].tolist()), dtype=np.int64)
            own = OwnLabels(labels, known.names)
        storage = self.storage
        if storage is not None:
            storage = JoinedStorage((storage,), np.zeros(len(images), dtype=np.uint32), images)
        return replace(
            self,
            names=PathTable(self.names[i] for i in images.tolist()),
            storage=storage,
            own_labels=own,
            ids=None if self.ids is None else PathTable(self.ids[i] for i in images.tolist()),
        )


def choose_images(segment: Segment, paths: PathFilter, base: bytes) -> Segment:
    """Return the images of a segment that patterns choose by their paths below ``base``, a folder or a URL.

    Patterns are compared with a path outside ``base`` without its scheme and first slash.
    """
    if not paths:
        return segment

    def seen(name: bytes) -> bytes:
        path = name if segment.top is None else os.path.join(segment.top, name)
        return below(path, base) if is_below(path, base) else path.split(SCHEME)[-1].lstrip(b"/")

    kept = np.flatnonzero(np.fromiter((paths.takes(seen(name)) for name in segment.names), dtype=bool))
    return segment if len(kept) == len(segment.names) else segment.only(kept)


def own_classes(names: Iterable[bytes], classes: tuple[bytes, ...] | None = None) -> OwnLabels | None:
    """Number the class of each image, where empty means none; None if no image has a class.

    ``classes`` are all classes in their order; None for the classes of the images, in natural order.
    """
    known = ClassNumbers(classes or ())
    numbers = np.fromiter(known.numbers(names), dtype=np.int64)
    if not len(known):
        return None
    if classes is not None:
        return OwnLabels(numbers, classes)
    return OwnLabels(*known.in_order(numbers))


def if_any(ids: PathTable) -> PathTable | None:
    """Return the ids of all images; None if none has one."""
    return ids if any(ids) else None


@dataclass(frozen=True)
class FileStorage(Storage):
    """Images that are local files, named relative to the absolute path ``root``."""

    root: bytes
    names: PathTable

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Return the places of the files themselves."""
        return contextlib.nullcontext(
            [Place(os.path.join(self.root, self.names[i])) for i in images.tolist()]
        )

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the current size and modification time of each file; -1 if it does not exist."""
        blocks = [images[i : i + _ASKED_AT_ONCE] for i in range(0, len(images), _ASKED_AT_ONCE)]
        # File servers are slow to answer, but answer many requests at once.
        with ThreadPoolExecutor(_N_ASKING if len(blocks) > 1 else 1) as threads:
            return np.concatenate([np.empty((0, 2), dtype=np.int64), *threads.map(self._stat, blocks)])

    def _stat(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        found = []
        for image in images.tolist():
            try:
                status = os.stat(os.path.join(self.root, self.names[image]))
                found.append((status.st_size, status.st_mtime_ns))
            except (OSError, ValueError):  # ValueError: a zero byte in the name
                found.append((-1, -1))
        return np.array(found, dtype=np.int64).reshape(-1, 2)


STORED_MEMBER, DEFLATED_MEMBER, FIRST_REFUSAL = 0, 1, 2

HEADER_NBYTES = 30
"""Size of the fixed part of the header before each member of a zip file, in bytes."""


@dataclass(frozen=True)
class Members:
    """The byte ranges of images that are parts of a file."""

    # (n, 4) int64: the offset of the first byte of each member, or, with has_headers, of the header before
    # it; its size in the file in bytes, without that header; STORED_MEMBER, DEFLATED_MEMBER, or, from
    # FIRST_REFUSAL on, a refusal; and its size in bytes once it is unpacked.
    ranges: npt.NDArray[np.int64]
    # Reasons why members cannot be read in place; FIRST_REFUSAL stands for the first.
    refusals: tuple[str, ...]
    has_headers: bool  # True if a header of variable length precedes each member, as in zip files

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the versions of members, as :meth:`Storage.versions` does: the unpacked size of each."""
        unpacked = self.ranges[images, 3]
        return np.stack((unpacked, np.full_like(unpacked, -1)), axis=1)


@dataclass(frozen=True)
class MemberStorage(Storage):
    """Images that are parts of a local file, read only while it is unchanged.

    If the file has changed, the images of an archive fail, and a table ends the run.
    """

    path: bytes
    version: FileVersion
    members: Members
    is_table: bool = False

    def fetch(
        self,
        images: npt.NDArray[np.int64],
        scratch: Path,  # noqa: ARG002
    ) -> AbstractContextManager[Sequence[Place | str]]:
        """Return the places of images in the file; raise StoreError if a table has changed."""
        return contextlib.nullcontext(self._places(images))

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the size of each member, as listed."""
        return self.members.versions(images)

    def _places(self, images: npt.NDArray[np.int64]) -> list[Place | str]:
        try:
            with open(self.path, "rb") as file:
                if FileVersion.of(file.fileno()).has_content_of(self.version):
                    return list(find_members(self.path, file.fileno(), self.members, images))
            reason = "has changed since it was listed"
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        if self.is_table:
            raise StoreError(f"{os.fsdecode(self.path)!r} {reason}")
        return [f"its archive {reason}"] * len(images)


def find_members(
    path: bytes, fd: int, members: Members, images: npt.NDArray[np.int64]
) -> Iterator[Place | str]:
    """Yield the place of each image in a file with the bytes of an archive, or the reason why it has none."""
    for offset, nbytes, packing, unpacked in members.ranges[images].tolist():
        refusal = members.refusals[packing - FIRST_REFUSAL] if packing >= FIRST_REFUSAL else None
        start = offset if refusal or not members.has_headers else _find_data(fd, offset)
        if refusal or start is None:
            yield refusal or "damaged in its archive: its header is missing"
        else:
            yield Place(path, start, nbytes, unpacked if packing == DEFLATED_MEMBER else None)


def _find_data(fd: int, offset: int) -> int | None:
    """The offset of a zip member's first byte, after its header; None if ``offset`` has no header."""
    try:
        header = os.pread(fd, HEADER_NBYTES, offset)  # cheap, as the bytes after it are read anyway
    except OSError:  # a failing disk: the bytes after the header cannot be read either
        return None
    if len(header) < HEADER_NBYTES or header[:4] != b"PK\3\4":
        return None
    n_name, n_extra = struct.unpack_from("<HH", header, 26)  # they may differ from the central directory's
    return int(offset + HEADER_NBYTES + n_name + n_extra)


@dataclass(frozen=True)
class JoinedStorage(Storage):
    """Images of several storages: image ``i`` is number ``number_in[i]`` of ``parts[part_of[i]]``."""

    parts: tuple[Storage, ...]
    part_of: npt.NDArray[np.uint32]
    number_in: npt.NDArray[np.int64]

    @property
    def is_local(self) -> bool:
        """True if all storages are local."""
        return all(part.is_local for part in self.parts)

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Fetch images to this machine, one storage after the other."""
        places: list[Place | str] = [""] * len(images)
        part_of = self.part_of[images]
        with contextlib.ExitStack() as stack:
            for part in np.unique(part_of).tolist():
                own = np.flatnonzero(part_of == part)
                found = stack.enter_context(self.parts[part].fetch(self.number_in[images[own]], scratch))
                for position, place in zip(own.tolist(), found, strict=True):
                    places[position] = place
            yield places

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bytes to fetch for each image, from its storage."""
        nbytes = np.zeros(len(images), dtype=np.int64)
        for i, part in enumerate(self.parts):
            own = self.part_of[images] == i
            nbytes[own] = part.nbytes_of(self.number_in[images[own]])
        return nbytes

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the version of each image, from its storage."""
        found = np.full((len(images), 2), -1, dtype=np.int64)
        for i, part in enumerate(self.parts):
            own = self.part_of[images] == i
            found[own] = part.versions(self.number_in[images[own]])
        return found

    def cancel(self) -> None:
        """Cancel the transfers of all storages."""
        for part in self.parts:
            part.cancel()


def local_places(storage: Storage, images: npt.NDArray[np.int64]) -> Sequence[Place | str]:
    """Return the places of images in a local storage, or the reasons why they have none; valid as long as the files."""
    with storage.fetch(images, Path()) as places:
        return places
