"""Saved classifiers: what they predict, which files they refuse, and which files are refused as classifiers."""

import csv
import io
import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
from command_line import run
from feature_files import name_images
from labelled_files import box_file, image_file, separable

import sppfeat
from sppfeat.store.reader import FeatureFile

pytest.importorskip("sklearn")
from sklearn.linear_model import RidgeClassifier

LABELS = [0, 1, 2, 1] * 6 + [0, -1]
CLASSES = [b"cat", b"d,og", b"\xff\r"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def features(folder):
    return image_file(folder / "f.h5", LABELS, classes=CLASSES)


@pytest.fixture(scope="module")
def model(folder, features):
    run("probe", features, "-q", "--save", folder / "m.npz", code=0)
    return folder / "m.npz"


def lines_of(content: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


# --- predictions ----------------------------------------------------------------------------------


def test_the_table_agrees_with_scikit_learn(features, model, folder):
    result = run("predict", model, features, "-q", "--scores", code=0)
    with FeatureFile(features) as file:
        x, y = file.to_sklearn()
        names, layers = file.classes, file.select().columns.layer_ranges().values()
    x = np.hstack([x[:, part] / np.linalg.norm(x[:, part], axis=1, keepdims=True) for part in layers])
    x /= np.sqrt(len(layers))
    expected = RidgeClassifier(alpha=0.1, class_weight="balanced").fit(x[y >= 0], y[y >= 0])
    decision = expected.decision_function(x)
    found = lines_of(result.stdout_bytes)
    header = ["row", "path", "label", "predicted", "score", *(f"score:{name}" for name in names)]
    assert list(found[0]) == header
    for i, line in enumerate(found):
        assert (line["row"], line["path"]) == (str(i), f"{i}.jpg")
        assert line["label"] == (names[y[i]] if y[i] >= 0 else "")
        assert line["predicted"] == names[decision[i].argmax()]
        assert [float(line[name]) for name in header[5:]] == pytest.approx(decision[i].tolist(), abs=1e-5)
        assert float(line["score"]) == pytest.approx(decision[i].max(), abs=1e-5)
    right = np.mean(decision.argmax(axis=1)[y >= 0] == y[y >= 0])
    assert result.stderr == (
        "note: 25 of 26 rows were used to fit the classifier; 'sppfeat probe' estimates the accuracy on unseen images\n"
        f"accuracy on 25 labeled rows: {100 * right:.1f} %\n"
    )
    assert b"\xff" in result.stdout_bytes
    assert run("predict", model, features, "-q", "--scores", "-o", folder / "p.csv").stdout == ""
    assert (folder / "p.csv").read_bytes() == result.stdout_bytes
    assert run("predict", model, features, "-q", "--scores", "-o", "-").stdout_bytes == result.stdout_bytes


def test_boxes_with_some_layers_and_levels(tmp_path):
    path = box_file(tmp_path / "f.h5", [[0, 1], [1, 0], [0], [1]] * 5)
    run("probe", path, "-q", "--levels", 2, "--layer", "layer3", "--save", tmp_path / "m.npz", code=0)
    result = run("predict", tmp_path / "m.npz", path, "-q", "--scores", "--rows", "3:")
    found = lines_of(result.stdout_bytes)
    assert ",".join(found[0]) == "row,path,x0,y0,x1,y1,label,predicted,score,score:c0,score:c1"
    assert [int(line["row"]) for line in found] == list(range(3, 30))
    assert found[0]["x1"] == "11"
    for line in found:  # of two classes there is one number
        assert float(line["score:c0"]) == -float(line["score:c1"])
        assert float(line["score"]) == abs(float(line["score:c1"]))
        assert line["predicted"] == ("c1" if float(line["score:c1"]) > 0 else "c0")


@pytest.mark.slow
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scores_do_not_depend_on_blocks_or_threads(tmp_path, monkeypatch, n_classes):
    threadpoolctl = pytest.importorskip("threadpoolctl")  # scikit-learn needs it, too
    rng = np.random.default_rng(n_classes)
    labels = [i % n_classes for i in range(90)]
    # As long as real ones, and far from norm 1: sums in float32 differ in the printed digits.
    features = (100 * rng.standard_normal((90, 5 * 384))).astype(np.float32)
    path = image_file(tmp_path / "f.h5", labels, features=features, channels=(256, 128))
    run("probe", path, "-q", "--rows", "0:60", "--save", tmp_path / "m.npz", code=0)
    tables = set()
    for n_rows in [90, 1, *rng.integers(2, 90, 6)]:
        monkeypatch.setattr("sppfeat.analysis.probe.classifier._BLOCK_NBYTES", 8 * 1920 * int(n_rows))
        for n_threads in (1, 2):
            with threadpoolctl.threadpool_limits(n_threads):
                tables.add(run("predict", tmp_path / "m.npz", path, "-q", "--scores").stdout)
    (table,) = tables
    scores = [line["score:c0"] for line in lines_of(table.encode())]
    assert max(len(score.lstrip("-0.").replace(".", "")) for score in scores) in (6, 7)


def test_from_python(features, model):
    found = sppfeat.predict(model, features, rows="0:9")
    lines = lines_of(run("predict", model, features, "-q", "--rows", "0:9").stdout_bytes)
    assert found.rows.tolist() == list(range(9))
    assert [found.classes[i] for i in found.predicted] == [line["predicted"] for line in lines]
    assert found.scores.tolist() == pytest.approx([float(line["score"]) for line in lines], rel=1e-6)
    assert found.classes == ("cat", "d,og", "\udcff\r")
    assert (found.n_learned, found.n_known, found.n_without) == (9, 9, 0)


def test_a_saved_classifier_needs_numpy_alone(features, model):
    code = (
        "import sys, sppfeat; sys.modules['sklearn'] = sys.modules['scipy'] = None\n"
        "print(len(sppfeat.predict(*sys.argv[1:]).rows))"
    )
    ran = subprocess.run([sys.executable, "-c", code, model, features], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("26\n", "")


def test_training_rows_are_recognized_by_path_and_box(tmp_path):
    path = box_file(tmp_path / "f.h5", [[0, 1], [1, 0], [0], [1]] * 5)
    half = tmp_path / "half.npz"
    sppfeat.probe(path, rows="::2", save=half)
    assert sppfeat.predict(half, path).n_learned == 15
    assert sppfeat.predict(half, path, rows="1::2").n_learned == 0
    assert sppfeat.predict(half, path, rows=[4, 4, 5]).n_learned == 2
    (tmp_path / "g.h5").write_bytes(path.read_bytes())
    with h5py.File(tmp_path / "g.h5", "r+") as copy:  # the same names in another folder are other images
        copy.attrs["input_root"] = f"{copy.attrs['input_root']}/test"
    assert sppfeat.predict(half, tmp_path / "g.h5").n_learned == 0


def test_other_labels_and_rows_without_descriptor(features, model, tmp_path):
    path = image_file(
        tmp_path / "g.h5", [0, 0, 1, -1], classes=[b"cat", b"cow"], features=separable(LABELS)[:4]
    )
    with h5py.File(path, "r+") as opened:
        opened["images/status"][1] = 2
    result = run("predict", model, path, "-q")
    assert [line["row"] for line in lines_of(result.stdout_bytes)] == ["0", "2", "3"]
    assert "note: 1 row has no descriptor and was skipped" in result.stderr
    assert "note: 1 row is of classes that the classifier does not know" in result.stderr
    assert "accuracy on 1 labeled row: " in result.stderr
    (tmp_path / "l.csv").write_text("row,label\n0,cat\n3,d\n")
    result = run("predict", model, path, "-q", "--labels", tmp_path / "l.csv")
    assert [line["label"] for line in lines_of(result.stdout_bytes)] == ["cat", "", "d"]
    unlabelled = image_file(tmp_path / "u.h5", [-1] * 3, classes=[])
    name_images(unlabelled, [b"a,17", b"", b"2"])
    result = run("predict", model, unlabelled, "-q")
    assert "labeled row" not in result.stderr
    lines = lines_of(result.stdout_bytes)
    assert list(lines[0])[:3] == ["row", "path", "image_id"]
    assert [line["image_id"] for line in lines] == ["a,17", "", "2"]


def test_a_file_without_rows(model, tmp_path):
    result = run("predict", model, image_file(tmp_path / "e.h5", []), "-q")
    assert (result.exit_code, result.stdout) == (0, "row,path,label,predicted,score\n")


# --- files that are refused -----------------------------------------------------------------------


def changed(source, path, **settings):
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "r+") as file:
        text = file.attrs["config"]
        for name, (old, new) in settings.items():
            assert f'"{name}":{old}' in text
            text = text.replace(f'"{name}":{old}', f'"{name}":{new}')
        file.attrs["config"] = text
    return path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": ("224", "128")}, "size: 128 in the file, 224 in the classifier"),
        ({"pool": ('"max"', '"avg"')}, "pool: 'avg' in the file, 'max' in the classifier"),
        ({"normalize": ('"none"', '"power"')}, "normalize: 'power' in the file, 'none' in the classifier"),
        ({"normalize": ('"none"', '"l2"')}, None),
        ({"precision": ('"fp32"', '"bf16"')}, None),
        ({"backbone": ('"resnet18"', '"resnet34"'), "flip": ("false", "true")}, "backbone: .*; flip: "),
    ],
)
def test_files_of_other_settings(features, model, tmp_path, settings, message):
    path = changed(features, tmp_path / "g.h5", **settings)
    result = run("predict", model, path, "-q", "-o", tmp_path / "p.csv")
    assert (tmp_path / "p.csv").exists() == (message is None)
    assert result.exit_code == (0 if message is None else 1), result.output
    assert re.search(message or "^note: 25 of 26 rows .*\naccuracy on .*\n$", result.stderr)
    assert message is None or result.stderr.count("\n") == 1


