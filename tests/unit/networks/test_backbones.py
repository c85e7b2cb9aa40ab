import copy

import pytest
import torch
from torch import nn

from sppfeat.errors import ConfigError
from sppfeat.networks.backbones import load_backbone, wrap_module


def maps_of(backbone, batch):
    with torch.inference_mode():
        return backbone.maps(backbone.network, batch)


@pytest.mark.slow
def test_layers_of_one_forward_pass_are_in_the_order_of_the_request():
    backbone = load_backbone("resnet18", weights="none", layers=["layer4", "layer2", "layer3.1.relu"])
    assert backbone.channels == (512, 128, 256)
    shapes = [tuple(fmap.shape) for fmap in maps_of(backbone, torch.ones(1, 3, 64, 96))]
    assert shapes == [(1, 512, 2, 3), (1, 128, 8, 12), (1, 256, 4, 6)]


def test_the_seed_decides_the_untrained_network_and_nothing_else_is_touched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (load_backbone("squeezenet1_1", weights="none", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert a.spec == b.spec
    assert a.spec.weights_sha256 != c.spec.weights_sha256


@pytest.mark.slow
@pytest.mark.parametrize(("name", "min_side"), [("resnet18", 1), ("squeezenet1_1", 17), ("alexnet", 31)])
def test_the_smallest_side_is_the_smallest_that_gives_a_cell(name, min_side):
    backbone = load_backbone(name, weights="none")
    assert backbone.min_side == min_side
    (fmap,) = maps_of(backbone, torch.ones(1, 3, min_side, min_side))
    assert min(fmap.shape) >= 1
    if min_side > 1:
        with pytest.raises(RuntimeError):
            maps_of(backbone, torch.ones(1, 3, min_side - 1, 300))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("resnet18", "layer5", "layer4"),
        ("resnet18", "flatten", "not a feature map"),
        ("swin_t", "features", "not a feature map"),
    ],
)
def test_layers_without_a_feature_map_are_refused(name, layer, message):
    with pytest.raises(ConfigError, match=message):
        load_backbone(name, weights="none", layers=[layer])


@pytest.mark.slow
def test_swin_works_for_whole_images_and_refuses_boxes():
    backbone = load_backbone("swin_t", weights="none")
    assert maps_of(backbone, torch.ones(1, 3, 75, 130))[0].shape[1] == 768
    with pytest.raises(ConfigError, match="swin_t: boxes cannot be projected"):
        backbone.geometry(0)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.drop(self.second(self.first(x).relu()))
        return self.head(x.mean((2, 3)))


class Branching(Small):
    def forward(self, x):
        if x.mean() > 1e6:  # torch.fx cannot trace this
            return x
        return super().forward(x)


@pytest.mark.parametrize("kind", [Small, Branching])
def test_the_users_network_is_copied_and_cut(kind):
    module = kind().train().double()
    before = copy.deepcopy(module.state_dict())
    backbone = wrap_module(module, layers=["second"])
    assert backbone.channels == (16,)
    assert backbone.spec.weights == "module"
    assert backbone.head is backbone.spec.head is None
    (fmap,) = maps_of(backbone, torch.ones(2, 3, 20, 30))
    assert fmap.shape == (2, 16, 10, 15)
    assert module.training
    assert all(torch.equal(module.state_dict()[k], v) for k, v in before.items())


def test_a_network_that_cannot_be_traced_has_no_geometry():
    assert tuple(wrap_module(Small(), layers=["second"]).geometry(0)) == (2.0, 0.0)
    with pytest.raises(ConfigError, match="boxes cannot be projected"):
        wrap_module(Branching(), layers=["second"]).geometry(0)


def test_the_users_network_needs_a_layer_that_it_has():
    with pytest.raises(ConfigError, match="no layer to pool"):
        wrap_module(Small(), layers=[])
    with pytest.raises(ConfigError, match="no layer 'third'"):
        wrap_module(Small(), layers=["third"])
    with pytest.raises(ConfigError, match="no submodule 'third'"):
        wrap_module(Branching(), layers=["third"])
    with pytest.raises(ConfigError, match="not a feature map"):
        wrap_module(Small(), layers=["head"])


def test_a_network_for_one_size_only_is_refused():
    fixed = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 16 * 16, 4), nn.Unflatten(1, (4, 1, 1))
    )
    with pytest.raises(ConfigError, match="cannot take"):
        wrap_module(fixed, layers=["3"])
