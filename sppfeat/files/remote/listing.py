"""What lies below a URL, page by page."""

from collections.abc import Iterator
from typing import Any

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote.failures import Failure, Kind, judge
from sppfeat.files.remote.fetcher import UNKNOWN_SIZE
from sppfeat.files.remote.service import Service
from sppfeat.files.remote.urls import shown

__all__ = ["is_folder", "objects_below", "source_error"]

_DEEPEST = 100


def source_error(verb: str, url: str, failure: Failure) -> ConfigError | SourceError:
    """Make the error of an input that cannot be read.

    Args:
        verb: of what cannot be done, such as ``list``.
        url: of the input.
        failure: the reason.
    """
    if failure.kind is Kind.MISSING:
        return ConfigError(f"no such object or folder: {shown(url)}")
    return SourceError(f"cannot {verb} {shown(url)}: {failure.reason}")


def is_folder(service: Service, url: str) -> bool:
    """Whether there is something below a URL, and no object at it.

    Raises:
        ConfigError: there is nothing.
        SourceError: that cannot be found out.
    """
    try:
        return bool(service.ask("info", service.path(url))["type"] == "directory")
    except Exception as error:
        raise source_error("find", url, judge(error)) from error


def objects_below(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the objects below a URL: their names relative to it, and their bytes, or ``UNKNOWN_SIZE``.

    They come as the service lists them: from S3 by a thousand, from others by folder.

    Raises:
        ConfigError: the URL, or a folder in it, is not there.
        SourceError: it cannot be listed.
    """
    try:
        if service.scheme in ("s3", "s3a"):
            yield from _s3_objects(service, url)
        else:
            yield from _objects_by_folder(service, url)
    except (ConfigError, SourceError):
        raise
    except Exception as error:
        raise source_error("list", url, judge(error)) from error


def _s3_objects(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield all keys that begin with a folder's name, which come in the order of their bytes.

    Not by s3fs's own ``find``, which keeps a dictionary of 1.2 kB for each until all are there.
    """
    fs = service.fs
    bucket, key, _ = fs.split_path(service.path(url))
    prefix = f"{key}/" if key else ""
    where: dict[str, str] = {}
    while True:
        question = {"Bucket": bucket, "Prefix": prefix, **where}
        page = service.run(
            service.persistently(lambda question=question: fs._call_s3("list_objects_v2", **question))  # type: ignore[misc]
        )
        for entry in page.get("Contents", ()):
            yield _encoded(entry["Key"][len(prefix) :]), int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        where = {"ContinuationToken": page["NextContinuationToken"]}


def _objects_by_folder(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield what lies in a folder and in those below it, in the order of the bytes of the names."""
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
    """What lies in one folder: paths, with a slash behind those of folders, and bytes; hidden ones left out."""
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
