"""The service behind a URL: its connection in each process, its failures, and retries of temporary ones.

The packages behind fsspec raise errors without a common base class. An error is classified by the status or code of
the server's answer if there was one, and otherwise by the names of its classes. This is the only module that uses
private names of fsspec and s3fs.
"""

import enum
import errno
import functools
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any, TypeAlias, TypeVar

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown

__all__ = ["N_TRANSFERS", "FailureKind", "Pause", "Service", "judge", "retried", "source_error"]

_Value = TypeVar("_Value")

_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # most seconds between attempts
_LONGEST_SECONDS = 180.0  # seconds after which no attempt begins


class FailureKind(enum.Enum):
    """Kinds of failures, by the condition that must change before another attempt can succeed."""

    MISSING = "the object does not exist"
    DENIED = "the object may not be read or written"
    REFUSED = "the service refuses everything: wrong or missing credentials"
    PASSING = "the service does not answer, breaks off, or reports overload"
    LOCAL = "this machine's disk is full"
    OTHER = "anything else"


# HTTP statuses, S3 error codes, and names of error classes; the most specific one counts.
_SIGNS: dict[FailureKind, tuple[int | str, ...]] = {
    FailureKind.MISSING: (404, 410, "NoSuchKey", "NoSuchBucket", "FileNotFoundError"),
    FailureKind.DENIED: (403, "AccessDenied", "InvalidObjectState", "PermissionError"),
    FailureKind.REFUSED: (
        *(401, "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed"),
        *("SignatureDoesNotMatch", "TokenRefreshRequired"),
        # BotoCoreError: no credentials, or a profile or region that does not exist.
        *("BotoCoreError", "DefaultCredentialsError", "RefreshError"),
    ),
    FailureKind.PASSING: (
        *(408, 425, 429, 500, 502, 503, 504),
        *("InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling"),
        *("ClientError", "ConnectionError", "FSTimeoutError", "HTTPClientError", "IncompleteRead"),
        *("IncompleteReadError", "ResponseStreamingError", "SSHException", "TimeoutError"),
        *("TransportError", "gaierror"),
    ),
    FailureKind.OTHER: ("InvalidURL",),
}
_KIND_OF = {sign: kind for kind, signs in _SIGNS.items() for sign in signs}
_REASONS = {FailureKind.MISSING: "no such object", FailureKind.DENIED: "permission denied"}
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


def judge(error: Exception) -> tuple[FailureKind, str]:
    """Return the kind of a failure, and its reason in words and without secrets."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        code, status = _code(cause), _status(cause)
        kind = _KIND_OF.get(code) or (_KIND_OF.get(status, FailureKind.OTHER) if status else None)
        if kind is not None:
            text = f"the server says {' '.join(filter(None, (str(status or ''), one_line(code))))}"
            return kind, text if code == "NoSuchBucket" else _REASONS.get(kind, text)
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        return FailureKind.LOCAL, error.strerror or "no space"
    for cause in reversed(causes):  # fsspec reports a missing file when a server does not answer
        for base in type(cause).__mro__:
            if kind := _KIND_OF.get(base.__name__):
                return kind, _REASONS.get(kind) or _text(cause)
    return FailureKind.PASSING if isinstance(error, OSError) else FailureKind.OTHER, _text(error)


def source_error(verb: str, url: str, error: Exception) -> ConfigError | SourceError:
    """Make the error to raise if an input cannot be accessed: a ConfigError if it does not exist."""
    kind, reason = judge(error)
    if kind is FailureKind.MISSING:
        return ConfigError(f"no such object or folder: {shown(url)}")
    return SourceError(f"cannot {verb} {shown(url)}: {reason}")


def retried(attempt: Callable[[], _Value], *, pause: Callable[[float], None] = time.sleep) -> _Value:
    """Repeat an attempt while its failure may be temporary, up to 8 times in three minutes, and return its result.

    Pauses are randomly shortened by up to one half, so that transfers that failed together do not hit the server
    together again. Raises the error of the last attempt.
    """
    began = time.monotonic()
    for longest in _DELAYS:
        delay = longest * random.uniform(0.5, 1)
        try:
            return attempt()
        except Exception as error:
            is_late = time.monotonic() - began + delay > _LONGEST_SECONDS
            if is_late or judge(error)[0] is not FailureKind.PASSING:
                raise
        pause(delay)
    return attempt()


def _status(error: BaseException) -> int | None:
    """Return the HTTP status of an answer, from the attribute in which its package keeps it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "status_code", None)
        status = status or getattr(response, "status_code", None)
        if not type(error).__module__.startswith("aiohttp"):  # its parser reports 400 for a body cut short
            status = status or getattr(error, "code", None)
    try:
        return int(status) if 100 <= int(status) < 600 else None
    except (TypeError, ValueError):
        return None


