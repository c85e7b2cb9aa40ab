"""Names, former names and exit codes of all commands."""

import json
import os
from pathlib import Path
from unittest import mock

import click
import click.testing
import pytest
from click.shell_completion import get_completion_class
from command_line import run

import sppfeat
from sppfeat.cli import main
from sppfeat.cli.command import Command, Option

# The options of the last release, made once from it: every one is still understood.
OPTIONS_BEFORE = json.loads(Path(__file__).with_name("options_before.json").read_text())

# One call for each exit code; 130 takes a signal, and is tested with the other interruptions.
CALLS = {
    "done": (0, ["--version"]),
    "error": (1, ["info", "missing.h5"]),
    "usage, by click": (2, ["extract"]),
    "usage, by a setting": (2, ["train", ".", "-o", "out", "--distill", "map"]),
    "some images failed": (3, ["extract", "photos", "-o", "out.h5", "--size", "32", "--workers", "0", "-q"]),
}


def commands(command=main, names=("sppfeat",)):
    """Every command by its full name, groups before their members."""
    yield " ".join(names), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*names, name))


COMMANDS = dict(commands())
FORMER = [
    (name, option, option.former)
    for name, command in COMMANDS.items()
    for option in command.params
    if getattr(option, "former", "")
]


def complete(*words):
    """Texts that bash is offered after the words, of which the last is incomplete."""
    shell = get_completion_class("bash")(main, {}, "sppfeat", "_SPPFEAT_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[1:-1]), words[-1])]


@pytest.mark.parametrize("name", OPTIONS_BEFORE)
def test_every_option_of_the_last_release_is_understood(name):
    known = {"-h", "--help"}
    for parameter in COMMANDS[name.replace("neighbours", "neighbors")].params:
        known |= {*parameter.opts, *parameter.secondary_opts, getattr(parameter, "former", "")}
    assert set(OPTIONS_BEFORE[name].split()) <= known


@pytest.mark.parametrize(("name", "parameter", "former"), FORMER)
def test_a_former_name_is_neither_shown_nor_completed(name, parameter, former):
    shown = run(*name.split()[1:], "--help-all", code=0).stdout.replace(",", " ").split()
    for words in (shown, complete(*name.split(), "--")):
        assert former not in words
        assert parameter.long_name in words


def call(*arguments):
    """Values of a small command with renamed options, and what it prints."""
    found = {}

    @click.command(cls=Command)
    @click.option("--max-rows", cls=Option, type=int, former="--most")
    @click.option("--quick", cls=Option, is_flag=True, former="--fast")
    @click.option("--name", "names", cls=Option, multiple=True, former="--called")
    @click.argument("arguments", nargs=-1)
    def command(**values):
        found.update(values)

    result = click.testing.CliRunner().invoke(command, arguments)
    return result, {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(
    ("arguments", "expected", "notes"),
    [
        ("--max-rows 3", {"max_rows": 3}, 0),
        ("--most 3", {"max_rows": 3}, 1),
        ("--most=3 --fast", {"max_rows": 3, "quick": True}, 2),
        ("--called a --called=b", {"names": ("a", "b")}, 1),
        ("-- --most", {"arguments": ("--most",)}, 0),
    ],
)
def test_a_former_name_works_and_is_noted(arguments, expected, notes):
    result, values = call(*arguments.split())
    assert (result.exit_code, values) == (0, expected)
    assert result.stderr.count("note: ") == result.stderr.count(" is now --") == notes


def test_a_former_name_with_a_wrong_value_is_a_usage_error():
    result, _ = call("--most", "x")
    assert result.exit_code == 2
    assert "Invalid value for '--max-rows': 'x' is not a valid integer." in result.stderr


@pytest.mark.parametrize(("value", "copies"), [("copy", True), ("virtual", False)])
def test_the_former_merge_of_extract_is_copy(value, copies):
    with mock.patch.object(sppfeat, "extract", side_effect=KeyboardInterrupt, create=True) as called:
        result = run("extract", "photos", "-o", "f.h5", f"--merge={value}", code=130)
    assert "note: --merge is now --copy" in result.stderr
    assert called.call_args.kwargs["copy"] is copies


@pytest.mark.parametrize(
    ("arguments", "hint", "former"),
    [
        (("extrct",), "Did you mean 'extract' or 'export'?", ""),
        (("show", "neighbour"), "Did you mean 'neighbors'?", "'neighbours'"),
        (("nothing-like-it",), "No such command 'nothing-like-it'.\n", "Did you mean"),
        (("extract", "--merg", "copy"), "'--margin'", "'--merge'"),
        (("report", "f.h5", "--mos", "3"), "No such option '--mos'", "'--most'"),
    ],
)
def test_wrong_names_are_answered_with_present_names(arguments, hint, former):
    message = run(*arguments, code=2).stderr
    assert hint in message
    assert not former or former not in message


def test_a_former_name_of_a_command_works_and_is_noted(tmp_path):
    result = run("show", "neighbours", tmp_path / "f.h5", "-o", tmp_path / "n.svg", code=1)
    assert "note: 'sppfeat show neighbours' is now 'sppfeat show neighbors'" in result.stderr.replace(
        "main", "sppfeat"
    )
    assert "neighbours" not in run("show", "--help").stdout
    assert complete("sppfeat", "show", "neigh") == ["neighbors"]


@pytest.mark.parametrize(("code", "arguments"), CALLS.values(), ids=CALLS)
def test_exit_codes(code, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("photos")
    Path("photos/1.ppm").write_bytes(b"P6 40 40 255\n" + bytes(40 * 40 * 3))
    Path("photos/2.ppm").write_bytes(b"not a photograph")
    run(*arguments, code=code)
