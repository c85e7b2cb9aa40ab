import hashlib
import io
import os
import re
import socket
from pathlib import Path

import pytest
import torch
from places import REPOSITORY

import sppfeat
from sppfeat.config.specs import COMPACT_NAME, DEFAULT_BACKBONE
from sppfeat.errors import WeightsError
from sppfeat.networks import named_weights, zoo
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.named_weights import (
    BUNDLED_ENTRY,
    BUNDLED_FOLDER,
    fetch_entry,
    find_entry,
    list_entries,
    read_entry,
)
from sppfeat.networks.weights import file_sha256

NAME = "squeezenet1_1"


@pytest.fixture
def entry(offer, squeezenet_state):
    """The weights of squeezenet1_1 on a local server."""
    content = io.BytesIO()
    torch.save(squeezenet_state, content)
    return offer(NAME, content.getvalue())


@pytest.fixture
def cache(tmp_path):
    """torch's hub cache."""
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def shelf(tmp_path):
    """A folder of weights."""
    folder = tmp_path / "weights"
    folder.mkdir()
    return folder


def put(folder, entry, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / entry.file_name).write_bytes(content)
    return folder / entry.file_name


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_entry_of_torchvision_has_a_url_and_a_checksum():
    for name in set(zoo.model_names()) - {COMPACT_NAME}:
        entries = list_entries(name)
        assert entries
        assert len({entry.name for entry in entries}) == len(entries)
        for entry in entries:
            assert entry.model == name
            assert entry.url.endswith(f"/{entry.file_name}")
            assert re.fullmatch("[0-9a-f]{8,10}", entry.sha256_prefix), entry
            assert f"-{entry.sha256_prefix}." in entry.file_name
            assert len(entry.transform.mean) == len(entry.transform.std) == 3
            assert entry.transform.interpolation in ("bilinear", "bicubic")
            assert entry.size_mb > 1


def test_the_default_comes_first():
    assert [entry.name for entry in list_entries("vgg16")] == ["IMAGENET1K_V1", "IMAGENET1K_FEATURES"]
    assert find_entry("resnet50") == find_entry("resnet50", "DEFAULT") == list_entries("resnet50")[0]
    assert find_entry("resnet50", "IMAGENET1K_V1").file_name == "resnet50-0676ba61.pth"


def test_an_unknown_name_of_weights_is_refused():
    allowed = "resnet50 has no weights 'IMAGENET22K'; allowed: DEFAULT, IMAGENET1K_V2, IMAGENET1K_V1"
    with pytest.raises(WeightsError) as caught:
        find_entry("resnet50", "IMAGENET22K")
    assert str(caught.value) == allowed
    with pytest.raises(WeightsError) as caught:
        load_backbone("resnet50", weights="IMAGENET22K")
    assert str(caught.value) == f"{allowed}, none, or a file"


def test_missing_weights_are_downloaded_into_the_hub_cache_once(
    entry, cache, shelf, squeezenet_state, weight_server
):
    found, sha256 = read_entry(entry, folder=shelf)
    assert same(found[""], squeezenet_state)
    assert sha256 == file_sha256(cache / entry.file_name)
    assert sha256.startswith(entry.sha256_prefix)
    assert same(read_entry(entry)[0][""], squeezenet_state)
    assert weight_server.asked == [entry.file_name]
    assert list(shelf.iterdir()) == []
    assert list(cache.iterdir()) == [cache / entry.file_name]


def test_the_given_folder_comes_before_the_hub_cache(entry, cache, shelf, weight_server):
    content = weight_server.files[entry.file_name]
    put(cache, entry, content)
    assert same(read_entry(entry, folder=shelf)[0][""], torch.load(io.BytesIO(content)))
    path = put(shelf, entry, content)
    path.symlink_to(path.rename(shelf / "elsewhere.pth"))
    put(cache, entry, b"damaged")
    found, sha256 = read_entry(entry, folder=str(shelf))
    assert sha256 == file_sha256(shelf / entry.file_name)
    assert same(found[""], torch.load(io.BytesIO(content)))
    assert weight_server.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("place", ["cache", "shelf"])
