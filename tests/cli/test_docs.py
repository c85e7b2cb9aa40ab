"""docs/cli.md and docs/json.md are generated from the code and up to date."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict

import pytest
import test_commands
from places import REPOSITORY

from sppfeat.cli import docs
from sppfeat.cli.json_fields import COMMANDS, json_fields, record_fields


def test_pages_are_up_to_date():
    assert [path.name for path in docs.stale_pages()] == [], "run python -m sppfeat.cli.docs"


def test_a_stale_page_is_named_and_written(tmp_path, monkeypatch, capsys):
    for page in ("cli.md", "json.md"):
        (tmp_path / page).write_bytes((REPOSITORY / "docs" / page).read_bytes())
    (tmp_path / "json.md").write_text("old")
    monkeypatch.setattr(docs, "_DOCS", tmp_path)
    docs.write_pages()
    assert capsys.readouterr().out == "wrote docs/json.md\n"
    assert docs.stale_pages() == {}


@pytest.mark.slow
def test_pages_do_not_depend_on_terminal_environment_and_locale():
    environment = {
        "COLUMNS": "20",
        "LC_ALL": "C",
        "SPPFEAT_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PATH": "",
    }
    code = "from sppfeat.cli import docs; assert not docs.stale_pages()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_every_command_with_json_is_described_in_the_order_of_help():
    with_json = [
        name.removeprefix("sppfeat ")
        for name, command in test_commands.COMMANDS.items()
        if any("--json" in own.opts for own in command.params)
    ]
    described = [" ".join(re.findall(r"(?<!\S)[a-z]+", name)) for name in COMMANDS]
    assert list(dict.fromkeys(described)) == with_json


class Point(NamedTuple):
    """A point.

    Attributes:
        x: column.
    """

    x: int


class Counts(TypedDict, total=False):
    """Counts.

    Attributes:
        n: number of ``things``; None if unknown,
            and False never.
    """

    n: int | None


@dataclass
class Base:
    """A base.

    Attributes:
        path: path of the file.
    """

    path: Path


@dataclass
class Record(Base):
    """A record.

    Attributes:
        counts: counts by name.
        points: points.
        size: height and width.
        flags: flags of each class.
        table: a table.
        anything: a value.

    Example:
        >>> 1
        1
    """

    counts: dict[str, Counts]
    points: list[Point] | None
    size: tuple[int, int] | None
    flags: dict[str, dict[str, bool]]
    table: list[tuple[float, ...]]
    anything: Annotated[dict[str, Any], Point]


def test_fields_of_records_with_the_texts_of_their_docstrings():
    assert [tuple(field) for field in record_fields(list[Record])] == [
        ("[].path", "string", "path of the file."),
        ("[].counts.*", "object", "counts by name."),
        ("[].counts.*.n", "integer or null", "number of `things`; null if unknown, and false never."),
        ("[].points", "list of objects or null", "points."),
        ("[].points[].x", "integer", "column."),
        ("[].size", "list of 2 integers or null", "height and width."),
        ("[].flags.*.*", "boolean", "flags of each class."),
        ("[].table", "list of lists of numbers", "a table."),
        ("[].anything", "object", "a value."),
        ("[].anything.x", "integer", "column."),
    ]


def record(text, **fields):
    return dataclass(type("Other", (), {"__doc__": text, "__annotations__": fields}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("No attributes.", r"Other has the fields \['a', 'b'\]; its docstring describes \[\]"),
        ("One.\n\nAttributes:\n    a: text.", r"describes \['a'\]"),
        ("More.\n\nAttributes:\n    a: text.\n    b: text.\n    c: text.", r"describes \['a', 'b', 'c'\]"),
        ("Two at once.\n\nAttributes:\n    a, b: text.", "'a, b: text.' is not a field and its text"),
    ],
)
def test_records_that_do_not_describe_each_field_once_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        list(record_fields(record(text, a=int, b=int)))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_field_has_a_short_sentence(command):
    fields = json_fields(command)
    paths = [field.path for field in fields]
    assert len(set(paths)) == len(paths)
    for field in fields:
        assert field.text.endswith("."), field
        assert len(field.text) < 160, field
    assert json.dumps(fields).isascii()
