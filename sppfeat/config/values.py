"""How settings are checked, and brought to the one type that they are compared and recorded in."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from sppfeat.errors import ConfigError

__all__ = ["check_choice", "distinct_names", "set_fields", "three_numbers", "whole_number"]


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``.

    Raises:
        ConfigError: it is not; the message names the setting, the value and the choices.
    """
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; allowed: {', '.join(choices)}")
    return value


def set_fields(spec: object, **values: Any) -> None:
    """Put checked values into a frozen dataclass, in the one type that they are compared and recorded in."""
    for name, value in values.items():
        object.__setattr__(spec, name, value)


def whole_number(name: str, value: Any, least: int, most: int | None = None, *, unit: str = "") -> int:
    """``value`` as an int, if it is a whole number of any integer type and in range."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ConfigError(f"{name} is {value!r}; allowed: {allowed}{unit}")
    return number


def distinct_names(name: str, values: Any) -> tuple[str, ...]:
    """The values as a tuple, if they are one or more texts, each once."""
    listed = [] if isinstance(values, str) else list(values)
    if not listed or len(set(listed)) != len(listed) or not all(isinstance(v, str) and v for v in listed):
        raise ConfigError(f"{name} are {values!r}; allowed: one or more names, each once")
    return tuple(listed)


def three_numbers(name: str, values: Any) -> tuple[float, ...]:
    """Three floats: 1 and 1.0 are the same setting and must give the same fingerprint."""
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"{name} is {values!r}; allowed: three numbers, for R, G and B in 0..1")
    return numbers
