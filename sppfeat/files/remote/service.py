"""The connection to the remote file system of a URL; each process connects for itself when it first needs to.

This is the only module that uses private names of fsspec and s3fs.
"""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeAlias, TypeVar

from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import judge, retried

__all__ = ["N_TRANSFERS", "Pause", "Service"]

_Value = TypeVar("_Value")

N_TRANSFERS = 32
"""The most objects to transfer at once."""

Pause: TypeAlias = Callable[[float], None]
"""Waits some seconds; raises SourceError once the transfers are cancelled."""

# Connections, kept until the process ends. If a forked process released those of its parent, it would remove the
# sockets of both from their shared epoll, and the parent would wait for its answers forever.
_connected: list[Any] = []

_SILENT_SECONDS = 30.0  # without a byte from a web server; s3fs has a limit of its own
_SINGLE_CONNECTION_SCHEMES = ("ftp", "sftp", "ssh", "smb")  # a single connection, which threads cannot share
_REMOTE_PACKAGES = ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")


class Service:
    """The service behind a checked URL, and behind all URLs that differ from it only in their path."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connected: tuple[int, Any] | None = None
        self._running: set[threading.Event] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the URL only, since the other process connects for itself."""
        return Service, (self._url,)

    @property
    def scheme(self) -> str:
        """Scheme of the URLs."""
        return self._url.partition("://")[0]

    @property
    def is_s3(self) -> bool:
        """True if the service speaks the S3 protocol."""
        return self.scheme in ("s3", "s3a")

    @functools.cached_property
    def key(self) -> tuple[str, str]:
        """A key that is equal for URLs of the same service."""
        return self.scheme, repr(sorted(self._class._get_kwargs_from_urls(self._url).items()))

    @property
    def fs(self) -> Any:
        """The fsspec file system of this process, connected when it is first asked for.

        Raises:
            ConfigError: a package is missing, or the URL and the user's configuration give no file system.
        """
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), self._connect()
        return self._connected[1]

    @functools.cached_property
    def _class(self) -> Any:
        purpose = f"reading and writing {self.scheme}:// URLs"
        import_extra("fsspec", extra="remote", purpose=purpose)
        registry = import_extra("fsspec.registry", extra="remote", purpose=purpose)
        try:
            return registry.get_filesystem_class(self.scheme)
        except ImportError as error:
            package = (getattr(error.__cause__, "name", None) or "").partition(".")[0]
            if not package:
                raise ConfigError(f"{purpose}: {error}") from error
            wanted = "'sppfeat[remote]'" if package in _REMOTE_PACKAGES else package.replace("_", "-")
            raise ConfigError(
                f"{purpose} needs the package {package}, which is not installed: pip install {wanted}"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"the URL {shown(self._url)} is of a kind that fsspec does not know; allowed: s3://, gs://, https:// "
                "and the others that it knows"
            ) from error

    def _connect(self) -> Any:
        options = {**_own_options(self.scheme), **self._class._get_kwargs_from_urls(self._url)}
        try:
            fs = self._class(**options)
        except Exception as error:  # whatever a file system raises for settings that it cannot use
            raise ConfigError(f"cannot connect to {shown(self._url)}: {judge(error)[1]}") from error
        if self.is_s3:
            fs.retries = 1  # retries are made here, in one place
        fs.invalidate_cache()  # other users in this process may have listed with it
        if not any(fs is other for other in _connected):
            _connected.append(fs)
        return fs

    def path(self, url: str) -> str:
        """Return the file system's name for a URL."""
        return str(self.fs._strip_protocol(url))

    def s3_bucket_and_key(self, url: str) -> tuple[str, str]:
        """Return the bucket and the key of an S3 URL; the key is empty for a bucket."""
        bucket, key, _ = self.fs.split_path(self.path(url))
        return bucket, key

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system, with retries, and return its result; the last attempt's error is raised."""
        return retried(functools.partial(getattr(self.fs, method), *arguments, **options))

    def run(self, jobs: Sequence[Callable[[Pause], _Value]]) -> list[_Value]:
        """Run jobs in threads, many at once, and return their results in order; the first error ends all others.

        Each job calls its :data:`Pause` between attempts and as often as it can; SourceError follows a :meth:`cancel`.
        """
        stop = threading.Event()

        def pause(seconds: float) -> None:
            if stop.wait(seconds):
                raise SourceError(f"reading {shown(self._url)} was cancelled")

        self._running.add(stop)
        n_threads = 1 if self.scheme in _SINGLE_CONNECTION_SCHEMES else max(1, min(N_TRANSFERS, len(jobs)))
        with ThreadPoolExecutor(n_threads, "sppfeat-remote") as pool:
            try:
                futures = [pool.submit(job, pause) for job in jobs]
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
                return [future.result() for future in futures]
            finally:
                self._running.discard(stop)
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def cancel(self) -> None:
        """End the transfers that other threads are waiting for; later ones are not affected."""
        for stop in list(self._running):
            stop.set()


def _own_options(scheme: str) -> dict[str, Any]:
    """Return our settings for a scheme; the user's settings for fsspec take precedence."""
    own: dict[str, Any] = {}
    if scheme in ("s3", "s3a"):
        own = {
            "use_listings_cache": False,
            # One request of a known length per object, instead of two, or of parts that may belong to two versions.
            "max_concurrency": 1,
            "config_kwargs": {"max_pool_connections": N_TRANSFERS, "retries": {"total_max_attempts": 1}},
        }
    elif scheme in ("http", "https"):
        aiohttp = import_extra("aiohttp", extra="remote", purpose=f"reading {scheme}:// URLs")
        # aiohttp's default of five minutes for a whole file is too short for a large one.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
        own = {"client_kwargs": {"timeout": timeout}}
    theirs = import_extra("fsspec.config", extra="remote", purpose="reading URLs").conf.get(scheme, {})
    return {
        name: {**value, **theirs.get(name, {})} if isinstance(value, dict) else theirs.get(name, value)
        for name, value in own.items()
    }
