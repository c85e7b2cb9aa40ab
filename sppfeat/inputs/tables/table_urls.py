"""Tables that name objects by their URLs."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathTable
from sppfeat.files.remote.fetcher import UNKNOWN_SIZE
from sppfeat.files.remote.service import Service
from sppfeat.files.remote.urls import check_url
from sppfeat.inputs.remote import RemoteStorage
from sppfeat.inputs.roots import is_url

__all__ = ["find_objects", "has_urls"]


def has_urls(names: PathTable) -> bool:
    """Whether there is any URL among some paths."""
    return any(b"://" in name and is_url(name) for name in names)


def find_objects(
    names: PathTable, error_at: Callable[[int, str], ConfigError]
) -> tuple[PathTable, RemoteStorage]:
    """Return URLs as they are meant, and where their objects are; nobody is asked for them.

    Args:
        names: what a table has in its rows.
        error_at: makes an error of a position among these, and of what is wrong there.

    Raises:
        ConfigError: one is no URL, or not allowed; or they are of several services.
    """
    services: dict[str, Service] = {}
    urls = PathTable(_checked(names, services, error_at))
    first, *others = services.values()
    if any(other.key != first.key for other in others):
        shown = ", ".join(map(repr, list(services)[:5]))
        raise error_at(0, f"the URLs of the table are of several services, {shown}; allowed: one")
    return urls, RemoteStorage(first, b"", urls, np.full(len(urls), UNKNOWN_SIZE, dtype=np.int64))


def _checked(
    names: PathTable, services: dict[str, Service], error_at: Callable[[int, str], ConfigError]
) -> Iterator[str]:
    """Yield each URL; adds to ``services`` those of the hosts and buckets that come."""
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
