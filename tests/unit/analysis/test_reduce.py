"""``sppfeat reduce``: its output, the commands that read it, refused inputs, and the fit itself."""

import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import command_line
import h5py
import numpy as np
import pytest
from extraction_runs import contents, difference, extract
from feature_files import DIMENSION, config, name_images, new_file
from hostile_files import with_boxes
from json_fields import check_fields
from reduced_files import HAVE, N, reduced, rounding, spectral, write_file

from sppfeat import Extractor
from sppfeat.analysis.reduce import fit_reduction, reduce
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.request import DescriptorChoice
from sppfeat.config.specs import ReductionSpec
from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.recompute import recompute_rows
from sppfeat.store.reader import FeatureFile
from sppfeat.store.verify import verify_file

pytest.importorskip("sklearn")
from sklearn.decomposition import PCA
from sklearn.random_projection import GaussianRandomProjection

OF_THE_OUTPUT = {"features", "@reduction", "@schema_version", "@fingerprint"}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("reduce") / "f.h5", spectral())


run = functools.partial(command_line.run, "reduce")


def assert_everything_else_is_equal(a, b):
    a, b = contents(a), contents(b)
    names = {name for name in a if not name.startswith(("columns/", "reduction/"))} - OF_THE_OUTPUT
    assert names == {n for n in b if not n.startswith(("columns/", "reduction/"))} - OF_THE_OUTPUT
    for name in names:
        x, y = np.asarray(a[name]), np.asarray(b[name])
        assert x.dtype == y.dtype
        assert x.tolist() == y.tolist() if x.dtype.kind in "OSU" else x.tobytes() == y.tobytes(), name


def test_all_but_the_descriptors_is_copied(source, tmp_path):
    shutil.copy(source, tmp_path / "f.h5")
    ids = [b"", b"\xff", *(b"%d" % i for i in range(2, N))]
    name_images(tmp_path / "f.h5", ids)
    output = reduced(tmp_path / "f.h5", tmp_path / "r.h5")
    assert_everything_else_is_equal(tmp_path / "f.h5", output)
    assert sorted(os.listdir(tmp_path)) == ["f.h5", "r.h5"]
    with FeatureFile(output) as file, FeatureFile(source) as of:
        assert list(file.image_id_table) == ids
        assert verify_file(file).problems == []
        assert file.features.shape == (N, 4)
        assert file.errors == of.errors
        assert file.rows_with_descriptor().tolist() == HAVE.tolist()
        assert file.attribute("fingerprint") != of.attribute("fingerprint")
        assert isinstance(file.features, np.memmap)
        assert file.to_sklearn(layers="pca", levels=1)[0].shape == (len(HAVE), 4)


def test_boxes_are_copied(tmp_path):
    source = with_boxes(tmp_path / "f.h5")
    with h5py.File(source, "r+") as file:
        file.attrs["norm_factors"] = "[1.5, 2.0]"
        file.attrs["config"] = file.attrs["config"].replace('"normalize":"none"', '"normalize":"meannorm:20"')
        file["row_id"][1] = b"\xff\xfe"
    output = reduced(source, tmp_path / "r.h5", components=2)
    assert_everything_else_is_equal(source, output)
    with FeatureFile(output) as file:
        assert [p for p in verify_file(file).problems if "fingerprint" not in p] == []
        assert file.norm_factors == (1.5, 2.0)


def test_rows_do_not_depend_on_the_block_size(source, tmp_path, monkeypatch):
    whole = contents(reduced(source, tmp_path / "a.h5"))["features"]
    for module in ("store.reduction", "analysis.reduce"):
        monkeypatch.setattr(f"sppfeat.{module}._BLOCK_NBYTES", 4 * spectral().shape[1] * 7)
    parts = contents(reduced(source, tmp_path / "b.h5"))["features"]
    assert np.array_equal(np.isnan(parts), np.isnan(whole))
    with FeatureFile(tmp_path / "a.h5") as file:
        tolerance = rounding(file.reduction, spectral()[HAVE])
    assert (np.abs(parts - whole)[HAVE] <= tolerance).all()


def test_as_float16(source, tmp_path):
    output = reduced(source, tmp_path / "r.h5", dtype="float16")
    with FeatureFile(output) as file:
        assert file.dtype == np.float16
        assert verify_file(file).problems == []
        assert np.allclose(file.features[HAVE], file.reduction.apply(spectral()[HAVE]), rtol=1e-3, atol=1e-3)
    large = write_file(tmp_path / "large.h5", spectral() * 1e6)
    with pytest.raises(StoreError, match=r"row \d+ exceeds the range of float16"):
        reduced(large, tmp_path / "l.h5", dtype="float16")
    assert not (tmp_path / "l.h5").exists()


