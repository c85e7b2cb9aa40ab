import pytest
import torch

from sppfeat.networks.backbones import load_backbone
from sppfeat.networks.compact import CompactNetwork


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("spp_s16", weights="none", seed=2)


def test_the_network_is_small():
    assert 1_000_000 < sum(p.numel() for p in CompactNetwork().parameters()) < 2_000_000


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
