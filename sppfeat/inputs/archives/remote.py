"""Remote archives, listed and read in parts and never fetched as a whole."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.byte_ranges import DEFLATED, STORED, Place
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import FailureKind, judge, source_error
from sppfeat.files.remote.fetcher import Fetcher, FetchJob
from sppfeat.files.remote.ranges import RangeError, RangeFile, read_range
from sppfeat.files.remote.service import Service
from sppfeat.files.versions import FileVersion
from sppfeat.inputs.archives import index_archive
from sppfeat.inputs.archives.index import DEFLATED_MEMBER, ArchiveIndex, Members
from sppfeat.inputs.archives.index_cache import load_index, save_index
from sppfeat.inputs.archives.zip import HEADER_NBYTES, data_offset
from sppfeat.inputs.segments import Segment

__all__ = ["RemoteMemberStorage", "read_remote_archive"]

_PIECE = 4 << 20  # bytes of a request; N_TRANSFERS of them are in memory
_NEAR = 256 << 10  # a smaller gap between two members is fetched with them rather than by another request
_LONGEST_HEADER = 4096  # bytes of the header of a zip member, with its name and extra field


def read_remote_archive(service: Service, url: str) -> Segment:
    """Find the images of a remote tar or zip file, in its order.

    Raises:
        ConfigError: the archive does not exist, is not a tar or zip file, is compressed as a whole, damaged or cut
            short.
        SourceError: the archive cannot be read.
    """
    path = service.path(url)
    try:
        found = service.ask("info", path)
    except Exception as error:
        raise source_error("read the archive", url, judge(error)) from error
    if found.get("size") is None:
        raise ConfigError(f"cannot read the archive {shown(url)}: its server does not say how long it is")
    version = FileVersion.of_object(found)
    index = load_index(os.fsencode(url), version)
    if index is None:
        index = _index(service, url, version.nbytes)
        save_index(os.fsencode(url), version, index)
    storage = RemoteMemberStorage(service, url, version, index.members)
    return index.segment(os.fsencode(url), storage)


def _index(service: Service, url: str, nbytes: int) -> ArchiveIndex:
    try:
        with io.BufferedReader(RangeFile(service, service.path(url), nbytes)) as file:
            return index_archive(os.fsencode(url), cast(BinaryIO, file))
    except RangeError as error:
        raise SourceError(f"cannot read the archive {shown(url)}: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"cannot read the archive {shown(url)}: {error}") from error


@dataclass(frozen=True)
class RemoteMemberStorage:
    """Images in a remote archive.

    Attributes:
        service: the service that has the archive.
        url: URL of the archive.
        version: version of the archive when it was listed; no image of another version is read.
        members: byte ranges of the images.
    """

    service: Service
    url: str
    version: FileVersion
    members: Members

    is_local = False

    @property
    def nbytes(self) -> int:
        """Memory of the storage, in bytes."""
        return self.members.memory_nbytes

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Fetch images to this machine, into a single file, with one request for neighboring images.

        Raises:
            SourceError: the service cannot be reached or refuses everything, or :meth:`cancel` was called.
        """
        self.service.connect()
        with tempfile.TemporaryDirectory(
            dir=scratch, prefix="fetched-", ignore_cleanup_errors=True
        ) as folder:
            yield list(self._places(images, Path(folder)))

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Size of each of these images on this machine in bytes, ``(n,)`` int64."""
        return np.asarray(self.members.nbytes[images], dtype=np.int64)

    def cancel(self) -> None:
        """Cancel the transfers that another thread is waiting for; its :meth:`fetch` raises SourceError."""
        self.service.cancel()

    def _places(self, images: npt.NDArray[np.int64], folder: Path) -> Iterator[Place | str]:
        reason = self._reason_if_changed()
        if reason is not None:
            yield from [reason] * len(images)
            return
        members = self.members
        refusals = [members.refusal(packing) for packing in members.packing[images].tolist()]
        own = np.flatnonzero([refusal is None for refusal in refusals])
        slack = _LONGEST_HEADER if members.has_headers else 0
        starts = members.offset[images]
        stops = np.minimum(starts + members.nbytes[images] + slack, self.version.nbytes)
        spool = _Spool(_joined_ranges(starts[own], stops[own]), folder / "spool")
        spool.fill(self.service, self.url)
        for position, refusal in enumerate(refusals):
            if refusal is not None:
                yield refusal
            else:
                yield self._place(int(images[position]), spool)

    def _reason_if_changed(self) -> str | None:
        try:
            found = self.service.ask("info", self.service.path(self.url))
        except Exception as error:
            failure = judge(error)
            if failure.kind in (FailureKind.MISSING, FailureKind.DENIED):
                return f"its archive cannot be read: {failure.reason}"
            raise source_error("read the archive", self.url, failure) from error
        is_same = FileVersion.of_object(found).has_content_of(self.version)
        return None if is_same else "its archive has changed since it was listed"

    def _place(self, image: int, spool: "_Spool") -> Place | str:
        """Return the place of an image in the spool, or the reason why it has none."""
        members = self.members
        offset, nbytes = int(members.offset[image]), int(members.nbytes[image])
        reason = spool.why_not(offset, offset + nbytes)
        if reason is not None:
            return reason
        start: int | None = offset
        if members.has_headers:
            start = data_offset(spool.read(offset, HEADER_NBYTES), offset)
            if start is None:
                return "damaged in its archive: there is no header before it"
            if start + nbytes > min(offset + nbytes + _LONGEST_HEADER, self.version.nbytes):
                return f"damaged in its archive: the header before it has more than {_LONGEST_HEADER} bytes"
            reason = spool.why_not(start, start + nbytes)
            if reason is not None:
                return reason
        packing = DEFLATED if int(members.packing[image]) == DEFLATED_MEMBER else STORED
        here = spool.position(start or 0)
        if packing == DEFLATED:
            return Place(spool.path, here, nbytes, DEFLATED, int(members.unpacked_nbytes[image]))
        return Place(spool.path, here, nbytes, STORED)


def _joined_ranges(starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join byte ranges that overlap or nearly touch; the result is ``(k, 2)`` int64, ascending and disjoint.

    Example:
        >>> _joined_ranges(np.array([900_000, 0, 10]), np.array([900_010, 20, 30])).tolist()
        [[0, 30], [900000, 900010]]
    """
    if not len(starts):
        return np.empty((0, 2), dtype=np.int64)
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    begins = np.concatenate(([True], starts[1:] - reach[:-1] > _NEAR))
    ends = np.concatenate((begins[1:], [True]))
    return np.stack((starts[begins], reach[ends]), axis=1)


