"""Commands whose modules are imported when they are needed: the help of one loads none of the others."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """A group that finds its commands in the modules of this package.

    Args:
        modules: in the order of --help, for each command the module in which it has its own name.
        **settings: as of ``click.Group``.
    """

    def __init__(self, *, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, or None where there is none of that name."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"sppfeat.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command
