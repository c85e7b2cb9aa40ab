"""The README says what the program does: its tables, commands and numbers are checked against the code."""

import json
import re
import shlex
import sys
from pathlib import Path

import click
import pytest
from command_line import run
from places import README

import sppfeat
from sppfeat.cli import groups, main
from sppfeat.store.schema import COLUMNS, REDUCTION_COLUMNS, ROW_COLUMNS, SOURCE_COLUMNS, VERSION_COLUMNS


def command(name: str) -> click.Command:
    """A command, or one of a group: ``bench regions``."""
    found: click.Command = main
    for part in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), part)
        assert found is not None, name
    return found


def commands_of(group: click.Group, prefix: str = "") -> list[str]:
    """All commands, in place of each group those that are in it."""
    names = []
    for name in group.list_commands(click.Context(group)):
        found = command(f"{prefix}{name}")
        names += commands_of(found, f"{name} ") if isinstance(found, click.Group) else [f"{prefix}{name}"]
    return names


COMMANDS = commands_of(main)


def option_table(name: str) -> str:
    """A command's options as Markdown, from the code."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    context = click.Context(command(name), info_name=name)
    for parameter in command(name).params:
        if not isinstance(parameter, click.Option):
            continue
        flags = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            flags += f" {parameter.make_metavar(context)}".replace("|", "\\|")
        default = parameter.get_default(context)
        has_default = isinstance(default, str | int | float) and not isinstance(default, bool)
        shown = f"`{default}`" if has_default else "required" if parameter.required else ""
        lines.append(f"| {flags} | {shown} | {(parameter.help or '').replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def section(name: str) -> str:
    match = re.search(rf"<!-- options of {name} -->\n(.*?)<!-- end -->", README.read_text(), re.DOTALL)
    assert match, f"README has no option table of {name}"
    return match[1].rstrip("\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_option_tables_are_those_of_the_code(name):
    # To write them anew: python tests/integration/test_readme.py
    assert section(name) == option_table(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_and_every_option_its_environment_variable(name):
    assert command(name).help
    assert command(name).short_help
    for parameter in command(name).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            long_name = next(flag for flag in parameter.opts if flag.startswith("--"))
            assert parameter.envvar == f"SPPFEAT_{long_name[2:].replace('-', '_').upper()}"


def chapter(heading: str) -> str:
    """The README from one heading of the second level to the next."""
    return README.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_every_dataset_of_the_file_is_described():
    cells = re.findall(r"^\| (`/[^|]*) \|", chapter("The file"), re.MULTILINE)
    described = {name for cell in cells for name in re.findall("`/([^`]+)`", cell)}
    for name in ["features", *COLUMNS, *VERSION_COLUMNS, *ROW_COLUMNS, *REDUCTION_COLUMNS, *SOURCE_COLUMNS]:
        assert name in described or (name.startswith("columns/") and "columns/*" in described), name


def test_exit_codes_are_described():
    table = re.search(r"\| exit code \| meaning \|\n.*?\n\n", chapter("Commands and options"), re.DOTALL)
    assert table
    codes = re.findall(r"^\| (\d+) \|", table[0], re.MULTILINE)
    own = {value for name, value in vars(groups).items() if name.startswith("EXIT_")}
    assert list(map(int, codes)) == sorted({0, *own})


def test_every_example_command_parses():
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", README.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [line.split("#")[0].split(" | ")[0].split() for line in lines if line.startswith("sppfeat ")]
    assert len(commands) >= 5
    for _, name, *args in commands:
        args = [arg.strip("'\"") for arg in args]
        if isinstance(command(name), click.Group):
            name = f"{name} {args.pop(0)}"
        # As within the program: a command keeps the names of its help option, and other tests read them.
        parent = click.Context(main, info_name="sppfeat", **main.context_settings)
        command(name).make_context(name, args, parent=parent)


@pytest.mark.slow
def test_the_worked_example_runs_as_printed(tmp_path, monkeypatch, photos):
    """The first command, and what it says."""
    text = README.read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/images").symlink_to(photos)
    start = re.search(
        r"```sh\npip install \. && sppfeat (extract [^\n]*)\n```.*?```text\n(.*?)```", text, re.DOTALL
    )
    assert start
    said = run(*start[1].split(), "--device", "cpu", code=0)
    said_lines = [re.sub(r"/\S*/features.h5", ".../features.h5", line) for line in said.stderr.splitlines()]
    for line in start[2].splitlines():
        if line.startswith("device:") or " images/s)" in line:  # of the machine
            assert any(other.startswith(line.split(" ")[0]) for other in said_lines), line
        else:
            assert line in said_lines


@pytest.mark.slow
def test_the_story_runs_as_printed(tmp_path, monkeypatch, photos):
    """Every command and all Python from features to a classifier, in their order."""
    text = README.read_text()
    story = text[text.index("## From features to a classifier") : text.index("### Without files")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/images").symlink_to(photos)
    scope: dict = {}
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", story, re.DOTALL):
        if language == "python":
            exec(compile(block, "README.md", "exec"), scope)
            continue
        for line in block.splitlines():
            arguments = shlex.split(line.split(" | ")[0])[1:]
            result = run(*arguments, env={"SPPFEAT_DEVICE": "cpu"})
            assert result.exit_code == 0, f"{line}: {result.output}"
            said = result.stdout
            if arguments[0] == "search":
                paths = [hit["path"] for hit in json.loads(said)[0]["hits"]]
                assert [Path(path).parent.name for path in paths] == ["galaxies"] * 3
    assert scope["accuracy"].mean() >= 0.9
    assert len(scope["table"]) == len(scope["dataset"]) == 9
    assert scope["model"].score(scope["paths"], [path.parent.name for path in scope["paths"]]) == 1
    for name in (
        "pyramid.png",
        "embedding.svg",
        "neighbours.png",
        "report.html",
        "predicted.csv",
        "features.npz",
    ):
        assert (tmp_path / name).stat().st_size > 1000 or name == "predicted.csv"


def test_each_function_of_the_package_is_listed_and_the_example_runs(tmp_path, monkeypatch, photos, capsys):
    chapter = README.read_text().partition("### Commands from Python")[2].partition("\n## ")[0]
    listed = re.findall(r"`sppfeat\.(\w+)`", chapter.partition("Errors are")[0])
    assert sorted(listed) == sorted({*sppfeat.__all__} - {"Extractor", "open", "__version__"})
    spelled = {name.replace("_", " ").replace("neighbors", "neighbours") for name in listed}
    assert spelled == {*COMMANDS} - {"backbones", "train"} - {
        name for name in COMMANDS if name.startswith("bench")
    }
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").symlink_to(photos)
    exec(compile(re.search(r"```python\n(.*?)```", chapter, re.DOTALL)[1], "README.md", "exec"), {})
    assert capsys.readouterr().out.splitlines() == ["20 0 []", "10752"]


if __name__ == "__main__":
    text = README.read_text()
    for name in COMMANDS:
        between = re.compile(rf"(<!-- options of {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = between.sub(lambda match, name=name: f"{match[1]}{option_table(name)}\n{match[2]}", text)
    README.write_text(text)
    sys.exit()
