"""Objects of a service: listed, fetched many at once, and read in ranges."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError, ImageError, SourceError
from sppfeat.files.globs import find_system_folder
from sppfeat.files.places import Place
from sppfeat.files.remote import shown
from sppfeat.files.remote.service import FailureKind, Pause, Service, judge, retried, source_error

__all__ = [
    "LARGEST_OBJECT",
    "UNKNOWN_SIZE",
    "Fetcher",
    "is_folder",
    "objects_below",
    "open_object",
    "watched",
]

LARGEST_OBJECT = 1 << 30
"""Most bytes of an object; a larger one fails, since no image that can be decoded is that large."""

UNKNOWN_SIZE = -1
"""Size of an object that was listed without one."""

_DEEPEST = 100
_IN_A_ROW = 8
_DENIED = "permission denied"
_AHEAD_NBYTES = 4 << 20  # bytes that arrive in about the time of one round trip


def is_folder(service: Service, url: str) -> bool:
    """Return True if a URL has objects below it but none at it; raise ConfigError if it has neither."""
    try:
        return bool(service.ask("info", service.path(url))["type"] == "directory")
    except Exception as error:
        raise source_error("find", url, error) from error


def objects_below(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the name below a URL and the size of each object, in bytes or ``UNKNOWN_SIZE``.

    S3 lists a thousand objects at a time, other services one folder at a time. Raises ConfigError if the folder does
    not exist, and SourceError if it cannot be listed.
    """
    try:
        yield from (_s3_objects if service.is_s3 else _objects_by_folder)(service, url)
    except (ConfigError, SourceError):
        raise
    except Exception as error:
        raise source_error("list", url, error) from error


