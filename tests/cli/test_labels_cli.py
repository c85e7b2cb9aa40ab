"""Labels and class numbers of the commands that read feature files."""

import json

import pytest
from command_line import run
from labelled_files import image_file

LABELS = [0, 1] * 10


@pytest.fixture
def files(tmp_path):
    """A feature file, a classifier of it, and a table with labels of 18 of its 20 images and of one of another file."""
    features, table = image_file(tmp_path / "f.h5", LABELS), tmp_path / "labels.csv"
    lines = [f"{i}.jpg,{'odd' if i % 2 else 'even'}" for i in range(2, 20)]
    table.write_text("\n".join(["path,label", *lines, "gone.jpg,odd"]))
    run("probe", features, "--no-ablation", "--save", tmp_path / "m.npz", code=0)
    return features, table


@pytest.mark.parametrize(
    "command",
    [
        ("probe", "F", "--no-ablation"),
        ("probe", "F", "--no-ablation", "--json", "-q"),
        ("predict", "M", "F", "-q"),
        ("export", "F", "-o", "x.npz"),
        ("search", "F", "row:3"),
        ("show", "embedding", "F", "-o", "e.svg"),
        ("show", "neighbors", "F", "row:3", "-o", "n.svg"),
        pytest.param(("report", "F", "-o", "r.html"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_commands_count_labels_without_match(files, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    named = {"F": "f.h5", "M": "m.npz"}
    arguments = [named.get(argument, argument) for argument in command]
    notes = [
        "note: 'labels.csv': 1 of 19 names matches no image of 'f.h5': 'gone.jpg'\n",
        "note: 'labels.csv': 2 of 20 rows have no label\n",
    ]
    said = run(*arguments, "--labels", "labels.csv", code=0)
    assert [said.stderr.count(note) for note in notes] == [1, 1]
    assert "Warning" not in said.stderr
    assert "--json" not in command or json.loads(said.stdout)["n_unlabelled"] == 2


def test_an_export_numbers_the_classes_as_another_file_does(files, tmp_path):
    features, _ = files
    train = image_file(tmp_path / "train.h5", [0, 1, 2], classes=[b"c1", b"c9", b"c0"])
    for options, numbers in (((), LABELS), (("--classes-from", train), [2, 0] * 10)):
        run("export", features, "-o", tmp_path / "x.svm", "--overwrite", *options, code=0)
        lines = (tmp_path / "x.svm").read_text().splitlines()
        assert [int(line.split()[0]) for line in lines] == numbers
    other = image_file(tmp_path / "other.h5", [0, 0], classes=[b"c1"])
    said = run("export", features, "-o", tmp_path / "y.svm", "--classes-from", other, code=1)
    assert f"Error: 10 rows have classes that '{other}' lacks: 'c0' 10; allowed: 'c1'. Leave" in said.stderr
    again = ("export", features, "-o", train, "--overwrite", "--classes-from", train, "--format", "csv")
    said = run(*again, code=2)
    assert "is also an input" in said.stderr


def test_notes_are_lines_of_their_own_above_the_bar(files, tmp_path):
    features, table = files
    said = run("export", features, "-o", tmp_path / "x.npz", "--labels", table, code=0)
    lines = said.stderr.replace("\r", "\n").splitlines()
    assert sum(line.startswith("note: ") for line in lines) == 2
    assert sum("note: " in line for line in lines) == 2
