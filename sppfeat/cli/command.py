"""Options with former names."""

from collections.abc import Mapping
from typing import Any

import click

from sppfeat.cli.output import say

__all__ = ["Group", "Option"]


class Option(click.Option):
    """An option that still understands the names that it had in an earlier release.

    Attributes:
        former: earlier names, which --help and shell completion leave out. Each maps to the values that it took and to
            their meaning now; None if values are unchanged.
    """

    def __init__(
        self, *args: Any, former: Mapping[str, Mapping[str, Any] | None] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.former = dict(former or {})
        self._former_options = {
            name: click.Option(
                [name, f"former_{name.strip('-').replace('-', '_')}"],
                is_flag=self.is_flag and values is None,
                multiple=self.multiple,
                type=None if values is None else click.Choice(list(values)),
            )
            for name, values in self.former.items()
        }

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Lets the parser accept the current and the former names."""
        super().add_to_parser(parser, ctx)
        for option in self._former_options.values():
            option.add_to_parser(parser, ctx)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Reads the value, also one that was given under a former name."""
        current = next(name for name in self.opts if name.startswith("--"))
        for name, option in self._former_options.items():
            if option.name not in opts:
                continue
            if self.name in opts:
                raise click.UsageError(
                    f"{name} is the former name of {current}: give only {current}.", ctx=ctx
                )
            value, values = opts[option.name], self.former[name]
            if values is not None:
                value = values[option.type_cast_value(ctx, value)]
            opts = {**opts, self.name: value}
            if not ctx.resilient_parsing:
                say(f"note: {name} is now {current}; the former name will be removed in the next release")
        return super().handle_parse_result(ctx, opts, args)


class Group(click.Group):
    """A group whose --help lists its commands in the order of their definition.

    Attributes:
        former: earlier names of commands and the names that they have now; --help and shell completion leave them out.
    """

    def __init__(self, *args: Any, former: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.former = dict(former or {})

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with a name or a former name; None if there is no such command."""
        name = self.former.get(cmd_name, cmd_name)
        if name != cmd_name and not ctx.resilient_parsing:
            say(
                f"note: '{ctx.command_path} {cmd_name}' is now '{ctx.command_path} {name}'; "
                "the former name will be removed in the next release"
            )
        return super().get_command(ctx, name)