def _s3_objects(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield all keys that begin with a folder's name, in byte order.

    s3fs's own ``find`` keeps a dictionary of 1.2 kB per key in memory until it has all of them.
    """
    bucket, key = service.s3_bucket_and_key(url)
    prefix = f"{key}/" if key else ""
    where = {"Bucket": bucket, "Prefix": prefix}
    while True:
        page = service.ask("call_s3", "list_objects_v2", **where)
        for entry in page.get("Contents", ()):
            yield os.fsencode(entry["Key"][len(prefix) :]), int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        where["ContinuationToken"] = page["NextContinuationToken"]


def _objects_by_folder(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the objects in a folder and its subfolders, without hidden ones, in the order of their names.

    For a system folder, yields only its name, with a final slash.
    """
    top = service.path(url).rstrip("/") + "/"

    def below(folder: str, depth: int) -> Iterator[tuple[bytes, int]]:
        if depth > _DEEPEST:
            raise ConfigError(f"folders are nested {_DEEPEST} deep: {shown(folder)}; allowed: fewer")
        entries = service.ask("ls", folder if is_web else folder.rstrip("/"), detail=True)
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            path, size = entry["name"].rstrip("/"), entry.get("size")
            name = os.fsencode(path.rpartition("/")[2])
            is_system = entry["type"] == "directory" and find_system_folder(name + b"/") is not None
            if name.startswith(b".") and not is_system:
                continue
            if not path.startswith(top):
                raise SourceError(f"the list of {shown(url)} contains {shown(path)}, which is not below it")
            if is_system:
                yield os.fsencode(path[len(top) :]) + b"/", 0
            elif entry["type"] == "directory":
                yield from below(f"{path}/", depth + 1)
            else:
                yield os.fsencode(path[len(top) :]), UNKNOWN_SIZE if size is None else int(size)

    is_web = service.scheme in ("http", "https")
    yield from below(top, 1)


class Fetcher:
    """Fetches objects of one service, or ranges of one, to this machine.

    A lasting failure counts against the object if the service still answers. If it does not answer at all, both methods
    raise SourceError, so that no image counts as bad because a network is down. They also raise it if the local disk is
    full or the transfers are cancelled.

    Args:
        service: service that has the objects.
        folder: an existing, empty folder for the fetched files.
        witness: URL of an object to request when it is unclear whether the service answers.
    """

    def __init__(self, service: Service, folder: Path, *, witness: str) -> None:
        self._service = service
        self._folder = folder
        self._witness = witness
        self._n_failed_in_a_row = 0

    def fetch(self, urls: Sequence[str], sizes: Sequence[int]) -> list[Place | str]:
        """Fetch objects of these sizes into files of their own; return their places, or the reasons of failures."""
        attempts = [
            functools.partial(self._fetch_object, url, size, self._folder / str(number))
            for number, (url, size) in enumerate(zip(urls, sizes, strict=True))
        ]
        return self._run(urls, attempts)

    def fetch_ranges(self, url: str, ranges: Sequence[tuple[int, int]], file: Path) -> list[str | None]:
        """Fetch ranges, each a start and a stop, of an object into a new file; return None or a reason for each.

        They have the same offsets in the file as in the object, with holes between them.
        """
        with open(file, "xb") as opened:

            def fetch(start: int, stop: int, pause: Pause) -> None:
                pause(0)
                os.pwrite(opened.fileno(), _read_range(self._service, url, start, stop), start)

            return self._run([url] * len(ranges), [functools.partial(fetch, *each) for each in ranges])

    def _run(self, urls: Sequence[str], attempts: Sequence[Callable[[Pause], Any]]) -> list[Any]:
        jobs = [functools.partial(self._try, *each) for each in zip(urls, attempts, strict=True)]
        results = self._service.run(jobs)
        if len(results) >= _IN_A_ROW and all(result == _DENIED for result in results):
            raise SourceError(f"cannot read any of {len(urls)} objects, such as {shown(urls[0])}: {_DENIED}")
        return results

    def _try(self, url: str, attempt: Callable[[Pause], Any], pause: Pause) -> Any:
        """Make attempts at an object, and return the result or the reason of a lasting failure."""
        try:
            result = retried(lambda: attempt(pause), pause=pause)
        except ImageError as error:
            return str(error)
        except SourceError:
            raise
        except Exception as error:
            return self._reason(url, error)
        self._n_failed_in_a_row = 0
        return result

    def _reason(self, url: str, error: Exception) -> str:
        """Return the reason of a lasting failure, or raise SourceError if it does not concern this object alone."""
        kind, reason = judge(error)
        where = shown(url)
        if kind is FailureKind.LOCAL or not self._folder.is_dir():
            raise SourceError(f"cannot write {where} to {str(self._folder)!r}: {reason}") from error
        if kind is FailureKind.REFUSED:
            raise SourceError(f"cannot read {where}: {reason}") from error
        if kind is FailureKind.PASSING:
            self._n_failed_in_a_row += 1
            if self._n_failed_in_a_row >= _IN_A_ROW or not self._answers_witness():
                raise SourceError(f"cannot read {where} after many attempts: {reason}") from error
        else:
            self._n_failed_in_a_row = 0
        return reason

    def _answers_witness(self) -> bool:
        """Return True if the service answers a request for the witness, even with an error."""
        try:
            self._service.fs.info(self._service.path(self._witness))
        except Exception as error:
            return judge(error)[0] in (FailureKind.MISSING, FailureKind.DENIED)
        return True

    def _fetch_object(self, url: str, size: int, file: Path, pause: Pause) -> Place:
        """Make one attempt to fetch an object into a file."""

        def check(n_bytes: int | None, n_done: int) -> None:
            pause(0)
            most = max(n_bytes or 0, n_done)
            if most > LARGEST_OBJECT:
                raise ImageError(f"the object has {most} bytes or more; allowed: {LARGEST_OBJECT}")

        check(size, 0)
        fs, path = self._service.fs, self._service.path(url)
        fs.get_file(path, str(file), callback=watched(check))
        n_bytes = os.stat(file).st_size
        # Fewer bytes than listed are complete if a smaller object has replaced this one.
        if n_bytes < size and n_bytes < (fs.info(path).get("size") or 0):
            raise ConnectionError(f"the transfer ended after {n_bytes} of {size} bytes")
        return Place(os.fsencode(file))


def watched(check: Callable[[int | None, int], None]) -> Any:
    """Make an fsspec callback that calls a function with the size of a transfer, if known, and the bytes done."""
    callbacks = import_extra("fsspec.callbacks", extra="remote", purpose="reading and writing URLs")
    return callbacks.Callback(hooks={"check": lambda size, value, **_: check(size, value)})


def open_object(service: Service, url: str, nbytes: int) -> BinaryIO:
    """Open an object of ``nbytes`` bytes for reading at any position; fsspec reads ahead by 4 MiB.

    Raises:
        OSError: on reading, if a range cannot be read; the text is the reason.
    """
    spec = import_extra("fsspec.spec", extra="remote", purpose="reading URLs")

    class RangeFile(spec.AbstractBufferedFile):  # type: ignore[misc,name-defined]
        def _fetch_range(self, start: int, end: int) -> bytes:
            try:
                return retried(lambda: _read_range(service, url, start, end))
            except Exception as error:
                raise OSError(str(error) if isinstance(error, ImageError) else judge(error)[1]) from error

    path = service.path(url)
    file = RangeFile(service.fs, path, block_size=_AHEAD_NBYTES, cache_type="readahead", size=nbytes)
    return cast(BinaryIO, file)


def _read_range(service: Service, url: str, start: int, stop: int) -> bytes:
    """Read the bytes of an object from ``start`` to ``stop``, in one attempt."""
    content: bytes = service.fs.cat_file(service.path(url), start=start, end=stop)
    if len(content) < stop - start:
        raise ConnectionError(f"the transfer ended after {len(content)} of {stop - start} bytes")
    if len(content) > stop - start:
        raise ImageError("the server does not send parts of the object")
    return content
