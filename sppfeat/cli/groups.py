"""Groups of commands, which import a command's module when it is needed and turn errors into exit codes."""

import importlib
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from sppfeat.cli.output import say
from sppfeat.cli.signals import stop_on_signals
from sppfeat.errors import ConfigError, SppfeatError

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "CommandLine",
    "LazyGroup",
    "leave",
]

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3  # finished, but some images failed
EXIT_INTERRUPTED = 130  # the same command again continues


def leave(code: int) -> NoReturn:
    """Ends the running command with an exit code."""
    click.get_current_context().exit(code)


class LazyGroup(click.Group):
    """A group that imports the module of a command only when the command is needed.

    Args:
        modules: module in this package of each command, by command name, in the order of --help; a command and its
            function have the same name.
        **settings: see ``click.Group``.
    """

    def __init__(self, *, modules: Mapping[str, str], **settings: Any) -> None:
        super().__init__(**settings)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Imports the command with a name; None if there is no such command."""
        if cmd_name not in self._modules:
            return None
        module = importlib.import_module(f"sppfeat.cli.{self._modules[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command


class CommandLine(LazyGroup):
    """The group of all commands, which turns errors and interruptions into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; prints an error or interruption and exits with its code."""
        try:
            with stop_on_signals():  # commands that finish their work first install their own handlers inside
                return super().invoke(ctx)
        except SppfeatError as error:
            say(f"Error: {error}")
            ctx.exit(EXIT_USAGE if isinstance(error, ConfigError) else EXIT_ERROR)
        except KeyboardInterrupt:
            say("Interrupted.")
            ctx.exit(EXIT_INTERRUPTED)
