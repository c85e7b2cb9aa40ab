"""Values of options: types that parse them, and shell completions."""

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from sppfeat.config.distribution import parse_device, parse_shard
from sppfeat.config.specs import parse_levels
from sppfeat.errors import ConfigError
from sppfeat.networks.zoo import choose_names

__all__ = [
    "AUTO_OR_INT",
    "CHANNELS",
    "DEVICE",
    "LEVELS",
    "NBYTES",
    "SHARD",
    "SIZE",
    "NumberRange",
    "Parsed",
    "complete_backbones",
    "complete_files",
    "complete_weights",
]

_MODEL = re.compile(r"^@register_model\((?:name=\"(\w+)\")?\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """An option type whose values a function parses; a text that it refuses is a usage error.

    Args:
        name: name of the type in --help.
        parse: converts a text to a value, or raises ConfigError or ValueError.
        refusal: message for a refused text, in which ``{!r}`` stands for the text; if empty, the message of the error.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], *, refusal: str = "") -> None:
        self.name = name
        self._parse = parse
        self._refusal = refusal

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parses a text; returns any other value unchanged."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except (ConfigError, ValueError) as error:
            self.fail(self._refusal.format(value) if self._refusal else str(error), param, ctx)


class NumberRange(click.FloatRange):
    """A range of numbers that refuses NaN, which click's ranges accept."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parses a number and checks its range."""
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


def _nbytes(text: str) -> int:
    """Parses a number of bytes from a text such as ``2GB``."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?)(I?)B?", text.strip().upper())
    if match is None or (match[3] and not match[2]):
        raise ValueError(f"{text!r} is no size; allowed: bytes, such as 500MB, 2GB or 1GiB")
    unit = _UNITS[match[2]]
    return int(float(match[1]) * (1024 ** (list(_UNITS).index(match[2])) if match[3] else unit))


LEVELS = Parsed("levels", parse_levels)
SIZE = Parsed(
    "pixels|native",
    lambda text: text if text == "native" else int(text),
    refusal="{!r} is neither a number of pixels nor 'native'",
)
AUTO_OR_INT = Parsed(  # None for auto
    "auto|N",
    lambda text: None if text == "auto" else int(text),
    refusal="{!r} is neither a whole number nor 'auto'",
)
CHANNELS = Parsed(
    "r,g,b",
    lambda text: tuple(map(float, text.split(","))),
    refusal="{!r} is not three numbers such as 0.485,0.456,0.406",
)
DEVICE = Parsed("device", parse_device)
SHARD = Parsed("I/N|auto", parse_shard)
NBYTES = Parsed("bytes", _nbytes)


def complete_files(_context: Any, _parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Lets the shell complete paths."""
    return [CompletionItem(incomplete, type="file")]


def complete_weights(context: Any, parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Completes ``DEFAULT`` and ``none``, or paths."""
    words = [word for word in ("DEFAULT", "none") if incomplete and word.startswith(incomplete)]
    return [*map(CompletionItem, words)] or complete_files(context, parameter, incomplete)


def complete_backbones(_context: Any, _parameter: Any, incomplete: str) -> list[CompletionItem]:
    """Completes the names of networks, which it reads from torchvision's sources, because importing takes seconds."""
    return [CompletionItem(name) for name in choose_names(_declared_models()) if name.startswith(incomplete)]


def _declared_models() -> list[str]:
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.origin:
        return []
    sources = (Path(found.origin).parent / "models").glob("*.py")
    matches = (match for source in sources for match in _MODEL.finditer(source.read_text(encoding="utf-8")))
    return [match[1] or match[2] for match in matches]
