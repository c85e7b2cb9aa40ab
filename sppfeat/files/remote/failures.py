"""Failures of remote file systems: their kinds and reasons, and retries of those that may pass.

The packages behind fsspec raise errors without a common base class. An error is classified by the status or code of
the server's answer if there was one, and otherwise by the names of its classes.
"""

import enum
import errno
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown

__all__ = ["FailureKind", "judge", "retried", "source_error"]

_Value = TypeVar("_Value")

_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between attempts, at most
_LONGEST_SECONDS = 180.0  # no attempt begins later


class FailureKind(enum.Enum):
    """Kinds of failures, by what must change before another attempt can succeed."""

    MISSING = "the object is not there"
    DENIED = "the object may not be read or written"
    REFUSED = "the service refuses everything: wrong or missing credentials"
    PASSING = "the service gives no answer, breaks it off, or says that it is overloaded"
    LOCAL = "this machine cannot take more: a full disk"
    OTHER = "anything else"


# Statuses of HTTP, error codes of S3, and names of error classes, of which the most specific one counts.
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
_IN_WORDS = {FailureKind.MISSING: "no such object", FailureKind.DENIED: "permission denied"}
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
            said = f"the server says {' '.join(filter(None, (str(status or ''), one_line(code))))}"
            return kind, said if code == "NoSuchBucket" else _IN_WORDS.get(kind, said)
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        return FailureKind.LOCAL, error.strerror or "no space"
    for cause in reversed(causes):  # fsspec reports a missing file when a server does not answer
        for base in type(cause).__mro__:
            if kind := _KIND_OF.get(base.__name__):
                return kind, _IN_WORDS.get(kind) or _text(cause)
    return FailureKind.PASSING if isinstance(error, OSError) else FailureKind.OTHER, _text(error)


def source_error(verb: str, url: str, error: Exception) -> ConfigError | SourceError:
    """Make the error to raise if an input cannot be accessed: a ConfigError if it does not exist."""
    kind, reason = judge(error)
    if kind is FailureKind.MISSING:
        return ConfigError(f"no such object or folder: {shown(url)}")
    return SourceError(f"cannot {verb} {shown(url)}: {reason}")


def retried(attempt: Callable[[], _Value], *, pause: Callable[[float], None] = time.sleep) -> _Value:
    """Repeat an attempt while its failure may pass, up to 8 times in three minutes, and return its result.

    Each pause, in seconds, is randomly shortened by up to one half: transfers that failed together and began again
    together could bring the server down again. The error of the last attempt is raised.
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
    """Return the HTTP status of an answer, from the attribute in which its package keeps it; None if there is none."""
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
    """Return the error code in an object store's answer; empty if there is none."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return code if isinstance(code, str) and not code.isdecimal() else ""


def _text(error: BaseException) -> str:
    """Return the text of an error, without queries and passwords in its URLs."""
    said = re.sub(r"(?<=://)[^/\s@]*@", "...@", str(error))
    said = re.sub(r"\?[^\s'\")]*", "?...", " ".join(said.split()))
    return one_line(f"{type(error).__name__}: {said}" if said else type(error).__name__, longest=160)
