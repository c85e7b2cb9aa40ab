"""Why something remote failed: whether it may pass, and whom it concerns, one object or all of them.

File systems of many packages raise errors of their own, which have no common base: they are known by the status of
the server's answer where there was one, else by the names of their classes.
"""

import enum
import errno
import re
from typing import Any, NamedTuple

from sppfeat.config.wording import one_line

__all__ = ["Failure", "Kind", "judge"]


class Kind(enum.Enum):
    """What a failure is about."""

    MISSING = "the object is not there"
    DENIED = "the object may not be read or written"
    REFUSED = "the service refuses everything: wrong or missing credentials"
    UNREACHABLE = "the service gives no answer, or says that it is overloaded"
    BROKEN = "the service failed in the midst of an answer: it may pass, or be about this object"
    LOCAL = "this machine cannot take more: a full disk"
    OTHER = "anything else"


class Failure(NamedTuple):
    """Why something failed.

    Attributes:
        kind: what it is about.
        reason: in words, without anything secret.
    """

    kind: Kind
    reason: str

    @property
    def is_passing(self) -> bool:
        """Whether the next attempt may succeed."""
        return self.kind in (Kind.UNREACHABLE, Kind.BROKEN)


_OF_STATUS = {
    401: Kind.REFUSED,
    403: Kind.DENIED,
    404: Kind.MISSING,
    408: Kind.UNREACHABLE,
    410: Kind.MISSING,
    425: Kind.UNREACHABLE,
    429: Kind.UNREACHABLE,
    500: Kind.BROKEN,
    502: Kind.BROKEN,
    503: Kind.UNREACHABLE,
    504: Kind.BROKEN,
}
_OF_CODE = {
    **dict.fromkeys(
        (
            "ExpiredToken",
            "InvalidAccessKeyId",
            "InvalidToken",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
        ),
        Kind.REFUSED,
    ),
    **dict.fromkeys(("RequestTimeout", "SlowDown", "Throttling", "ServiceUnavailable"), Kind.UNREACHABLE),
    **dict.fromkeys(("NoSuchKey", "NoSuchBucket"), Kind.MISSING),
    **dict.fromkeys(("AccessDenied", "InvalidObjectState"), Kind.DENIED),  # the second: in an archive tier
    "InternalError": Kind.BROKEN,
}
_OF_CLASS = {
    "FileNotFoundError": Kind.MISSING,
    "PermissionError": Kind.DENIED,
    # Of a body that was cut short.
    "ClientPayloadError": Kind.BROKEN,
    "IncompleteReadError": Kind.BROKEN,
    "IncompleteRead": Kind.BROKEN,
    "ResponseStreamingError": Kind.BROKEN,
    # Of no answer.
    "HTTPClientError": Kind.UNREACHABLE,
    "ClientConnectionError": Kind.UNREACHABLE,
    "ClientError": Kind.UNREACHABLE,
    "TimeoutError": Kind.UNREACHABLE,
    "FSTimeoutError": Kind.UNREACHABLE,
    "ConnectionError": Kind.UNREACHABLE,
    "gaierror": Kind.UNREACHABLE,
    "TransportError": Kind.UNREACHABLE,
    "SSHException": Kind.UNREACHABLE,
    # What is left of botocore's: no credentials, a profile or a region that does not exist.
    "BotoCoreError": Kind.REFUSED,
    "DefaultCredentialsError": Kind.REFUSED,
    "RefreshError": Kind.REFUSED,
    "InvalidURL": Kind.OTHER,
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE)


def judge(error: Exception) -> Failure:
    """What an error of a file system means."""
    causes = _chain(error)
    for cause in causes:
        code, status = _code(cause), _status(cause)
        kind = _OF_CODE.get(code) or (_OF_STATUS.get(status, Kind.OTHER) if status else None)
        if kind is not None:
            return Failure(kind, _said(kind, status, code))
    if isinstance(error, OSError) and error.errno in _FULL:
        return Failure(Kind.LOCAL, error.strerror or "no space")
    for cause in reversed(causes):  # fsspec says of a server that gives no answer that a file is not there
        for base in type(cause).__mro__:
            if base.__name__ in _OF_CLASS:
                kind = _OF_CLASS[base.__name__]
                return Failure(kind, _IN_WORDS[kind] if kind in _IN_WORDS else _text(cause))
    return Failure(Kind.BROKEN if isinstance(error, OSError) else Kind.OTHER, _text(error))


_IN_WORDS = {Kind.MISSING: "no such object", Kind.DENIED: "permission denied"}


def _said(kind: Kind, status: int | None, code: str) -> str:
    if kind in _IN_WORDS and code != "NoSuchBucket":
        return _IN_WORDS[kind]
    return f"the server says {' '.join(filter(None, (str(status or ''), one_line(code))))}"


def _chain(error: BaseException) -> list[BaseException]:
    """An error and those that it was raised from."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    return causes


def _status(error: BaseException) -> int | None:
    """The HTTP status of an answer, wherever its package keeps it."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        status = getattr(error, "status", None) or getattr(error, "status_code", None)
        status = status or getattr(response, "status_code", None)
        if not type(error).__module__.startswith("aiohttp"):  # whose parser says 400 of a body that was cut
            status = status or getattr(error, "code", None)
    try:
        return int(status) if 100 <= int(status) < 600 else None
    except (TypeError, ValueError):
        return None


def _code(error: BaseException) -> str:
    """The code of an object store's answer; empty where it has none."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return code if isinstance(code, str) and not code.isdecimal() else ""


def _text(error: BaseException) -> str:
    """What an error says, without what URLs in it may keep: queries and passwords."""
    said = re.sub(r"(?<=://)[^/\s@]*@", "...@", str(error))
    said = re.sub(r"\?[^\s'\")]*", "?...", " ".join(said.split()))
    return one_line(f"{type(error).__name__}: {said}" if said else type(error).__name__, longest=160)
