"""Runs in chunks, which are fetched and measured while others run, give the same file as a run at once."""

import contextlib
import dataclasses
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from conftest import write_image
from extraction_runs import assert_same_descriptors, assert_same_file, contents, extract, request

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import ImageError, StoreError
from sppfeat.extraction import chunks
from sppfeat.extraction.extract import open_part
from sppfeat.files.paths import PathTable
from sppfeat.files.places import Place
from sppfeat.inputs import Storage

IN_CHUNKS = {"headers": "window"}
SIZES = [(60, 90), (90, 60), (60, 60), (48, 100)]
N = 23


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, "_FIRST_IMAGES", 2)
    monkeypatch.setattr(chunks, "_MOST_LOCAL", 7)
    monkeypatch.setattr(chunks, "_MOST_FETCHED", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of four shapes; some damaged, and one that no network takes."""
    top = tmp_path_factory.mktemp("images")
    for i in range(N):
        write_image(top / f"c{i % 2}" / f"{i}.png", *SIZES[i % 4], seed=i)
    (top / "c0" / "4.png").write_bytes(b"not an image")
    broken = (top / "c1" / "9.png").read_bytes()
    (top / "c1" / "9.png").write_bytes(broken[: len(broken) // 2])
    write_image(top / "c1" / "11.png", 1, 20_000, seed=0)
    return top


@dataclasses.dataclass(frozen=True)
class Copied(Storage):
    """Files that stand for remote ones: each is copied before it is read, and the copy is removed afterwards."""

    root: bytes
    names: PathTable

    is_local = False
    nbytes = 0
    nbytes_each = 0
    n_cancelled = 0
    held = 0
    most_held = 0
    threads: ClassVar[set[str]] = set()
    fails_at: ClassVar[str | None] = None

    @contextlib.contextmanager
    def fetch(self, images, scratch):
        kind = type(self)
        kind.threads.add(threading.current_thread().name)
        places = []
        for i in images.tolist():
            name = self.names[i].decode()
            if self.fails_at == name:
                raise StoreError(f"no connection at {name}")
            if name.endswith("6.png"):
                places.append("no such object")
                continue
            copy = scratch / f"{i}-{len(list(scratch.iterdir()))}"
            copy.write_bytes(b"xyz" + Path(self.root.decode(), name).read_bytes())
            places.append(Place(bytes(copy), 3, copy.stat().st_size - 3))
        kind.held += len(images)
        kind.most_held = max(kind.most_held, kind.held)
        try:
            yield places
        finally:
            kind.held -= len(images)
            for place in places:
                if isinstance(place, Place):
                    Path(place.path.decode()).unlink()

    def nbytes_of(self, images):
        return np.full(len(images), self.nbytes_each)

    def cancel(self):
        type(self).n_cancelled += 1


@pytest.fixture
def far_away(monkeypatch):
    """Treat all inputs as remote."""
    Copied.held = Copied.most_held = Copied.nbytes_each = Copied.n_cancelled = 0
    Copied.threads = set()
    Copied.fails_at = None
    true_list = sppfeat.extraction.run.list_images

    def list_images(*inputs, **options):
        listing = true_list(*inputs, **options)
        return dataclasses.replace(listing, storage=Copied(listing.root, listing.paths))

    monkeypatch.setattr("sppfeat.extraction.run.list_images", list_images)
    return Copied


def box_file(tmp_path, *, relative):
    lines = ["path,x0,y0,x1,y1"]
    for i in range(0, N, 2):
        for box in ((0.1, 0.2, 0.7, 0.9), (-0.5, 0.5, 0.4, 1.5), (0.5, 0.5, 0.5, 0.5))[: 1 + i % 3]:
            numbers = box if relative else [60 * number for number in box]
            lines.append(",".join([f"{i}.png", *map(str, numbers)]))
    path = tmp_path / f"boxes-{relative}.csv"
    path.write_text("\n".join(lines) + "\n")
    return BoxChoice(boxes=str(path), box_units="normalized" if relative else None)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "pixels", "relative", "grid", "multiview", "scales", "meannorm"])
def test_a_run_in_chunks_gives_the_same_file_as_a_run_at_once(folder, tmp_path, kind):
    changes = {
        "images": {},
        "pixels": {"boxes": box_file(tmp_path, relative=False)},
        "relative": {"boxes": box_file(tmp_path, relative=True)},
        "grid": {"boxes": BoxChoice(boxes="grid:2x2")},
        "multiview": {"boxes": BoxChoice(boxes="multiview"), "input": InputSpec(scales=(40, 56))},
        "scales": {"boxes": box_file(tmp_path, relative=False), "input": InputSpec(scales=(200, 300, 400))},
        "meannorm": {"descriptor": DescriptorChoice(levels=(1,), normalize="meannorm:20")},
    }[kind]
    _, at_once = extract([folder], tmp_path / "first.h5", headers="first", **changes)
    extraction, progress = extract([folder], tmp_path / "chunk.h5", **IN_CHUNKS, **changes)
    assert extraction.summary().unmeasured == N
    assert (progress.n_done, progress.n_failed) == (at_once.n_done, at_once.n_failed)
    assert progress.n_done + progress.n_failed == N
    assert_same_file(tmp_path / "chunk.h5", tmp_path / "first.h5")
    # Again: nothing is to be learnt or done.
    extraction, progress = extract([folder], tmp_path / "chunk.h5", **IN_CHUNKS, **changes)
    assert (extraction.summary().to_do, extraction.summary().unmeasured, progress.n_done) == (0, 0, 0)


def test_rows_that_depend_on_sizes_need_all_headers_first(folder, tmp_path):
    for boxes in (BoxChoice(boxes="grid:20x20px"), BoxChoice(boxes="grid:2x2", drop_duplicates=True)):
        extraction, _ = extract([folder], tmp_path / f"{boxes.boxes}.h5", boxes=boxes, **IN_CHUNKS)
        assert extraction.summary().unmeasured == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_remote_images_are_fetched_ahead_and_released(folder, tmp_path, far_away, workers):
    run = RunOptions(workers=workers, device="cpu")
    extraction, progress = extract([folder], tmp_path / "far.h5", run=run)
    assert extraction.summary().unmeasured == N
    assert progress.n_failed == 5
    with sppfeat.open(tmp_path / "far.h5") as file:
        assert {file.paths[i] for i, why in file.errors.items() if why == "no such object"} == {
            "c0/6.png",
            "c0/16.png",
        }
        done = np.flatnonzero(file.status == 1)
    assert far_away.held == 0
    assert 5 < far_away.most_held <= 10  # a chunk and the next one
    assert threading.current_thread().name not in far_away.threads
    assert not [p for p in tmp_path.iterdir() if p.name != "far.h5"]
    extract([folder], tmp_path / "here.h5")
    far, here = contents(tmp_path / "far.h5"), contents(tmp_path / "here.h5")
    assert_same_descriptors(far["features"][done], here["features"][done])
    assert np.array_equal(far["images/size"][done], here["images/size"][done])


def test_chunks_are_limited_in_bytes_but_hold_at_least_one_image(folder, tmp_path, far_away, monkeypatch):
    for nbytes, most in ((400, 2), (2000, 1)):
        far_away.nbytes_each, far_away.most_held = nbytes, 0
        monkeypatch.setattr(chunks, "_MOST_FETCHED_NBYTES", 1000)
        extract([folder], tmp_path / f"{nbytes}.h5")
        assert far_away.most_held == 2 * most  # and as many of the next chunk
    assert far_away.n_cancelled == 0


def test_an_outage_ends_the_run_and_the_same_command_continues(folder, tmp_path, far_away):
    far_away.fails_at = "c1/7.png"  # in the fourth chunk
    with pytest.raises(StoreError, match=r"no connection at c1/7\.png"):
        extract([folder], tmp_path / "f.h5")
    assert far_away.held == 0
    with sppfeat.open(tmp_path / "f.h5") as file:
        done = int((file.status == 1).sum())
        assert 0 < done < N - 5
        assert (file.status == 0).any()
    far_away.fails_at = None
    _, progress = extract([folder], tmp_path / "f.h5")
    assert progress.n_done == N - 5 - done
    extract([folder], tmp_path / "whole.h5")
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_in_chunks_that_was_stopped_is_continued(folder, tmp_path, far_away, stop_after):
    boxes = box_file(tmp_path, relative=True)
    one_by_one = {"boxes": boxes, "run": RunOptions(workers=0, batch_size=1, device="cpu")}
    extraction, _ = extract([folder], tmp_path / "f.h5", stop_after=stop_after, **one_by_one)
    assert extraction.outcome().pending > 0
    assert far_away.held == 0
    extraction, _ = extract([folder], tmp_path / "f.h5", **one_by_one)
    assert extraction.outcome().pending == 0
    extract([folder], tmp_path / "whole.h5", **one_by_one)
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


def test_failed_images_are_tried_again_in_chunks(tmp_path):
    for i in range(9):
        write_image(tmp_path / "in" / f"{i}.png", 60, 50 + i, seed=i)
    good = (tmp_path / "in" / "3.png").read_bytes()
    (tmp_path / "in" / "3.png").write_bytes(b"damaged")
    extract([tmp_path / "in"], tmp_path / "f.h5", **IN_CHUNKS)
    (tmp_path / "in" / "3.png").write_bytes(good)
    (tmp_path / "in" / "5.png").rename(tmp_path / "5.png")
    write_image(tmp_path / "in" / "9.png", 60, 60, seed=9)
    extraction, progress = extract(
        [tmp_path / "in"], tmp_path / "f.h5", retry_failed=True, add_new=True, **IN_CHUNKS
    )
    assert (progress.n_done, progress.n_failed) == (2, 0)
    assert extraction.outcome().images == 10
    (tmp_path / "5.png").rename(tmp_path / "in" / "5.png")
    extract([tmp_path / "in"], tmp_path / "whole.h5")
    assert_same_file(tmp_path / "f.h5", tmp_path / "whole.h5")


def test_fail_fast_leaves_the_image_as_it_is_in_chunks(folder, tmp_path):
    with (
        open_part(request([folder], tmp_path / "f.h5", fail_fast=True, **IN_CHUNKS)) as extraction,
        pytest.raises(ImageError, match=r"4\.png.*fail-fast"),
    ):
        extraction.fill()


@pytest.mark.slow
def test_a_run_in_chunks_leaves_no_threads(folder, tmp_path):
    before = threading.active_count()
    extract([folder], tmp_path / "f.h5", run=RunOptions(workers=1, device="cpu"), **IN_CHUNKS)
    assert threading.active_count() == before
