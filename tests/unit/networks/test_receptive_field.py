"""Stride and offset, compared with the gradient of a cell with respect to the input.

The arithmetic walks through the original network. The gradient is that of a copy in which nothing
hides a dependence: all weights are positive and all activations are in their rising part; max
pooling, whose gradient reaches one pixel only, becomes average pooling over the same windows; the
gates of squeeze-and-excitation are 1; and normalization is dropped, because over channels, or of a
batch in eval mode, it couples no two positions. The image is long along the tested axis, so that no
border cuts the support, and narrow along the other, for speed.

The weights of convolutions and linear layers are all equal, so a mean over channels and an average
over the window replace them: dense convolutions in float64 take minutes. Random stacks of windows
use torch's own convolution.
"""

import copy
import math
import warnings

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from sppfeat.errors import ConfigError
from sppfeat.networks import zoo
from sppfeat.networks.receptive_field import FeatureGeometry, layer_geometries, receptive_field


def open_up(network, layer):
    """A copy of the network up to a layer (None: to its output) in float64, with weights as described above."""
    network = copy.deepcopy(network)
    for name, module in list(network.named_modules()):
        if isinstance(module, (torchvision.ops.SqueezeExcitation, nn.BatchNorm2d)):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, nn.Identity())
    if layer is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = create_feature_extractor(network, {layer: "map"})
    network = network.to_empty(device="cpu").double().eval().requires_grad_(False)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith(("bias", "running_mean")):
                value.zero_()
            elif value.dim() > 1 and not name.endswith("layer_scale"):
                value.fill_(1 / value[0].numel())
            else:
                value.fill_(1)
    return network


def mean_instead_of_max(x, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, **_):
    if dilation in (1, (1, 1)):
        return F.avg_pool2d(x, kernel_size, stride, padding, ceil_mode)
    assert not ceil_mode
    kernel = torch.ones(x.shape[1], 1, kernel_size, kernel_size, dtype=x.dtype) / kernel_size**2
    return F.conv2d(x, kernel, None, stride, padding, dilation, groups=x.shape[1])


def mean_convolution(x, weight, bias, stride, padding, dilation, groups):
    """A convolution whose weight is 1 / (the number of values in its window), without a bias."""
    window_hw = tuple(weight.shape[2:])
    x = x.unflatten(1, (groups, -1)).mean(2) if groups < x.shape[1] else x
    if dilation == (1, 1):
        x = F.avg_pool2d(x, window_hw, stride, padding)
    else:
        kernel = torch.full((groups, 1, *window_hw), 1 / math.prod(window_hw), dtype=x.dtype)
        x = torch.conv2d(x, kernel, None, stride, padding, dilation, groups)
    return x.repeat_interleave(weight.shape[0] // groups, dim=1) if groups < weight.shape[0] else x


def mean_linear(x, weight, bias=None):
    return x.mean(-1, keepdim=True).repeat_interleave(weight.shape[0], dim=-1)


def support_center(network, layer, axis, *, length, width=32, level=1e-3):
    """Center of the central cell's support along an axis (0: y, 1: x), and that cell's index."""
    shape = (length, width) if axis == 0 else (width, length)
    image = torch.full((1, 3, *shape), level, dtype=torch.float64, requires_grad=True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(F, "max_pool2d", mean_instead_of_max)
        monkeypatch.setattr(F, "layer_norm", lambda x, *_: x)
        output = open_up(network, layer)(image)
    output = output["map"] if layer else output
    cell = output.shape[2 + axis] // 2
    output.select(2 + axis, cell).sum().backward()
    touched = image.grad.abs().sum(dim=(0, 1, 3 - axis)).nonzero().flatten()
    first, last = int(touched[0]), int(touched[-1])
    assert first > 0, "the border cuts the support: make the image longer"
    assert last < length - 1, "the border cuts the support: make the image longer"
    return (first + last) / 2, cell


def along(value, axis):
    return value[axis] if isinstance(value, tuple) else value


# name, length of an image that exceeds the receptive field
MODELS = [
    ("alexnet", 300),
    ("convnext_tiny", 1750),
    ("densenet121", 2300),
    ("efficientnet_b0", 1000),
    ("googlenet", 600),
    ("inception_v3", 1500),
    ("mnasnet0_5", 1000),
    ("mobilenet_v2", 700),
    ("mobilenet_v3_small", 800),
    ("regnet_x_400mf", 1150),
    ("regnet_y_400mf", 750),
    ("resnet18", 600),
    ("resnet50", 600),
    ("shufflenet_v2_x0_5", 700),
    ("squeezenet1_0", 250),
    ("squeezenet1_1", 300),
    ("vgg11", 250),
    ("vgg11_bn", 250),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length"), MODELS)
def test_zoo_against_gradient(name, length, monkeypatch):
    network = zoo.build_without_memory(name)
    layer = zoo.default_layer(name, network)
    geometry = receptive_field(network, layer)
    has_affine_input = name in ("googlenet", "inception_v3")  # shifts small values below zero
    width, level = (75, 1.0) if has_affine_input else (32, 1e-3)
    monkeypatch.setattr(F, "conv2d", mean_convolution)
    monkeypatch.setattr(F, "linear", mean_linear)
    for axis in (0, 1) if name in ("resnet18", "alexnet") else (0,):
        center, cell = support_center(network, layer, axis, length=length, width=width, level=level)
        assert center == along(geometry.offset, axis) + along(geometry.stride, axis) * cell


KERNELS = st.tuples(st.integers(1, 5), st.integers(1, 5))
STRIDES = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def window_layers(draw):
    kernel, stride = draw(KERNELS), draw(STRIDES)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    kind = draw(st.sampled_from(["conv", "same", "max", "avg", "pad", "crop"]))
    if kind == "conv":
        dilation = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
        return nn.Conv2d(3, 3, kernel, stride, padding, dilation)
    if kind == "same":
        return nn.Conv2d(3, 3, kernel, padding="same", dilation=draw(st.integers(1, 2)))
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans()))
    if kind == "avg":
        return nn.AvgPool2d(kernel, stride, padding, ceil_mode=draw(st.booleans()))
    amounts = st.integers(0, 3) if kind == "pad" else st.integers(-2, 2)
    return nn.ZeroPad2d(draw(st.tuples(amounts, amounts, amounts, amounts)))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(window_layers(), min_size=1, max_size=3))
