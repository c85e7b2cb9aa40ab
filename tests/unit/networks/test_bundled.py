import hashlib
import json
import re
import socket
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from places import REPOSITORY

import sppfeat
from sppfeat.cli import main
from sppfeat.config.specs import DEFAULT_BACKBONE
from sppfeat.errors import WeightsError
from sppfeat.networks import named_weights
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.bundled import BUNDLED, BUNDLED_FOLDER

OWN = BUNDLED[0]


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **settings):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def copied(tmp_path, monkeypatch) -> Path:
    """The bundled files in a folder that may be changed, which is looked in instead."""
    for path in BUNDLED_FOLDER.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(named_weights, "BUNDLED_FOLDER", tmp_path)
    return tmp_path / OWN.file_name


def test_the_file_is_the_one_that_was_released():
    content = (BUNDLED_FOLDER / OWN.file_name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == OWN.sha256
    assert OWN.file_name == f"{OWN.model}-{OWN.sha256[:8]}.pth"
    assert len(content) < 4_000_000
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


def test_its_parameters_are_float16_and_all_of_the_network_and_nothing_else():
    state = torch.load(BUNDLED_FOLDER / OWN.file_name, weights_only=True)["state_dict"]
    own = load_backbone(OWN.model, weights="none", fold=False).network.state_dict()
    assert set(state) == set(own)
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    assert all(value.isfinite().all() for value in state.values())


def test_it_says_how_it_was_made_and_names_no_folder_of_its_maker():
    text = torch.load(BUNDLED_FOLDER / OWN.file_name, weights_only=True)["provenance"]
    provenance = json.loads(text)
    assert provenance["settings"]["teachers"]
    assert provenance["images"] > 1000
    assert len(provenance["history"]) == provenance["settings"]["recipe"]["epochs"]
    assert not re.search(r"(?<![\w.])/\w", text)


def test_damaged_or_missing_weights_are_refused(tmp_path, monkeypatch):
    path = copied(tmp_path, monkeypatch)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"is damaged or cut off .* expected is one that begins with"):
        load_backbone(OWN.model)
    path.unlink()
    with pytest.raises(WeightsError, match=r"is part of the package, .* install sppfeat again$"):
        load_backbone(OWN.model)


def test_each_plan_names_it_and_says_how_to_get_more(photos, tmp_path):
    command = ["extract", str(photos / "brick"), "-o", str(tmp_path / "f.h5"), "--dry-run"]
    plan = CliRunner().invoke(main, command).output
    assert f"backbone:    {OWN.model}, weights {OWN.name}" in plan
    assert "--backbone resnet50 gives features of ImageNet scale" in plan
    other = CliRunner().invoke(main, [*command, "--weights", "none"]).output
    assert "ImageNet scale" not in other


def test_backbones_lists_it_and_has_nothing_to_download():
    runner = CliRunner()
    listed = json.loads(runner.invoke(main, ["backbones", f"{OWN.model}*", "--json"]).stdout)
    assert [(entry["name"], entry["weights"], entry["stride"]) for entry in listed] == [
        (OWN.model, [OWN.name], 16.0)
    ]
    found = json.loads(runner.invoke(main, ["backbones", "--download", OWN.model, "--json"]).stdout)
    assert [(entry["path"], entry["downloaded"]) for entry in found] == [
        (str(BUNDLED_FOLDER / OWN.file_name), False)
    ]


def test_weights_of_another_network_say_of_which(tmp_path):
    path = str(BUNDLED_FOLDER / OWN.file_name)
    with pytest.raises(WeightsError, match=f"was trained as {OWN.model}, and the backbone is squeezenet1_1"):
        load_backbone("squeezenet1_1", weights=path)
    assert load_backbone(OWN.model, weights=path).spec.weights_sha256 == OWN.sha256
