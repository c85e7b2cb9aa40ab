"""Classification of failures of remote file systems: temporary or lasting, of one object or of the whole service.

The packages behind fsspec raise errors without a common base class. An error is classified by the status of the
server's answer if there was one, and otherwise by the names of its classes.
"""

import enum
import errno
import re
from typing import Any, NamedTuple

from sppfeat.config.wording import one_line
from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import shown

__all__ = ["Failure", "FailureKind", "judge", "source_error"]


class FailureKind(enum.Enum):
    """Kinds of failures, by what must change before another attempt can succeed."""

    MISSING = "the object is not there"
    DENIED = "the object may not be read or written"
    REFUSED = "the service refuses everything: wrong or missing credentials"
    UNREACHABLE = "the service gives no answer, or says that it is overloaded"
    BROKEN = "the service failed during an answer: it may pass, or concern this object alone"
    LOCAL = "this machine cannot take more: a full disk"
    OTHER = "anything else"


class Failure(NamedTuple):
    """A failure of a remote file system.

    Attributes:
        kind: kind of the failure.
        reason: the reason in words, without secrets.
    """

    kind: FailureKind
    reason: str

    @property
    def is_passing(self) -> bool:
        """True if another attempt may succeed without any change."""
        return self.kind in (FailureKind.UNREACHABLE, FailureKind.BROKEN)


_KIND_BY_STATUS = {
    401: FailureKind.REFUSED,
    403: FailureKind.DENIED,
    404: FailureKind.MISSING,
    408: FailureKind.UNREACHABLE,
    410: FailureKind.MISSING,
    425: FailureKind.UNREACHABLE,
    429: FailureKind.UNREACHABLE,
    500: FailureKind.BROKEN,
    502: FailureKind.BROKEN,
    503: FailureKind.UNREACHABLE,
    504: FailureKind.BROKEN,
}
_KIND_BY_CODE = {
    **dict.fromkeys(
        (
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
        ),
        FailureKind.REFUSED,
    ),
    **dict.fromkeys(
        ("RequestTimeout", "SlowDown", "Throttling", "ServiceUnavailable"), FailureKind.UNREACHABLE
    ),
    **dict.fromkeys(("NoSuchKey", "NoSuchBucket"), FailureKind.MISSING),
    **dict.fromkeys(
        ("AccessDenied", "InvalidObjectState"), FailureKind.DENIED
    ),  # the second: in an archive tier
    "InternalError": FailureKind.BROKEN,
}
_KIND_BY_CLASS = {
    "FileNotFoundError": FailureKind.MISSING,
    "PermissionError": FailureKind.DENIED,
    # A body was cut short.
    "ClientPayloadError": FailureKind.BROKEN,
    "IncompleteReadError": FailureKind.BROKEN,
    "IncompleteRead": FailureKind.BROKEN,
    "ResponseStreamingError": FailureKind.BROKEN,
    # There was no answer.
    "HTTPClientError": FailureKind.UNREACHABLE,
    "ClientConnectionError": FailureKind.UNREACHABLE,
    "ClientError": FailureKind.UNREACHABLE,
    "TimeoutError": FailureKind.UNREACHABLE,
    "FSTimeoutError": FailureKind.UNREACHABLE,
    "ConnectionError": FailureKind.UNREACHABLE,
    "gaierror": FailureKind.UNREACHABLE,
    "TransportError": FailureKind.UNREACHABLE,
    "SSHException": FailureKind.UNREACHABLE,
    # The rest of botocore's errors: no credentials, or a profile or region that does not exist.
    "BotoCoreError": FailureKind.REFUSED,
    "DefaultCredentialsError": FailureKind.REFUSED,
    "RefreshError": FailureKind.REFUSED,
    "InvalidURL": FailureKind.OTHER,
}
_LOCAL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


def judge(error: Exception) -> Failure:
    """Classify an error from a remote file system."""
    causes = _chain(error)
    for cause in causes:
        code, status = _code(cause), _status(cause)
        kind = _KIND_BY_CODE.get(code) or (_KIND_BY_STATUS.get(status, FailureKind.OTHER) if status else None)
        if kind is not None:
            return Failure(kind, _reason_in_words(kind, status, code))
    if isinstance(error, OSError) and error.errno in _LOCAL_ERRNOS:
        return Failure(FailureKind.LOCAL, error.strerror or "no space")
    for cause in reversed(causes):  # fsspec reports a missing file when a server does not answer
        for base in type(cause).__mro__:
            if base.__name__ in _KIND_BY_CLASS:
                kind = _KIND_BY_CLASS[base.__name__]
                return Failure(kind, _IN_WORDS[kind] if kind in _IN_WORDS else _text(cause))
    return Failure(FailureKind.BROKEN if isinstance(error, OSError) else FailureKind.OTHER, _text(error))


def source_error(verb: str, url: str, failure: Failure) -> ConfigError | SourceError:
    """Make the error to raise for an input that cannot be accessed.

    Args:
        verb: the action that failed, such as ``list``.
        url: URL of the input.
        failure: the failure.

    Returns:
        A ConfigError if the input does not exist, a SourceError otherwise.
    """
    if failure.kind is FailureKind.MISSING:
        return ConfigError(f"no such object or folder: {shown(url)}")
    return SourceError(f"cannot {verb} {shown(url)}: {failure.reason}")


_IN_WORDS = {FailureKind.MISSING: "no such object", FailureKind.DENIED: "permission denied"}


def _reason_in_words(kind: FailureKind, status: int | None, code: str) -> str:
    if kind in _IN_WORDS and code != "NoSuchBucket":
        return _IN_WORDS[kind]
    return f"the server says {' '.join(filter(None, (str(status or ''), one_line(code))))}"


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and the chain of its causes."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes


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