def test_stacks_of_windows_against_gradient(layers):
    network = nn.Sequential(*layers)
    geometry = receptive_field(network)
    for axis in (0, 1):
        center, cell = support_center(network, None, axis, length=401, width=200)
        assert center == along(geometry.offset, axis) + along(geometry.stride, axis) * cell


class Call(nn.Module):
    """A convolution of stride 2 (offset 1) followed by a function."""

    def __init__(self, function, **layers):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self.conv(x), self)


ONE = FeatureGeometry(2.0, 1.0)


def write_into_zeros(x, _):
    y = torch.zeros_like(x)
    y[:, :4] = x[:, :4]
    return x + y


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, _: F.max_pool2d(x, 3, 2, dilation=2), FeatureGeometry(4.0, 5.0)),
        (lambda x, _: F.avg_pool2d(x, 2, ceil_mode=True), FeatureGeometry(4.0, 2.0)),
        (lambda x, _: F.avg_pool2d(x, (2, 3), (1, 2)), FeatureGeometry((2.0, 4.0), (2.0, 3.0))),
        (lambda x, _: F.pad(x, (3, 0, 1, 0)), FeatureGeometry(2.0, (-1.0, -5.0))),
        (lambda x, _: F.pad(x, (1, 1, 1, 1), mode="reflect"), FeatureGeometry(2.0, -1.0)),
        (lambda x, _: F.pad(x, (0, 0, 0, 0, 4, 4)), ONE),
        (lambda x, _: x[:, :4, 2:, 1::3], FeatureGeometry((2.0, 6.0), (5.0, 3.0))),
        (lambda x, _: x * torch.sigmoid(x) + 2, ONE),
        (lambda x, _: F.hardswish(x, inplace=True), ONE),
        (lambda x, _: torch.cat(x.chunk(2, dim=1)[::-1], 1), ONE),
        (lambda x, _: torch.stack([x, x], dim=2).flatten(1, 2), ONE),
        (lambda x, _: x.view(x.size(0), 2, 4, x.size(2), x.size(3)).transpose(1, 2).flatten(1, 2), ONE),
        (lambda x, _: x.flatten(2).transpose(1, 2).reshape(2, *x.shape[2:], 8).permute(0, 3, 1, 2), ONE),
        (lambda x, net: net.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), ONE),
        (lambda x, _: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2), ONE),
        (lambda x, _: F.group_norm(x, 2), ONE),
        (lambda x, _: F.instance_norm(x), ONE),
        (lambda x, _: torch.cat([x[:, 0].unsqueeze(1) * 2 + 1, x[:, 1].unsqueeze(1)], 1), ONE),
        (lambda x, _: x + torch.zeros(8, 1, 1) + torch.arange(x.shape[3]), ONE),
        # Values pooled over the whole map have no position, whatever their later shape.
        (lambda x, _: x * F.adaptive_avg_pool2d(x, 1), ONE),
        (lambda x, net: x * net.linear(x.mean((2, 3))).sigmoid()[:, :, None, None].expand_as(x), ONE),
        (lambda x, net: x * net.conv1d(x.mean((2, 3))[:, None]).transpose(1, 2)[..., None], ONE),
        (lambda x, _: x * (x.norm(dim=(2, 3), keepdim=True) + 1e-6).reciprocal(), ONE),
        (lambda x, _: x + F.interpolate(F.adaptive_max_pool2d(x, 1), size=x.shape[2:]), ONE),
        (lambda x, _: x * x.mean(2, keepdim=True), ONE),
        (write_into_zeros, ONE),
    ],
)
def test_functions(function, expected):
    network = Call(function, linear=nn.Linear(8, 8), conv1d=nn.Conv1d(1, 1, 3, padding=1))
    assert receptive_field(network) == expected


