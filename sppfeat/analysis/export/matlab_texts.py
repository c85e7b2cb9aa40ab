"""Texts for MATLAB, which holds UTF-16."""

import os

__all__ = ["matlab_text"]


def matlab_text(text: bytes | str) -> str:
    r"""A text with what is no UTF-8 escaped: MATLAB has no bytes in a text.

    Example:
        >>> print(matlab_text(b"a\xff.jpg"))
        a\xff.jpg
    """
    return os.fsencode(text).decode("utf-8", "backslashreplace")
