import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.pooling.bins import Bins, MaxTables, MeanTables, distinct_bins, empty_tensor

SIDES = st.integers(1, 40)
LEVELS = st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True)
CHUNKS = st.integers(1, 20)
SEEDS = st.integers(0, 2**31)


@st.composite
def maps_with_regions(draw, most=6):
    """Height and width of a map, and regions ``x0, y0, x1, y1`` of it."""
    height, width = draw(SIDES), draw(SIDES)
    regions = []
    for _ in range(draw(st.integers(1, most))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        regions.append([x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))])
    return (height, width), regions


@given(drawn=maps_with_regions(), levels=LEVELS)
def test_every_bin_is_found_and_listed_once(drawn, levels):
    map_hw, regions = drawn
    bins = distinct_bins(torch.tensor(regions), levels, map_hw)
    listed = list(zip(*(edge.tolist() for edge in bins[:4]), strict=True))
    assert len(set(listed)) == len(listed)
    used = set()
    for n, of_level in zip(levels, bins.of_level, strict=True):
        for (x0, y0, x1, y1), row in zip(regions, of_level.tolist(), strict=True):
            expected = [
                (
                    y0 + i * (y1 - y0) // n,
                    y0 - (-(i + 1) * (y1 - y0) // n),
                    x0 + j * (x1 - x0) // n,
                    x0 - (-(j + 1) * (x1 - x0) // n),
                )
                for i in range(n)
                for j in range(n)
            ]
            assert [listed[bin_] for bin_ in row] == expected
            used |= set(row)
    assert used == set(range(len(listed)))


def bins_of(regions: list[list[int]]) -> Bins:
    x0, y0, x1, y1 = torch.tensor(regions).unbind(1)
    return Bins(y0, y1, x0, x1, of_level=())


def random_cells(seed: int, map_hw: tuple[int, int], n_channels: int = 3) -> torch.Tensor:
    return torch.randn((*map_hw, n_channels), generator=torch.Generator().manual_seed(seed)) - 3


@given(drawn=maps_with_regions(most=30), chunk=CHUNKS, seed=SEEDS)
def test_maximum_of_any_bin(drawn, chunk, seed):
    map_hw, regions = drawn
    cells = random_cells(seed, map_hw)
    largest = max(y1 - y0 for _, y0, _, y1 in regions), max(x1 - x0 for x0, _, x1, _ in regions)
    tables = MaxTables(cells, largest_hw=largest, n_bins=len(regions), chunk=chunk)
    for _ in range(2):  # what the first call left behind does not matter to the second
        where = tables.pool(bins_of(regions))
        for row, (x0, y0, x1, y1) in zip(tables.values[where], regions, strict=True):
            assert torch.equal(row[:3], cells[y0:y1, x0:x1].amax((0, 1)))


@given(drawn=maps_with_regions(most=30), chunk=CHUNKS, seed=SEEDS)
def test_mean_of_any_bin(drawn, chunk, seed):
    map_hw, regions = drawn
    cells = random_cells(seed, map_hw)
    tables = MeanTables(cells, n_bins=len(regions), chunk=chunk)
    for _ in range(2):
        where = tables.pool(bins_of(regions))
        for row, (x0, y0, x1, y1) in zip(tables.values[where], regions, strict=True):
            expected = [math.fsum(values.tolist()) for values in cells[y0:y1, x0:x1].reshape(-1, 3).unbind(1)]
            n_cells = (y1 - y0) * (x1 - x0)
            assert row[:3].tolist() == pytest.approx([total / n_cells for total in expected], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e37])
def test_zeros_beside_anything_have_a_mean_of_exactly_zero(scale):
    cells = random_cells(0, (37, 41)) * scale
    cells[20:, 11:] = 0
    tables = MeanTables(cells, n_bins=2, chunk=10)
    where = tables.pool(bins_of([[11, 20, 41, 37], [0, 0, 41, 20]]))
    zeros, others = tables.values[where][:, :3]
    assert torch.equal(zeros, torch.zeros(3))
    assert torch.allclose(others.double(), cells[:20].double().mean((0, 1)), rtol=1e-6, atol=0)


def test_nan_stays_in_the_bins_that_hold_it():
    cells = random_cells(1, (9, 9))
    cells[4, 4, 1] = math.nan
    regions = [[0, 0, 5, 5], [0, 0, 9, 4], [3, 3, 6, 6], [5, 5, 9, 9]]
    tables = MaxTables(cells, largest_hw=(9, 9), n_bins=4, chunk=2)
    values = tables.values[tables.pool(bins_of(regions))][:, :3]
    assert values.isnan().tolist() == [[False, i in (0, 2), False] for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 7), (700, 900)])
def test_allocated_tensors_can_be_written_to(shape, dtype):
    tensor = empty_tensor(shape, torch.empty(0, dtype=dtype))
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert torch.equal(tensor.fill_(2), torch.full(shape, 2, dtype=dtype))
