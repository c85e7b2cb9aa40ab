import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_region_pooling import LEVELS, MAP_SIDES, SEEDS, one_by_one, random_map, random_regions

from sppfeat.pooling.crop_pooling import pool_crops

N_REGIONS = st.integers(0, 6)


def pooled(
    feature_map: torch.Tensor, regions: torch.Tensor, levels: tuple[int, ...], mode: str
) -> torch.Tensor:
    return pool_crops(feature_map[0], regions[:, 1:], levels, mode=mode)


@given(seed=SEEDS, n=N_REGIONS, height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS)
def test_maxima_are_those_of_torch_bit_for_bit(seed, n, height, width, levels):
    feature_map = random_map(seed, (1, 5, height, width))
    regions = random_regions(seed, n, (height, width))
    expected = (
        one_by_one(feature_map, regions, levels, "max")
        if n
        else feature_map.new_empty((0, 5 * sum(m * m for m in levels)))
    )
    assert torch.equal(pooled(feature_map, regions, levels, "max"), expected)


@given(seed=SEEDS, n=st.integers(1, 6), height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS)
def test_means_are_those_of_torch_in_double_precision(seed, n, height, width, levels):
    feature_map = random_map(seed, (1, 5, height, width))
    regions = random_regions(seed, n, (height, width))
    expected = one_by_one(feature_map.double(), regions, levels, "avg").float()
    assert torch.allclose(pooled(feature_map, regions, levels, "avg"), expected, rtol=2e-7, atol=1e-12)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_dtype_and_memory_format(mode, dtype, memory_format):
    feature_map = random_map(0, (1, 16, 11, 17)).to(dtype).contiguous(memory_format=memory_format)
    regions = random_regions(0, 9, (11, 17))
    result = pooled(feature_map, regions, (4, 3, 1), mode)
    expected = one_by_one(feature_map.double(), regions, (4, 3, 1), mode)
    assert result.dtype == dtype
    tolerance = 0 if mode == "max" else torch.finfo(dtype).eps
    assert torch.allclose(result.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_where_it_is(mode, value):
    feature_map = random_map(3, (1, 4, 20, 20))
    feature_map[0, 2, 5, 6] = value
    regions = torch.cat((random_regions(3, 20, (20, 20)), torch.tensor([[0, 5, 4, 8, 9]])))
    expected = one_by_one(feature_map, regions, (2, 1), mode)
    assert expected.isfinite().all() == (mode == "max" and value < 0)  # a maximum passes over minus infinity
    result = pooled(feature_map, regions, (2, 1), mode)
    assert torch.allclose(result, expected, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_a_mean_of_zeros_is_zero_and_one_of_large_values_does_not_overflow():
    feature_map = torch.zeros(1, 2, 6, 6, dtype=torch.float16)
    feature_map[0, 1] = 60_000
    result = pooled(feature_map, torch.tensor([[0, 0, 0, 6, 6]]), (1,), "avg")
    assert result.tolist() == [[0.0, 60_000.0]]
