import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sppfeat import pyramid
from sppfeat.pooling import region_pooling
from sppfeat.pooling.region_pooling import from_finer, pool_by_tables, pool_crops
from sppfeat.pyramid import pool_regions

MAP_SIDES = st.integers(1, 30)
LEVELS = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(tuple)
N_REGIONS = st.integers(1, 90)
SEEDS = st.integers(0, 2**31)
KERNELS = [pool_by_tables, pool_crops]


def random_regions(seed: int, n: int, map_hw: tuple[int, int], n_maps: int = 1) -> torch.Tensor:
    """``(n, 5)``, some of them equal."""
    generator = torch.Generator().manual_seed(seed)

    def spans(side: int) -> tuple[torch.Tensor, torch.Tensor]:
        size = torch.exp(
            torch.rand(n, generator=generator, dtype=torch.float64) * torch.log(torch.tensor(side))
        )
        size = size.round().long().clamp(1, side)
        first = (torch.rand(n, generator=generator) * (side - size + 1)).long().clamp(max=side - 1)
        return first, first + size

    (y0, y1), (x0, x1) = spans(map_hw[0]), spans(map_hw[1])
    return torch.stack((torch.randint(n_maps, (n,), generator=generator), x0, y0, x1, y1), 1)


def random_map(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) - 2


def one_by_one(
    feature_map: torch.Tensor, regions: torch.Tensor, levels: tuple[int, ...], mode: str
) -> torch.Tensor:
    """Torch's adaptive pooling of each crop and each level."""
    pool = {"max": F.adaptive_max_pool2d, "avg": F.adaptive_avg_pool2d}[mode]
    rows = []
    for m, x0, y0, x1, y1 in regions.tolist():
        crop = feature_map[m : m + 1, :, y0:y1, x0:x1]
        rows.append(torch.cat([pool(crop, n).flatten(1) for n in levels], 1))
    return torch.cat(rows)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seed=SEEDS, n=N_REGIONS, height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS)
def test_maxima_are_those_of_each_crop_bit_for_bit(kernel, seed, n, height, width, levels):
    feature_map = random_map(seed, (1, 5, height, width))
    regions = random_regions(seed, n, (height, width))
    result = kernel(feature_map[0], regions[:, 1:], levels, mode="max")
    assert torch.equal(result, one_by_one(feature_map, regions, levels, "max"))


@pytest.mark.parametrize(
    ("kernel", "rtol", "atol"), [(pool_by_tables, 1e-6, 1e-10), (pool_crops, 2e-7, 1e-12)]
)
@given(seed=SEEDS, n=N_REGIONS, height=MAP_SIDES, width=MAP_SIDES, levels=LEVELS)
def test_means_are_those_of_each_crop_in_double_precision(kernel, rtol, atol, seed, n, height, width, levels):
    feature_map = random_map(seed, (1, 5, height, width))
    regions = random_regions(seed, n, (height, width))
    result = kernel(feature_map[0], regions[:, 1:], levels, mode="avg")
    expected = one_by_one(feature_map.double(), regions, levels, "avg").float()
    assert torch.allclose(result, expected, rtol=rtol, atol=atol)


def test_no_crop_gives_no_row():
    feature_map, regions = random_map(0, (1, 5, 4, 4)), torch.empty((0, 4), dtype=torch.int64)
    assert pool_crops(feature_map[0], regions, (2, 1), mode="max").shape == (0, 25)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("limit", ["_CHUNK_NBYTES", "_SLICE_NBYTES", "_TABLE_NBYTES"])
