"""The connection to the remote file system of a URL; each process connects for itself when it first needs to.

This is the only module that uses private names of fsspec and s3fs.
"""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown
from sppfeat.files.remote.failures import judge
from sppfeat.files.remote.retries import Patience, retried

__all__ = ["N_TRANSFERS", "PATIENCE", "Service", "run_jobs"]

_Value = TypeVar("_Value")

N_TRANSFERS = 32
"""The most objects to transfer at once."""

PATIENCE = Patience()
"""Limits on retries where none are given."""

# Connections, kept until the process ends. If a forked process released those of its parent, it would remove the
# sockets of both from their shared epoll, and the parent would wait for its answers forever.
_connected: list[Any] = []

_SINGLE_CONNECTION_SCHEMES = ("ftp", "sftp", "ssh", "smb")  # a single connection, which threads cannot share
_REMOTE_PACKAGES = ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")


class Service:
    """The service behind a URL, and behind all URLs that differ from it only in their path.

    Copies of this object and other processes, forked ones included, connect again.

    Args:
        url: URL, as :func:`sppfeat.files.remote.check_url` returns it.
        patience: limits on retries.
    """

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        self._url = url
        self.patience = patience or PATIENCE
        self._connected: tuple[int, Any] | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._lock = threading.Lock()  # before it runs: it may be cancelled as soon as it has begun
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the URL and the patience only, since the other process connects for itself."""
        return functools.partial(Service, patience=self.patience), (self._url,)

    def __repr__(self) -> str:
        return f"<Service {shown(self._url)}>"

    @property
    def scheme(self) -> str:
        """Scheme of the URLs."""
        return self._url.partition("://")[0]

    @functools.cached_property
    def key(self) -> tuple[str, str]:
        """A key that is equal for URLs of the same service."""
        return self.scheme, repr(sorted(self._class._get_kwargs_from_urls(self._url).items()))

    @property
    def fs(self) -> Any:
        """The fsspec file system of this process.

        Raises:
            ConfigError: the URL and the user's configuration give no file system.
        """
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), self._connect()
            self._threads, self._running, self._lock = None, set(), threading.Lock()
        return self._connected[1]

    @functools.cached_property
    def _class(self) -> Any:
        purpose = f"reading and writing {self.scheme}:// URLs"
        import_extra("fsspec", extra="remote", purpose=purpose)
        registry = import_extra("fsspec.registry", extra="remote", purpose=purpose)
        try:
            return registry.get_filesystem_class(self.scheme)
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None) or ""
            package = missing.partition(".")[0]
            wanted = "'sppfeat[remote]'" if package in _REMOTE_PACKAGES else package.replace("_", "-")
            raise ConfigError(
                f"{purpose} needs the package {package}, which is not installed: pip install {wanted}"
                if package
                else f"{purpose}: {error}"
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
            raise ConfigError(f"cannot connect to {shown(self._url)}: {judge(error).reason}") from error
        if self.is_s3:
            fs.retries = 1  # retries are made here, in one place
        else:
            fs.invalidate_cache()  # other users in this process may have listed with it
        if not any(fs is other for other in _connected):
            _connected.append(fs)
        return fs

    def connect(self) -> None:
        """Connect now, to report a missing package or invalid settings early; raises the errors of :attr:`fs`."""
        _ = self.fs

    def path(self, url: str) -> str:
        """Return the file system's name for a URL."""
        return str(self.fs._strip_protocol(url))

    @property
    def is_s3(self) -> bool:
        """True if the service speaks the S3 protocol."""
        return self.scheme in ("s3", "s3a")

    def s3_bucket_and_key(self, url: str) -> tuple[str, str]:
        """Return the bucket and the key of an S3 URL; the key is empty for a bucket."""
        bucket, key, _ = self.fs.split_path(self.path(url))
        return bucket, key

    def call_s3(self, operation: str, **arguments: Any) -> Awaitable[Any]:
        """Call an operation of the S3 API once, such as ``put_object``."""
        answer: Awaitable[Any] = self.fs._call_s3(operation, **arguments)
        return answer

    def run(self, coroutine: Coroutine[Any, Any, _Value]) -> _Value:
        """Run a coroutine in fsspec's own thread and return its result; an interruption of this thread cancels it.

        Raises:
            SourceError: :meth:`cancel` was called.
        """
        loop = import_extra("fsspec.asyn", extra="remote", purpose="reading URLs").get_loop()
        with self._lock:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
            self._running.add(future)
        try:
            return future.result()
        except concurrent.futures.CancelledError as error:
            raise SourceError(f"reading {shown(self._url)} was cancelled") from error
        finally:
            future.cancel()
            with self._lock:
                self._running.discard(future)

    def cancel(self) -> None:
        """Cancel the transfers that other threads are waiting for; later ones are not affected."""
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system once, asynchronous or not, and return its result."""
        fs = self.fs
        if fs.async_impl:
            return await getattr(fs, f"_{method}")(*arguments, **options)
        if self._threads is None:
            n_threads = 1 if self.scheme in _SINGLE_CONNECTION_SCHEMES else N_TRANSFERS
            self._threads = concurrent.futures.ThreadPoolExecutor(n_threads, "sppfeat-remote")
        call = functools.partial(getattr(fs, method), *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def patiently(self, answer: Awaitable[_Value]) -> _Value:
        """Await an answer; raise TimeoutError if it takes longer than ``patience.silence`` seconds."""
        return await asyncio.wait_for(answer, self.patience.silence)

    async def persistently(self, attempt: Callable[[], Awaitable[_Value]]) -> _Value:
        """Repeat an attempt while its failures are temporary, and return its result."""

        async def limited() -> _Value:
            return await asyncio.wait_for(attempt(), self.patience.silence)

        return await retried(
            limited, is_passing=lambda error: judge(error).is_passing, patience=self.patience
        )

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system with retries, and return its result.

        Raises:
            Exception: the error of the last attempt.
        """
        return self.run(self.persistently(lambda: self.call(method, *arguments, **options)))


