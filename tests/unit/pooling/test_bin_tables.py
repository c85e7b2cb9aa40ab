import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.pooling.bin_tables import MaxTables, MeanTables, empty_tensor
from sppfeat.pooling.bins import Bins

SIDES = st.integers(1, 40)
CHUNKS = st.integers(1, 20)
SEEDS = st.integers(0, 2**31)


@st.composite
def maps_with_bins(draw):
    height, width = draw(SIDES), draw(SIDES)
    edges = []
    for _ in range(draw(st.integers(1, 30))):
        y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        edges.append((y0, draw(st.integers(y0 + 1, height)), x0, draw(st.integers(x0 + 1, width))))
    return (height, width), edges


def bins_of(edges: list[tuple[int, int, int, int]]) -> Bins:
    return Bins(*(torch.tensor(edge) for edge in zip(*edges, strict=True)), of_level=())


def random_cells(seed: int, map_hw: tuple[int, int], n_channels: int = 3) -> torch.Tensor:
    return torch.randn((*map_hw, n_channels), generator=torch.Generator().manual_seed(seed)) - 3


@given(drawn=maps_with_bins(), chunk=CHUNKS, seed=SEEDS)
def test_maximum_of_any_bin(drawn, chunk, seed):
    map_hw, edges = drawn
    cells = random_cells(seed, map_hw)
    largest = max(y1 - y0 for y0, y1, _, _ in edges), max(x1 - x0 for _, _, x0, x1 in edges)
    tables = MaxTables(cells, largest_hw=largest, n_bins=len(edges), chunk=chunk)
    for _ in range(2):  # what the first call left behind does not matter to the second
        where = tables.pool(bins_of(edges))
        for row, (y0, y1, x0, x1) in zip(tables.values[where], edges, strict=True):
            assert torch.equal(row[:3], cells[y0:y1, x0:x1].amax((0, 1)))


@given(drawn=maps_with_bins(), chunk=CHUNKS, seed=SEEDS)
def test_mean_of_any_bin(drawn, chunk, seed):
    map_hw, edges = drawn
    cells = random_cells(seed, map_hw)
    tables = MeanTables(cells, n_bins=len(edges), chunk=chunk)
    for _ in range(2):
        where = tables.pool(bins_of(edges))
        for row, (y0, y1, x0, x1) in zip(tables.values[where], edges, strict=True):
            expected = [math.fsum(values.tolist()) for values in cells[y0:y1, x0:x1].reshape(-1, 3).unbind(1)]
            n_cells = (y1 - y0) * (x1 - x0)
            assert row[:3].tolist() == pytest.approx([total / n_cells for total in expected], rel=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1.0, 1e37])
def test_zeros_beside_anything_have_a_mean_of_exactly_zero(scale):
    cells = random_cells(0, (37, 41)) * scale
    cells[20:, 11:] = 0
    tables = MeanTables(cells, n_bins=2, chunk=10)
    where = tables.pool(bins_of([(20, 37, 11, 41), (0, 20, 0, 41)]))
    zeros, others = tables.values[where][:, :3]
    assert torch.equal(zeros, torch.zeros(3))
    assert torch.allclose(others.double(), cells[:20].double().mean((0, 1)), rtol=1e-6, atol=0)


def test_nan_stays_in_the_bins_that_hold_it():
    cells = random_cells(1, (9, 9))
    cells[4, 4, 1] = math.nan
    edges = [(0, 5, 0, 5), (0, 4, 0, 9), (3, 6, 3, 6), (5, 9, 5, 9)]
    tables = MaxTables(cells, largest_hw=(9, 9), n_bins=4, chunk=2)
    values = tables.values[tables.pool(bins_of(edges))][:, :3]
    assert values.isnan().tolist() == [[False, i in (0, 2), False] for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 7), (700, 900)])
def test_allocated_tensors_can_be_written_to(shape, dtype):
    tensor = empty_tensor(shape, torch.empty(0, dtype=dtype))
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert torch.equal(tensor.fill_(2), torch.full(shape, 2, dtype=dtype))
