import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sppfeat.networks.backbones import load_backbone
from sppfeat.training.classification import Body, PyramidClassifier, TeacherAdapter
from sppfeat.training.settings import NetworkSettings

LEVELS = (3, 2, 1)


def maps(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def standardized(rows):
    return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("hw", [(6, 9), (13, 7)])
@pytest.mark.parametrize("hidden", [(), (11,), (11, 7)])
def test_the_classifier_is_plain_layers_on_the_levels_side_by_side(hw, hidden):
    network = PyramidClassifier(5, NetworkSettings(levels=LEVELS, hidden=hidden, dropout=0.5), 4).eval()
    feature_map = maps(2, 5, *hw)
    descriptor = torch.cat([F.adaptive_max_pool2d(feature_map, n).flatten(1) for n in LEVELS], 1)
    expected = standardized(descriptor)
    for i in range(len(hidden)):
        fc = getattr(network.layers, f"fc{6 + i}")
        expected = standardized(expected @ fc.weight.T + fc.bias).clamp_min(0)
    last = network.layers.classifier
    torch.testing.assert_close(network(feature_map), expected @ last.weight.T + last.bias)


def test_dropout_is_behind_each_hidden_layer():
    network = PyramidClassifier(5, NetworkSettings(levels=(1,), hidden=(8, 8), dropout=0.25), 3)
    names = ["norm5", "fc6", "norm6", "relu6", "drop6", "fc7", "norm7", "relu7", "drop7", "classifier"]
    assert [name for name, _ in network.layers.named_children()] == names
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_a_body_normalises_pixels_as_the_backbone_expects():
    backbone = load_backbone("squeezenet1_1", weights="none", seed=1, fold=False)
    pixels = torch.randint(
        0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
    with torch.no_grad():
        expected = backbone.network((pixels.float() / 255 - mean) / std)["features"]
        torch.testing.assert_close(Body(backbone)(pixels)[0], expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_is_standardised_by_channel_over_all_maps():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = [3 * maps(2, 4, 5, 6) + 7, 3 * maps(1, 4, 2, 9, seed=1) + 7]
    adapter.standardize_by([adapter.moments(m) for m in sample])
    values = torch.cat([adapter.target(m).transpose(0, 1).flatten(1) for m in sample], 1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_channel_that_is_dead_in_the_sample_does_not_outweigh_the_others():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = maps(2, 4, 6, 6)
    sample[:, 1] = 0
    adapter.standardize_by([adapter.moments(sample)])
    awake = sample.clone()
    awake[:, 1] = 1
    assert adapter.target(sample)[:, 1].abs().max() == 0
    assert 1 < adapter.target(awake)[:, 1].max() < 20
    adapter.standardize_by([adapter.moments(torch.zeros(1, 4, 3, 3))])
    assert adapter.target(torch.ones(1, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [((8, 6), (4, 3), (4, 3)), ((4, 3), (8, 6), (4, 3)), ((4, 9), (8, 3), (4, 3))],
)
def test_the_finer_grid_is_averaged_to_the_coarser_one(student, teacher, common):
    adapter = TeacherAdapter(3, 5, NetworkSettings(), "map")
    feature_map, target = maps(2, 3, *student).requires_grad_(), maps(2, 5, *teacher, seed=1)
    given, wanted = adapter(feature_map, adapter.target(target))
    assert given.shape == wanted.shape == (2, 5, *common)
    torch.testing.assert_close(wanted, F.adaptive_avg_pool2d(target, common))
    weight = adapter.linear.weight[:, :, 0, 0]
    pooled = F.adaptive_avg_pool2d(feature_map, common)
    expected = torch.einsum("oc,nchw->nohw", weight, pooled) + adapter.linear.bias[:, None, None]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    given.square().sum().backward()
    assert feature_map.grad.abs().min() > 0
    assert adapter.linear.weight.grad.abs().min() > 0


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_descriptors_are_compared_bin_by_bin_whatever_the_grids(pool):
    adapter = TeacherAdapter(3, 5, NetworkSettings(levels=LEVELS, pool=pool), "descriptor")
    pooled = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    feature_map, teacher = maps(2, 3, 7, 9), maps(2, 5, 4, 13, seed=1)
    given, wanted = adapter(feature_map, adapter.target(teacher))
    assert given.shape == wanted.shape == (2, 5, 14, 1)
    expected = torch.cat([pooled(teacher, n).flatten(2) for n in LEVELS], 2)[..., None]
    torch.testing.assert_close(wanted, expected)
