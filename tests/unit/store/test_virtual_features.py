"""Descriptors that lie in several files, read as one array; and merged files whose sources are not what they were."""

import contextlib
import copy
import os
import pickle
import resource
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from hostile_files import PROPERTIES, plain
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, basic_indices, integer_array_indices
from sharded_files import whole_images, with_box_file, with_views, write_shards, write_whole

from sppfeat.analysis.export import export_features
from sppfeat.analysis.reduce import reduce_file
from sppfeat.analysis.search.neighbors import nearest_rows
from sppfeat.cli import main
from sppfeat.config.specs import ReductionSpec
from sppfeat.errors import ConfigError, StoreError
from sppfeat.extraction.resume import copy_rows
from sppfeat.store.merge import merge_shards
from sppfeat.store.merge_sources import SourceFiles, recorded_path
from sppfeat.store.reader import FeatureFile
from sppfeat.store.verify import verify_file
from sppfeat.store.virtual_features import VirtualFeatures

N, D = 11, 15
BOUNDS = (0, 1, 4, 8, 11)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("virtual")
    work = whole_images(N)
    write_whole(folder / "whole.h5", work)
    merge_shards(folder / "merged.h5", write_shards(folder, work, BOUNDS))
    return folder


@pytest.fixture(scope="module")
def both(pristine):
    """The virtual array, and the array that it stands for."""
    with FeatureFile(pristine / "merged.h5") as merged, FeatureFile(pristine / "whole.h5") as whole:
        yield merged.features, np.asarray(whole.features)


@pytest.fixture
def folder(pristine, tmp_path):
    """A copy with the same times, to be spoilt."""
    shutil.copytree(pristine, tmp_path / "f")
    return tmp_path / "f"


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a, b)


# --- one array --------------------------------------------------------------------------------------

NUMBERS = st.integers(-N, N - 1)
ROWS = st.one_of(
    NUMBERS,
    st.slices(N),
    st.lists(NUMBERS, max_size=20),
    arrays(np.int64, st.integers(0, 20), elements=NUMBERS),
    arrays(np.uint8, st.integers(0, 9), elements=st.integers(0, N - 1)),
    arrays(bool, N),
    NUMBERS.map(np.int32),
)
COLUMNS = st.one_of(
    st.integers(-D, D - 1),
    st.slices(D),
    st.lists(st.integers(-D, D - 1), min_size=1, max_size=9),
    arrays(bool, D),
)


@pytest.mark.slow
@given(rows=ROWS)
def test_rows_are_indexed_as_an_array_is(both, rows):
    ours, theirs = both
    same(ours[rows], theirs[rows])


@given(rows=ROWS, columns=COLUMNS)
def test_rows_and_columns_are_indexed_as_an_array_is(both, rows, columns):
    ours, theirs = both
    try:
        expected = theirs[rows, columns]
    except IndexError:
        with pytest.raises(IndexError):
            ours[rows, columns]
    else:
        same(ours[rows, columns], expected)


@given(
    key=st.one_of(
        basic_indices((N, D), allow_newaxis=True), integer_array_indices((N, D)), arrays(bool, (N, D))
    )
)
def test_every_other_key_of_numpy(both, key):
    ours, theirs = both
    same(ours[key], theirs[key])


@pytest.mark.parametrize(
    "key",
    [N, -N - 1, [0, N], [-N - 1], "a", 1.5, [1.5], np.zeros(3, bool), (0, D), (0, 0, 0), [[N]]],
)
def test_keys_that_lead_nowhere(both, key):
    for array in both:
        with pytest.raises(IndexError):
            array[key]


