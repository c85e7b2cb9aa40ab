"""Listing of the objects below a URL."""

from collections.abc import Iterator

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import source_error
from sppfeat.files.remote.service import Service
from sppfeat.files.remote.transfers import UNKNOWN_SIZE

__all__ = ["is_folder", "objects_below"]

_DEEPEST = 100


def is_folder(service: Service, url: str) -> bool:
    """Return True if a URL has objects below it but none at it; raise ConfigError if it has neither, or SourceError."""
    try:
        return bool(service.ask("info", service.path(url))["type"] == "directory")
    except Exception as error:
        raise source_error("find", url, error) from error


def objects_below(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the name below a URL and the size of each object, in bytes or ``UNKNOWN_SIZE``.

    S3 lists a thousand objects at a time, other services one folder at a time.

    Raises:
        ConfigError: the URL, or a folder below it, does not exist.
        SourceError: the URL cannot be listed.
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
            yield _encoded(entry["Key"][len(prefix) :]), int(entry["Size"])
        if not page.get("IsTruncated"):
            return
        where["ContinuationToken"] = page["NextContinuationToken"]


def _objects_by_folder(service: Service, url: str) -> Iterator[tuple[bytes, int]]:
    """Yield the objects in a folder and its subfolders, without hidden ones, in the order of their names."""
    top = service.path(url).rstrip("/") + "/"

    def below(folder: str, depth: int) -> Iterator[tuple[bytes, int]]:
        if depth > _DEEPEST:
            raise ConfigError(f"folders lie in each other {_DEEPEST} deep: {shown(folder)}; allowed: fewer")
        entries = service.ask("ls", folder if is_web else folder.rstrip("/"), detail=True)
        for entry in sorted(entries, key=lambda entry: str(entry["name"])):
            path, size = entry["name"].rstrip("/"), entry.get("size")
            if path.rpartition("/")[2].startswith("."):
                continue
            if not path.startswith(top):
                raise SourceError(f"the list of {shown(url)} names {shown(path)}, which does not lie there")
            if entry["type"] == "directory":
                yield from below(f"{path}/", depth + 1)
            else:
                yield _encoded(path[len(top) :]), UNKNOWN_SIZE if size is None else int(size)

    is_web = service.scheme in ("http", "https")
    yield from below(top, 1)


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