class _Spool:
    """A local file with byte ranges of a remote object, one after the other.

    Args:
        ranges: ``(k, 2)`` int64, start and stop of each range in the object.
        path: path of the file, which is created.
    """

    def __init__(self, ranges: npt.NDArray[np.int64], path: Path) -> None:
        self._ranges = ranges
        lengths = ranges[:, 1] - ranges[:, 0]
        # Added to offsets in the object, these give offsets in this file.
        self._moved = np.cumsum(lengths) - lengths - ranges[:, 0]
        self.path = os.fsencode(path)
        self._failed: list[tuple[int, int, str]] = []

    def fill(self, service: Service, url: str) -> None:
        """Fetch all ranges, and remember the pieces that failed.

        Raises:
            SourceError: see :meth:`sppfeat.files.remote.fetcher.Fetcher.run`.
        """
        path = service.path(url)
        pieces = [
            (start, min(start + _PIECE, stop))
            for first, stop in self._ranges.tolist()
            for start in range(first, stop, _PIECE)
        ]
        with open(self.path, "xb") as file:

            async def fetch(start: int, stop: int) -> None:
                content = await service.patiently(read_range(service, path, start, stop))
                os.pwrite(file.fileno(), content, self.position(start))

            jobs = [FetchJob(url, partial(fetch, start, stop)) for start, stop in pieces]
            results = service.run(Fetcher(service, Path(), witness=url).run(jobs))
        self._failed = [
            (*piece, reason) for piece, reason in zip(pieces, results, strict=True) if reason is not None
        ]

    def position(self, offset: int) -> int:
        """Return the offset in this file for an offset in the object."""
        index = np.searchsorted(self._ranges[:, 0], offset, side="right") - 1
        return int(offset + self._moved[index])

    def why_not(self, start: int, stop: int) -> str | None:
        """Return the reason why bytes from ``start`` to ``stop`` are missing; None if they are present."""
        return next((reason for first, end, reason in self._failed if start < end and first < stop), None)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return bytes at an offset in the object; fewer at the end of the file."""
        with open(self.path, "rb") as file:
            file.seek(self.position(offset))
            return file.read(nbytes)
