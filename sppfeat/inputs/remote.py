"""Lists and fetches images in object stores and on servers: objects, folders, and archives read in parts."""

import contextlib
import itertools
import os
import tempfile
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SourceError, SppfeatError
from sppfeat.files.globs import PathFilter, find_system_folder
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import N_EXAMPLES, PathTable, PathTableBuilder, walk_order
from sppfeat.files.places import FileVersion, Place
from sppfeat.files.remote import check_url, shown
from sppfeat.files.remote.objects import UNKNOWN_SIZE, Fetcher, is_folder, objects_below, open_object
from sppfeat.files.remote.service import FailureKind, Service, judge, source_error
from sppfeat.inputs.archives import index_archive, load_index, save_index, segment_at
from sppfeat.inputs.names import ContainerKind, is_container, is_url, kind_of
from sppfeat.inputs.segments import Members, Segment, Storage, choose_images, find_members

__all__ = ["find_objects", "read_remote"]

_PIECE = 4 << 20  # bytes of a request; N_TRANSFERS of them are in memory
_NEAR = 256 << 10  # a smaller gap between two members is fetched, too, which saves a request
_LONGEST_HEADER = 4096  # most bytes of the header of a zip member, with its name and extra field


def read_remote(urls: Iterable[bytes], paths: PathFilter | None = None) -> Iterator[Segment]:
    """Yield the images of URLs that ``paths`` chooses, in order; consecutive objects form one segment.

    A URL with an image suffix is an image, without a request to its service. A URL that ends in a slash is a folder;
    for any other, the service decides. A folder is read like a local one: files with an image suffix, without hidden
    names, in natural order. Any scheme that fsspec supports works. Raises SourceError if a service cannot be reached
    or refuses to list, and ConfigError for any other URL without images.
    """
    paths = paths or PathFilter()
    services: dict[tuple[str, str], Service] = {}
    inputs = (_look_up(os.fsdecode(url), services) for url in urls)
    for (service, kind), together in itertools.groupby(inputs, lambda found: found[1:]):
        found = (url for url, *_ in together)
        if kind == "object":
            objects = PathTable(found)
            yield choose_images(Segment(None, objects, storage=_unlisted(service, objects)), paths, b"")
            continue
        for url in found:
            segments = (
                _read_folder(service, url, paths) if kind == "folder" else [_read_archive(service, url)]
            )
            yield from (choose_images(segment, paths, os.fsencode(url)) for segment in segments)


def _look_up(text: str, services: dict[tuple[str, str], Service]) -> tuple[str, Service, str]:
    """Return a URL, its service, and its kind: an ``object``, a ``folder`` or a ``file`` of images."""
    url = check_url(text)
    new = Service(url)
    if "*" in url and new.scheme not in ("http", "https"):
        raise ConfigError(f"{shown(url)} is a pattern; give the URL of the folder, and --include '*.jpg'")
    service = services.setdefault(new.key, new)
    _ = service.fs  # reports a missing package
    is_object = has_image_suffix(os.fsencode(url)) or service.scheme in ("http", "https")
    if text.endswith("/") or (not is_object and is_folder(service, url)):
        return url, service, "folder"
    return url, service, "object" if kind_of(os.fsencode(url)) is None else "file"


def _read_folder(service: Service, url: str, paths: PathFilter) -> Iterator[Segment]:
    """Yield the images below a folder; or, without any, those of the archives below it."""
    images, listed_sizes, containers = PathTableBuilder(), array("q"), list[bytes]()
    system_folders = dict[bytes, None]()
    n_objects, others = 0, list[bytes]()
    for name, size in objects_below(service, url):
        n_objects += 1
        if (found := find_system_folder(name)) is not None:
            system_folders[found] = None
        elif (
            not name or name.endswith(b"/") or name.startswith(b".") or b"/." in name or paths.excludes(name)
        ):
            continue  # the mark of a folder in an object store, hidden, or left out
        elif has_image_suffix(name):
            images.extend([name])
            listed_sizes.append(size)
        elif is_container(name):
            containers.append(name)
        else:
            others.append(name)
    if not n_objects:
        raise ConfigError(f"no such object or folder: {shown(url)}")
    listed = images.build()
    order = walk_order(listed)
    names, sizes = PathTable(listed[i] for i in order.tolist()), np.array(listed_sizes, dtype=np.int64)[order]
    storage = _Objects(service, os.fsencode(url), names, sizes)
    if len(names):
        others, containers = others + containers, []
    # A table next to archives describes them; remote tables cannot be read anyway.
    folders = {os.path.dirname(name) for name in containers if kind_of(name) is ContainerKind.ARCHIVE}
    tables = (ContainerKind.ARROW, ContainerKind.PARQUET)
    side_tables = [
        name for name in containers if kind_of(name) in tables and os.path.dirname(name) in folders
    ]
    yield Segment(
        os.fsencode(url),
        names,
        storage=storage,
        n_other_files=len(others),
        other_files=tuple(others[:N_EXAMPLES]),
        system_folders=tuple(system_folders),
        side_tables=tuple(side_tables),
    )
    archives = PathTable(name for name in containers if name not in side_tables)
    for i in walk_order(archives).tolist():
        yield _read_archive(service, f"{url}/{os.fsdecode(archives[i])}")