def test_it_is_an_array_to_numpy(both):
    ours, theirs = both
    assert (ours.shape, ours.dtype, ours.ndim, ours.size) == (
        theirs.shape,
        theirs.dtype,
        theirs.ndim,
        theirs.size,
    )
    assert (ours.itemsize, ours.nbytes, len(ours)) == (theirs.itemsize, theirs.nbytes, len(theirs))
    same(np.asarray(ours), theirs)
    same(np.asarray(ours, dtype=np.float64), theirs.astype(np.float64))
    same(np.nanmean(ours, axis=0), np.nanmean(theirs, axis=0))
    same(np.isnan(ours), np.isnan(theirs))
    same(ours * 2 + theirs, theirs * 2 + theirs)
    same(ours == theirs, theirs == theirs)
    same(np.stack(list(ours)), theirs)
    assert repr(ours) == "<VirtualFeatures 11 x 15 float32, of 4 files>"
    with pytest.raises(TypeError):
        ours[0] = 1


def test_what_copies_and_what_does_not(both):
    ours, _ = both
    assert np.shares_memory(ours[4:8], ours[5:7])
    assert np.shares_memory(ours[5], ours[4:8])
    assert not np.shares_memory(ours[3:5], ours[3:4])
    for view in (ours[4:8], ours[5], ours[4:8, 3:5]):
        assert not view.flags.writeable
    assert ours[3:5].flags.writeable
    with pytest.raises(ValueError, match=r"a copy is needed"):
        ours.__array__(copy=False)
    assert not np.shares_memory(np.array(ours), ours[4:8])


def test_copies_and_other_processes_map_anew(both):
    ours, theirs = both
    for other in (pickle.loads(pickle.dumps(ours)), copy.copy(ours), copy.deepcopy(ours)):
        assert isinstance(other, VirtualFeatures)
        same(other, theirs)


# --- everything that reads -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("make", [whole_images, with_box_file, with_views])
def test_every_property_and_selection_is_that_of_the_whole_file(tmp_path, make):
    work = make()
    with_rows = write_whole(tmp_path / "whole.h5", work)
    merge_shards(tmp_path / "merged.h5", write_shards(tmp_path, work, BOUNDS))
    with FeatureFile(tmp_path / "merged.h5") as file, FeatureFile(with_rows) as whole:
        no_boxes = () if whole.has_boxes else ("row_", "box_")
        for name in PROPERTIES:
            if name not in ("features", "nbytes", "read_paths") and not name.startswith(no_boxes):
                assert plain(getattr(file, name)) == plain(getattr(whole, name)), name
        for selection in (
            {},
            {"levels": 1},
            {"levels": [2], "layers": "layer4"},
            {"rows": "0:3"},
            {"rows": [9, 0, 4, 4]},
            {"rows": "status=any"},
            {"bins": {2: [(0, 1)]}},
        ):
            same(file.to_sklearn(**selection)[0], whole.to_sklearn(**selection)[0])
            for seed in (None, 3):
                batches = zip(
                    file.iter_batches(2, seed=seed, **selection),
                    whole.iter_batches(2, seed=seed, **selection),
                    strict=True,
                )
                for (ours, our_y), (theirs, their_y) in batches:
                    same(ours, theirs)
                    same(our_y, their_y)


@pytest.mark.slow
def test_scaled_selections_are_those_of_the_whole_file(tmp_path):
    import dataclasses

    work = whole_images(N)
    settings = dataclasses.replace(
        work.config, descriptor=dataclasses.replace(work.config.descriptor, normalize="l2")
    )
    work = work._replace(config=settings)
    merge_shards(tmp_path / "merged.h5", write_shards(tmp_path, work, BOUNDS))
    with (
        FeatureFile(tmp_path / "merged.h5") as file,
        FeatureFile(write_whole(tmp_path / "whole.h5", work)) as whole,
    ):
        for selection in ({"levels": 1}, {"bins": {2: [(0, 1)]}}, {"levels": 2, "rows": [8, 0, 4]}):
            same(file.to_sklearn(**selection)[0], whole.to_sklearn(**selection)[0])


