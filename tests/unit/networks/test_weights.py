import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from sppfeat.errors import WeightsError
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.weights import state_sha256

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
def test_any_other_mismatch_is_refused_and_named(tmp_path, squeezenet_state, change, message):
    with pytest.raises(WeightsError, match=message):
        load_backbone(NAME, weights=save(tmp_path, change(dict(squeezenet_state))))


PREFIXES = [
    "model.",
    "backbone.",
    "encoder.",
    "net.",
    "module.",
    "_orig_mod.",
    "model.module.backbone.",
    "resnet.1.",
]
KEYS = [("state_dict",), ("model",), ("model_state_dict",), ("ema",), ("ema", "module")]


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [*((prefix, ()) for prefix in PREFIXES), *(("model.", keys) for keys in KEYS), ("module.", ("ema",))],
)
def test_keys_and_prefixes_are_dropped_if_all_names_then_match(tmp_path, tiny_state, prefix, keys):
    content = {f"{prefix}{name}": value for name, value in tiny_state.items()}
    content |= {"head.weight": torch.ones(3), "n_averaged": torch.ones(())}  # beside the backbone
    for key in reversed(keys):
        content = {"epoch": 3, key: content}
    loaded = load_backbone("spp_s16", weights=save(tmp_path, content), fold=False)
    for name, value in loaded.network.state_dict().items():
        assert torch.equal(value, tiny_state[name]), name
    assert "skipped 2 other modules of the weights file: head, n_averaged" in loaded.weights_note
    wrapped = prefix in ("module.", "_orig_mod.") and "ema" not in keys
    assert (
        wrapped
        or f"using the parameters under '{''.join(f'{key}.' for key in keys)}{prefix}'" in loaded.weights_note
    )


@pytest.fixture(scope="module")
def tiny_state() -> dict[str, torch.Tensor]:
    return load_backbone("spp_s16", fold=False).network.state_dict()


def under(prefix: str, state: dict[str, torch.Tensor], *, scale: float = 1) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value * scale for name, value in state.items()}


@pytest.mark.parametrize("prefixes", [("student.", "teacher."), ("module.encoder_q.", "module.encoder_k.")])
def test_several_sets_of_parameters_that_fit_equally_well_are_listed(tmp_path, tiny_state, prefixes):
    first, second = prefixes
    names = f"2 sets of parameters fit this backbone: '{first}', '{second}'; save one of them alone"
    flat = under(first, tiny_state) | under(second, tiny_state, scale=2)
    nested = {first[:-1]: tiny_state, second[:-1]: under("", tiny_state, scale=2)}
    for content in (flat, nested):
        with pytest.raises(WeightsError, match=re.escape(names)):
            load_backbone("spp_s16", weights=save(tmp_path, content))
    twins = under(first, tiny_state) | under(second, tiny_state)
    assert load_backbone("spp_s16", weights=save(tmp_path, twins), fold=False).weights_note


def test_the_usual_set_of_parameters_is_preferred_and_the_others_are_named(tmp_path, tiny_state):
    double = under("", tiny_state, scale=2)
    for content, used, other in (
        ({"ema": double, "state_dict": tiny_state}, "state_dict.", "ema."),
        (
            {"model": tiny_state, "model_ema": {"n_averaged": torch.ones(()), **under("module.", double)}},
            "model.",
            "model_ema.module.",
        ),
        (under("ema_model.", double) | under("model.", tiny_state), "model.", "ema_model."),
        (tiny_state | {"momentum": double}, "the top", "momentum."),
    ):
        loaded = load_backbone("spp_s16", weights=save(tmp_path, content), fold=False)
        assert torch.equal(next(iter(loaded.network.state_dict().values())), next(iter(tiny_state.values())))
        taken, others = loaded.weights_note.split("; others fit, too; ")
        assert taken == f"using the parameters under '{used}' of the weights file"
        assert others.startswith(f"to use one, save it alone: '{other}'")


def test_the_projection_head_of_self_supervised_training_is_skipped(tmp_path, tiny_state):
    content = tiny_state | {"projection_head.0.weight": torch.ones(3), "prototypes.weight": torch.ones(3)}
    note = load_backbone("spp_s16", weights=save(tmp_path, content)).weights_note
    assert note == "skipped 2 other modules of the weights file: projection_head, prototypes"


def test_a_prefix_is_named_when_the_names_after_it_do_not_match(tmp_path, tiny_state):
    first, *others = tiny_state
    content = {f"model.{name}": tiny_state[name] for name in others}
    with pytest.raises(WeightsError, match=rf"\(names under 'model\.'\): 1 missing: {re.escape(first)}$"):
        load_backbone("spp_s16", weights=save(tmp_path, content))
    foreign = {"visual.a\x1b[2J": torch.ones(1), "visual.b": torch.ones(1)}
    with pytest.raises(WeightsError, match=r"does not fit this backbone: \d+ missing.*visual\.a\\x1b"):
        load_backbone("spp_s16", weights=save(tmp_path, foreign))


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


def test_a_network_with_versioned_modules(tmp_path):
    plain = dict(
        get_model("mnasnet0_5", weights=None).state_dict()
    )  # as a program may save a part of a network
    found = load_backbone("mnasnet0_5", weights=save(tmp_path, plain), fold=False).network.state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in found.items())
