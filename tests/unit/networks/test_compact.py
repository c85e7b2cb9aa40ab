import pytest
import torch
from torch import nn

from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.compact import CompactNetwork
from sppfeat.networks.receptive_field import receptive_field


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("spp_s16", weights="none", seed=2)


def test_it_is_small():
    assert 1_000_000 < sum(p.numel() for p in CompactNetwork().parameters()) < 2_000_000


def test_a_cell_every_16_pixels_the_first_in_the_corner(backbone):
    geometry = backbone.geometry(0)
    assert (geometry.stride, geometry.offset) == (16.0, 0.0)
    by_walk = receptive_field(CompactNetwork().eval(), "features", input_hw=(224, 224))
    assert (by_walk.stride, by_walk.offset) == (geometry.stride, geometry.offset)


@pytest.mark.parametrize(("hw", "cells"), [((1, 1), (1, 1)), ((16, 17), (1, 2)), ((180, 224), (12, 14))])
def test_the_map_has_a_cell_for_each_16_pixels_begun_and_is_never_negative(backbone, hw, cells):
    batch = torch.randn((2, 3, *hw), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (feature_map,) = backbone.maps(backbone.network, batch)
    assert feature_map.shape == (2, 512, *cells)
    assert feature_map.min() >= 0
    assert feature_map.max() > 0
    assert backbone.channels == (512,)
    assert backbone.min_side == 1


def test_its_normalisations_fold_and_change_nothing(backbone):
    plain = load_backbone("spp_s16", weights="none", seed=2, fold=False)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in backbone.network.modules())
    assert any(isinstance(m, nn.BatchNorm2d) for m in plain.network.modules())
    batch = torch.randn((1, 3, 50, 70), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        folded, expected = (b.maps(b.network, batch)[0] for b in (backbone, plain))
    torch.testing.assert_close(folded, expected, rtol=1e-4, atol=1e-4)