def write_over(x, _):
    y = x[:, :, 1:] * 2
    y[:, :4] = x[:, :4, :-1]
    return y


def write_into_constant(x, _):
    y = torch.zeros(x.shape)
    y[:, :4] = x[:, :4]
    return x + y


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, _: x[:, :, 1:] + x[:, :, :-1], "node 'add', .* branches disagree"),
        (lambda x, _: torch.cat([F.avg_pool2d(x, 2, 2), x[:, :, ::2, ::2][:, :, :55, :55]], 1), "disagree"),
        (lambda x, _: x + F.avg_pool2d(x, x.shape[2]), "branches disagree"),
        (lambda x, _: F.interpolate(x, scale_factor=2), "upsample_nearest2d.*resampling"),
        (lambda x, net: net.up(x), "'up'.*transposed convolution"),
        (lambda x, _: F.pixel_shuffle(x, 2), "pixel_shuffle.*no receptive-field rule"),
        (lambda x, _: x.roll(1, 2), "roll.*no receptive-field rule"),
        (lambda x, _: x.flip(3), "flip"),
        (lambda x, _: x.cumsum(2), "cumsum.*no receptive-field rule"),
        (lambda x, _: x.transpose(2, 3), r"not \(N, C, H, W\)"),
        (lambda x, _: x.permute(0, 2, 3, 1), r"not \(N, C, H, W\)"),
        (lambda x, _: F.adaptive_avg_pool2d(x, 7), "adaptive pooling"),
        (lambda x, _: F.adaptive_avg_pool2d(x, 1), "not .* from the image"),
        (lambda x, _: x.mean(1), "not a feature map"),
        (lambda x, _: x.flatten(1), "not a feature map"),
        (lambda x, _: x.view(2, 8, 3, -1, x.shape[3])[:, :, 0], "257 x 257 pixels at node 'view'"),
        (lambda x, _: torch.cat([x, x], 2), "not evenly spaced"),
        (lambda x, _: x.transpose(2, 3) @ x, "no receptive-field rule"),
        (lambda x, _: x.softmax(3), "normalizes over the map"),
        (lambda x, _: F.pad(x, (x.shape[3] % 2, 0)), "depends on the input's size"),
        (lambda x, _: x[:, :, -20:], "depends on the input's size"),
        (write_over, "branches disagree"),
        (write_into_constant, "written into a tensor without positions"),
        (lambda x, net: net.linear(x), "cannot run without values .* at node 'linear'"),
    ],
)
def test_functions_without_geometry_are_refused(function, reason):
    network = Call(function, linear=nn.Linear(8, 8), up=nn.ConvTranspose2d(8, 8, 2, 2))
    with pytest.raises(ConfigError, match=reason):
        receptive_field(network)


