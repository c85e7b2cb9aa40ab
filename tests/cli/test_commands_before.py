"""The command line is that of the release before the rooms: help, options, arguments and exit codes.

The snapshot, ``commands_before.json``, was made once, with that release. Help is compared word by word, because
versions of click break lines and align columns differently.
"""

import difflib
import json
import os
import re
import tempfile
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner

from sppfeat.cli import groups, main

SNAPSHOT = Path(__file__).with_name("commands_before.json")
WIDTH = 80

# Commands that are gone, each with a line in CHANGELOG.md.
GONE = ["sppfeat bench plan"]


def gone(words: str) -> list[str]:
    """Lines of words that are no longer in a command's help."""
    return [f"- {word}" for word in words.split()]


def new(words: str) -> list[str]:
    """Lines of words that were not in a command's help."""
    return [f"+ {word}" for word in words.split()]


_LABELS = [
    *gone("labels"),
    *new("labels."),
    *gone("from"),
    *new("auto:"),
    *gone("folders:"),
    *new("folders, or those below train, val and test,"),
    *gone("more"),
    *new("more;"),
    *gone("such"),
    *new("folder: the first-level"),
    *gone("folders;"),
    *new("folders"),
]

# Intended differences of a command: its parameters and the words of its help that are gone ("- ...") or new ("+ ...").
DIFFERENCES: dict[str, list[str]] = {
    "sppfeat": ["- plans,"],
    "sppfeat bench": gone("plan Listing, planning and laying out a run, by the number of images."),
    "sppfeat export": [
        "- [npz|npy|parquet|svmlight|mat|mat73|csv|tsv]",
        "+ [npz|npy|parquet|svmlight|mat|csv|tsv]",
        *gone("mat73 is MATLAB 7.3: HDF5, of any size. mat, mat73]"),
        "+ mat]",
    ],
    "sppfeat extract": [
        *gone("[auto|folder|none]"),
        *new("[auto|folder|parent|none]"),
        *_LABELS,
        *gone("always; never."),
        *new("in any case; parent: the folder of each image; none: no labels."),
        "- [csv|tsv|jsonl|coco|voc|yolo|numpy|mat]",
        "+ [csv|tsv|jsonl|coco|voc|yolo|cvat|labelme|via|parquet|numpy|mat]",
        "- [absolute|normalized]",
        "+ [absolute|normalized|percent]",
        *new("or percent"),
        "- undecoded:",
        "+ undecoded;",
        *gone("a guard against decompression bombs."),
        *new("raise it for huge TIFFs."),
    ],
    "sppfeat verify": new("So are images that changed since they were extracted."),
    "sppfeat search": [
        "- option --engine, required: False, repeatable: False, environment: SPPFEAT_ENGINE",
        *gone("--engine [exact|faiss] Finds the candidates: sppfeat's own, or the package FAISS where it is"),
        *gone("installed. The result is the same. [default: exact]"),
    ],
    "sppfeat train": [
        *gone("[auto|folder]"),
        *new("[auto|folder|parent]"),
        *_LABELS,
        *gone("always."),
        *new("in any case; parent: the folder of each image."),
    ],
}

# Options that have come since; they are left out of the comparison.
_WITH_LABELS = ("export", "predict", "probe", "report", "search", "show embedding", "show neighbours")
NEW_OPTIONS: dict[str, list[str]] = {
    **{f"sppfeat {name}": ["--encoding"] for name in _WITH_LABELS},
    "sppfeat export": ["--classes-from", "--encoding"],
    "sppfeat train": ["--encoding"],
    "sppfeat extract": [
        "--box-categories",
        "--box-images",
        "--box-label",
        "--box-names",
        "--encoding",
        "--exclude",
        "--include",
        "--update",
        "--update-changed",
    ],
}

EXIT_CODES = ("EXIT_ERROR", "EXIT_INTERRUPTED", "EXIT_SOME_FAILED", "EXIT_USAGE")

# One call for each exit code; 130 takes a signal, and is tested with the other interruptions.
CALLS = {
    "done": ["--version"],
    "error": ["info", "missing.h5"],
    "usage, by click": ["extract"],
    "usage, by a setting": ["train", ".", "-o", "out", "--distill", "map"],
    "some images failed": ["extract", "photos", "-o", "out.h5", "--size", "32", "--workers", "0", "-q"],
}


def commands(command=main, names=()):
    """Every command with its names, groups before their members."""
    yield names, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            member = command.get_command(context, name)
            assert member is not None
            yield from commands(member, (*names, name))


def description(names: tuple[str, ...], command: click.Command) -> list[str]:
    """The parameters of a command, a line each, and its help as it is printed."""
    new = NEW_OPTIONS.get(" ".join(["sppfeat", *names]), [])
    known = [parameter for parameter in command.params if not set(new).intersection(parameter.opts)]
    with mock.patch.object(command, "params", known):
        result = CliRunner().invoke(main, [*names, "--help"], prog_name="sppfeat", terminal_width=WIDTH)
    assert result.exit_code == 0, result.output
    assert len(known) == len(command.params) - len(new)
    return [*map(_parameter_line, known), *result.output.splitlines()]


def _parameter_line(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return f"argument {parameter.name}, {parameter.nargs} values, required: {parameter.required}"
    names = " ".join([*parameter.opts, *parameter.secondary_opts])
    return (
        f"option {names}, required: {parameter.required}, repeatable: {parameter.multiple}, "
        f"environment: {parameter.envvar}"
    )


def without_layout(lines: list[str]) -> list[str]:
    """A description with its help as words, wherever lines break (also after a hyphen) and columns begin."""
    start = next(i for i, line in enumerate(lines) if line.startswith("Usage: "))
    text = re.sub(r"(?<=\w-)\s+", "", "\n".join(lines[start:]))
    return [*lines[:start], *text.split()]


def exit_code_of(arguments: list[str]) -> int:
    """The exit code of a call, in a folder with one photograph and one file that is none."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("photos").mkdir()
            Path("photos", "1.ppm").write_bytes(b"P6 40 40 255\n" + bytes(40 * 40 * 3))
            Path("photos", "2.ppm").write_bytes(b"no photograph")
            return CliRunner().invoke(main, arguments).exit_code
        finally:
            os.chdir(before)


@pytest.fixture(scope="module")
def before():
    return json.loads(SNAPSHOT.read_text())


def test_commands_options_and_help_are_as_before(before):
    now = {" ".join(["sppfeat", *names]): description(names, found) for names, found in commands()}
    kept = {name: lines for name, lines in before["commands"].items() if name not in GONE}
    assert list(now) == list(kept)
    changed = {}
    for name, lines in kept.items():
        then, today = without_layout(lines), without_layout(now[name])
        compared = difflib.ndiff(then, today) if then != today else ()
        if found := [line for line in compared if line.startswith(("- ", "+ "))]:
            changed[name] = found
    assert changed == DIFFERENCES


def test_exit_codes_have_the_values_of_before(before):
    assert {name: getattr(groups, name) for name in EXIT_CODES} == before["exit_codes"]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_ends_with_the_exit_code_of_before(name, before):
    assert exit_code_of(CALLS[name]) == before["calls"][name]
