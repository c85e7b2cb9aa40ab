"""Tar and zip files in an object store: listed and read by parts, as the same files of this machine are."""

import itertools
import pickle
import zipfile

import numpy as np
import pytest
from flaky_server import Fault
from hypothesis import given
from hypothesis import strategies as st
from packages import need_packages
from packed_images import fetched, tar_bytes, zip_bytes

from sppfeat.errors import ConfigError, SourceError
from sppfeat.files.remote import objects
from sppfeat.inputs import list_images, remote
from sppfeat.inputs.remote import _NEAR, _joined_ranges

need_packages("s3fs", "moto")

pytestmark = pytest.mark.slow


@pytest.fixture
def store(store, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store.put({})
    return store


@pytest.fixture
def small_steps(monkeypatch):
    """Parts so small that small archives have many of them."""
    monkeypatch.setattr(objects, "_AHEAD_NBYTES", 2000)
    monkeypatch.setattr(remote, "_PIECE", 1500)
    monkeypatch.setattr(remote, "_NEAR", 1000)


IMAGES = {f"{i % 3}/{i:02d}.jpg": bytes([i]) * (50 + 397 * i) for i in range(24)}


def tar_of(members: dict[str, bytes]) -> bytes:
    return tar_bytes(members.items())


def zip_of(members: dict[str, bytes]) -> bytes:
    return zip_bytes(members.items(), zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@pytest.mark.parametrize("make", [tar_of, zip_of])
@pytest.mark.parametrize("suffix", ["", "small"])
def test_an_archive_is_read_as_that_of_this_machine(store, tmp_path, request, make, suffix):
    if suffix:
        request.getfixturevalue("small_steps")
    name = "images.tar" if make is tar_of else "images.ZIP"
    content = make({"notes.txt": b"x" * 5000, **IMAGES, "last.txt": b"y" * 9000})
    store.put({f"in/{name}": content})
    (tmp_path / name).write_bytes(content)
    listing, local = list_images([f"s3://bucket/in/{name}"]), list_images([str(tmp_path / name)])
    assert listing.root == b"s3://bucket/in"
    assert list(listing.paths) == list(local.paths)
    assert (listing.classes, listing.labels.tolist()) == (local.classes, local.labels.tolist())
    assert listing.n_other_files == local.n_other_files
    expected = list(IMAGES.values())
    if make is tar_of:
        assert listing.storage.nbytes_of(np.array([3, 0])).tolist() == [len(expected[3]), len(expected[0])]
    assert fetched(listing.storage, range(len(IMAGES)), tmp_path / "s") == expected
    for images in ([5], [23, 0, 11], []):
        assert fetched(listing.storage, images, tmp_path / "s") == [expected[i] for i in images]
    assert fetched(pickle.loads(pickle.dumps(listing)).storage, [3], tmp_path / "s") == [expected[3]]


def test_archives_below_a_prefix_are_read_where_there_are_no_images(store, tmp_path):
    shards = {
        f"train/shard-{i}.tar": tar_of({f"{i}.jpg": b"%d" % i, f"{i}.cls": b"%d" % (i % 2)}) for i in (10, 9)
    }
    store.put({**shards, "train/readme.md": b""})
    listing = list_images(["s3://bucket/train"])
    assert list(listing.paths) == [b"shard-9.tar/9.jpg", b"shard-10.tar/10.jpg"]
    assert (listing.classes, listing.labels.tolist(), listing.n_other_files) == ((b"0", b"1"), [1, 0], 1)
    assert fetched(listing.storage, [1, 0], tmp_path / "s") == [b"10", b"9"]
    store.put({"train/x.jpg": b""})
    listing = list_images(["s3://bucket/train"])
    assert (list(listing.paths), listing.n_other_files) == ([b"x.jpg"], 3)


def test_most_of_large_members_is_not_fetched_to_list_an_archive(store):
    content = tar_of({f"{i}.jpg": bytes(20_000_000) for i in range(3)})
    store.put({"large.tar": content})
    sent = []
    store.server.on_sent = sent.append
    assert len(list_images(["s3://bucket/large.tar"]).paths) == 3
    assert sum(sent) < len(content) / 3


def test_small_members_are_listed_many_at_once(store, monkeypatch):
    monkeypatch.setattr(objects, "_AHEAD_NBYTES", 20_000)
    store.put({"small.tar": tar_of({f"{i}.jpg": bytes(1000) for i in range(100)})})
    assert len(list_images(["s3://bucket/small.tar"]).paths) == 100
    assert sum(line.startswith("GET /bucket/small.tar") for line in store.server.asked) < 12


def test_an_index_is_kept(store, monkeypatch):
    monkeypatch.setattr("sppfeat.inputs.archives._FEWEST_IMAGES", 1)
    store.put({"a.tar": tar_of(IMAGES)})
    first = list_images(["s3://bucket/a.tar"])
    store.server.asked.clear()
    assert list(list_images(["s3://bucket/a.tar"]).paths) == list(first.paths)
    assert not any(line.startswith("GET /bucket/a.tar") for line in store.server.asked)
    store.put({"a.tar": tar_of({"new.jpg": b"x"})})
    assert list(list_images(["s3://bucket/a.tar"]).paths) == [b"a.tar/new.jpg"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tar", tar_of(IMAGES)[:20_000], "cut short"),
        ("a.zip", bytes(1000), "not a zip file"),
        ("a.tar.gz", b"", "download it first"),
    ],
)
def test_what_is_no_archive(store, name, content, said):
    store.put({name: content})
    with pytest.raises(ConfigError, match=said) as caught:
        list_images([f"s3://bucket/{name}"])
    assert f"s3://bucket/{name}" in str(caught.value)


def test_an_archive_that_is_not_there(store):
    with pytest.raises(ConfigError, match=r"no such object or folder: 's3://bucket/a.tar'"):
        list_images(["s3://bucket/a.tar"])


def test_a_listing_that_fails(store, small_steps):
    store.put({"a.tar": tar_of(IMAGES)})
    store.server.faults = [Fault(500, "GET /bucket/a.tar")]
    with pytest.raises(
        SourceError, match=r"cannot read the archive 's3://bucket/a.tar': the server says 500"
    ):
        list_images(["s3://bucket/a.tar"])
    store.server.faults = [Fault(what, "GET /bucket/a.tar", times=1) for what in (500, "drop", "cut")]
    assert len(list_images(["s3://bucket/a.tar"]).paths) == len(IMAGES)


def test_an_archive_that_has_changed_since(store, tmp_path):
    store.put({"a.tar": tar_of(IMAGES)})
    listing = list_images(["s3://bucket/a.tar"])
    store.put({"a.tar": tar_of(dict(reversed(IMAGES.items())))})
    assert (
        fetched(listing.storage, [0, 1], tmp_path / "s")
        == ["its archive has changed since it was listed"] * 2
    )
    store.delete("a.tar")
    assert fetched(listing.storage, [0], tmp_path / "s") == ["its archive cannot be read: no such object"]


def test_pieces_that_fail(store, tmp_path, small_steps):
    store.put({"a.tar": tar_of(IMAGES)})
    listing, expected = list_images(["s3://bucket/a.tar"]), list(IMAGES.values())
    store.server.faults = [
        Fault("cut", "GET /bucket/a.tar", times=2),
        Fault(503, "GET /bucket/a.tar", times=2),
    ]
    assert fetched(listing.storage, range(len(IMAGES)), tmp_path / "s") == expected
    store.server.faults = [Fault("drop", "GET /bucket/a.tar")]
    with pytest.raises(SourceError, match=r"cannot read 's3://bucket/a.tar'"):
        fetched(listing.storage, range(8), tmp_path / "s")  # each piece is asked for again and again


def test_a_piece_that_never_comes_fails_the_images_in_it_alone(store, tmp_path, small_steps, monkeypatch):
    store.put({"a.tar": tar_of(IMAGES)})
    listing, expected = list_images(["s3://bucket/a.tar"]), list(IMAGES.values())
    true_read, bad = objects._read_range, int(listing.storage.members.ranges[12, 0]) + 10

    def read(service, url, start, stop):
        if start <= bad < stop:
            raise ConnectionResetError("it is reset")
        return true_read(service, url, start, stop)

    monkeypatch.setattr(objects, "_read_range", read)
    found = fetched(listing.storage, range(len(IMAGES)), tmp_path / "s")
    lost = [i for i, content in enumerate(found) if isinstance(content, str)]
    assert 12 in lost
    assert len(lost) <= 3
    assert all("it is reset" in found[i] for i in lost)
    assert all(found[i] == expected[i] for i in range(len(expected)) if i not in lost)


def test_a_zip_file_whose_headers_are_not_where_it_says(store, tmp_path):
    content = bytearray(zip_of(IMAGES))
    content[:4] = b"XXXX"
    store.put({"a.zip": bytes(content)})
    listing = list_images(["s3://bucket/a.zip"])
    expected = ["damaged in its archive: its header is missing", IMAGES["1/01.jpg"]]
    assert fetched(listing.storage, [0, 1], tmp_path / "s") == expected


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), max_size=20))
def test_joined_ranges_cover_what_is_wanted_once(wanted):
    starts = np.array([start for start, _ in wanted], dtype=np.int64)
    stops = starts + np.array([length for _, length in wanted], dtype=np.int64)
    found = _joined_ranges(starts, stops).tolist()
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        assert sum(first <= start and stop <= end for first, end in found) == 1
    assert all(end + _NEAR < first for (_, end), (first, _) in itertools.pairwise(found))
    assert {first for first, _ in found} <= set(starts.tolist())
    assert {end for _, end in found} <= set(stops.tolist())