@pytest.mark.slow
def test_what_else_reads_a_file(pristine, tmp_path):
    """Exports, reductions, searches, data sets, pickles, and runs that take rows over."""
    outputs = {}
    for name in ("whole", "merged"):
        path = pristine / f"{name}.h5"
        reduce_file(path, tmp_path / f"{name}.r.h5", ReductionSpec(method="pca", components=3))
        with FeatureFile(path) as file, FeatureFile(tmp_path / f"{name}.r.h5") as reduced:
            export_features(file.select(), tmp_path / f"{name}.npy")
            export_features(file.select(levels=1), tmp_path / f"{name}.1.csv")
            nearest = nearest_rows(file.select(), np.asarray(file.features[:2]), 3)
            dataset = file.to_torch_dataset(levels=1)
            selection = pickle.loads(pickle.dumps(file.select(rows="0:9")))
            file.drop_pages()
            outputs[name] = [
                np.asarray(reduced.features),
                np.load(tmp_path / f"{name}.npy"),
                (tmp_path / f"{name}.1.csv").read_bytes(),
                nearest.rows,
                nearest.distances,
                np.stack([vector for vector, _ in dataset]),
                selection.X,
                pickle.loads(pickle.dumps(file)).features[3:9],
            ]
    for ours, theirs in zip(outputs["merged"], outputs["whole"], strict=True):
        same(ours, theirs)


def test_rows_of_a_merged_file_are_taken_over_by_a_longer_one(pristine, tmp_path):
    from feature_files import BLOCKS
    from sharded_files import assert_same_bytes

    from sppfeat.store.layout import Provenance, create_file
    from sppfeat.store.writer import FeatureWriter

    work = whole_images(N)
    create_file(tmp_path / "new.h5", work.plan, work.config, BLOCKS, provenance=Provenance("w.pth", "b.csv"))
    with contextlib.closing(FeatureWriter(tmp_path / "new.h5")) as writer:
        copy_rows(pristine / "merged.h5", writer)
    assert_same_bytes(tmp_path / "new.h5", pristine / "whole.h5")


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "export FILE -o - --format csv",
        "show norms FILE -o n.png --overwrite",
        "verify FILE",
        "search FILE row:4 row:9 --metric l2",
    ],
)
def test_commands(pristine, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    said = []
    for name in ("whole", "merged"):
        path = str(pristine / f"{name}.h5")
        result = CliRunner().invoke(main, command.replace("FILE", path).split())
        assert result.exit_code == 0, result.output
        said.append(result.stdout.replace(path, ""))
    assert said[0] == said[1]


def test_the_file_may_be_closed(pristine):
    with FeatureFile(pristine / "merged.h5") as file:
        features = file.features
    assert np.asarray(features).shape == (N, D)


# --- very many sources ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A merged file of 12 sources of one row each."""
    folder = tmp_path_factory.mktemp("many")
    work = whole_images(12, ids=False)
    shards = write_shards(folder, work, range(13), failed=())
    merge_shards(folder / "merged.h5", shards)
    return folder / "merged.h5", work.descriptors


@pytest.mark.slow
def test_few_files_are_open_at_any_time(many, monkeypatch):
    monkeypatch.setattr("sppfeat.store.virtual_features._KEPT_MAPS", 2)
    path, expected = many
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 11, hard))
    try:
        with FeatureFile(path) as file:
            rows = [file.features[i] for i in range(12)]
            batches = [batch for batch, _ in file.iter_batches(1)]
            same(np.stack(rows), expected)
            same(np.concatenate(batches), expected)
            same(file.to_sklearn()[0], expected)
            del rows, batches
            assert len(os.listdir("/proc/self/fd")) - n_open <= 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_rows_of_more_sources_than_are_kept_open_come_first_from_those_that_are(many, monkeypatch):
    monkeypatch.setattr("sppfeat.store.virtual_features._KEPT_MAPS", 9)
    path, expected = many
    opened, true_map = [], SourceFiles.map

    def counted(self, i):
        opened.append(i)
        return true_map(self, i)

    monkeypatch.setattr(SourceFiles, "map", counted)
    with FeatureFile(path) as file:
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(12)
            same(file.features[order], expected[order])
    assert len(opened) == 12 + 3 + 3


