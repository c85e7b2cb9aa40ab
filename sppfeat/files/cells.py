"""Texts of a box file: as bytes for the table, and shortened for a message."""

import reprlib

__all__ = ["TEXT_RULE", "encode_text", "shorten"]

TEXT_RULE = "text without zero bytes and lone surrogates"

_WIDTH = 60

# reprlib looks at no more than it shows: the value may be a gigabyte, or nested beyond the recursion limit.
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = _WIDTH
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 8


def shorten(value: object) -> str:
    """Return the repr of a value, cut to about 60 characters.

    Example:
        >>> shorten("1.5px")
        "'1.5px'"
    """
    text = _REPR.repr(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


def encode_text(text: str) -> bytes | None:
    """Return the UTF-8 bytes of a text, undecodable bytes as they were; None where ``TEXT_RULE`` is broken.

    Such texts have no bytes (a lone surrogate, as JSON can spell it), or name no file and do not fit into HDF5
    (a zero byte).
    """
    if "\0" in text:
        return None
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return None
