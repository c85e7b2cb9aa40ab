"""Commands and options of click, with examples and groups in --help, environment variables, and former names."""

import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
from click.core import ParameterSource

from sppfeat.cli.output import say
from sppfeat.config.wording import counted

__all__ = ["ENVIRONMENT_PREFIX", "SHARED_VARIABLES", "Command", "Group", "Option", "command"]


def _variable(flag: str) -> str:
    return flag.strip("-").replace("-", "_").upper()


ENVIRONMENT_PREFIX = "SPPFEAT"
SHARED_VARIABLES = {
    flag: f"{ENVIRONMENT_PREFIX}_{_variable(flag)}"
    for flag in ("--device", "--weights-dir", "--workers", "--quiet")
}
"""Environment variables that set an option of every command that has it."""

_NEXT_RELEASE = "the former name will be removed in the next release"
_SHOWS_ALL = f"{__name__}.shows_all"  # key of a context's notes
_LONGEST_SUMMARY = 100  # characters
_WIDEST_NAMES = 26  # characters; the text of an option with longer names begins on the next line
_LONGEST_CHOICES = 18
_NO_BREAK = "\xa0"
_METAVARS = {"integer": "N", "integer range": "N", "float": "X", "float range": "X", "path": "PATH"}


class Option(click.Option):
    """An option with environment variables, a place in --help, and its name in earlier releases.

    The variable of an option is named after its command: ``SPPFEAT_EXTRACT_LEVELS`` sets ``--levels`` of ``extract``.

    Attributes:
        former: earlier name, which --help and shell completion leave out; empty if the name is unchanged.
    """

    def __init__(self, *args: Any, former: str = "", **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.former = former

    @property
    def long_name(self) -> str:
        """The option's long name, such as ``--levels``."""
        return next(name for name in self.opts if name.startswith("--"))

    def variables(self, ctx: click.Context) -> list[str]:
        """Names of the environment variables that set the option, the command's own first."""
        if ctx.auto_envvar_prefix is None:
            return []
        own = f"{ctx.auto_envvar_prefix}_{_variable(self.long_name)}"
        return [own, *(name for flag, name in SHARED_VARIABLES.items() if flag == self.long_name)]

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The value of the first environment variable that is set and not empty."""
        values = (os.environ.get(name) for name in self.variables(ctx))
        return next(filter(None, values), None)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """Finds the value and its source; notes variables that set the option in earlier releases."""
        value, source = super().consume_value(ctx, opts)
        is_given = source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        names = self.variables(ctx)
        if names and not is_given and not ctx.resilient_parsing:
            for flag in filter(None, (self.long_name, self.former)):
                variable = f"{ENVIRONMENT_PREFIX}_{_variable(flag)}"
                if os.environ.get(variable) and variable not in names:
                    say(
                        f"note: {variable} is no longer read: set {names[0]} for {self.long_name} of this command"
                    )
        return value, source

    def handle_parse_result(self, ctx: click.Context, opts: Any, args: list[str]) -> tuple[Any, list[str]]:
        """Parses the value; an error names the environment variable that it comes from."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            source = next((name for name in self.variables(ctx) if os.environ.get(name)), None)
            if source is None or ctx.get_parameter_source(self.name or "") is not ParameterSource.ENVIRONMENT:
                raise
            raise click.BadParameter(f"{error.message} (from {source})", ctx, self) from error

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


class Command(click.Command):
    """A command whose --help shows examples and grouped options, and leaves rare options to --help-all.

    Args:
        examples: command lines.
        groups: headings, each with the long names of its options in their order; only --help-all shows names after a
            bar. None for one group of all options.
        **settings: see ``click.Command``.

    Attributes:
        groups: the options under each heading, in their order.
        rare: long names of the options that only --help-all shows.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        groups: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.examples = tuple(examples)
        options = {option.long_name: option for option in self.params if isinstance(option, Option)}
        named = groups or {"Options": " ".join(options)}
        self.groups = {
            heading: [options[name] for name in names.replace("|", " ").split()]
            for heading, names in named.items()
        }
        self.rare = {name for names in named.values() for name in names.partition("|")[2].split()}
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                hidden=not self.rare,
                allow_from_autoenv=False,
                callback=_show_all_help,
                help="Show all options and exit.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments; notes former names of options."""
        options = [option for option in self.params if isinstance(option, Option)]
        current = {option.former: option.long_name for option in options if option.former}
        n_options = args.index("--") if "--" in args else len(args)
        parts = [arg.partition("=") for arg in args[:n_options]]
        if not ctx.resilient_parsing:
            for name in dict.fromkeys(name for name, _, _ in parts if name in current):
                say(f"note: {name} is now {current[name]}; {_NEXT_RELEASE}")
        renamed = ["".join((current.get(name, name), *rest)) for name, *rest in parts]
        try:
            return super().parse_args(ctx, [*renamed, *args[n_options:]])
        except click.NoSuchOption as error:
            hidden = {
                name for option in self.params if getattr(option, "hidden", False) for name in option.opts
            }
            shown = [name for name in error.possibilities or () if name not in hidden]
            raise click.NoSuchOption(error.option_name, possibilities=shown, ctx=ctx) from None

    def get_help(self, ctx: click.Context) -> str:
        """Formats --help; no line breaks after "default:"."""
        return super().get_help(ctx).replace(_NO_BREAK, " ")

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Writes the first paragraph of the description, the examples, and the rest of the description."""
        first, _, rest = inspect.cleandoc(self.help or "").partition("\n\n")
        _write_text(formatter, first)
        _write_lines(formatter, "Examples", self.examples)
        _write_text(formatter, rest)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options under their headings."""
        hidden = set() if ctx.meta.get(_SHOWS_ALL) else self.rare
        sections = {
            heading: _records([option for option in options if option.long_name not in hidden], ctx)
            for heading, options in self.groups.items()
        }
        help_records = _records(
            [option for option in self.get_params(ctx) if not isinstance(option, Option)], ctx
        )
        if hidden:
            help_records[0] = (help_records[0][0], f"Show {counted(len(hidden), 'more option')} and exit.")
        sections["Help"] = help_records
        lengths = [len(names) for records in sections.values() for names, _ in records]
        width = max(length for length in lengths if length <= _WIDEST_NAMES)
        for heading, records in sections.items():
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

    command_class = Command

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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command that the first argument names; an error suggests similar names."""
        names = self.list_commands(ctx)
        if (
            args[0] not in [*names, *self.former]
            and not args[0].startswith("-")
            and not ctx.resilient_parsing
        ):
            similar = " or ".join(map(repr, difflib.get_close_matches(args[0], names)))
            hint = f" Did you mean {similar}?" if similar else ""
            raise click.UsageError(f"No such command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses arguments; ``help NAME`` stands for ``NAME --help``."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the quick start, the commands under their headings, and the options."""
        _write_lines(formatter, "Quick start", self.examples)
        records: dict[str, list[tuple[str, str]]] = {}
        for heading, names in (self.sections or {"Commands": self.list_commands(ctx)}).items():
            commands = ((name, self.get_command(ctx, name)) for name in names)
            records[heading] = [
                (name, found.get_short_help_str(_LONGEST_SUMMARY)) for name, found in commands if found
            ]
        records["Options"] = _records(self.get_params(ctx), ctx)
        width = max(len(names) for section in records.values() for names, _ in section)
        for heading, section in records.items():
            with formatter.section(heading):
                formatter.write_dl([(names.ljust(width), text) for names, text in section])


def command(**settings: Any) -> Callable[[Callable[..., Any]], Command]:
    """Makes a function a :class:`Command` with these settings."""
    return click.command(cls=Command, **settings)


def _show_all_help(ctx: click.Context, parameter: click.Parameter, is_wanted: bool) -> None:  # noqa: ARG001
    if is_wanted and not ctx.resilient_parsing:
        ctx.meta[_SHOWS_ALL] = True
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


def _write_text(formatter: click.HelpFormatter, text: str) -> None:
    if text:
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(text)
