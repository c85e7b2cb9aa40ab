"""The pages of docs/ name everything that the code has: datasets, exit codes, functions, rooms, formats."""

import re
from pathlib import Path

import click
import pytest
from pages import PAGES

import sppfeat
from sppfeat.analysis.choices import EXPORT_FORMATS
from sppfeat.cli import groups, main
from sppfeat.config.regions import BOX_STYLES, DEFAULT_CONVENTIONS
from sppfeat.config.values import CHOICES
from sppfeat.files.columns import CLASS_NAMES, COLUMN_SETS, ID_NAMES, IMAGE_NAMES, LABEL_NAMES
from sppfeat.files.tables import PATH_NAMES
from sppfeat.inputs.labels import LABEL_MODES
from sppfeat.store.schema import (
    COLUMNS,
    OPTIONAL_COLUMNS,
    REDUCTION_COLUMNS,
    ROW_COLUMNS,
    SOURCE_COLUMNS,
    VERSION_COLUMNS,
)

DATASETS = [
    "features",
    *COLUMNS,
    *OPTIONAL_COLUMNS,
    *VERSION_COLUMNS,
    *ROW_COLUMNS,
    *REDUCTION_COLUMNS,
    *SOURCE_COLUMNS,
]
COORDS = {"xyxy": "corners", "xywh": "x, y, width, height", "cxcywh": "center, width, height"}


def section(page: str, heading: str) -> str:
    """The text of a page from a heading of the second level to the next."""
    return PAGES[page].read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the tables in a text."""
    return re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)


def test_every_dataset_is_described_and_no_other():
    cells = " ".join(first_cells(PAGES["file-format"].read_text()))
    assert set(re.findall(r"`/([^`*]+)`", cells)) == set(DATASETS)


def test_every_exit_code_is_described():
    described = [int(cell) for cell in first_cells(section("faults", "Exit codes")) if cell.isdigit()]
    known = {value for name, value in vars(groups).items() if name.startswith("EXIT_")}
    assert described == sorted({0, *known})


def commands(group: click.Group = main, prefix: str = "") -> set[str]:
    """Every command that is not a group, by its words."""
    context = click.Context(group)
    names = set()
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        is_group = isinstance(command, click.Group)
        names |= commands(command, f"{prefix}{name} ") if is_group else {f"{prefix}{name}"}
    return names


def test_every_function_is_listed_with_its_command():
    cells = first_cells(section("reading", "Commands from Python"))
    listed = {name for cell in cells for name in re.findall(r"`sppfeat\.(\w+)`", cell)}
    assert listed == {*sppfeat.__all__} - {"Extractor", "open", "__version__"}
    without_function = {name for name in commands() if name.split()[0] in ("backbones", "train", "bench")}
    assert {name.replace("_", " ") for name in listed} == commands() - without_function


def test_every_export_format_is_listed():
    cells = " ".join(first_cells(section("export", "Formats")))
    assert [name for name in EXPORT_FORMATS if f"`.{name}`" not in cells] == []


def test_every_room_is_described():
    package = Path(sppfeat.__file__).parent
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    cells = re.findall(r"^\| \d \|([^|]+)\|", section("contributing", "Rooms"), re.MULTILINE)
    described = set(re.findall(r"`(\w+)`", " ".join(cells)))
    assert rooms <= described <= rooms | {path.stem for path in package.glob("*.py")}


def rows_of(page: str, heading: str) -> dict[str, str]:
    """The rows of the tables below a heading, each by the names in its first cell."""
    found = re.findall(r"^\| ([^|]+) \|(.*)\|$", section(page, heading), re.MULTILINE)
    return {name: rest for first, rest in found for name in re.findall(r"`([^`]+)`", first) or [first]}


def names_in(text: str) -> list[str]:
    return [name for names in re.findall(r"`([^`]+)`", text) for name in names.split(", ")]


@pytest.mark.parametrize("name", DEFAULT_CONVENTIONS)
def test_every_box_format_is_listed_with_its_convention(name):
    numbers = rows_of("boxes", "Formats")[name].rpartition("|")[2]
    convention = DEFAULT_CONVENTIONS[name]
    assert numbers.strip().startswith((COORDS[convention.coords], "by column names", "by key names"))
    assert ("1-based" in numbers) == (convention.origin == 1)
    assert ("last pixel inclusive" in numbers) == (convention.ends == "inclusive")
    assert ("fractions" in numbers) == convention.is_relative


@pytest.mark.parametrize("name", BOX_STYLES)
def test_every_style_of_boxes_is_described(name):
    numbers = rows_of("boxes", "Coordinates")[name]
    style = BOX_STYLES[name]
    units = {"absolute": "in pixels", "normalized": "as fractions", "percent": "in percent"}
    assert numbers.strip().startswith(COORDS[style.coords])
    assert units[style.units] in numbers
    assert ("1-based" in numbers) == (style.origin == 1)
    assert ("last pixel inclusive" in numbers) == (style.ends == "inclusive")
    assert ("y first" in numbers) == (style.order == "yx")


@pytest.mark.parametrize("option", ["coords", "units", "origin", "ends", "order"])
def test_every_convention_of_boxes_is_described(option):
    described = names_in(rows_of("boxes", "Coordinates")[f"--box-{option}"])
    assert set(described) >= set(CHOICES.get(f"box_{option}", ("0", "1")))


def test_every_column_of_boxes_is_listed():
    rows = rows_of("boxes", "Formats")
    assert names_in(rows["image"]) == list(IMAGE_NAMES)
    assert {tuple(names.split(",")) for names in names_in(rows["box"])} == set(COLUMN_SETS)
    assert names_in(rows["class, optional"]) == list(LABEL_NAMES)


def test_every_column_of_images_is_listed():
    rows = rows_of("inputs", "Tables of images")
    assert names_in(rows["path of the image (exactly one)"]) == list(PATH_NAMES)
    assert names_in(rows["class (the first found)"]) == list(CLASS_NAMES)
    assert names_in(rows["id (the first found)"]) == list(ID_NAMES)


def test_every_mode_of_labels_and_projection_is_described():
    assert [name for name in rows_of("inputs", "Labels") if name in LABEL_MODES] == list(LABEL_MODES)
    assert set(rows_of("boxes", "From pixels to cells")) >= set(CHOICES["projection"])