def test_a_second_file_takes_the_reduction_of_the_first(source, tmp_path):
    first = reduced(source, tmp_path / "r.h5", whiten=True)
    other = write_file(tmp_path / "g.h5", spectral(9, seed=1), failed=(2,), dtype="float16")
    reduce(other, tmp_path / "s.h5", like=first)
    with FeatureFile(first) as a, FeatureFile(tmp_path / "s.h5") as b:
        rows = a.reduction.apply(spectral(9, seed=1).astype(np.float16))
        tolerance = rounding(a.reduction, spectral(9, seed=1))
        have = np.delete(np.arange(9), 2)
        assert (np.abs(b.to_sklearn()[0] - rows[have]) <= tolerance[have]).all()
        assert b.reduction.fingerprint == a.reduction.fingerprint
        assert verify_file(b).problems == []
    reduce(other, tmp_path / "t.h5", like=tmp_path / "s.h5")  # as a file that was reduced so
    same = [contents(tmp_path / name)["features"].tobytes() for name in ("s.h5", "t.h5")]
    assert same[0] == same[1]


def test_a_file_with_other_descriptors_is_refused(source, tmp_path):
    first = reduced(source, tmp_path / "r.h5")
    settings = ExtractConfig.from_dict({**config().to_dict(), "pool": "avg", "size": 99})
    other = write_file(tmp_path / "g.h5", spectral(5), settings=settings)
    with pytest.raises(
        ConfigError,
        match=r"descriptors of another kind: pool: 'max' in .*, 'avg' in .*; size: 224 in .*, 99 in ",
    ):
        reduce(other, tmp_path / "s.h5", like=first)
    shutil.copy(source, tmp_path / "h.h5")
    with h5py.File(tmp_path / "h.h5", "r+") as file:
        file["columns/layer"][2:] = "layer3x"
    with pytest.raises(ConfigError, match="layers, levels or channels differ"):
        reduce(tmp_path / "h.h5", tmp_path / "s.h5", like=first)
    assert sorted(os.listdir(tmp_path)) == ["g.h5", "h.h5", "r.h5"]


# --- the commands on what comes of it -------------------------------------------------------------


@pytest.fixture(scope="module")
def extracted(tmp_path_factory):
    from conftest import write_image

    folder = tmp_path_factory.mktemp("extracted")
    for i in range(9):
        write_image(folder / f"images/{'ab'[i % 2]}/{i}.png", 40 + i, 60, i)
    choice = DescriptorChoice(levels=(1, 2), normalize="l2")
    extract([folder / "images"], folder / "f.h5", descriptor=choice)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", [{"levels": (2,), "whiten": True}, {"normalize": "l2"}, {"method": "random"}]
)
def test_rows_are_recomputed_and_new_images_are_reduced_alike(extracted, tmp_path, spec):
    output = reduced(extracted / "f.h5", tmp_path / "r.h5", **spec)
    with FeatureFile(output) as file:
        again = recompute_rows(file, 4)
        assert again.problems == []
        assert again.largest_difference < 1e-5
        extractor = Extractor.from_file(file, device="cpu")
        paths = [os.path.join(file.root, path) for path in file.paths]
        rows = extractor(paths)
        assert rows.shape == (9, extractor.dimension) == (9, 4)
        assert extractor.columns == file.columns
        assert all(difference(a, b) < 1e-4 for a, b in zip(rows, file.features, strict=True))
        with FeatureFile(extracted / "f.h5") as source:
            whole = [[0, 0, file.image_hw[0, 1], file.image_hw[0, 0]], [0, 0, 0, 0]]
            boxes = extractor(paths[0], whole)
            assert difference(boxes[0], rows[0]) < 1e-4
            assert np.isnan(boxes[1]).all()
            assert source.dimension == file.reduction.source_dimension


def test_extract_does_not_continue_a_reduced_file(extracted, tmp_path):
    output = reduced(extracted / "f.h5", tmp_path / "r.h5")
    before = output.read_bytes()
    settings = (
        "--backbone squeezenet1_1 --weights none --seed 3 --size 48 --levels 1,2 --normalize l2 --workers 0"
    )
    arguments = ["extract", str(extracted / "images"), "-o", str(output), "-q", *settings.split()]
    result = command_line.run(*arguments, code=1)
    assert "cannot continue" in result.stderr
    assert "'sppfeat reduce' wrote it" in result.stderr
    assert output.read_bytes() == before