def test_opening_looks_at_no_content(many, monkeypatch):
    path, _ = many
    monkeypatch.setattr("sppfeat.store.virtual_features.VirtualFeatures._map", None)
    with FeatureFile(path) as file:
        assert len(file.features) == 12


# --- sources that are not what they were -----------------------------------------------------------------


def spoil(path, how):
    """Change a source, or put something else into its place."""
    content, found = path.read_bytes(), path.stat()
    if how == "written":
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    elif how == "longer":
        path.write_bytes(content + b"x")
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "pipe":
        os.mkfifo(path)
    elif how == "device":
        path.symlink_to("/dev/zero")
    elif how == "circle":
        path.symlink_to(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("written", "is not what was merged: it was written at .* UTC, and was of .* UTC"),
        ("longer", "is not what was merged: it has [0-9]+ bytes, and had [0-9]+"),
        ("truncated", "is not what was merged: it has [0-9]+ bytes, and had [0-9]+"),
        ("gone", "cannot be read: No such file or directory"),
        ("folder", "is not what was merged: it is not a regular file any more"),
        ("pipe", "is not what was merged: it is not a regular file any more"),
        ("device", "is not what was merged: it is not a regular file any more"),
        ("circle", "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_source_that_was_changed_is_an_error_when_the_merged_file_is_opened(folder, how, said):
    spoil(folder / "00003-of-00004.h5", how)
    with pytest.raises(
        StoreError, match=rf"its source '.*00003-of-00004.h5' {said}.*; 'sppfeat merge --overwrite'"
    ) as raised:
        FeatureFile(folder / "merged.h5")
    assert str(raised.value).isprintable()
    result = CliRunner().invoke(main, ["info", str(folder / "merged.h5")])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_a_source_that_was_changed_later_is_an_error_when_it_is_read(folder):
    with FeatureFile(folder / "merged.h5") as file:
        before = file.features[4:8]
        spoil(folder / "00003-of-00004.h5", "written")
        same(file.features[4:8], before)  # mapped already: the file that it was
        spoil(folder / "00002-of-00004.h5", "gone")
        with pytest.raises(StoreError, match=r"00002-of-00004.h5' cannot be read"):
            file.features[1]
        again = pickle.loads(pickle.dumps(file.features))
        with pytest.raises(StoreError, match=r"00003-of-00004.h5' is not what was merged"):
            np.asarray(again[4:8])


def with_old_time(path, change):
    """Change a file in a way that neither its size nor its time tells."""
    found = path.stat()
    change(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size


def put(old, new):
    """An edit of bytes of which there are as many afterwards."""
    assert len(old) == len(new)

    def change(path):
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return change


def put_row(path):
    with h5py.File(path, "r+") as file:
        file["features"][0] = 7


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: put(path.read_bytes()[8:9], b"\x09")(path), "it cannot be opened as HDF5|damaged"),
        (put(b"+00:00\0", b"+01:00\0"), "it was created .*01:00, and was of .*00:00"),
        (put(b"features\0", b"fextures\0"), "has no dataset /features"),
        (put(b"format\0", b"formal\0"), "no feature file"),
        (put_row, None),
    ],
)
def test_what_looks_like_the_source_is_looked_at_before_its_rows_are_read(folder, change, said):
    with_old_time(folder / "00003-of-00004.h5", change)
    with FeatureFile(folder / "merged.h5") as file:
        if said is None:  # nobody can tell without reading all of it
            assert (file.features[4] == 7).all()
            return
        with pytest.raises(StoreError, match=rf"is not what was merged: .*{said}"):
            file.features[3:5]
        same(file.features[0], whole_images(N).descriptors[0])
        assert any("00003-of-00004.h5" in problem for problem in verify_file(file).problems)


