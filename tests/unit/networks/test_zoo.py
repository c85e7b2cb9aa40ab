"""The models that can be backbones, and the default layer of each family."""

import functools
import warnings

import pytest
import torch
import torchvision
from torchvision.models.feature_extraction import create_feature_extractor

from sppfeat.config.specs import COMPACT_NAME
from sppfeat.errors import ConfigError
from sppfeat.networks import zoo
from sppfeat.networks.receptive_field import FeatureGeometry, layer_geometries
from sppfeat.networks.zoo import describe_layers

# The smallest member of each family: default layer, channels, stride, offset.
FAMILIES = [
    ("alexnet", "features.11", 256, 16.0, 15.0),
    ("convnext_tiny", "features", 768, 32.0, 15.5),
    ("densenet121", "relu", 1024, 32.0, 14.0),
    ("efficientnet_b0", "features", 1280, 32.0, 0.0),
    ("efficientnet_v2_s", "features", 1280, 32.0, 0.0),
    ("googlenet", "inception5b", 1024, 32.0, 22.0),
    ("inception_v3", "Mixed_7c", 2048, 32.0, 37.0),
    ("mnasnet0_5", "layers", 1280, 32.0, 0.0),
    ("mobilenet_v2", "features", 1280, 32.0, 0.0),
    ("mobilenet_v3_small", "features", 576, 32.0, 0.0),
    ("regnet_x_400mf", "trunk_output", 400, 32.0, 0.0),
    ("regnet_y_400mf", "trunk_output", 440, 32.0, 0.0),
    ("resnet18", "layer4", 512, 32.0, 0.0),
    ("resnext50_32x4d", "layer4", 2048, 32.0, 0.0),
    ("shufflenet_v2_x0_5", "conv5", 1024, 32.0, 0.0),
    ("squeezenet1_0", "features", 512, 16.0, 17.0),
    ("squeezenet1_1", "features", 512, 16.0, 15.0),
    ("swin_t", "permute", 768, None, None),
    ("swin_v2_t", "permute", 768, None, None),
    ("vgg11", "features.19", 512, 16.0, 7.5),
    ("vgg11_bn", "features.27", 512, 16.0, 7.5),
    ("spp_s16", "features", 512, 16.0, 0.0),
    ("wide_resnet50_2", "layer4", 2048, 32.0, 0.0),
]
HW = (227, 301)


@pytest.fixture(scope="module", autouse=True)
def networks_built_once():
    """Builds each network without memory only once; no test changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "build_without_memory", functools.cache(zoo.build_without_memory))
        yield


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer", "channels", "stride", "offset"), FAMILIES)
def test_default_layer(name, layer, channels, stride, offset):
    assert zoo.default_layer(name) == layer
    network = zoo.build_without_memory(name)
    found = layer_geometries(network, [layer], input_hw=HW)[layer]
    assert found.channels == channels
    assert found.geometry == (None if stride is None else FeatureGeometry(stride, offset))
    assert zoo.default_layer(name, network) == layer
    assert tuple(map_of(network, layer).shape) == (1, channels, *found.map_hw)


def map_of(network, layer):
    """The output of a layer, by torch alone."""
    picture, maps = torch.empty(1, 3, *HW, device="meta"), []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if layer not in dict(network.named_modules()):  # a function: densenet's last activation
            return create_feature_extractor(network, {layer: "map"}).eval()(picture)["map"]
        hook = network.get_submodule(layer).register_forward_hook(
            lambda module, given, made: maps.append(made)
        )
        network.eval()(picture)
        hook.remove()
    return maps[0]


def test_every_installed_model_has_a_family_or_a_refusal():
    installed = torchvision.models.list_models(module=torchvision.models)
    refused = [name for name in installed if name.startswith(tuple(zoo._REFUSED))]
    assert sorted([*zoo.model_names(), *refused]) == sorted([*installed, COMPACT_NAME])
    assert {name.split("_")[0] for name in refused} == {"vit", "maxvit"}
    tested = [name for name, *_ in FAMILIES]
    assert all(any(name.startswith(prefix) for name in tested) for prefix in zoo._DEFAULT_LAYERS)


@pytest.mark.parametrize("name", ["vit_b_16", "maxvit_t"])
def test_models_without_a_map_are_refused_with_the_reason(name):
    for call in (zoo.check_name, zoo.default_layer, zoo.build_model, describe_layers):
        with pytest.raises(
            ConfigError,
            match=f"'{name}' is not supported: .* one fixed input size. Alternatives: convnext_tiny",
        ):
            call(name)


def test_unknown_names_get_close_matches():
    with pytest.raises(ConfigError, match="unknown backbone 'ResNet5O'; did you mean resnet50"):
        zoo.check_name("ResNet5O")
    with pytest.raises(ConfigError, match="unknown backbone 'resnet1000'"):
        zoo.default_layer("resnet1000")
    with pytest.raises(ConfigError, match="unknown backbone 'zzz'; 'sppfeat backbones' lists all"):
        zoo.build_model("zzz")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.slow
def test_inceptions_without_weights_equal_those_of_the_named_weights(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = zoo.build_without_memory(name)
    assert model.transform_input
    auxiliary = {"googlenet": "aux1.conv.conv.weight", "inception_v3": "AuxLogits.conv0.conv.weight"}[name]
    assert auxiliary in model.state_dict()


def test_building_without_memory_changes_nothing_but_memory():
    real, empty = zoo.build_model("regnet_x_400mf"), zoo.build_without_memory("regnet_x_400mf")
    shapes = [{key: value.shape for key, value in model.state_dict().items()} for model in (real, empty)]
    assert shapes[0] == shapes[1]
    assert all(value.is_meta for value in empty.state_dict().values())
    assert not any(value.is_meta for value in real.state_dict().values())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "last"), [("convnext_tiny", "features.7.2.add"), ("swin_t", "permute")])
def test_layers_are_listed_up_to_a_global_pooling_of_channels_last_maps(name, last):
    found = describe_layers(name)["layers"][-1]
    assert (found["layer"], found["channels"], found["map_hw"]) == (last, 768, [7, 7])