def test_message_names_node_and_operator():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.PixelShuffle(2), nn.ReLU()))
    with pytest.raises(ConfigError, match=r"layer '1' has no .* node '1\.0', aten\.pixel_shuffle"):
        receptive_field(network, "1")


def test_second_size_must_run_too():
    with pytest.raises(ConfigError, match="257 x 257 pixels at node '0'"):
        receptive_field(nn.Sequential(nn.LayerNorm([3, 224, 224])))


def test_layers_by_name():
    network = torchvision.models.resnet18()
    assert receptive_field(network, "layer1") == FeatureGeometry(4.0, 0.0)
    assert receptive_field(network, "layer2.0.conv1") == FeatureGeometry(8.0, 0.0)
    with pytest.raises(ConfigError, match="no layer 'layr4'; allowed: layer4"):
        receptive_field(network, "layr4")


@pytest.mark.slow
def test_graph_modules_by_key_and_node():
    network = torchvision.models.resnet18()
    cut = create_feature_extractor(network, {"layer3": "a", "layer4": "b"})
    assert receptive_field(cut, "a") == FeatureGeometry(16.0, 0.0)
    assert receptive_field(cut, "b") == FeatureGeometry(32.0, 0.0)
    assert receptive_field(cut, "layer1.0.conv1") == FeatureGeometry(4.0, 0.0)
    with pytest.raises(ConfigError, match="2 outputs; choose one: a, b"):
        receptive_field(cut)
    assert receptive_field(create_feature_extractor(network, {"layer4": "b"})) == FeatureGeometry(32.0, 0.0)


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, x):
        if x.shape[2] > 8:
            x = self.conv(x)
        return {"map": x}


def test_networks_that_cannot_be_traced():
    assert receptive_field(Untraceable()) == ONE
    assert receptive_field(Untraceable(), "map") == ONE
    assert layer_geometries(Untraceable(), ["map"])["map"].channels == 8
    with pytest.raises(ConfigError, match="cannot trace the network"):
        receptive_field(Untraceable(), "conv")


def test_network_is_left_as_it_was():
    network = torchvision.models.resnet18().train()
    network.bn1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    receptive_field(network, "layer2")
    assert network.training
    assert not network.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.slow
def test_networks_made_in_inference_mode():
    with torch.inference_mode():
        network = torchvision.models.resnet18()
        assert receptive_field(network, "layer4") == FeatureGeometry(32.0, 0.0)
    assert receptive_field(network, "layer4") == FeatureGeometry(32.0, 0.0)


def test_half_precision_and_meta_networks():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU())
    assert receptive_field(copy.deepcopy(network).to(torch.bfloat16)) == ONE
    assert receptive_field(network.to("meta")) == ONE


@pytest.mark.slow
def test_dict_of_all_nodes_equals_nodes_one_by_one():
    network = torchvision.models.resnet18().eval()
    names = get_graph_node_names(network, suppress_diff_warning=True)[1][1:]
    cut = create_feature_extractor(network, {name: name for name in names}, suppress_diff_warning=True).eval()
    with torch.no_grad():
        outputs = cut(torch.zeros(1, 3, 96, 129))
    found = layer_geometries(cut, names, input_hw=(96, 129))
    assert list(found) == [name for name in names if outputs[name].dim() == 4 and name != "avgpool"]
    for name, layer in found.items():
        assert (1, layer.channels, *layer.map_hw) == tuple(outputs[name].shape)
        assert layer.reason == ""
    assert found == layer_geometries(network, names, input_hw=(96, 129))
    assert found["layer4.1.relu_1"].geometry == receptive_field(cut, "layer4.1.relu_1")


@pytest.mark.slow
def test_channels_last_maps_have_no_entry_and_lost_ones_a_reason():
    network = torchvision.models.SwinTransformer([4, 4], 96, [2, 1, 1, 1], [3, 6, 12, 24], [7, 7])
    found = layer_geometries(network, ["features.0", "features.1", "permute"])
    assert list(found) == ["permute"]
    assert found["permute"].channels == 768
    assert found["permute"].map_hw == (7, 7)
    assert found["permute"].geometry is None
    assert "'shifted_window_attention'" in found["permute"].reason
