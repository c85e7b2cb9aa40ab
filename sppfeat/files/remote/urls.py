"""URLs as inputs and outputs: which are taken, and how messages show them."""

import re

from sppfeat.errors import ConfigError

__all__ = ["check_url", "shown"]

_HAS_PASSWORD = re.compile(r"[^/]*:[^/]*@")  # of what follows the scheme
_WEB = ("http", "https")


def check_url(url: str) -> str:
    """Return a URL with its scheme in lower case, without slashes at its end.

    Nothing secret may be in it: it is written into the output, and shown in messages.

    Raises:
        ConfigError: it has a password, a query, nothing behind the scheme, or a path of which parts are empty or dots.
    """
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    if _HAS_PASSWORD.match(rest):
        raise ConfigError(
            f"the URL {shown(url)} has a password, which would be written into the output; allowed: credentials "
            "where fsspec looks for them, in the environment or in ~/.config/fsspec"
        )
    if scheme in _WEB and re.search("[?#]", rest):
        raise ConfigError(
            f"the URL {shown(url)} has a query or a fragment, which may be secret and would be written into the "
            "output; allowed: a URL without"
        )
    path = rest.rstrip("/")
    parts = path.removeprefix("/").split("/")
    if path and any(part in ("", ".", "..") for part in parts):
        raise ConfigError(
            f"the URL {shown(url)} has empty parts, '.' or '..' in its path; allowed: none of these"
        )
    if not path:
        raise ConfigError(f"the URL {shown(url)} names nothing; allowed: such as 's3://bucket/folder'")
    return f"{scheme}://{path}"


def shown(url: str) -> str:
    """A URL as a message shows it: without what may be secret."""
    scheme, separator, rest = url.partition("://")
    if _HAS_PASSWORD.match(rest):
        rest = f"...@{rest[rest.rindex('@') + 1 :]}"
    if scheme.lower() in _WEB:
        rest = re.sub("[?#].*", "?...", rest, flags=re.DOTALL)
    return repr(scheme + separator + rest)