async def run_jobs(jobs: Sequence[Callable[[], Awaitable[_Value]]], n_at_once: int) -> list[_Value]:
    """Run jobs, a few at once, and return their results in order; the first error cancels all others.

    Args:
        jobs: functions that begin a job.
        n_at_once: the most jobs to run at the same time.

    Raises:
        Exception: the error of the first job that failed.
    """
    results: dict[int, _Value] = {}
    left = iter(range(len(jobs)))

    async def run_some() -> None:
        for i in left:
            results[i] = await jobs[i]()

    workers = [asyncio.ensure_future(run_some()) for _ in range(min(n_at_once, len(jobs)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[i] for i in range(len(jobs))]


def _own_options(scheme: str) -> dict[str, Any]:
    """Return the package's settings for a scheme; the user's settings take precedence."""
    if scheme in ("s3", "s3a"):
        configured = _configured(("s3", "s3a"))
        return {
            "use_listings_cache": False,
            # One request of a known length per object, instead of two, or of parts that may belong to two versions.
            "max_concurrency": 1,
            **configured,
            "config_kwargs": {
                "max_pool_connections": N_TRANSFERS,
                "retries": {"total_max_attempts": 1},
                **configured.get("config_kwargs", {}),
            },
        }
    if scheme in ("http", "https"):
        aiohttp = import_extra("aiohttp", extra="remote", purpose=f"reading {scheme}:// URLs")
        configured = _configured(("http", "https"))
        # aiohttp's default of five minutes for a whole file is too short for a large one.
        timeout = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30)}
        return {**configured, "client_kwargs": {**timeout, **configured.get("client_kwargs", {})}}
    return {}


def _configured(schemes: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings for some schemes from the user's fsspec configuration."""
    conf = import_extra("fsspec.config", extra="remote", purpose="reading URLs").conf
    return {name: value for scheme in schemes for name, value in conf.get(scheme, {}).items()}
