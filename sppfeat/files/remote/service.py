"""A remote file system, connected to when it is needed, by each process for itself."""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sppfeat.config.machine import import_extra
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote.failures import judge
from sppfeat.files.remote.retries import Patience, retried
from sppfeat.files.remote.urls import shown

__all__ = ["N_TRANSFERS", "PATIENCE", "Service"]

_Value = TypeVar("_Value")

N_TRANSFERS = 32
"""Objects that are transferred at once."""

PATIENCE = Patience()
"""With services, where nothing else is said."""

# Never given back before the process ends. In a forked one, giving back those of the parent would take the sockets of
# both from the epoll that they share, and the parent would wait for its answers for ever.
_connected: list[Any] = []

_ONE_AT_ONCE = ("ftp", "sftp", "ssh", "smb")  # one connection, which threads cannot share
_OF_EXTRA = ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")


class Service:
    """What serves the objects of a URL, and of others that differ from it in their path only.

    Copies and other processes, forked ones too, connect again.

    Args:
        url: which; see :func:`sppfeat.files.remote.urls.check_url`.
        patience: with what may pass.
    """

    def __init__(self, url: str, *, patience: Patience | None = None) -> None:
        self._url = url
        self.patience = patience or PATIENCE
        self._connected: tuple[int, Any] | None = None
        self._running: set[concurrent.futures.Future[Any]] = set()
        self._lock = threading.Lock()  # of what is running: it may be cancelled as soon as it has begun
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what another process makes its own from."""
        return functools.partial(Service, patience=self.patience), (self._url,)

    def __repr__(self) -> str:
        return f"<Service {shown(self._url)}>"

    @property
    def scheme(self) -> str:
        """Of its URLs."""
        return self._url.partition("://")[0]

    @functools.cached_property
    def key(self) -> tuple[str, str]:
        """Equal for URLs of the same service."""
        return self.scheme, repr(sorted(self._class._get_kwargs_from_urls(self._url).items()))

    @property
    def fs(self) -> Any:
        """The file system of fsspec, of this process.

        Raises:
            ConfigError: it cannot be made of what the URL and the user's configuration say.
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
            wanted = "'sppfeat[remote]'" if package in _OF_EXTRA else package.replace("_", "-")
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
        except Exception as error:  # whatever a file system makes of settings that it cannot use
            raise ConfigError(f"cannot connect to {shown(self._url)}: {judge(error).reason}") from error
        if self.scheme in ("s3", "s3a"):
            fs.retries = 1  # what may pass is tried again here, in one place
        else:
            fs.invalidate_cache()  # others of this process may have listed with it
        if not any(fs is other for other in _connected):
            _connected.append(fs)
        return fs

    def connect(self) -> None:
        """Find out now whether its package is there and its settings can be used; raises as :attr:`fs`."""
        _ = self.fs

    def path(self, url: str) -> str:
        """What the file system calls a URL."""
        return str(self.fs._strip_protocol(url))

    def run(self, coroutine: Coroutine[Any, Any, _Value]) -> _Value:
        """What a coroutine returns that runs in fsspec's own thread; it ends with an interruption of this one.

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
        """End what is running for other threads, at once; not what they begin after that."""
        with self._lock:
            running = list(self._running)
        for future in running:
            future.cancel()

    async def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of the file system returns, of those that it has waiting or not; once."""
        fs = self.fs
        if fs.async_impl:
            return await getattr(fs, f"_{method}")(*arguments, **options)
        if self._threads is None:
            n_threads = 1 if self.scheme in _ONE_AT_ONCE else N_TRANSFERS
            self._threads = concurrent.futures.ThreadPoolExecutor(n_threads, "sppfeat-remote")
        call = functools.partial(getattr(fs, method), *arguments, **options)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def patiently(self, answer: Awaitable[_Value]) -> _Value:
        """Return an answer; TimeoutError where it takes longer than anybody is silent."""
        return await asyncio.wait_for(answer, self.patience.silence)

    async def persistently(self, attempt: Callable[[], Awaitable[_Value]]) -> _Value:
        """What an attempt returns, tried again while it fails with what may pass."""

        async def limited() -> _Value:
            return await asyncio.wait_for(attempt(), self.patience.silence)

        return await retried(
            limited, is_passing=lambda error: judge(error).is_passing, patience=self.patience
        )

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of the file system returns, likewise.

        Raises:
            Exception: that of the last attempt.
        """
        return self.run(self.persistently(lambda: self.call(method, *arguments, **options)))


def _own_options(scheme: str) -> dict[str, Any]:
    """Settings beside those of the user, whose own win."""
    if scheme in ("s3", "s3a"):
        configured = _configured(("s3", "s3a"))
        return {
            "use_listings_cache": False,
            # One request an object, of a known length, in place of two and of parts that may be of two versions.
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
        # Five minutes for all of a file, as aiohttp has it, are too few for a large one.
        timeout = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30)}
        return {**configured, "client_kwargs": {**timeout, **configured.get("client_kwargs", {})}}
    return {}


def _configured(schemes: tuple[str, ...]) -> dict[str, Any]:
    """What the user's configuration of fsspec says of a kind of URLs."""
    conf = import_extra("fsspec.config", extra="remote", purpose="reading URLs").conf
    return {name: value for scheme in schemes for name, value in conf.get(scheme, {}).items()}
