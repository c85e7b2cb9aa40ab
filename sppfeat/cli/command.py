"""Commands and options of click, with examples and groups in --help, environment variables, and former names."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from sppfeat.cli.output import say

__all__ = ["ENVIRONMENT_PREFIX", "SHARED_VARIABLES", "Command", "Group", "Option", "command"]

ENVIRONMENT_PREFIX = "SPPFEAT"
SHARED_VARIABLES = {
    flag: f"{ENVIRONMENT_PREFIX}_{flag.strip('-').replace('-', '_').upper()}"
    for flag in ("--device", "--weights-dir", "--workers", "--quiet")
}
"""Environment variables that set an option of every command that has it."""

_NEXT_RELEASE = "the former name will be removed in the next release"
_WIDEST_NAMES = 26  # characters; the text of an option with longer names begins on the next line
_LONGEST_CHOICES = 18
_NO_BREAK = "\xa0"
_METAVARS = {"integer": "N", "integer range": "N", "float": "X", "float range": "X", "path": "PATH"}


class Option(click.Option):
    """An option with environment variables, a place in --help, and the names of earlier releases.

    The variable of an option is named after its command: ``SPPFEAT_EXTRACT_LEVELS`` sets ``--levels`` of ``extract``.

    Attributes:
        former: earlier names, which --help and shell completion leave out. Each maps to the values that it took and to
            their meaning now; None if values are unchanged.
        group: heading of the option in --help.
        is_rare: True if only --help-all shows the option.
    """

    def __init__(
        self, *args: Any, former: Mapping[str, Mapping[str, Any] | None] | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self.former = dict(former or {})
        self.group = "Options"
        self.is_rare = False
        self._former_options = {
            name: click.Option(
                [name, f"former_{_snake(name)}"],
                is_flag=self.is_flag and values is None,
                multiple=self.multiple,
                type=None if values is None else click.Choice(list(values)),
            )
            for name, values in self.former.items()
        }

    @property
    def long_name(self) -> str:
        """The option's long name, such as ``--levels``."""
        return next(name for name in self.opts if name.startswith("--"))

    def variables(self, ctx: click.Context) -> list[str]:
        """Names of the environment variables that set the option, the command's own first."""
        if ctx.auto_envvar_prefix is None:
            return []
        own = f"{ctx.auto_envvar_prefix}_{_snake(self.long_name).upper()}"
        return [own, *(name for flag, name in SHARED_VARIABLES.items() if flag == self.long_name)]

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Lets the parser accept the current and the former names."""
        super().add_to_parser(parser, ctx)
        for option in self._former_options.values():
            option.add_to_parser(parser, ctx)

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of the first environment variable that is set and not empty."""
        values = (os.environ.get(name) for name in self.variables(ctx))
        return next(filter(None, values), None)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Reads the value, also from a former name; notes former names and variables."""
        opts = self._with_current_name(ctx, opts)
        try:
            return super().handle_parse_result(ctx, opts, args)
        finally:
            if not ctx.resilient_parsing and ctx.auto_envvar_prefix is not None:
                self._note_former_variables(ctx)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:  # noqa: ARG002
        """The names with the value's placeholder, and the text with the default."""
        if self.hidden:
            return None
        names = ", ".join(sorted(self.opts, key=len)) + "".join(f" / {name}" for name in self.secondary_opts)
        if not self.is_flag:
            names += f" {self._placeholder()}"
        default = self.default if self.show_default else None
        if self.required:
            default_text = "[required]"
        elif isinstance(default, bool):
            default_text = f"[default: {self.opts[0].strip('-')}]" if default and self.secondary_opts else ""
        elif isinstance(default, float):
            default_text = f"[default: {default:g}]"
        elif isinstance(default, str | int) and default != "":
            default_text = f"[default: {default}]"
        else:
            default_text = ""
        return names, " ".join(filter(None, [self.help, default_text]))

    def _placeholder(self) -> str:
        if self.metavar:
            return self.metavar
        if isinstance(self.type, click.Choice):
            choices = "|".join(map(str, self.type.choices))
            return choices if len(choices) <= _LONGEST_CHOICES else "NAME"
        return _METAVARS.get(self.type.name, self.type.name.upper())

    def _with_current_name(self, ctx: click.Context, opts: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replaces a former name in parsed options by the current one."""
        for name, option in self._former_options.items():
            if option.name not in opts:
                continue
            if self.name in opts:
                raise click.UsageError(
                    f"{name} is the former name of {self.long_name}: give only {self.long_name}.", ctx=ctx
                )
            value, values = opts[option.name], self.former[name]
            if values is not None:
                value = values[option.type_cast_value(ctx, value)]
            opts = {**opts, self.name or "": value}
            if not ctx.resilient_parsing:
                say(f"note: {name} is now {self.long_name}; {_NEXT_RELEASE}")
        return opts

    def _note_former_variables(self, ctx: click.Context) -> None:
        """Notes set variables that named options of all commands in earlier releases, unless a value is given."""
        if ctx.get_parameter_source(self.name or "") in (
            ParameterSource.COMMANDLINE,
            ParameterSource.ENVIRONMENT,
        ):
            return
        own, *shared = self.variables(ctx)
        for name in (self.long_name, *self.former):
            former = f"{ENVIRONMENT_PREFIX}_{_snake(name).upper()}"
            if os.environ.get(former) and former not in (own, *shared):
                say(f"note: {former} is no longer read: set {own} for {self.long_name} of this command")


class Command(click.Command):
    """A command whose --help shows examples and grouped options, and leaves rare options to --help-all.

    Args:
        examples: command lines.
        groups: headings, each with the long names of its options in their order; other options go under "Options".
        rare: long names of the options that only --help-all shows.
        **settings: see ``click.Command``.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        groups: Mapping[str, str] | None = None,
        rare: str = "",
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        self._headings = [*(groups or {}), "Options"]
        named = {option.long_name: option for option in self.params if isinstance(option, Option)}
        order = [(heading, name) for heading, names in (groups or {}).items() for name in names.split()]
        for heading, name in order:
            named[name].group = heading
        for name in rare.split():
            named[name].is_rare = True
        self._order = [name for _, name in order]
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                allow_from_autoenv=False,
                hidden=not rare,
                callback=_show_all_help,
                help="Show all options and exit.",
            )
        )

    def grouped_options(self) -> Iterator[tuple[str, list[Option]]]:
        """Yields each heading of --help with its options, rare ones included."""
        options = [option for option in self.params if isinstance(option, Option) and not option.hidden]
        options.sort(
            key=lambda option: (
                self._order.index(option.long_name) if option.long_name in self._order else len(self._order)
            )
        )
        for heading in self._headings:
            if own := [option for option in options if option.group == heading]:
                yield heading, own

    def get_help(self, ctx: click.Context) -> str:
        """Formats --help; no line breaks after "default:"."""
        return super().get_help(ctx).replace(_NO_BREAK, " ")

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002
        """The first sentence of the description."""
        return " ".join((self.help or "").partition("\n\n")[0].split())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option --help, which no environment variable sets."""
        return _help_option(tuple(sorted(self.get_help_option_names(ctx))))

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the first paragraph of the description, the examples, and the rest of the description."""
        description, self.help = self.help, (self.help or "").partition("\n\n")[0]
        try:
            super().format_help_text(ctx, formatter)
            _write_lines(formatter, "Examples", self.examples)
            self.help = (description or "").partition("\n\n")[2]
            super().format_help_text(ctx, formatter)
        finally:
            self.help = description

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options under their headings."""
        shows_all = ctx.meta.get(_ALL, False)
        sections: list[tuple[str, list[tuple[str, str]]]] = []
        n_left_out = 0
        for heading, options in self.grouped_options():
            shown = [option for option in options if shows_all or not option.is_rare]
            n_left_out += len(options) - len(shown)
            sections.append((heading, _records(shown, ctx)))
        others = [option for option in self.get_params(ctx) if not isinstance(option, Option)]
        help_records = _records(others, ctx)
        if n_left_out:
            help_records[0] = (help_records[0][0], f"Show {n_left_out} more options and exit.")
        sections.append(("Help", help_records))
        lengths = [len(names) for _, records in sections for names, _ in records]
        width = max(length for length in lengths if length <= _WIDEST_NAMES)
        for heading, records in sections:
            if records:
                with formatter.section(heading):
                    formatter.write_dl([(names.ljust(width), text) for names, text in records], col_max=width)


class Group(click.Group):
    """A group of commands, listed under headings; some have former names. ``help NAME`` stands for ``NAME --help``.

    Args:
        former: earlier names of commands and their present names; --help and shell completion leave them out.
        sections: headings, each with its commands; None lists all commands in the order of their definition.
        examples: command lines with comments, under "Quick start".
        **settings: see ``click.Group``.
    """

    def __init__(
        self,
        *args: Any,
        former: Mapping[str, str] | None = None,
        sections: Mapping[str, str] | None = None,
        examples: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.former = dict(former or {})
        self.sections = {heading: names.split() for heading, names in (sections or {}).items()}
        self.examples = tuple(examples)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names of all commands in the order of --help."""
        return [name for names in self.sections.values() for name in names] or list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with a name or a former name; None if no command has it."""
        name = self.former.get(cmd_name, cmd_name)
        if name != cmd_name and not ctx.resilient_parsing:
            path = ctx.command_path
            say(f"note: '{path} {cmd_name}' is now '{path} {name}'; {_NEXT_RELEASE}")
        return super().get_command(ctx, name)

    def get_short_help_str(self, limit: int = 45) -> str:  # noqa: ARG002
        """The first sentence of the description."""
        return " ".join((self.help or "").partition("\n\n")[0].split())

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """The option --help, which no environment variable sets."""
        return _help_option(tuple(sorted(self.get_help_option_names(ctx))))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments; ``help NAME`` stands for ``NAME --help``."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the quick start, the commands under their headings, and the options."""
        _write_lines(formatter, "Quick start", self.examples)
        records: dict[str, list[tuple[str, str]]] = {}
        for heading, names in (self.sections or {"Commands": self.list_commands(ctx)}).items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            records[heading] = [(name, found.get_short_help_str()) for name, found in commands if found]
        records["Options"] = _records(self.get_params(ctx), ctx)
        width = max(len(names) for section in records.values() for names, _ in section)
        for heading, section in records.items():
            with formatter.section(heading):
                formatter.write_dl([(names.ljust(width), text) for names, text in section])


