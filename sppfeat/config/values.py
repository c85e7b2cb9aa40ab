"""The types, limits and checks that settings share."""

import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sppfeat.errors import ConfigError

__all__ = [
    "CHOICES",
    "DEFAULT_MAX_DECODE_PIXELS",
    "EncodedPath",
    "StrPath",
    "check_choice",
    "check_encoding",
    "check_fields",
    "parse_above_zero",
    "set_fields",
    "set_numbers",
    "whole_number",
]

StrPath: TypeAlias = str | os.PathLike[str]
"""A path of a file or folder, in any form that a caller may pass."""

DEFAULT_MAX_DECODE_PIXELS = 178_956_970
"""Most pixels of an image; Pillow treats larger ones as decompression bombs."""

CHOICES: dict[str, tuple[str, ...]] = {
    "box_coords": ("xyxy", "xywh", "cxcywh"),
    "box_ends": ("edges", "inclusive"),
    "box_names": ("inside", "file"),
    "box_order": ("xy", "yx"),
    "box_units": ("absolute", "normalized", "percent"),
    "decode": ("exact", "fast"),
    "dtype": ("float32", "float16"),
    "engine": ("local", "ray"),
    "exif": ("apply", "ignore"),
    "head": ("fc6", "fc7"),
    "headers": ("auto", "first", "window"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"),
    "method": ("pca", "random"),
    "nonfinite": ("fail", "keep"),
    "pool": ("max", "avg"),
    "precision": ("fp32", "tf32", "bf16", "fp16"),
    "projection": ("sppnet", "paper", "roi_pool"),
}
"""The allowed values of settings, by the name that field and option share."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``; any other is a ConfigError that names the setting ``name``."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
    return value


def check_encoding(encoding: str | None) -> None:
    """Raise ConfigError unless ``encoding`` is the name of a text encoding, or None."""
    try:
        "a".encode(encoding or "utf-8")  # unlike that of a decoder, the name is always looked up
    except (LookupError, ValueError) as error:  # ValueError: a zero byte in the name
        known = "utf-8, utf-16, cp1252, latin-1, and all others that Python knows"
        raise ConfigError(f"encoding is {encoding!r}; allowed: {known}") from error


@dataclass(frozen=True)
class EncodedPath(os.PathLike[str]):
    """The path of a text table, and the encoding of its text, such as ``cp1252``; None for UTF-8."""

    path: str
    encoding: str | None = None

    def __post_init__(self) -> None:
        check_encoding(self.encoding)

    def __fspath__(self) -> str:
        return self.path


def set_fields(spec: object, **values: Any) -> None:
    """Set fields of a frozen dataclass to checked values, already in the type that is compared and recorded."""
    for name, value in values.items():
        object.__setattr__(spec, name, value)


def set_numbers(spec: object, **ranges: tuple[Any, ...]) -> None:
    """Set whole-number fields of a frozen dataclass; None stays where it is the default.

    Each range is what :func:`whole_number` takes after the value.
    """
    for name, allowed in ranges.items():
        value = getattr(spec, name)
        if value is not None or getattr(type(spec), name, 0) is not None:
            set_fields(spec, **{name: whole_number(name.replace("_", "-"), value, *allowed)})


def check_fields(spec: object, *names: str) -> None:
    """Check that each field is one of its :data:`CHOICES`; see :func:`check_choice`."""
    for name in names:
        check_choice(name, getattr(spec, name), CHOICES[name])


def whole_number(name: str, value: Any, least: int, most: int | None = None, unit: str = "") -> int:
    """Return ``value``, of any integer type except bool, as an int.

    Raises:
        ConfigError: it is not a whole number, or not in ``least`` to ``most``, both included; ``unit`` follows the
            range in the message.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}{unit}")
    return number


def parse_above_zero(text: str) -> float:
    """Parse a number above 0; a ValueError refuses any other text, and NaN."""
    number = float(text)
    if not number > 0:  # NaN compares as False
        raise ValueError(f"{text!r} is not a number above 0")
    return number
