"""Options that commands share, and how their values are read."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from sppfeat.config import parse_device, parse_levels
from sppfeat.errors import ConfigError

__all__ = [
    "AUTO_OR_INT",
    "CHANNELS",
    "LEVELS",
    "SIZE",
    "device_option",
    "json_option",
    "option",
    "verbosity_options",
]

_F = TypeVar("_F", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[_F], _F]:
    """``click.option`` that can also be given as ``SPPFEAT_<OPTION>`` in the environment, and shows its default."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    settings.setdefault("envvar", f"SPPFEAT_{long_name.removeprefix('--').replace('-', '_').upper()}")
    settings.setdefault("show_default", True)
    return click.option(*names, **settings)


class _Levels(click.ParamType):  # type: ignore[type-arg]
    name = "levels"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        try:
            return parse_levels(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class _Size(click.ParamType):  # type: ignore[type-arg]
    name = "pixels|native"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "native":
            return "native"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number of pixels nor 'native'", param, ctx)


class _AutoOrInt(click.ParamType):  # type: ignore[type-arg]
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == "auto":
            return "auto"
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is neither a whole number nor 'auto'", param, ctx)


class _Channels(click.ParamType):  # type: ignore[type-arg]
    name = "r,g,b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not three numbers such as 0.485,0.456,0.406", param, ctx)


class _Device(click.ParamType):  # type: ignore[type-arg]
    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_device(value)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


LEVELS = _Levels()
SIZE = _Size()
AUTO_OR_INT = _AutoOrInt()
CHANNELS = _Channels()

device_option = option(
    "--device",
    type=_Device(),
    metavar="auto|cpu|cuda|cuda:N|mps",
    default="auto",
    help="Where to compute; auto takes CUDA if there is one.",
)

json_option = option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")


def verbosity_options(function: _F) -> _F:
    """``-q`` and ``-v``."""
    function = option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")(function)
    return option("--verbose", "-v", is_flag=True, help="Say more: all failures, all settings.")(function)