def _code(error: BaseException) -> str:
    """Return the error code in an object store's answer; empty without one."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return code if isinstance(code, str) and not code.isdecimal() else ""


def _text(error: BaseException) -> str:
    """Return the text of an error, without queries and passwords in its URLs."""
    text = re.sub(r"(?<=://)[^/\s@]*@", "...@", str(error))
    text = re.sub(r"\?[^\s'\")]*", "?...", " ".join(text.split()))
    return one_line(f"{type(error).__name__}: {text}" if text else type(error).__name__, longest=160)


N_TRANSFERS = 32
"""Most objects to transfer at once."""

Pause: TypeAlias = Callable[[float], None]
"""Waits some seconds; raises SourceError once the transfers are cancelled."""

# Connections, kept until the process ends. If a forked process released those of its parent, it would remove the
# sockets of both from their shared epoll, and the parent would wait for its answers forever.
_connected: list[Any] = []

_SILENT_SECONDS = 30.0  # seconds without a byte from a web server; s3fs has its own limit
# These have a single connection, which threads cannot share.
_SINGLE_CONNECTION_SCHEMES = ("ftp", "sftp", "ssh", "smb")
_REMOTE_PACKAGES = ("fsspec", "s3fs", "aiobotocore", "botocore", "aiohttp")


class Service:
    """The service behind a checked URL and all URLs that differ from it only in their path."""

    def __init__(self, url: str) -> None:
        self.scheme = url.partition("://")[0]
        self.is_s3 = self.scheme in ("s3", "s3a")
        self._url = url
        self._connected: tuple[int, Any] | None = None
        self._running: set[threading.Event] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the URL: each process connects for itself."""
        return Service, (self._url,)

    @functools.cached_property
    def key(self) -> tuple[str, str]:
        """A key that is equal for URLs of the same service."""
        return self.scheme, repr(sorted(self._class._get_kwargs_from_urls(self._url).items()))

    @property
    def fs(self) -> Any:
        """The fsspec file system of this process, connected on first use.

        Raises ConfigError if a package is missing, or the user's configuration yields no file system for the URL.
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
                f"fsspec does not support URLs such as {shown(self._url)}; allowed: s3://, gs://, https:// and others "
                "that it supports"
            ) from error

    def _connect(self) -> Any:
        options = {**_own_options(self.scheme), **self._class._get_kwargs_from_urls(self._url)}
        try:
            fs = self._class(**options)
        except Exception as error:  # a file system may raise anything for settings that it cannot use
            raise ConfigError(f"cannot connect to {shown(self._url)}: {judge(error)[1]}") from error
        if self.is_s3:
            fs.retries = 1  # this module retries
        fs.invalidate_cache()  # other code in this process may have listed with it
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
        """Call a method of the file system, with retries; raise the error of the last attempt."""
        return retried(functools.partial(getattr(self.fs, method), *arguments, **options))

    def run(self, jobs: Sequence[Callable[[Pause], _Value]]) -> list[_Value]:
        """Run jobs in threads, many at once, and return their results in order; the first error ends all others.

        Each job calls its :data:`Pause` between attempts and as often as possible; after :meth:`cancel` that raises
        SourceError.
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
        """End the transfers that other threads wait for; later ones are not affected."""
        for stop in list(self._running):
            stop.set()


def _own_options(scheme: str) -> dict[str, Any]:
    """Return our default settings for a scheme; the user's fsspec settings take precedence."""
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
