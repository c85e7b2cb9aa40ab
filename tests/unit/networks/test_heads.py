from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import get_model

from sppfeat.errors import ConfigError, WeightsError
from sppfeat.networks import zoo
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.layers import cut_head, cut_network
from sppfeat.networks.weights import file_sha256
from sppfeat.pyramid import spatial_pyramid_pool

SEED = 3
# Where torchvision's classifiers have the ReLU of each head, and what they take: channels, bins per side.
RELUS = {("alexnet", "fc6"): 2, ("alexnet", "fc7"): 5, ("vgg11", "fc6"): 1, ("vgg11", "fc7"): 4}
POOL5 = {"alexnet": (32, 6), "vgg11": (64, 7)}
WIDTH = 512  # of the heads


def without_memory(name):
    with torch.device("meta"):
        return get_model(name, weights=None)


def build_narrow(name):
    """torchvision's model with an eighth of its channels; the true ones have up to 130 million parameters."""
    model = without_memory(name)
    for part in (model.features, model.classifier):
        for i, layer in enumerate(part):
            if isinstance(layer, nn.Conv2d):
                n_in = 3 if i == 0 else layer.in_channels // 8
                sizes = layer.kernel_size, layer.stride, layer.padding
                part[i] = nn.Conv2d(n_in, layer.out_channels // 8, *sizes)
            elif isinstance(layer, nn.Linear):
                part[i] = nn.Linear(layer.in_features // 8, layer.out_features // 8)
    return model


@pytest.fixture(scope="module", autouse=True)
def narrow_models():
    """Makes backbones with heads narrow; test_box_extraction has the true alexnet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "build_model", build_narrow)
        yield


@pytest.fixture(scope="module")
def models():
    """The whole models with the initial values of the seed."""
    built = {}
    for name in POOL5:
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            built[name] = build_narrow(name).eval()
    return built


@pytest.fixture(scope="module")
def untrained(narrow_models):
    """alexnet without a head and with each, with the initial values of the seed."""
    heads = (None, "fc6", "fc7")
    return {head: load_backbone("alexnet", weights="none", head=head, seed=SEED) for head in heads}


@pytest.fixture(scope="module")
def half(models):
    """A state dict of alexnet in half precision."""
    return {name: value.half() for name, value in models["alexnet"].state_dict().items()}


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def activations(model, layer, batch):
    """Outputs of a layer of the whole network, caught on their way to the class scores."""
    caught = []
    hook = layer.register_forward_hook(lambda module, inputs, output: caught.append(output.clone()))
    with torch.inference_mode():
        model(batch)
    hook.remove()
    return caught[0]


def describe(network, head, batch):
    with torch.inference_mode():
        (fmap,) = network(batch).values()
        return head.network(spatial_pyramid_pool(fmap, (head.level,)))


def relative_l2(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def save(tmp_path, state):
    torch.save(state, tmp_path / "w.pth")
    return str(tmp_path / "w.pth")


def without(state, *prefixes):
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "head"), RELUS)
def test_the_whole_map_of_224_pixels_gives_the_networks_own_activations(models, images, name, head):
    model = models[name]
    expected = activations(model, model.classifier[RELUS[name, head]], images)
    network = cut_network(model, [zoo.default_layer(name, model)], name)
    result = describe(network, cut_head(model, head), images)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
    assert float(expected.min()) == 0 < float(expected.max())
    assert relative_l2(result, expected) < 1e-5


@pytest.mark.parametrize("head", ["fc6", "fc7"])
def test_a_loaded_backbone_has_the_head_of_the_model_with_the_same_seed(models, untrained, images, head):
    model, backbone = models["alexnet"], untrained[head]
    assert backbone.spec.head == backbone.head.name == head
    assert backbone.spec.layers == ("features.11",)
    expected = activations(model, model.classifier[RELUS["alexnet", head]], images)
    assert relative_l2(describe(backbone.network, backbone.head, images), expected) < 1e-5


@pytest.mark.parametrize(("name", "head"), RELUS)
def test_sizes_come_from_the_model_and_rows_do_not_depend_on_each_other(models, name, head):
    channels, level = POOL5[name]
    cut = cut_head(models[name], head)
    assert (cut.name, cut.level, cut.channels) == (head, level, WIDTH)
    true = cut_head(without_memory(name), head)
    assert (true.name, true.level, true.channels) == (head, level, 4096)
    loaded = load_backbone(name, weights="none", head=head)
    assert (loaded.spec.head, loaded.head.name, loaded.head.level) == (head, head, level)
    pooled = torch.rand(5, channels * level * level, generator=torch.Generator().manual_seed(2))
    before = pooled.clone()
    with torch.inference_mode():
        rows = cut.network(pooled)
        singly = torch.cat([cut.network(row[None]) for row in pooled])
        assert cut.network(pooled[:0]).shape == (0, WIDTH)
    assert torch.equal(pooled, before)  # its ReLUs work in place, but only on the head's own tensors
    assert relative_l2(rows, singly) < 1e-5


def test_models_without_heads_are_refused_before_anything_is_built_or_read(monkeypatch):
    def build(name):
        raise AssertionError(name)

    monkeypatch.setattr(zoo, "build_model", build)
    for weights in ("none", "DEFAULT", "no-such-file.pth"):
        with pytest.raises(ConfigError, match=r"'resnet50' has no fc6 or fc7.*vgg\*, alexnet"):
            load_backbone("resnet50", weights=weights, head="fc7")
    for head in ("fc8", "", "FC6", "classifier"):
        with pytest.raises(ConfigError, match=f"head is '{head}'; allowed: fc6, fc7"):
            load_backbone("alexnet", weights="none", head=head)


@pytest.mark.parametrize("layers", [["features.12"], ["features.11", "features.4"], ["features"]])
def test_a_head_takes_the_layer_that_its_network_feeds_it(layers):
    with pytest.raises(ConfigError, match=r"--head fc7 of alexnet takes layer 'features.11', not "):
        load_backbone("alexnet", weights="none", head="fc7", layers=layers)


def test_the_default_layer_may_be_named(untrained):
    named = load_backbone("alexnet", weights="none", head="fc6", seed=SEED, layers=["features.11"])
    assert named.spec == untrained["fc6"].spec


def test_the_checksum_of_an_untrained_network_covers_its_head(untrained):
    other = load_backbone("alexnet", weights="none", head="fc6", seed=SEED + 1)
    checksums = {backbone.spec.weights_sha256 for backbone in (*untrained.values(), other)}
    assert len(checksums) == 4
    assert untrained[None].head is None
    assert untrained[None].spec.head is None


def test_a_file_gives_the_parameters_of_the_head(tmp_path, half):
    path = save(tmp_path, half)
    backbone = load_backbone("alexnet", weights=path, head="fc7", seed=SEED + 1)
    assert backbone.spec.weights_sha256 == file_sha256(Path(path))
    loaded = backbone.head.network.state_dict()
    assert sorted(loaded) == ["1.bias", "1.weight", "4.bias", "4.weight"]
    assert all(torch.equal(value, half[f"classifier.{name}"].float()) for name, value in loaded.items())


def test_layers_after_the_head_do_not_matter(tmp_path, half):
    fc6 = without(half, "classifier.4", "classifier.6")
    others = {
        "absent": {},
        "other": {
            "classifier.4.weight": torch.ones(9, WIDTH),
            "classifier.6.0.weight": torch.ones(10, 9),
            "classifier.6.bias": torch.ones(10),
            "classifier.8.weight": torch.ones(2),
        },
    }
    for what, more in others.items():
        backbone = load_backbone("alexnet", weights=save(tmp_path, {**fc6, **more}), head="fc6")
        loaded = backbone.head.network.state_dict()
        assert torch.equal(loaded["1.weight"], fc6["classifier.1.weight"].float()), what
        assert torch.equal(loaded["1.bias"], fc6["classifier.1.bias"].float()), what


@pytest.mark.parametrize(
    ("head", "dropped", "added", "message"),
    [
        ("fc6", ("classifier",), {}, r"2 missing: classifier\.1\.weight, classifier\.1\.bias$"),
        (
            "fc7",
            ("classifier.4", "classifier.6"),
            {},
            r"2 missing: classifier\.4\.weight, classifier\.4\.bias$",
        ),
        (
            "fc6",
            (),
            {"classifier.1.weight": torch.ones(8, 1152)},
            r"1 with another shape: classifier\.1\.weight \(8, 1152\) instead of \(512, 1152\)$",
        ),
        # A normalization between fc6 and its ReLU; without it, activations would differ.
        ("fc6", (), {"classifier.2.weight": torch.ones(WIDTH)}, r"1 unknown: classifier\.2\.weight$"),
        ("fc7", (), {"classifier.3.weight": torch.ones(WIDTH)}, r"1 unknown: classifier\.3\.weight$"),
    ],
)
def test_a_file_with_a_different_classifier_is_refused(tmp_path, half, head, dropped, added, message):
    path = save(tmp_path, {**without(half, *dropped), **added})
    with pytest.raises(WeightsError, match=f"as alexnet with {head} does not fit this backbone: {message}"):
        load_backbone("alexnet", weights=path, head=head)
