"""Remote archives, listed and read in parts and never fetched as a whole."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.places import FileVersion, Place
from sppfeat.files.remote import shown
from sppfeat.files.remote.objects import Fetcher, open_object
from sppfeat.files.remote.service import FailureKind, Service, judge, source_error
from sppfeat.inputs.archives import index_archive, segment_at
from sppfeat.inputs.archives.index_cache import load_index, save_index
from sppfeat.inputs.members import Members, find_members
from sppfeat.inputs.segments import Segment

__all__ = ["RemoteMemberStorage", "read_remote_archive"]

_PIECE = 4 << 20  # bytes of a request; N_TRANSFERS of them are in memory
_NEAR = 256 << 10  # a smaller gap between two members is fetched with them rather than by another request
_LONGEST_HEADER = 4096  # bytes of the header of a zip member, with its name and extra field


def read_remote_archive(service: Service, url: str) -> Segment:
    """Find the images of a remote tar or zip file, in its order.

    Raises:
        ConfigError: the archive does not exist, or cannot be read as one.
        SourceError: its service cannot be reached, or refuses.
    """
    name = os.fsencode(url)
    try:
        found = service.ask("info", service.path(url))
    except Exception as error:
        raise source_error("read the archive", url, error) from error
    if found.get("size") is None:
        raise ConfigError(f"cannot read the archive {shown(url)}: its server does not say how long it is")
    version = FileVersion.of_object(found)
    index = load_index(name, version)
    if index is None:
        try:
            with open_object(service, url, version.nbytes) as file:
                index = index_archive(name, file)
        except OSError as error:
            raise SourceError(f"cannot read the archive {shown(url)}: {error}") from error
        except ConfigError as error:
            raise ConfigError(f"cannot read the archive {shown(url)}: {error}") from error
        save_index(name, version, index)
    segment, members = index
    return segment_at(name, segment, RemoteMemberStorage(service, url, version, members))


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

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Fetch images into a single file, neighbors by one request; see :class:`Fetcher` for its errors."""
        with tempfile.TemporaryDirectory(
            dir=scratch, prefix="fetched-", ignore_cleanup_errors=True
        ) as folder:
            yield list(self._places(images, Path(folder)))

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Size of each of these images on this machine in bytes, ``(n,)`` int64."""
        return np.asarray(self.members.ranges[images, 1])

    def cancel(self) -> None:
        """End a fetch of another thread, which raises SourceError."""
        self.service.cancel()

    def _places(self, images: npt.NDArray[np.int64], folder: Path) -> Iterator[Place | str]:
        reason = self._reason_if_changed()
        if reason is not None:
            yield from [reason] * len(images)
            return
        slack = _LONGEST_HEADER if self.members.has_headers else 0
        starts, nbytes = self.members.ranges[images, :2].T
        stops = np.minimum(starts + nbytes + slack, self.version.nbytes)
        pieces = [
            (start, min(start + _PIECE, stop))
            for first, stop in _joined_ranges(starts, stops).tolist()
            for start in range(first, stop, _PIECE)
        ]
        file = folder / "archive"  # with holes: all bytes have their offsets in the archive
        reasons = Fetcher(self.service, folder, witness=self.url).fetch_ranges(self.url, pieces, file)
        failed = [(*piece, why) for piece, why in zip(pieces, reasons, strict=True) if why is not None]
        with open(file, "rb") as opened:
            found = list(find_members(os.fsencode(file), opened.fileno(), self.members, images))
        for place, start, stop in zip(found, starts.tolist(), stops.tolist(), strict=True):
            lost = next((why for first, end, why in failed if start < end and first < stop), None)
            if lost is not None:
                yield lost
            elif isinstance(place, Place) and place.offset - start > slack:
                yield f"damaged in its archive: the header before it has more than {slack} bytes"
            else:
                yield place

    def _reason_if_changed(self) -> str | None:
        try:
            found = self.service.ask("info", self.service.path(self.url))
        except Exception as error:
            kind, reason = judge(error)
            if kind in (FailureKind.MISSING, FailureKind.DENIED):
                return f"its archive cannot be read: {reason}"
            raise source_error("read the archive", self.url, error) from error
        is_same = FileVersion.of_object(found).has_content_of(self.version)
        return None if is_same else "its archive has changed since it was listed"


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