def test_a_source_in_the_place_of_another_one(folder):
    first, second = folder / "00003-of-00004.h5", folder / "00004-of-00004.h5"
    found = first.stat()
    content = second.read_bytes().ljust(found.st_size, b"\0")
    assert len(content) == found.st_size
    first.write_bytes(content)
    os.utime(first, ns=(found.st_atime_ns, found.st_mtime_ns))
    with (
        FeatureFile(folder / "merged.h5") as file,
        pytest.raises(
            StoreError,
            match=r"its /features are 3 x 15 float32 at byte [0-9]+, and were 4 x 15 float32 at byte",
        ),
    ):
        np.asarray(file.features)


# --- merged files that somebody made to do harm -------------------------------------------------------------


def edit(path, name, values):
    """Replace one of the datasets of /sources."""
    with h5py.File(path, "r+") as file:
        kind = file[f"sources/{name}"].dtype
        del file[f"sources/{name}"]
        file.create_dataset(f"sources/{name}", data=values, dtype=kind)


def rewritten(folder, **changes):
    """A merged file in the place of the one that is there, whose sources are others."""
    from sppfeat.store import merge as merging

    path = folder / "merged.h5"
    shards = sorted(folder.glob("0*.h5"))
    true_sources = merging._sources

    def sources(parts, output):
        return [
            source._replace(**{name: values[i] for name, values in changes.items()})
            for i, source in enumerate(true_sources(parts, output))
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merging, "_sources", sources)
        merge_shards(path, shards, overwrite=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("first_row", [0, 1, 3, 8], "/sources does not divide the 11 rows among the sources"),
        ("stop_row", [1, 4, 8, 12], "does not divide the 11 rows"),
        ("stop_row", [1, 4, 8, 10], "does not divide the 11 rows"),
        ("first_image", [0, 1, 4, 7], "does not divide the 11 images"),
        ("stop_image", [1, 4, 8, 2**62], "does not divide the 11 images"),
        ("offset", [-1, 0, 0, 0], "says that 1 rows are at -1 of a file of"),
        ("nbytes", [10, 10, 10, 10], "of a file of 10 bytes"),
        ("offset", [2**63 - 1] * 4, "are at 9223372036854775807 of"),
        ("nbytes", [1.5] * 4, "/sources/nbytes is float64"),
        ("nbytes", [1] * 5, "is int64 of shape .5,., not <i8 of .4"),
        ("path", ["a"] * 4, "/features and /sources contradict each other"),
    ],
)
def test_sources_that_contradict_the_file(folder, name, values, said):
    with h5py.File(folder / "merged.h5", "r+") as file:
        kind = file[f"sources/{name}"].dtype if not isinstance(values[0], float) else np.float64
        del file[f"sources/{name}"]
        file.create_dataset(f"sources/{name}", data=values, dtype=kind)
    with pytest.raises(StoreError, match=said) as raised:
        FeatureFile(folder / "merged.h5")
    assert str(raised.value).isprintable()


def test_rows_and_images_that_are_divided_in_other_ways(folder):
    edit(folder / "merged.h5", "first_image", [0, 2, 4, 8])
    edit(folder / "merged.h5", "stop_image", [2, 4, 8, 11])
    with pytest.raises(StoreError, match=r"/sources and /images/rows contradict each other"):
        FeatureFile(folder / "merged.h5")


TARGETS = [
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "",
    ".",
    "..",
    "pipe",
    "text",
    "merged.h5",
]


