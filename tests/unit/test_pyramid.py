import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.errors import BoxError, ConfigError
from sppfeat.pyramid import SpatialPyramidPool2d, normalize_descriptors, pool_regions, spatial_pyramid_pool

MAP_SIDES = st.integers(1, 23)
LEVELS = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True).map(tuple)
MODES = st.sampled_from(["max", "avg"])
SEEDS = st.integers(0, 2**31)


def random_map(seed: int, shape: tuple[int, ...], *, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def oracle(feature_map: torch.Tensor, levels: tuple[int, ...], mode: str) -> list[list[float]]:
    """Plain loops over the definition: level, channel, bin row, bin column."""
    n_maps, n_channels, height, width = feature_map.shape
    values = feature_map.tolist()
    rows = []
    for m in range(n_maps):
        row = []
        for n in levels:
            for c in range(n_channels):
                for i in range(n):
                    for j in range(n):
                        cells = [
                            values[m][c][y][x]
                            for y in range(height)
                            if i * height // n <= y < -(-(i + 1) * height // n)
                            for x in range(width)
                            if j * width // n <= x < -(-(j + 1) * width // n)
                        ]
                        row.append(max(cells) if mode == "max" else math.fsum(cells) / len(cells))
        rows.append(row)
    return rows


@given(height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS, mode=MODES, seed=SEEDS)
def test_equals_plain_loops_on_maps_of_any_size(height, width, levels, mode, seed):
    feature_map = random_map(seed, (2, 3, height, width), shift=-5.0)  # all negative: nothing may start at 0
    expected = torch.tensor(oracle(feature_map, levels, mode), dtype=torch.float64)
    assert torch.allclose(spatial_pyramid_pool(feature_map, levels, mode=mode), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("cells", "n"), [(57, 7), (21, 7), (42, 7), (49, 7), (10, 4), (11, 4), (1, 6), (2, 64)]
)
def test_sizes_that_other_implementations_round_wrongly(cells, n):
    feature_map = random_map(0, (1, 1, cells, 1))
    expected = torch.tensor(oracle(feature_map, (n,), "max"), dtype=torch.float64)
    assert torch.equal(spatial_pyramid_pool(feature_map, (n,)), expected)


@given(cells=st.integers(1, 300), n=st.integers(1, 64))
def test_bins_cover_the_map_and_nothing_else(cells, n):
    # Cell k holds k, so that the largest and the smallest of a bin are its last and its first cell.
    line = torch.arange(cells, dtype=torch.float64).reshape(1, 1, 1, cells)
    last = spatial_pyramid_pool(line, (n,))[0].reshape(n, n)[0].long().tolist()
    first = (-spatial_pyramid_pool(-line, (n,)))[0].reshape(n, n)[0].long().tolist()
    assert first[0] == 0
    assert last[-1] == cells - 1
    assert all(a <= b for a, b in zip(first, last, strict=True))
    assert all(after <= before + 1 for before, after in zip(last[:-1], first[1:], strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_memory_format_do_not_matter(dtype, memory_format):
    feature_map = random_map(2, (2, 3, 7, 5)).to(dtype)
    result = spatial_pyramid_pool(feature_map.contiguous(memory_format=memory_format), (1, 2, 4))
    assert result.dtype == dtype
    assert torch.equal(result, spatial_pyramid_pool(feature_map, (1, 2, 4)))


@st.composite
def regions_of(draw, height: int, width: int, n_maps: int) -> list[int]:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return [draw(st.integers(0, n_maps - 1)), x0, y0, x1, y1]


@given(data=st.data(), height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS, mode=MODES, seed=SEEDS)
def test_pooling_a_region_equals_pooling_the_crop(data, height, width, levels, mode, seed):
    feature_map = random_map(seed, (2, 3, height, width), shift=-5.0)
    regions = data.draw(st.lists(regions_of(height, width, 2), min_size=1, max_size=4))
    result = pool_regions(feature_map, torch.tensor(regions), levels, mode=mode)
    for row, (m, x0, y0, x1, y1) in zip(result, regions, strict=True):
        crop = feature_map[m : m + 1, :, y0:y1, x0:x1]
        expected = torch.tensor(oracle(crop, levels, mode), dtype=torch.float64)[0]
        assert torch.allclose(row, expected, rtol=0, atol=1e-12)


def test_no_regions_give_zero_rows_of_full_length():
    result = pool_regions(torch.ones(1, 3, 4, 4), torch.empty((0, 5), dtype=torch.int64), (1, 2))
    assert result.shape == (0, 15)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        (torch.tensor([[0, 0, 0, 5, 4]]), "region 0 is"),
        (torch.tensor([[0, 0, 0, 4, 4], [0, 2, 0, 2, 4]]), "region 1 is"),
        (torch.tensor([[1, 0, 0, 4, 4]]), "region 0 is"),
        (torch.tensor([[0, -1, 0, 4, 4]]), "region 0 is"),
        (torch.tensor([[0.0, 0, 0, 4, 4]]), "int64"),
        (torch.tensor([[0, 0, 4, 4]]), r"\(K, 5\)"),
    ],
)
def test_regions_that_are_not_inside_the_map_are_refused(regions, message):
    with pytest.raises(BoxError, match=message):
        pool_regions(torch.ones(1, 3, 4, 4), regions, (1,))


@pytest.mark.parametrize(
    ("feature_map", "levels", "mode"),
    [
        (torch.ones(3, 4, 4), (1,), "max"),
        (torch.ones(1, 3, 4, 4, dtype=torch.int64), (1,), "max"),
        (torch.ones(1, 3, 0, 4), (1,), "max"),
        (torch.ones(1, 3, 4, 4), (), "max"),
        (torch.ones(1, 3, 4, 4), (0,), "max"),
        (torch.ones(1, 3, 4, 4), (2, 2), "max"),
        (torch.ones(1, 3, 4, 4), (1.5,), "max"),
        (torch.ones(1, 3, 4, 4), (1,), "median"),
    ],
)
def test_bad_arguments_are_refused(feature_map, levels, mode):
    with pytest.raises(ConfigError):
        spatial_pyramid_pool(feature_map, levels, mode=mode)


@given(cells=st.integers(1, 120), n=st.integers(1, 16))
def test_sliding_windows_are_refused_unless_n_of_them_cover_the_map(cells, n):
    line = torch.arange(cells, dtype=torch.float64).reshape(1, 1, 1, cells).expand(1, 1, cells, cells)
    win, stride = math.ceil(cells / n), cells // n
    starts = list(range(0, cells - win + 1, stride)) if stride else []
    if len(starts) == n and starts[-1] + win == cells:
        result = spatial_pyramid_pool(line, (n,), window="sliding")[0].reshape(n, n)[0]
        assert result.long().tolist() == [start + win - 1 for start in starts]
    else:
        with pytest.raises(ConfigError, match=f"{cells} cells and {n} bins"):
            spatial_pyramid_pool(line, (n,), window="sliding")


def test_layer_is_the_function_and_differentiable():
    layer = SpatialPyramidPool2d((1, 2), mode="avg")
    feature_map = random_map(3, (2, 3, 5, 7)).requires_grad_()
    assert torch.equal(layer(feature_map), spatial_pyramid_pool(feature_map, (1, 2), mode="avg"))
    assert torch.autograd.gradcheck(layer, (feature_map,))
    assert "levels=(1, 2)" in repr(layer)


@given(seed=SEEDS, exponent=st.floats(-35, 35))
def test_l2_scales_tiny_and_large_descriptors_to_norm_one(seed, exponent):
    values = random_map(seed, (3, 7)) * 10.0**exponent
    norms = normalize_descriptors(values.float(), "l2").norm(dim=1)
    assert torch.allclose(norms, torch.ones(3), atol=1e-5)


@given(seed=SEEDS)
def test_power_is_the_signed_square_root_then_l2(seed):
    values = random_map(seed, (3, 7))
    rooted = [[math.copysign(math.sqrt(abs(v)), v) for v in row] for row in values.tolist()]
    expected = [[v / math.sqrt(math.fsum(w * w for w in row)) for v in row] for row in rooted]
    assert torch.allclose(
        normalize_descriptors(values, "power"), torch.tensor(expected, dtype=torch.float64), atol=1e-12
    )


@pytest.mark.parametrize("method", ["none", "l2", "power"])
def test_zeros_stay_zeros_and_infinities_stay_visible(method):
    values = torch.tensor([[0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0]])
    result = normalize_descriptors(values, method)
    assert result[0].tolist() == [0.0, 0.0]
    assert not result[1].isfinite().all()
    assert not result[2].isfinite().all()
