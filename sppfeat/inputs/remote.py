"""Listing and storage of images in object stores and on servers."""

import contextlib
import itertools
import os
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SppfeatError
from sppfeat.files.byte_ranges import Place
from sppfeat.files.folders import walk_order
from sppfeat.files.image_names import has_image_suffix
from sppfeat.files.paths import PathTable
from sppfeat.files.remote import check_url, shown
from sppfeat.files.remote.fetcher import UNKNOWN_SIZE, Fetcher
from sppfeat.files.remote.listing import is_folder, objects_below
from sppfeat.files.remote.retries import Patience
from sppfeat.files.remote.service import Service
from sppfeat.inputs.containers import is_archive, is_container, kind_of
from sppfeat.inputs.roots import is_url
from sppfeat.inputs.segments import Segment

__all__ = ["RemoteStorage", "find_objects", "has_urls", "read_remote"]


@dataclass(frozen=True)
class RemoteStorage:
    """Images that are objects of one service.

    Attributes:
        service: service that has the objects.
        top: URL to which the names are relative; empty if the names are URLs themselves.
        names: names of the objects.
        sizes: ``(n,)`` int64, listed sizes in bytes; ``UNKNOWN_SIZE`` for an unlisted one.
    """

    service: Service
    top: bytes
    names: PathTable
    sizes: npt.NDArray[np.int64]

    is_local = False

    @property
    def nbytes(self) -> int:
        """Memory of names and sizes, in bytes."""
        return self.names.nbytes + self.sizes.nbytes

    @contextlib.contextmanager
    def fetch(self, images: npt.NDArray[np.int64], scratch: Path) -> Iterator[Sequence[Place | str]]:
        """Fetch objects to this machine, many at a time, each into its own file.

        Raises:
            SourceError: the service cannot be reached or refuses everything, or :meth:`cancel` was called.
        """
        with tempfile.TemporaryDirectory(
            dir=scratch, prefix="fetched-", ignore_cleanup_errors=True
        ) as folder:
            self.service.connect()
            urls = [self._url(i) for i in images.tolist()]
            witness = self._url(0) if len(self.names) else None
            fetcher = Fetcher(self.service, Path(folder), witness=witness)
            yield self.service.run(fetcher.fetch(urls, self.sizes[images].tolist()))

    def nbytes_of(self, images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Listed size of each of these objects in bytes, ``(n,)`` int64; 0 if unknown."""
        return np.maximum(self.sizes[images], 0)

    def cancel(self) -> None:
        """Cancel the transfers that another thread is waiting for; its :meth:`fetch` raises SourceError."""
        self.service.cancel()

    def _url(self, image: int) -> str:
        name = os.fsdecode(self.names[image])
        return f"{os.fsdecode(self.top)}/{name}" if self.top else name


def read_remote(urls: Iterable[bytes], *, patience: Patience | None = None) -> Iterator[Segment]:
    """Yield the images of URLs, in order; consecutive objects form one segment.

    A URL with an image suffix is an image, without a request to its service. A URL that ends in a slash is a folder;
    for any other, the service decides. A folder is read like a local one: files with an image suffix, without hidden
    names, in natural order.

    Args:
        urls: URLs of object stores and servers, with any scheme that fsspec supports.
        patience: limits on retries; None for the default.

    Raises:
        ConfigError: a URL is not allowed, does not exist, or is a kind of file that can only be read locally.
        SourceError: a service cannot be reached, or refuses to list.
    """
    services: dict[tuple[str, str], Service] = {}
    inputs = (_input(os.fsdecode(url), services, patience) for url in urls)
    for key, together in itertools.groupby(inputs, lambda found: found.is_alone or found.service.key):
        if key is True:
            for found in together:
                yield from _read(found)
        else:
            yield _objects(together)


class _Input(NamedTuple):
    """A URL with its service, marked as a folder or a file."""

    url: str
    service: Service
    is_folder: bool

    @property
    def is_alone(self) -> bool:
        """True if it forms a segment of its own, as a folder, an archive or a table."""
        return self.is_folder or kind_of(os.fsencode(self.url)) is not None


def _input(text: str, services: dict[tuple[str, str], Service], patience: Patience | None) -> _Input:
    url = check_url(text)
    new = Service(url, patience=patience)
    service = services.setdefault(new.key, new)
    service.connect()
    if text.endswith("/"):
        return _Input(url, service, is_folder=True)
    is_object = has_image_suffix(os.fsencode(url)) or service.scheme in ("http", "https")
    return _Input(url, service, is_folder=not is_object and is_folder(service, url))


def _objects(inputs: Iterator[_Input]) -> Segment:
    """Make a segment from objects of one service that were named one by one."""
    first = next(inputs)
    names = PathTable(found.url for found in itertools.chain([first], inputs))
    return Segment(None, names, storage=_unlisted(first.service, names))


def _unlisted(service: Service, urls: PathTable) -> RemoteStorage:
    """Make a storage of objects without a request to their service."""
    return RemoteStorage(service, b"", urls, np.full(len(urls), UNKNOWN_SIZE, dtype=np.int64))


def _read(found: _Input) -> Iterator[Segment]:
    """Yield the images of an archive or below a folder; for a folder without images, those of the archives below it."""
    if not found.is_folder:
        yield _read_archive(found.service, found.url)
        return
    scan = _Scan(found)
    images = scan.images()
    yield images
    if not len(images.names):
        for name in scan.archives():
            yield _read_archive(found.service, f"{found.url}/{os.fsdecode(name)}")


def _read_archive(service: Service, url: str) -> Segment:
    from sppfeat.inputs.archives.remote import read_remote_archive

    if not is_archive(os.fsencode(url)):
        raise ConfigError(
            f"{shown(url)} cannot be read where it is: fetch it first; allowed there: images, folders, .tar and .zip "
            "files"
        )
    return read_remote_archive(service, url)


class _Scan:
    """Lists the objects below a URL and sorts them into images, archives and others."""

    def __init__(self, found: _Input) -> None:
        self._found = found
        self._sizes = array("q")
        self._archives: list[bytes] = []
        self._n_other_files = 0

    def images(self) -> Segment:
        """Return the images, in the order of a walk through local folders."""
        listed = PathTable(self._image_names())
        order = walk_order(listed)
        names = PathTable(listed[i] for i in order.tolist())
        top = os.fsencode(self._found.url)
        sizes = np.array(self._sizes, dtype=np.int64)[order]
        n_other_files = self._n_other_files + (len(self._archives) if len(names) else 0)
        storage = RemoteStorage(self._found.service, top, names, sizes)
        return Segment(top, names, storage=storage, n_other_files=n_other_files)

    def archives(self) -> list[bytes]:
        """Return the archives found on the way, in the same order."""
        names = PathTable(self._archives)
        return [names[i] for i in walk_order(names).tolist()]

    def _image_names(self) -> Iterator[bytes]:
        n_objects = 0
        for name, size in objects_below(self._found.service, self._found.url):
            n_objects += 1
            if not name or name.endswith(b"/") or name.startswith(b".") or b"/." in name:
                continue  # the mark of a folder in an object store, or hidden
            if has_image_suffix(name):
                self._sizes.append(size)
                yield name
            elif is_container(name):
                self._archives.append(name)
            else:
                self._n_other_files += 1
        if not n_objects:
            raise ConfigError(f"no such object or folder: {shown(self._found.url)}")


def has_urls(names: PathTable) -> bool:
    """Return True if any of these paths is a URL."""
    return any(b"://" in name and is_url(name) for name in names)


def find_objects(
    names: PathTable, error_at: Callable[[int, str], SppfeatError]
) -> tuple[PathTable, RemoteStorage]:
    """Normalize the URLs of a table and make a storage of their objects, without a request to their service.

    Args:
        names: URLs in the rows of the table.
        error_at: makes an error from a position among them and a message.

    Raises:
        ConfigError: a name is not a URL, a URL is not allowed, or the URLs belong to several services.
    """
    services: dict[str, Service] = {}
    urls = PathTable(_checked(names, services, error_at))
    first, *others = services.values()
    if any(other.key != first.key for other in others):
        shown = ", ".join(map(repr, list(services)[:5]))
        raise error_at(0, f"the URLs of the table are of several services, {shown}; allowed: one")
    return urls, _unlisted(first, urls)


def _checked(
    names: PathTable, services: dict[str, Service], error_at: Callable[[int, str], SppfeatError]
) -> Iterator[str]:
    """Yield each URL, and add the services of new hosts and buckets to ``services``."""
    for position, name in enumerate(names):
        if not is_url(name):
            raise error_at(
                position,
                f"found {one_line(repr(os.fsdecode(name)))}, on this machine, and URLs on other rows; allowed: all one "
                "or the other",
            )
        try:
            url = check_url(os.fsdecode(name))
        except ConfigError as error:
            raise error_at(position, str(error)) from error
        host = "/".join(url.split("/", 3)[:3])
        if host not in services:
            services[host] = Service(url)
        yield url