def test_reduced_files_are_predicted_by_classifiers_of_the_same_reduction(features, model, tmp_path):
    first, other = tmp_path / "first.h5", tmp_path / "other.h5"
    for path, seed in ((first, 0), (other, 1)):
        sppfeat.reduce(features, path, method="random", components=9, seed=seed)
    sppfeat.reduce(features, tmp_path / "again.h5", like=first)
    sppfeat.probe(first, save=tmp_path / "m.npz")
    same = [run("predict", tmp_path / "m.npz", path, "-q").stdout for path in (first, tmp_path / "again.h5")]
    assert same[0] == same[1] != ""
    for of, path in ((tmp_path / "m.npz", other), (tmp_path / "m.npz", features), (model, first)):
        result = run("predict", of, path, "-q")
        assert (result.exit_code, result.stdout) == (1, "")
        assert re.fullmatch(r"Error: .*reduction: the file has .*, the classifier .*\n", result.stderr)


def test_rows_that_are_not_finite_leave_no_table(model, tmp_path):
    features = separable(LABELS)
    features[7, 1] = np.nan
    path = image_file(tmp_path / "f.h5", LABELS, features=features)
    result = run("predict", model, path, "-q", "-o", tmp_path / "p.csv")
    assert (result.exit_code, [p.name for p in tmp_path.iterdir()]) == (1, ["f.h5"])
    assert "NaN or infinities in row 7 ('7.jpg')" in result.stderr