@pytest.mark.slow
def test_paths_that_lead_anywhere(folder):
    """As large and as old as is recorded, where that can be: nothing but descriptors is ever mapped."""
    os.mkfifo(folder / "pipe")
    (folder / "text").write_bytes(b"secret" * 10_000)
    paths = []
    for target in TARGETS:
        place = folder / target
        found = place.stat() if place.exists() else (folder / "text").stat()
        path = rewritten(
            folder,
            path=[os.fsencode(target)] * 4,
            nbytes=[max(found.st_size, 600)] * 4,
            mtime_ns=[found.st_mtime_ns] * 4,
            offset=[0] * 4,
        )
        paths.append(shutil.copy2(path, folder / f"{len(paths)}.merged"))
    code = """
import sys, sppfeat
from sppfeat.errors import ConfigError, StoreError
for path in sys.argv[1:]:
    try:
        sppfeat.open(path).features[:]
    except StoreError as error:
        print(error)
"""
    out = subprocess.run(
        [sys.executable, "-c", code, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    lines = out.stdout.splitlines()
    assert len(lines) == len(TARGETS)
    assert all("its source" in line or "contradict" in line for line in lines)


@pytest.mark.slow
def test_a_merged_file_that_is_its_own_source(folder):
    """Nor one of another: both would be looked for in each other for ever."""
    path = folder / "merged.h5"
    for _ in range(3):  # its own size and time
        size = path.stat().st_size
        rewritten(folder, path=[b"merged.h5"] * 4, nbytes=[size] * 4, mtime_ns=[5] * 4)
        os.utime(path, ns=(5, 5))
    with (
        FeatureFile(path) as file,
        pytest.raises(StoreError, match=r"is not what was merged: its /features are 11 x 15 float32 virtual"),
    ):
        file.features[0]


def test_a_virtual_dataset_that_is_made_of_nothing(folder):
    with h5py.File(folder / "merged.h5", "r+") as file:
        del file["features"]
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.VIRTUAL)
        h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((N, D)), properties)
    with pytest.raises(StoreError, match=r"made of nothing"):
        FeatureFile(folder / "merged.h5")


@pytest.mark.parametrize("name", ["boxes", "images/status", "sources/path"])
def test_nothing_but_features_may_be_virtual(folder, name):
    with h5py.File(folder / "merged.h5", "r+") as file:
        kind, shape = file[name].dtype, file[name].shape
        del file[name]
        layout = h5py.VirtualLayout(shape, kind)
        layout[:] = h5py.VirtualSource("other.h5", "boxes", shape)
        file.create_virtual_dataset(name, layout)
    with pytest.raises(StoreError, match=rf"/{name} is virtual, its content lies in other files"):
        FeatureFile(folder / "merged.h5")


def test_sources_of_a_file_that_has_its_rows_are_nobody_s_business(folder):
    """A program that copies datasets may copy what a virtual one was made of."""
    with h5py.File(folder / "merged.h5", "r+") as file:
        values = file["features"][()]
        del file["features"]
        file["features"] = values
    for path in folder.glob("0*.h5"):
        path.unlink()
    with FeatureFile(folder / "merged.h5") as file:
        assert file.sources is None
        same(file.features, values)


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("/a/b/s.h5", "/a/b/m.h5", "s.h5"),
        ("/a/b/c/s.h5", "/a/b/m.h5", "c/s.h5"),
        ("/a/c/s.h5", "/a/b/m.h5", "../c/s.h5"),
        ("/a/s.h5", "/a/b/m.h5", "../s.h5"),
        ("/c/s.h5", "/a/b/m.h5", "/c/s.h5"),
        ("/a/s.h5", "/m.h5", "a/s.h5"),
        ("/b/s.h5", "/a/m.h5", "/b/s.h5"),
        ("/a/s.h5", "/a/m.h5", "s.h5"),
        ("/ab/s.h5", "/a/m.h5", "/ab/s.h5"),
    ],
)
def test_how_paths_are_recorded(source, output, expected):
    assert recorded_path(source, output) == expected.encode()


def test_a_copy_that_no_memory_holds_is_refused(pristine, monkeypatch):
    with FeatureFile(pristine / "merged.h5") as file:
        monkeypatch.setattr("sppfeat.config.machine._UNCHECKED_NBYTES", 0)
        monkeypatch.setattr("sppfeat.config.machine.available_nbytes", lambda: 4 * D * (N - 1))
        with pytest.raises(ConfigError, match=r"merged\.h5': these rows are a copy"):
            np.asarray(file.features)
        assert file.features[4:8].shape == (4, D)  # of one source
        assert file.features[: N - 1].shape == (N - 1, D)
