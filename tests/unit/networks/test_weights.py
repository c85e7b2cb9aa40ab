import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from sppfeat.errors import WeightsError
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.weights import read_weights_file, state_sha256

NAME = "squeezenet1_1"
OTHER_CLASSIFIER = {"classifier.1.weight": torch.ones(7, 512, 1, 1), "classifier.1.bias": torch.ones(7)}


def save(tmp_path, content, name="w.pth") -> str:
    path = tmp_path / name
    torch.save(content, path)
    return str(path)


def describe(path: str) -> torch.Tensor:
    backbone = load_backbone(NAME, weights=path)
    with torch.inference_mode():
        return backbone.maps(backbone.network, torch.ones(1, 3, 64, 48))[0]


@pytest.mark.slow
def test_every_usual_way_to_save_weights_gives_the_same_network(tmp_path, squeezenet_state):
    plain = describe(save(tmp_path, squeezenet_state))
    ways = {
        "module": {f"module.{k}": v for k, v in squeezenet_state.items()},
        "compiled": {f"_orig_mod.module.{k}": v for k, v in squeezenet_state.items()},
        "state_dict": {"state_dict": squeezenet_state, "epoch": 3},
        "model": {"model": {f"module.{k}": v for k, v in squeezenet_state.items()}, "args": {"lr": 0.1}},
    }
    for name, content in ways.items():
        assert torch.equal(describe(save(tmp_path, content, f"{name}.pth")), plain), name
    save_file(squeezenet_state, tmp_path / "w.safetensors")
    assert torch.equal(describe(str(tmp_path / "w.safetensors")), plain)


def test_float16_weights_are_computed_with_in_float32(tmp_path, squeezenet_state):
    half = {k: v.half() for k, v in squeezenet_state.items()}
    rounded = {k: v.float() for k, v in half.items()}
    result = describe(save(tmp_path, half))
    assert result.dtype == torch.float32
    assert torch.equal(result, describe(save(tmp_path, rounded, "r.pth")))


@pytest.mark.slow
def test_the_classifier_does_not_matter(tmp_path, squeezenet_state):
    plain = describe(save(tmp_path, squeezenet_state))
    other = {**squeezenet_state, **OTHER_CLASSIFIER}
    none = {k: v for k, v in squeezenet_state.items() if not k.startswith("classifier")}
    more = {**squeezenet_state, "classifier.5.weight": torch.ones(3)}
    for i, content in enumerate((other, none, more)):
        assert torch.equal(describe(save(tmp_path, content, f"{i}.pth")), plain)


def test_a_classifier_that_is_pooled_must_fit(tmp_path, squeezenet_state):
    other = {**squeezenet_state, **OTHER_CLASSIFIER}
    with pytest.raises(WeightsError, match=r"classifier\.1\.weight \(7, 512, 1, 1\) instead of"):
        load_backbone(NAME, weights=save(tmp_path, other), layers=["classifier.1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "features.0.weight"}, "1 missing: features.0.weight"),
        (lambda s: {**s, "extra.weight": torch.ones(1)}, "1 unknown: extra.weight"),
        (lambda s: {**s, "features.0.bias": torch.ones(3)}, r"features\.0\.bias \(3,\) instead of \(64,\)"),
    ],
)
def test_anything_else_that_does_not_match_is_refused_by_name(tmp_path, squeezenet_state, change, message):
    with pytest.raises(WeightsError, match=message):
        load_backbone(NAME, weights=save(tmp_path, change(dict(squeezenet_state))))


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_but_tensors_is_ever_unpickled(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": _Evil()}))
    with pytest.raises(WeightsError, match="as a file of tensors"):
        read_weights_file(path)
    torch.save({"features.0.weight": _Evil()}, path)
    with pytest.raises(WeightsError, match="as a file of tensors"):
        read_weights_file(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"", "as a file of tensors"),
        ("w.pth", b"not weights at all", "as a file of tensors"),
        ("w.safetensors", b"not weights at all", "as safetensors"),
    ],
)
def test_files_that_are_no_weights_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights_file(tmp_path / name)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], torch.ones(3)])
def test_a_file_without_a_state_dict_says_what_it_found(tmp_path, content):
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights_file(Path(save(tmp_path, content)))


@pytest.mark.slow
def test_densenet_files_with_names_from_before_torch_0_4_load(tmp_path):
    new = get_model("densenet121", weights=None).state_dict()
    old = {}
    for name, value in new.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.") if "denselayer" in name else name
        old[name] = value
    assert set(old) != set(new)
    path = save(tmp_path, old)
    assert torch.equal(
        load_backbone(
            "densenet121", weights=path, fold=False
        ).network.features.denseblock1.denselayer1.norm1.weight,
        new["features.denseblock1.denselayer1.norm1.weight"],
    )


def test_state_sha256_depends_on_names_values_and_types_and_not_on_order():
    state = {"a": torch.ones(2), "b": torch.zeros(3)}
    same = {"b": torch.zeros(3), "a": torch.ones(2)}
    assert state_sha256(state) == state_sha256(same)
    for other in (
        {"a": torch.ones(2), "c": torch.zeros(3)},
        {"a": torch.ones(2), "b": torch.ones(3)},
        {"a": torch.ones(2).half(), "b": torch.zeros(3)},
        {"a": torch.ones(2), "b": torch.zeros(3, 1)},
    ):
        assert state_sha256(state) != state_sha256(other)
    assert len(state_sha256({"n": torch.tensor(3), "m": nn.Linear(2, 2).weight})) == 64


def test_a_network_whose_modules_ask_for_their_version(tmp_path):
    plain = dict(
        get_model("mnasnet0_5", weights=None).state_dict()
    )  # as any program saves a part of a network
    found = load_backbone("mnasnet0_5", weights=save(tmp_path, plain), fold=False).network.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in found.items())
