"""Feature files that are damaged, repacked or inconsistent give a clear error or a right answer."""

import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from command_line import run
from feature_files import config
from hostile_files import edit, error_of, refused, replace, set_items, use, whole_images, with_boxes

from sppfeat.config.wording import one_line
from sppfeat.errors import StoreError
from sppfeat.store.reader import FeatureFile
from sppfeat.store.stored_file import StoredFile
from sppfeat.store.verify import verify_file
from sppfeat.store.writer import FeatureWriter

HUGE = 10**12
TEXT = h5py.string_dtype("utf-8")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A feature file of each kind."""
    folder = tmp_path_factory.mktemp("pristine")
    return {make: make(folder / f"{make.__name__}.h5") for make in (whole_images, with_boxes)}


@pytest.fixture
def file(pristine, tmp_path):
    return Path(shutil.copy(pristine[whole_images], tmp_path / "f.h5"))


@pytest.fixture
def boxed(pristine, tmp_path):
    return Path(shutil.copy(pristine[with_boxes], tmp_path / "f.h5"))


def test_the_undamaged_files_are_good(tmp_path):
    for make in (whole_images, with_boxes):
        path = make(tmp_path / f"{make.__name__}.h5")
        with FeatureFile(path) as features:
            assert verify_file(features).problems == []
        use(path)


# --- settings ---------------------------------------------------------------------------------------

RECORDED = json.loads(config().to_json())
ODD_VALUES = [
    None,
    True,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    10**400,
    "",
    "abc",
    "a\n\x1b[2J",
    [],
    [[]],
    [["a"], {"b": 1}],
    {},
    {"a": [1]},
    [None],
    [10**400] * 3,
    [0.5, "x", 0.5],
]


@pytest.mark.parametrize("text", ["[" * 100_000, "[" + "9" * 5000 + "]"])
@pytest.mark.parametrize("name", ["config", "norm_factors"])
def test_json_that_python_cannot_parse(file, name, text):
    edit(file, lambda f: f.attrs.create(name, text, dtype=TEXT))
    with FeatureFile(file) as features, pytest.raises(StoreError, match=f"attribute '{name}'") as raised:
        getattr(features, name)
    assert len(str(raised.value)) < 1000
    use(file)


@pytest.mark.slow
@pytest.mark.parametrize("make", [whole_images, with_boxes])
def test_settings_of_any_type_are_accepted_or_refused(tmp_path, monkeypatch, make):
    with FeatureFile(make(tmp_path / "f.h5")) as features:
        recorded = json.loads(features.attribute("config"))
        for name in recorded:
            for value in ODD_VALUES:
                text = json.dumps({**recorded, name: value})
                monkeypatch.setattr(StoredFile, "attribute", lambda file, name, text=text: text)
                vars(features).pop("config", None)
                said = error_of(lambda: features.config.fingerprint)
                assert said.isprintable()
                assert len(said) < 1000


def test_names_of_settings_are_escaped(file):
    edit(file, lambda f: f.attrs.modify("config", json.dumps({**RECORDED, "a\n\x1b[2J": 1})))
    result = run("info", file, code=1)
    assert "unknown settings: 'a\\n\\x1b[2J'" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    ["5", "null", "{}", '"123"', "[]", "[true]", "[0]", "[-1]", "[NaN]", "[Infinity]", "[[1]]", '["1"]', "{"],
)
def test_factors_that_are_not_positive_numbers(file, text):
    edit(file, lambda f: f.attrs.create("norm_factors", text, dtype=TEXT))
    with FeatureFile(file) as features:
        with pytest.raises(StoreError, match=r"'norm_factors' is .* allowed: a list of numbers above 0"):
            _ = features.norm_factors
        assert any("norm_factors" in problem for problem in verify_file(features).problems)


def test_factors_of_other_layers(file):
    edit(file, lambda f: f.attrs.create("norm_factors", "[1.5]", dtype=TEXT))
    with FeatureFile(file) as features:
        assert features.norm_factors == (1.5,)
        assert any("one factor per layer" in problem for problem in verify_file(features).problems)


# --- places in the file -----------------------------------------------------------------------------


def replaced(name, make):
    """An edit that recreates a dataset from its old values."""

    def change(opened):
        values, kind = opened[name][()], opened[name].dtype
        del opened[name]
        make(opened, name, values, kind)

    return change


@pytest.mark.parametrize("name", ["features", "boxes", "images/status", "images/path"])
@pytest.mark.parametrize("options", [{"chunks": True}, {"chunks": True, "compression": "gzip"}])
def test_chunked_datasets_are_refused(file, name, options):
    edit(
        file,
        replaced(name, lambda f, n, values, kind: f.create_dataset(n, data=values, dtype=kind, **options)),
    )
    refused(file, f"/{name} is chunked; allowed: contiguous, .* 'h5repack -l CONTI'")
    with pytest.raises(StoreError, match="is chunked"):
        FeatureWriter(file)


@pytest.mark.parametrize("name", ["features", "images/path", "boxes"])
def test_datasets_without_storage_are_refused(file, name):
    edit(file, replaced(name, lambda f, n, values, kind: f.create_dataset(n, values.shape, dtype=kind)))
    refused(file, f"/{name} was never written")


@pytest.mark.parametrize("kind", ["virtual", "external", "link"])
@pytest.mark.parametrize("name", ["features", "boxes"])
def test_datasets_in_other_files_are_refused(file, tmp_path, name, kind):
    whole_images(tmp_path / "other.h5")
    (tmp_path / "raw").write_bytes(bytes(1000))

    def make(opened, name, values, dtype):
        if kind == "link":
            opened[name] = h5py.ExternalLink("other.h5", f"/{name}")
        elif kind == "external":
            opened.create_dataset(name, values.shape, dtype, external=[(str(tmp_path / "raw"), 0, 1000)])
        else:
            layout = h5py.VirtualLayout(values.shape, dtype)
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", name, values.shape)
            opened.create_virtual_dataset(name, layout)

    edit(file, replaced(name, make))
    refused(file, f"has no dataset /{name}" if kind == "link" else f"/{name} is {kind}; allowed: contiguous")


def move(path, name, to):
    """Move a contiguous dataset in the file, by changing its address."""
    with h5py.File(path) as opened:
        offset, nbytes = opened[name].id.get_offset(), opened[name].id.get_storage_size()
    old = offset.to_bytes(8, "little") + nbytes.to_bytes(8, "little")
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, to.to_bytes(8, "little") + old[8:]))


@pytest.mark.parametrize("name", ["features", "images/error", "images/path"])
def test_a_dataset_past_the_end_of_the_file_is_refused(file, name):
    move(file, name, file.stat().st_size - 10)
    refused(file, "damaged .*invalid dataset size|ends beyond the end of the file")


def test_a_file_truncated_while_open_is_reported(file):
    with FeatureFile(file) as features:
        os.truncate(file, file.stat().st_size // 2)
        for name in ("features", "status", "boxes", "path_table", "classes", "labels", "image_rows"):
            with pytest.raises(StoreError, match="was cut short since it was opened"):
                getattr(features, name)


# --- values -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "change", "problem"),
    [
        ("file", set_items("images/status", 4, 7), "1 image has an unknown status: images 4"),
        ("file", set_items("images/label", 0, 2), "1 image has a label outside the classes: images 0"),
        ("file", set_items("images/label", 5, -2), "1 image has a label outside the classes: images 5"),
        ("file", set_items("images/size", (1, 0), -5), "1 image has a size below 0: images 1"),
        ("file", set_items("images/path", 1, b"0.jpg"), "/images/path lists an image twice"),
        (
            "file",
            set_items("images/path", 1, b"/etc/passwd"),
            "1 image has a path outside the root: images 1",
        ),
        ("file", set_items("images/path", 1, b""), "1 image has a path outside the root: images 1"),
        ("file", set_items("classes", 1, b"cat"), "/classes lists a class twice"),
        ("file", set_items("image_index", 0, 1), "/image_index and /images/rows contradict each other"),
        (
            "boxed",
            set_items("row_scale", 1, 33),
            "1 row has a scale that is not in the attribute 'config': 1",
        ),
        ("boxed", set_items("row_flag", 1, 8), "1 row has an unknown flag: 1"),
        ("boxed", set_items("row_region", (1, 0, 0), 9), "1 row has a descriptor, but no region: 1"),
        (
            "boxed",
            replace("row_region", np.tile(np.array([0, 0, 1, 1], dtype="<i4"), (3, 5, 1))),
            "/row_region has 5 layers, but the attribute 'config' has 2",
        ),
    ],
)
def test_impossible_values_are_found_by_verify(request, kind, change, problem):
    path = request.getfixturevalue(kind)
    edit(path, change)
    with FeatureFile(path) as features:
        assert problem in verify_file(features).problems
    use(path)


@pytest.mark.parametrize(
    ("name", "value"), [("row_source", 9), ("row_label", 3), ("row_label", -2), ("box_row", 3)]
)
def test_indexes_out_of_range_are_refused(boxed, name, value):
    edit(boxed, set_items(name, 0, value))
    refused(boxed, f"/{name} holds numbers outside")


def columns(**values):
    def change(opened):
        for name, numbers in values.items():
            del opened[f"columns/{name}"]
            opened.create_dataset(f"columns/{name}", data=numbers, dtype=TEXT if name == "layer" else "<i8")

    return change


@pytest.mark.parametrize(
    "change",
    [
        columns(layer=["a"], level=[1], channels=[2**63 - 1], start=[0], stop=[2**63 - 1]),
        columns(layer=["a"], level=[-1], channels=[15], start=[0], stop=[15]),
        columns(layer=["a", "b"], level=[1, 1], channels=[-5, 20], start=[0, -5], stop=[-5, 15]),
        columns(layer=[], level=[], channels=[], start=[], stop=[]),
    ],
)
def test_invalid_columns_are_refused(file, change):
    edit(file, change)
    refused(file, "does not describe the 15 columns")


def test_classes_of_the_same_name_are_counted_together(file):
    edit(file, set_items("classes", 1, b"cat"))
    found = json.loads(run("info", "--json", file).stdout)
    assert found["classes"] == {"cat": 5}


def test_many_classes_are_counted_in_few_passes_over_the_labels(boxed, monkeypatch):
    class Labels(np.ndarray):
        n_passes = 0

        def __array_ufunc__(self, ufunc, method, *arrays, **options):
            Labels.n_passes += 1
            return getattr(ufunc, method)(*map(np.asarray, arrays), **options)

    edit(boxed, replace("row_classes", [b"%d" % i for i in range(60_000)], dtype=TEXT))
    monkeypatch.setattr(FeatureFile, "row_label", np.array([1, 1, 59_999]).view(Labels))
    found = json.loads(run("info", "--json", boxed, code=0).stdout)["boxes"]["classes"]
    assert (len(found), found["1"], found["59999"]) == (60_000, 2, 1)
    assert 0 < Labels.n_passes < 10


def test_an_unknown_status_is_not_complete(file):
    edit(file, set_items("images/status", slice(4, 6), 7))
    assert json.loads(run("info", "--json", file).stdout)["complete"] is False
    result = run("info", file)
    assert "incomplete" in result.stdout
    assert "2 with unknown status" in result.stdout


# --- the terminal -----------------------------------------------------------------------------------


def test_texts_of_a_file_cannot_control_the_terminal(boxed):
    evil = "a\x1b[2J\r\nroot:      /fake\x07\u202e\x9b"

    def change(opened):
        for name in ("row_classes", "classes"):
            del opened[name]
            opened.create_dataset(name, data=[evil, evil + "2", evil + "3"], dtype=TEXT)
        opened["columns/layer"][:] = evil
        for name in ("input_root", "created", "sppfeat_version", "boxes_path", "fingerprint"):
            opened.attrs.create(name, evil, dtype=TEXT)
        opened["images/path"][1] = evil
        opened["images/status"][1] = 2
        opened["images/error"][1] = evil.encode() + b"\xff"
        recorded = {**json.loads(opened.attrs["config"]), "backbone": evil, "weights": evil}
        opened.attrs.create("config", json.dumps(recorded), dtype=TEXT)

    edit(boxed, change)
    use(boxed)
    result = run("info", boxed, code=0)
    assert not [
        line for line in result.stdout.splitlines() if line.startswith("root:") and "fake" in line[:30]
    ]
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert re.search(r"root: +a\\x1b\[2J\\r\\nroot: +/fake\\x07\\u202e\\x9b", result.stdout)


def test_quoted_text_is_shortened():
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 297 + "..."
    assert one_line("\x1b" * 300, longest=11) == "\\x1b\\x1b..."