@pytest.mark.parametrize("part", ["first half", "nothing", "another"])
def test_a_damaged_file_is_refused_and_not_skipped(entry, place, part, request, shelf, weight_server):
    whole = weight_server.files[entry.file_name]
    content = {"first half": whole[: len(whole) // 2], "nothing": b"", "another": b"another"}[part]
    path = put(request.getfixturevalue(place), entry, content)
    with pytest.raises(WeightsError) as caught:
        load_backbone(NAME, weights_dir=shelf)
    message = str(caught.value)
    for text in (
        str(path),
        file_sha256(path),
        f"begin with {entry.sha256_prefix}",
        f"({len(content)} bytes)",
    ):
        assert text in message
    assert weight_server.asked == []
    assert path.read_bytes() == content


@pytest.mark.parametrize("make", [os.mkdir, lambda path: path.symlink_to("gone"), os.mkfifo])
def test_a_path_that_is_not_a_file_is_refused_and_not_skipped(entry, make, shelf, weight_server):
    make(shelf / entry.file_name)
    for use in (read_entry, fetch_entry):
        with pytest.raises(WeightsError, match=f"{entry.file_name}' is not a weights file; allowed"):
            use(entry, folder=shelf)
    assert weight_server.asked == []


def test_a_file_that_cannot_be_read(entry, shelf, weight_server, monkeypatch):
    with pytest.raises(WeightsError, match=r"cannot read the weights .*: File name too long"):
        read_entry(entry._replace(file_name="w" * 300), folder=shelf)
    put(shelf, entry, weight_server.files[entry.file_name])

    def deny(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("sppfeat.networks.named_weights.file_sha256", deny)
    with pytest.raises(WeightsError, match=r"cannot read the weights .*: Permission denied"):
        read_entry(entry, folder=shelf)


@pytest.mark.parametrize(
    ("name", "problem"), [("gone", "does not exist"), ("file", "is not a folder"), ("", "does not exist")]
)
def test_a_given_folder_must_exist(entry, name, problem, tmp_path, monkeypatch, weight_server):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=f"the weights folder '{name}' {problem}; --weights-dir"):
        read_entry(entry, folder=name)
    assert weight_server.asked == []


def test_only_named_weights_are_searched_in_the_given_folder(tmp_path):
    assert load_backbone(NAME, weights="none", weights_dir=tmp_path / "gone").spec.weights == "none"


def test_a_failed_download_gives_advice_in_one_line(entry, cache, shelf, weight_server):
    weight_server.files.clear()
    with pytest.raises(WeightsError) as caught:
        load_backbone(NAME, weights_dir=shelf)
    message = str(caught.value)
    assert "\n" not in message
    for text in (
        entry.file_name,
        "IMAGENET1K_V1",
        "404",
        repr(str(cache)),
        repr(str(shelf)),
        f"'sppfeat backbones --download {NAME}'",
        "--weights-dir",
        "SPPFEAT_WEIGHTS_DIR",
        "--weights FILE",
        "--weights none",
    ):
        assert text in message
    assert list(cache.iterdir()) == list(shelf.iterdir()) == []


def test_the_advice_names_weights_that_are_not_the_default(entry, monkeypatch, weight_server):
    second = entry._replace(name="SECOND", file_name="gone.pth", url=weight_server.url("gone.pth"))
    monkeypatch.setattr("sppfeat.networks.named_weights.list_entries", lambda name: (entry, second))
    with pytest.raises(WeightsError, match=f"--download {NAME} --weights SECOND' on a machine"):
        load_backbone(NAME, weights="SECOND")


def test_fetching_replaces_a_damaged_file_only_once_the_new_one_is_whole(entry, shelf, weight_server):
    content = weight_server.files[entry.file_name]
    path = put(shelf, entry, content[:1000])
    weight_server.cut[entry.file_name] = 2000
    with pytest.raises(WeightsError, match=f"ended after 2000 of {len(content)} bytes"):
        fetch_entry(entry, folder=shelf)
    assert path.read_bytes() == content[:1000]
    weight_server.cut.clear()
    assert fetch_entry(entry, folder=shelf)["downloaded"]
    assert path.read_bytes() == content
    assert list(shelf.iterdir()) == [path]


def test_an_entry_without_url_is_searched_in_the_package_only(
    entry, shelf, weight_server, monkeypatch, tmp_path
):
    entry = entry._replace(url=None)
    content = weight_server.files[entry.file_name]
    put(shelf, entry, content)
    package = tmp_path / "package"
    monkeypatch.setattr(named_weights, "BUNDLED_FOLDER", package)
    for use in (read_entry, fetch_entry):
        with pytest.raises(
            WeightsError, match=r"a file of the package .* is missing or damaged; install sppfeat again$"
        ):
            use(entry, folder=shelf)
    put(package, entry, content)
    assert fetch_entry(entry, folder=shelf)["path"] == str(package / entry.file_name)


OWN = BUNDLED_ENTRY


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_file_is_the_one_that_was_released():
    content = (BUNDLED_FOLDER / OWN.file_name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == OWN.sha256_prefix
    assert OWN.file_name == f"{OWN.model}-{OWN.sha256_prefix[:8]}.pth"
    assert len(content) / 2**20 == pytest.approx(OWN.size_mb, abs=0.01)
    assert [path.name for path in BUNDLED_FOLDER.iterdir()] == [OWN.file_name]


def test_the_file_is_part_of_the_package():
    settings = (REPOSITORY / "pyproject.toml").read_text()
    folder = BUNDLED_FOLDER.relative_to(Path(sppfeat.__file__).parent).as_posix()
    assert re.search(rf'^sppfeat = \[.*"{folder}/\*\.pth"', settings, re.MULTILINE)


def test_the_default_backbone_is_the_bundled_one_and_needs_no_network(no_network, photos):
    assert OWN.model == DEFAULT_BACKBONE
    extractor = sppfeat.Extractor()
    descriptors = extractor(str(photos / "brick" / sorted(p.name for p in (photos / "brick").iterdir())[0]))
    assert descriptors.shape == (512 * 21,)
    assert (descriptors > 0).mean() > 0.05


def test_weights_of_another_network_name_it(tmp_path):
    path = str(BUNDLED_FOLDER / OWN.file_name)
    with pytest.raises(
        WeightsError, match=f"was trained as {OWN.model}, not squeezenet1_1; use --backbone {OWN.model}"
    ):
        load_backbone("squeezenet1_1", weights=path)
    assert load_backbone(OWN.model, weights=path).spec.weights_sha256 == OWN.sha256_prefix