def test_info_describes_the_reduction(source, tmp_path):
    output = reduced(source, tmp_path / "r.h5", layers=("layer4",), whiten=True, normalize="l2")
    text = command_line.run("info", output).stdout
    assert re.search(
        r"reduced: +pca, 5 of 15 -> 4 values, whitened, scaled to l2 norm 1; 9\d\.\d\d % of the variance",
        text,
    )
    assert "columns:   0..4: pca, level 1, 4 channels" in text
    found = json.loads(command_line.run("info", "--json", output).stdout)["reduction"]
    assert found["source"]["dimension"] == 15
    assert (found["components"], found["whiten"], found["fitted_rows"]) == (4, True, len(HAVE))
    assert json.loads(command_line.run("info", "--json", source).stdout)["reduction"] is None


# --- the command ----------------------------------------------------------------------------------


def test_the_command_reports_its_result(source, tmp_path):
    first = tmp_path / "r.h5"
    result = run(source, "-o", first, "--components", 3, "-q", code=0)
    assert result.stdout == ""
    text = r".*r\.h5: 60 rows, 58 with a descriptor; pca, 15 -> 3; [\d.]+ kB -> [\d.]+ kB\n\d\d\.\d\d % of the variance"
    assert re.match(text, result.stderr)
    found = json.loads(run(source, "-o", tmp_path / "s.h5", "--from", first, "-q", "--json").stdout)
    check_fields("reduce", found)
    assert found["from"] == str(first)
    assert contents(tmp_path / "s.h5")["features"].tobytes() == contents(first)["features"].tobytes()
    called = dataclasses.asdict(reduce(source, tmp_path / "t.h5", like=first))
    assert {name for name in called if called[name] != found[name]} <= {"seconds", "fit_seconds"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["f.h5", "-o", "f.h5", "--overwrite"], "is the input"),
        (["f.h5", "-o", "r.h5", "--from", "r.h5", "--overwrite"], "is the file of --from"),
        (["r.h5", "-o", "n.h5"], "is already reduced"),
        (["f.h5", "-o", "n.h5", "--from", "f.h5"], "is not reduced; give a file"),
        (["f.h5", "-o", "n.h5", "--from", "r.h5", "--components", "3"], "--components has no effect"),
        (["f.h5", "-o", "n.h5", "--fit-rows", "label=nobody"], "fits none"),
    ],
)
def test_wrong_usage(source, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f.h5").write_bytes(source.read_bytes())
    reduced("f.h5", Path("r.h5"))
    before = (tmp_path / "r.h5").read_bytes()
    result = run(*arguments, "-q", code=2)
    assert message in result.stderr
    assert sorted(os.listdir()) == ["f.h5", "r.h5"]
    assert (tmp_path / "r.h5").read_bytes() == before


@pytest.mark.parametrize("output", ["gone/r.h5", ".", "n" * 245, "n" * 300])
def test_impossible_outputs_are_refused_before_the_fit(source, tmp_path, output, monkeypatch):
    monkeypatch.delattr("sppfeat.analysis.reduce.fit_reduction")  # refused before the fit
    result = run(source, "-o", tmp_path / output, "-q", code=1)
    assert result.stderr.count("\n") == 1


def test_an_existing_output_needs_overwrite(source, tmp_path):
    (tmp_path / "r.h5").write_text("mine")
    assert (
        "r.h5' exists; add --overwrite to replace it" in run(source, "-o", tmp_path / "r.h5", code=1).stderr
    )
    assert (tmp_path / "r.h5").read_text() == "mine"


@pytest.mark.slow
def test_an_output_that_is_replaced_stays_until_the_new_one_is_whole(source, tmp_path):
    code = (
        "import os, signal, sys, sppfeat\n"
        "from sppfeat.store.writer import FeatureWriter\n"
        "FeatureWriter.write_rows = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sppfeat.reduce(*sys.argv[1:], method='random', components=2, overwrite=True)"
    )
    output = reduced(source, tmp_path / "r.h5")
    before = output.read_bytes()
    killed = subprocess.run([sys.executable, "-c", code, source, output], check=False)
    assert (killed.returncode, output.read_bytes()) == (-signal.SIGKILL, before)
    with FeatureFile(reduced(source, output, components=2, overwrite=True)) as file:
        assert (file.dimension, verify_file(file).problems) == (2, [])
    assert os.listdir(tmp_path) == ["r.h5"]


def test_files_without_images_rows_or_descriptors(tmp_path):
    empty = new_file(tmp_path / "f.h5", n=0)
    output = reduced(empty, tmp_path / "r.h5", method="random")
    with FeatureFile(output) as file:
        assert file.features.shape == (0, 4)
    with pytest.raises(ConfigError, match="4 components need as many rows to fit on; found 0"):
        reduced(empty, tmp_path / "s.h5")
    with pytest.raises(StoreError, match="5 of 5 images are pending"):
        reduced(new_file(tmp_path / "g.h5"), tmp_path / "s.h5")


# --- the fitted projections, against scikit-learn's full decomposition of the same rows -----------


def fit(source, *, batch_size=None, **spec):
    with FeatureFile(source) as file:
        return fit_reduction(file, ReductionSpec(**{"components": 4, **spec}), batch_size=batch_size)


def plain(rows, n=4):
    """scikit-learn's components of plain arrays, from a full decomposition."""
    return PCA(n, svd_solver="full").fit(rows.astype(np.float64))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("batch_size", "tolerance"), [(None, 1e-4), (20, 2e-2)])
