"""Listing of the objects below a URL."""

from collections.abc import Iterator
from typing import Any

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import judge, source_error
from sppfeat.files.remote.fetcher import UNKNOWN_SIZE
from sppfeat.files.remote.service import Service

__all__ = ["is_folder", "objects_below"]

_DEEPEST = 100


def is_folder(service: Service, url: str) -> bool:
    """Return True if a URL is a folder, with objects below it but none at it; False if it is an object.

    Raises:
        ConfigError: there is nothing at or below the URL.
        SourceError: the service does not answer.
    """
    try:
        return bool(service.ask("info", service.path(url))["type"] == "directory")
    except Exception as error:
        raise source_error("find", url, judge(error)) from error


def objects_below(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the name below a URL and the size of each object, in bytes or ``UNKNOWN_SIZE``.

    S3 lists a thousand objects at a time, other services one folder at a time.

    Raises:
        ConfigError: the URL, or a folder below it, does not exist.
        SourceError: the URL cannot be listed.
    """
    try:
        if service.is_s3:
            yield from _s3_objects(service, url)
        else:
            yield from _objects_by_folder(service, url)
    except (ConfigError, SourceError):
        raise
    except Exception as error:
        raise source_error("list", url, judge(error)) from error


def _s3_objects(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield all keys that begin with a folder's name, in byte order.

    s3fs's own ``find`` keeps a dictionary of 1.2 kB per key in memory until it has all of them.
    """
    bucket, key = service.s3_bucket_and_key(url)
    prefix = f"{key}/" if key else ""
    where: dict[str, str] = {}
    while True:
        question = {"Bucket": bucket, "Prefix": prefix, **where}
        page = service.run(
            service.persistently(lambda question=question: service.call_s3("list_objects_v2", **question))  # type: ignore[misc]
        )
        for entry in page.get("Contents", ()):
            yield _encoded(entry["Key"][len(prefix) :]), int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        where = {"ContinuationToken": page["NextContinuationToken"]}


def _objects_by_folder(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the objects in a folder and its subfolders, in the byte order of their names."""
    top = service.path(url).rstrip("/") + "/"
    stack = [_entries(service, top)]
    while stack:
        for path, size in stack[-1]:
            if not path.startswith(top):
                raise SourceError(f"the list of {shown(url)} names {shown(path)}, which does not lie there")
            if not path.endswith("/"):
                yield _encoded(path[len(top) :]), size
                continue
            if len(stack) == _DEEPEST:
                raise ConfigError(f"folders lie in each other {_DEEPEST} deep: {shown(path)}; allowed: fewer")
            stack.append(_entries(service, path))
            break
        else:
            stack.pop()


def _entries(service: Service, folder: str) -> Iterator[tuple[str, int]]:
    """Return the entries of one folder, without hidden ones: paths, with a trailing slash for folders, and sizes."""
    found = {}
    for entry in service.ask(
        "ls", folder if service.scheme in ("http", "https") else folder.rstrip("/"), detail=True
    ):
        path = entry["name"].rstrip("/")
        if not path.rpartition("/")[2].startswith("."):
            is_below = entry["type"] == "directory"
            found[f"{path}/" if is_below else path] = UNKNOWN_SIZE if is_below else _size(entry)
    return iter(sorted(found.items()))


def _size(entry: Any) -> int:
    size = entry.get("size")
    return UNKNOWN_SIZE if size is None else int(size)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