def _read_archive(service: Service, url: str) -> Segment:
    """Find the images of a remote tar or zip file, in its order, by reading parts of it."""
    name = os.fsencode(url)
    if kind_of(name) is not ContainerKind.ARCHIVE:
        allowed = "images, folders, .tar and .zip files"
        raise ConfigError(
            f"{shown(url)} cannot be read remotely: download it first; allowed as URLs: {allowed}"
        )
    try:
        found = service.ask("info", service.path(url))
    except Exception as error:
        raise source_error("read the archive", url, error) from error
    if found.get("size") is None:
        raise ConfigError(f"cannot read the archive {shown(url)}: its server does not report its size")
    version = FileVersion.of_object(found)
    index = load_index(name, version)
    if index is None:
        try:
            with open_object(service, url, version.nbytes) as file:
                index = index_archive(name, file)
        except (OSError, ConfigError) as error:
            kind = SourceError if isinstance(error, OSError) else ConfigError
            raise kind(f"cannot read the archive {shown(url)}: {error}") from error
        save_index(name, version, index)
    segment, members = index
    return segment_at(name, segment, _Members(service, url, version, members))


def find_objects(
    names: PathTable, error_at: Callable[[int, str], SppfeatError]
) -> tuple[PathTable, Storage] | None:
    """Normalize the URLs of a table and make a storage of their objects, without a request to their service.

    Returns None if no name is a URL. Raises the error at a position if only some are URLs, one is not allowed, or they
    belong to several services.
    """
    if not any(b"://" in name and is_url(name) for name in names):
        return None
    services: dict[str, Service] = {}  # by host or bucket

    def urls() -> Iterator[str]:
        for position, name in enumerate(names):
            if not is_url(name):
                found = f"found the local path {one_line(repr(os.fsdecode(name)))}, and URLs in other rows"
                raise error_at(position, f"{found}; allowed: only paths, or only URLs")
            try:
                url = check_url(os.fsdecode(name))
            except ConfigError as error:
                raise error_at(position, str(error)) from error
            host = "/".join(url.split("/", 3)[:3])
            if host not in services:
                services[host] = Service(url)
            yield url

    table = PathTable(urls())
    first, *others = services.values()
    if any(other.key != first.key for other in others):
        hosts = ", ".join(map(repr, list(services)[:5]))
        raise error_at(0, f"the URLs of the table belong to several services, {hosts}; allowed: one")
    return table, _unlisted(first, table)


@dataclass(frozen=True)
class _RemoteStorage(Storage):
    """Images of one service, fetched into a folder of their own."""

    service: Service

    is_local = False

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        with tempfile.TemporaryDirectory(
            dir=scratch, prefix="fetched-", ignore_cleanup_errors=True
        ) as folder:
            yield self._fetch(images, Path(folder))

    @abstractmethod
    def _fetch(self, images: npt.NDArray[np.int64], folder: Path) -> list[Place | str]:
        """Fetch images into an empty folder; see :class:`Fetcher` for the errors."""

    def cancel(self) -> None:
        self.service.cancel()


@dataclass(frozen=True)
class _Objects(_RemoteStorage):
    """Images that are objects."""

    top: bytes  # URL to which the names are relative; empty if the names are URLs themselves
    names: PathTable  # names of the objects
    sizes: npt.NDArray[np.int64]  # (n,) int64, listed sizes in bytes; UNKNOWN_SIZE for an unlisted one

    def _fetch(self, images: npt.NDArray[np.int64], folder: Path) -> list[Place | str]:
        urls = [self._url(i) for i in images.tolist()]
        fetcher = Fetcher(self.service, folder, witness=self._url(0) if urls else "")
        return fetcher.fetch(urls, self.sizes[images].tolist())

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.maximum(self.sizes[images], 0)

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        sizes = self.sizes[images]
        return np.stack((sizes, np.full_like(sizes, -1)), axis=1)

    def _url(self, image: int) -> str:
        name = os.fsdecode(self.names[image])
        return f"{os.fsdecode(self.top)}/{name}" if self.top else name


def _unlisted(service: Service, urls: PathTable) -> _Objects:
    """Make a storage of objects without a request to their service."""
    return _Objects(service, b"", urls, np.full(len(urls), UNKNOWN_SIZE, dtype=np.int64))


@dataclass(frozen=True)
class _Members(_RemoteStorage):
    """Images in an archive, read only while it is unchanged; one request fetches neighboring images."""

    url: str
    version: FileVersion
    members: Members

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.asarray(self.members.ranges[images, 1])

    def versions(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return self.members.versions(images)

    def _fetch(self, images: npt.NDArray[np.int64], folder: Path) -> list[Place | str]:
        reason = self._reason_if_changed()
        if reason is not None:
            return [reason] * len(images)
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
        for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            place = found[i]
            if isinstance(place, Place) and place.offset - start > slack:
                found[i] = f"damaged in its archive: the header before it has more than {slack} bytes"
            found[i] = next((why for first, end, why in failed if start < end and first < stop), found[i])
        return found

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
