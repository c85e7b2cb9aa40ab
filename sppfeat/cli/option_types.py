"""Types of option values, which refuse wrong texts as usage errors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sppfeat.config.specs import parse_levels
from sppfeat.config.values import parse_above_zero
from sppfeat.errors import ConfigError

__all__ = ["ABOVE_ZERO", "ANY_PATH", "AUTO_OR_INT", "LEVELS", "OUTPUT_FILE", "PATH", "SIZE", "Parsed"]


class Parsed(click.ParamType):  # type: ignore[type-arg]
    """An option type whose values a function parses; a text that it refuses is a usage error.

    ``parse`` refuses by ConfigError or ValueError. The message is ``refusal`` with the text in place of ``{!r}``, or
    else the message of the error.
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


ANY_PATH = click.Path(readable=False)  # or a URL, or a word such as "box"; shells complete paths
ABOVE_ZERO = Parsed("number", parse_above_zero)
LEVELS = Parsed("levels", parse_levels)
SIZE = Parsed(
    "pixels|native",
    lambda text: text if text == "native" else int(text),
    refusal="{!r} is neither a number of pixels nor 'native'",
)
AUTO_OR_INT = Parsed(
    "auto|N",
    lambda text: None if text == "auto" else int(text),
    refusal="{!r} is neither a whole number nor 'auto'",
)


class _OutputFile(click.Path):
    """The path of a file to write; a slash at the end, which ``Path`` drops, is an error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Converts a value to a Path."""
        if str(value).endswith("/"):
            self.fail(f"{value!r} is a folder; give the name of a file in it", param, ctx)
        return super().convert(value, param, ctx)


OUTPUT_FILE = _OutputFile(path_type=Path)
PATH = click.Path(path_type=Path)