def test_components_are_those_of_a_full_decomposition(tmp_path, batch_size, tolerance, dtype):
    source = write_file(tmp_path / "f.h5", spectral(), dtype=dtype)
    found, expected = fit(source, batch_size=batch_size), plain(spectral()[HAVE].astype(dtype))
    cosines = np.linalg.svd(found.components @ expected.components_.T, compute_uv=False)
    assert cosines.min() > 1 - tolerance
    assert np.allclose(found.mean, expected.mean_, atol=1e-4)
    share = expected.explained_variance_ratio_.sum()
    assert found.record.explained_variance == pytest.approx(share, rel=tolerance)
    assert found.record.fitted_rows == len(HAVE)
    assert (np.take_along_axis(found.components, np.abs(found.components).argmax(1)[:, None], 1) > 0).all()


def test_the_same_seed_gives_the_same_and_the_order_of_rows_does_not_matter(tmp_path, source):
    again = write_file(tmp_path / "f.h5", spectral()[HAVE][::-1], failed=())
    for batch_size, tolerance in ((None, 1e-3), (20, 0.1)):
        first = fit(source, batch_size=batch_size)
        assert fit(source, batch_size=batch_size).fingerprint == first.fingerprint
        other = fit(again, batch_size=batch_size)
        assert np.abs(other.components - first.components).max() < tolerance


def test_whitened_components_have_variance_one(source):
    found = fit(source, whiten=True)
    assert np.allclose(found.apply(spectral()[HAVE]).var(axis=0, ddof=1), 1, atol=1e-3)


def test_a_direction_without_variance_is_zero_when_whitened(tmp_path):
    rows = spectral(10)
    flat = np.outer(rows[:, 0], np.ones(DIMENSION, dtype=np.float32))
    found = fit(write_file(tmp_path / "f.h5", flat, failed=()), whiten=True)
    assert (found.scale > 0).tolist() == [True, False, False, False]
    same = fit(write_file(tmp_path / "g.h5", np.ones_like(rows), failed=()), whiten=True)
    assert not same.apply(np.ones_like(rows)).any()
    assert same.record.explained_variance == 0


def test_the_fit_takes_only_the_selected_rows_and_columns(source):
    found = fit(source, fit_rows=("::2",), layers=("layer4",), components=2)
    rows = np.intersect1d(HAVE, np.arange(0, N, 2))
    expected = plain(spectral()[rows][:, 10:], 2)
    assert found.record.fitted_rows == len(rows)
    assert np.linalg.svd(found.components @ expected.components_.T, compute_uv=False).min() > 0.9999
    assert found.record.selection.width == 5


def test_rows_whose_squares_overflow_are_refused(tmp_path):
    rows = spectral()
    rows[9] *= 1e37
    with pytest.raises(ConfigError, match="row 9 holds values that are not finite or"):
        fit(write_file(tmp_path / "f.h5", rows))


def test_a_random_projection_is_that_of_scikit_learn(source):
    found = fit(source, method="random", seed=5)
    expected = GaussianRandomProjection(4, random_state=5).fit(spectral())
    assert np.allclose(found.apply(spectral()), expected.transform(spectral()), rtol=1e-5, atol=1e-5)
    assert found.record.fitted_rows == 0
    assert found.record.explained_variance is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": 16}, "16 components of 15 selected columns; allowed: 1 to 15"),
        ({"components": 6, "levels": (1,)}, "6 components of 3 selected columns"),
        ({"components": 15, "fit_rows": ("0:10",)}, "15 components need as many rows to fit on; found 9"),
        ({"batch_size": 3}, "a batch of 3 rows cannot fit 4 components; use --batch-size 4"),
        ({"fit_rows": ("status=any",)}, "row 7 holds values that are not finite"),
        ({"layers": ("relu",)}, "layers are relu"),
        ({"method": "svd"}, "method is 'svd'; allowed: pca, random"),
        ({"components": 0}, "components is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"whiten": 1}, "whiten is 1"),
        ({"layers": (1,)}, "layers are"),
        ({"method": "random", "whiten": True}, "--whiten needs --method pca"),
        ({"method": "random", "fit_rows": ("0:3",)}, "--fit-rows needs --method pca"),
    ],
)
def test_impossible_fits_are_refused(source, settings, message):
    with pytest.raises(ConfigError, match=message):
        fit(source, **settings)