def command(**settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Makes a function a :class:`Command` with these settings."""
    return click.command(cls=Command, **settings)


_ALL = "shows all help"


def _show_all_help(ctx: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:  # noqa: ARG001
    if is_wanted and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help())
        ctx.exit()


@functools.cache  # a parser needs the same object each time
def _help_option(names: tuple[str, ...]) -> click.Option:
    return click.Option(
        list(names),
        is_flag=True,
        is_eager=True,
        expose_value=False,
        allow_from_autoenv=False,
        callback=_show_help,
        help="Show this message and exit.",
    )


def _show_help(ctx: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:  # noqa: ARG001
    if is_wanted and not ctx.resilient_parsing:
        click.echo(ctx.get_help())
        ctx.exit()


def _records(options: Sequence[click.Parameter], ctx: click.Context) -> list[tuple[str, str]]:
    records = (option.get_help_record(ctx) for option in options if isinstance(option, click.Option))
    return [
        (record[0], record[1].replace("[default: ", f"[default:{_NO_BREAK}")) for record in records if record
    ]


def _write_lines(formatter: click.HelpFormatter, heading: str, lines: Sequence[str]) -> None:
    if lines:
        with formatter.section(heading):
            formatter.write("".join(f"{' ' * formatter.current_indent}{line}\n" for line in lines))


def _snake(name: str) -> str:
    return name.strip("-").replace("-", "_")
