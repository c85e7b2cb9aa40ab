"""Texts and layout of --help."""

import re

import click
import pytest
from click.testing import CliRunner
from command_line import run
from test_commands import COMMANDS

from sppfeat.cli import main
from sppfeat.cli.command import Command, Option

BRITISH = re.compile(
    r"colour|neighbour|(?:normal|recogn|summar|regular|initial|optim)is|centre|\bgrey|licence|behaviour", re.I
)
RIDDLES = re.compile(
    r"^(?:What|Where|Whether|Of|Which|Whose|How|That|Who)\b|\bis there\b|\bthere (?:is|are) (?:none|no)\b|\bby itself\b"
    r"|\bbeside (?:it|them)\b|\b(?:of|in) which\b|\bis to be\b|\bwhat (?:is|was|are|were|of)\b|\bthose (?:that|of)\b"
    r"|\bbehind\b|\banew\b|\bany more\b|\ball of it\b|\blearnt\b|\blies? (?:in|there|beside)\b",
    re.I,
)
OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.long_name}")
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, Option)
]


def help_of(name, *arguments, width=80):
    result = CliRunner().invoke(
        main, [*name.split()[1:], *arguments], prog_name="sppfeat", terminal_width=width
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def options_in(text):
    return re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.MULTILINE)


def check_english(text):
    assert re.match(r"[A-Z]", text)
    assert not BRITISH.search(text)
    assert not RIDDLES.search(text)
    assert "  " not in text
    assert text == text.strip()


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_has_one_plain_sentence(name, option):
    text = option.help
    assert text, f"{name} {option.long_name} has no help"
    check_english(text)
    assert len(text) <= 170
    assert re.search(r"\.(?: \[default: [^\]]+\])?$", text)
    shown = " ".join(option.get_help_record(click.Context(COMMANDS[name])))
    choices = getattr(option.type, "choices", ())
    assert [choice for choice in choices if not re.search(rf"\b{choice}\b", shown)] == []


@pytest.mark.parametrize(("name", "command"), COMMANDS.items())
def test_every_command_begins_with_one_plain_sentence(name, command):
    first, *others = command.help.split("\n\n")
    assert "\n" not in first.strip()
    assert first.endswith(".")
    assert len(first) <= 100
    for paragraph in (first, *others):
        check_english(" ".join(paragraph.split()))
    for example in getattr(command, "examples", ()):
        assert example.startswith("sppfeat ")
    assert command.get_short_help_str(100) == first


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_is_wider_than_the_terminal(name, width):
    arguments = ["--help-all"] if isinstance(COMMANDS[name], Command) else ["--help"]
    for argument in ("--help", *arguments):
        assert max(map(len, help_of(name, argument, width=width).splitlines())) <= width


@pytest.mark.parametrize("name", [name for name in COMMANDS if isinstance(COMMANDS[name], Command)])
def test_all_options_are_grouped_and_only_help_all_shows_rare_ones(name):
    command = COMMANDS[name]
    options = {option.long_name: option for option in command.params if isinstance(option, Option)}
    grouped = [option.long_name for own in command.groups.values() for option in own]
    assert sorted(grouped) == sorted(options)
    assert "Options" not in command.groups or len(command.groups) == 1
    short, long = options_in(help_of(name, "--help")), options_in(help_of(name, "--help-all"))
    assert set(long) - {"--help", "--help-all"} == set(options)
    assert set(long) - set(short) == command.rare
    assert ("--help-all" in short) == bool(command.rare)
    assert not any(options[rare].required for rare in command.rare)


@pytest.mark.parametrize("name", COMMANDS)
def test_descriptions_keep_no_indentation_of_the_source(name):
    text = help_of(name, "--help")
    description = text[: re.search(r"^(?!Examples)\w[\w -]*:$", text, re.MULTILINE).start()]
    assert not re.search(r"^ {3,}\w|\w {2,}\w(?!.*#)", description, re.MULTILINE)


def test_help_of_extract_fits_two_screens():
    text = help_of("sppfeat extract", "--help")
    assert len(text.splitlines()) <= 75
    headings = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert headings[:2] == ["Examples", "Inputs and labels"]
    assert headings[2:] == [
        *(
            "Output and resume",
            "Network",
            "Input size",
            "Pyramid",
            "Boxes",
            "Running",
            "Splitting",
            "Ray",
            "Help",
        )
    ]
    assert len(re.findall("^  sppfeat extract ", text, re.MULTILINE)) == 4


def test_help_of_sppfeat_begins_with_three_commands_and_groups_all():
    text = help_of("sppfeat", "--help")
    assert len(re.findall("^  sppfeat ", text, re.MULTILINE)) == 3
    assert re.findall(r"^(\w.*):$", text, re.MULTILINE) == [
        *("Quick start", "Extract", "Inspect", "Use", "Advanced", "Options")
    ]


@pytest.mark.parametrize("name", ["", "show", "extract", "show image", "bench pooling"])
def test_all_ways_to_ask_for_help(name):
    text = run(*name.split(), "--help", code=0).stdout
    assert run(*name.split(), "-h", code=0).stdout == text
    assert run("help", *name.split(), code=0).stdout == text
    group, _, command = name.partition(" ")
    if command:
        assert run(group, "help", command, code=0).stdout == text


def test_help_of_an_unknown_command_is_a_usage_error():
    assert "No such command 'extrat'" in run("help", "extrat", code=2).stderr