@pytest.mark.parametrize("n_bytes", [1, 3000, 20_000])
def test_pieces_in_which_it_is_done_do_not_matter(monkeypatch, mode, limit, n_bytes):
    feature_map = random_map(0, (1, 37, 13, 19))
    regions = random_regions(0, 150, (13, 19))
    expected = pool_by_tables(feature_map[0], regions[:, 1:], (6, 4, 3, 1), mode=mode)
    monkeypatch.setattr(region_pooling, limit, {"cpu": n_bytes} if limit == "_CHUNK_NBYTES" else n_bytes)
    assert torch.equal(pool_by_tables(feature_map[0], regions[:, 1:], (6, 4, 3, 1), mode=mode), expected)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_many_regions_of_many_maps_of_any_dtype(mode, dtype, memory_format):
    feature_map = random_map(1, (3, 16, 11, 17)).to(dtype).contiguous(memory_format=memory_format)
    regions = random_regions(1, 200, (11, 17), n_maps=3)  # some 67 a map: by tables
    assert int(regions[:, 0].bincount().min()) >= pyramid._least_for_tables(feature_map[0], mode)
    result = pool_regions(feature_map, regions, (4, 3, 1), mode=mode)
    assert result.dtype == dtype
    if mode == "max":
        assert torch.equal(result, one_by_one(feature_map, regions, (4, 3, 1), mode))
    else:
        expected = one_by_one(feature_map.double(), regions, (4, 3, 1), mode)
        tolerance = 4 * torch.finfo(dtype).eps
        assert torch.allclose(result.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_few_regions_of_any_dtype(mode, dtype, memory_format):
    feature_map = random_map(0, (1, 16, 11, 17)).to(dtype).contiguous(memory_format=memory_format)
    regions = random_regions(0, 9, (11, 17))
    result = pool_crops(feature_map[0], regions[:, 1:], (4, 3, 1), mode=mode)
    expected = one_by_one(feature_map.double(), regions, (4, 3, 1), mode)
    assert result.dtype == dtype
    tolerance = 0 if mode == "max" else torch.finfo(dtype).eps
    assert torch.allclose(result.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("n", [1, 2, 23, 24, 25, 27, 28, 29])
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_no_number_of_regions_is_special(n, mode):
    feature_map = random_map(2, (1, 8, 12, 9))
    regions = random_regions(2, n, (12, 9))
    result = pool_regions(feature_map, regions, (3, 2, 1), mode=mode)
    assert torch.allclose(result, one_by_one(feature_map, regions, (3, 2, 1), mode), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["max", "avg"])
@pytest.mark.parametrize("n", [20, 100])  # by crops, and by tables
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_where_it_is(mode, n, value):
    feature_map = random_map(3, (1, 4, 20, 20))
    feature_map[0, 2, 5, 6] = value
    regions = torch.cat((random_regions(3, n, (20, 20)), torch.tensor([[0, 5, 4, 8, 9]])))
    expected = one_by_one(feature_map, regions, (2, 1), mode)
    assert expected.isfinite().all() == (mode == "max" and value < 0)  # a maximum passes over minus infinity
    result = pool_regions(feature_map, regions, (2, 1), mode=mode)
    assert torch.allclose(result, expected, rtol=1e-6, atol=1e-7, equal_nan=True)


def test_a_mean_of_zeros_is_zero_and_one_of_large_values_does_not_overflow():
    feature_map = torch.zeros(1, 2, 6, 6, dtype=torch.float16)
    feature_map[0, 1] = 60_000
    result = pool_crops(feature_map[0], torch.tensor([[0, 0, 6, 6]]), (1,), mode="avg")
    assert result.tolist() == [[0.0, 60_000.0]]


@pytest.mark.parametrize("mode", ["max", "avg"])
def test_gradients_are_those_of_pooling_each_crop(mode):
    regions = random_regions(4, 70, (7, 8), n_maps=2)
    gradients = []
    for function in (lambda x: pool_regions(x, regions, (4, 2, 1), mode=mode), None):
        feature_map = random_map(4, (2, 3, 7, 8)).relu_().requires_grad_()  # with many equal cells
        result = (
            one_by_one(feature_map, regions, (4, 2, 1), mode) if function is None else function(feature_map)
        )
        (result * torch.linspace(0, 1, result.numel()).view_as(result)).sum().backward()
        gradients.append(feature_map.grad)
    # A sum of one sign over at most 70 regions x 3 levels is rounded by 210 * 2**-24 of itself.
    torch.testing.assert_close(*gradients, rtol=2e-5, atol=0)


def test_gradients_of_no_region_are_zero():
    feature_map = random_map(5, (1, 3, 4, 4)).requires_grad_()
    pool_regions(feature_map, torch.empty((0, 5), dtype=torch.int64), (2, 1)).sum().backward()
    assert torch.equal(feature_map.grad, torch.zeros(1, 3, 4, 4))


@given(cells=st.integers(1, 200), n=st.integers(1, 12), ratio=st.integers(2, 5))
def test_bins_of_a_level_are_made_of_those_of_its_multiples(cells, n, ratio):
    line = torch.arange(float(cells)).view(1, 1, 1, cells)
    for signed in (line, -line):
        finer = F.adaptive_max_pool2d(signed, ratio * n)
        assert torch.equal(from_finer({ratio * n: finer}, n), F.adaptive_max_pool2d(signed, n))


def test_a_level_without_multiples_is_made_of_nothing():
    assert from_finer({4: torch.ones(1, 1, 4, 4)}, 3) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", ["max", "avg"])
def test_on_cuda_as_on_the_cpu(mode):
    feature_map = random_map(6, (2, 40, 25, 33))
    regions = random_regions(6, 500, (25, 33), n_maps=2)
    result = pool_regions(feature_map.cuda(), regions.cuda(), (6, 3, 2, 1), mode=mode).cpu()
    assert torch.allclose(result, pool_regions(feature_map, regions, (6, 3, 2, 1), mode=mode), rtol=1e-6)