def test_existing_outputs_and_inputs_are_not_overwritten(features, model, tmp_path):
    output = tmp_path / "p.csv"
    output.write_text("old")
    (tmp_path / "p.npz").write_text("old")
    before = features.read_bytes(), model.read_bytes()
    for args in (
        ["predict", model, features, "-o", output],
        ["predict", model, features, "-o", tmp_path],
        ["probe", features, "--save", tmp_path / "p.npz"],
    ):
        run(*args, code=1)
    for args in (
        ["predict", model, features, "-o", features],
        ["predict", model, features, "-o", model],
        ["probe", features, "--save", features],
    ):
        run(*args, "--overwrite", code=2)
    assert (features.read_bytes(), model.read_bytes(), output.read_text()) == (*before, "old")
    assert (tmp_path / "p.npz").read_text() == "old"
    run("predict", model, features, "-o", output, "--overwrite", "-q", code=0)
    assert output.read_text(errors="surrogateescape").startswith("row,path,label,predicted,score\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.npz"]


# --- classifiers that are refused -----------------------------------------------------------------


def damaged_models(model):
    whole = model.read_bytes()
    with np.load(model) as arrays:
        content = dict(arrays)
    about = json.loads(str(content["about"]))

    def saved(**changed):
        file = io.BytesIO()
        np.savez(file, **{name: value for name, value in {**content, **changed}.items() if value is not None})
        return file.getvalue()

    yield "empty", b""
    yield "text", b"not a model"
    yield "short", whole[: len(whole) // 2]
    for name in content:
        yield f"no {name}", saved(**{name: None})
        yield f"pickled {name}", saved(**{name: np.array([object()])})
    for name in ("coef", "intercept"):
        yield f"short {name}", saved(**{name: content[name][:-1]})
    for name, value in (
        ("format", "x"),
        ("version", 1),
        ("columns", [["a", 1, 2, 3, 4]]),
        ("classes", ["a"]),
        ("classes", [1, 2, 3]),
        ("config", {}),
    ):
        yield f"{name} {value}", saved(about=json.dumps({**about, name: value}))
    yield "deep", saved(about="[" * 100_000)
    yield "NaN", saved(intercept=content["intercept"] * np.nan)
    yield "infinite", saved(coef=content["coef"] + np.float32(np.inf))
    yield "other type", saved(coef=content["coef"].astype("f8"))
    yield "other rows", saved(learned=np.array([1, 2]))


def test_damaged_classifiers_are_refused_in_one_line(model, features, tmp_path):
    for name, content in damaged_models(model):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        result = run("predict", path, features, "-q")
        assert result.exit_code == 1, (name, result.output)
        assert (result.stdout, result.stderr.count("\n")) == ("", 1), (name, result.output)
        assert "bad.npz" in result.stderr, name
    assert "no such file" in run("predict", tmp_path / "gone", features).stderr
    run("predict", tmp_path, features, code=1)
