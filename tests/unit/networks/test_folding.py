import os

import pytest
import torch
from torch import nn

from sppfeat.networks import zoo
from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.layers import cut_network, fold_batch_norm

# The smallest model of each family with batch normalization; the whole zoo with SPPFEAT_ALL_BACKBONES=1.
SMALLEST = [
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "inception_v3",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "shufflenet_v2_x0_5",
    "spp_s16",
    "vgg11_bn",
]
NAMES = zoo.model_names() if os.environ.get("SPPFEAT_ALL_BACKBONES") else SMALLEST


def n_batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def with_statistics(model: nn.Module) -> nn.Module:
    """Gives every normalization random statistics that keep values in range."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_folding_leaves_the_maps_unchanged(name):
    layer = zoo.default_layer(name)
    network = cut_network(with_statistics(zoo.build_model(name)), (layer,), name)
    folded = fold_batch_norm(network, (layer,), side=75)
    if n_batch_norms(network):
        assert folded is not network
        assert n_batch_norms(folded) < n_batch_norms(network)
    picture = torch.rand((1, 3, 96, 131), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        result, expected = folded(picture)[layer], network(picture)[layer]
    assert (result - expected).norm() <= 1e-4 * expected.norm()
    assert expected.norm() > 0


@pytest.mark.slow
def test_loaded_backbones_are_folded_if_there_is_something_to_fold():
    assert n_batch_norms(load_backbone("spp_s16", weights="none").network) == 0
    assert n_batch_norms(load_backbone("spp_s16", weights="none", fold=False).network) > 0
    network = cut_network(zoo.build_model("squeezenet1_1").eval(), ("features",), "squeezenet1_1")
    assert fold_batch_norm(network, ("features",), side=64) is network


class _Shared(nn.Module):
    """One convolution, normalized in two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.first = nn.BatchNorm2d(3)
        self.second = nn.BatchNorm2d(3)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.second(self.conv(self.first(self.conv(batch))))


def test_a_fold_that_is_wrong_is_not_used():
    network = cut_network(with_statistics(_Shared()), ("second",), "shared")
    assert fold_batch_norm(network, ("second",), side=16) is network


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.relu(self.norm(self.conv(batch)))


@pytest.mark.parametrize(
    "layers", [("conv",), ("norm",), ("conv", "norm"), ("conv", "relu"), ("norm", "relu")]
)
def test_layers_keep_their_values_whatever_is_folded(layers):
    module = with_statistics(_Branches())
    network = cut_network(module, layers, "branches")
    folded = fold_batch_norm(network, layers, side=16)
    picture = torch.rand((1, 3, 9, 9), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        conv = module.conv(picture)
        expected = {"conv": conv, "norm": module.norm(conv), "relu": module.norm(conv).relu()}
        result = folded(picture)
    for layer in layers:
        assert torch.allclose(result[layer], expected[layer], atol=1e-6)
