"""Pooled values of an image and the cells of their maxima, against plain loops, descriptors and feature files."""

import math

import numpy as np
import pytest
import torch
from conftest import write_image
from extraction_runs import extract
from torch import nn

import sppfeat
from sppfeat.analysis.show.activations import View, pool_region, pooled_boxes, view_of_row
from sppfeat.config.request import BoxChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import BoxError, ConfigError, StoreError

NETWORK = {"backbone": "squeezenet1_1", "weights": "none", "seed": 3, "device": "cpu"}
BOXES = ((10.0, 5.0, 90.0, 70.0), (-20.0, 40.0, 60.5, 500.0), (50.0, 50.0, 51.0, 51.0))
VIEWS = [View(box) for box in BOXES]


@pytest.fixture(scope="module")
def extractor():
    return sppfeat.Extractor(**NETWORK, size=160, layer=["features.5", "features.12"], levels=(1, 2, 3))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    write_image(path, 90, 130, seed=1)
    return path


@pytest.fixture(scope="module")
def pooled(extractor, picture):
    return pooled_boxes(extractor, picture, VIEWS)


def descriptor_of(box):
    """The values as a descriptor orders them: layer by layer, level by level."""
    return np.concatenate([level.values.ravel() for layer in box for level in layer.levels])


@pytest.mark.slow
def test_values_equal_the_descriptor_bit_for_bit(extractor, picture, pooled):
    for box, descriptor in zip(pooled, extractor(picture, BOXES), strict=True):
        assert np.array_equal(descriptor_of(box), descriptor)
    (whole,) = pooled_boxes(extractor, picture)
    assert np.array_equal(descriptor_of(whole), extractor(picture))


def test_bins_and_maxima_equal_plain_loops(pooled):
    for box in pooled:
        for layer in box:
            for level in layer.levels:
                check_level(level, layer)


def check_level(level, layer):
    n, (x0, y0, x1, y1) = level.level, layer.region
    assert level.bins.shape == (n, n, 4)
    counts = np.zeros(layer.map_hw, dtype=int)
    for i in range(n):
        for j in range(n):
            top, bottom = y0 + i * (y1 - y0) // n, y0 + math.ceil((i + 1) * (y1 - y0) / n)
            left, right = x0 + j * (x1 - x0) // n, x0 + math.ceil((j + 1) * (x1 - x0) / n)
            assert level.bins[i, j].tolist() == [left, top, right, bottom]
            for c in range(0, len(layer.map), 31):
                values = [(layer.map[c, y, x], y, x) for y in range(top, bottom) for x in range(left, right)]
                largest = max(value for value, _, _ in values)
                places = [(y, x) for value, y, x in values if value == largest]
                assert level.values[c, i, j] == largest
                assert tuple(level.cells[c, i, j]) == (places[0] if len(places) == 1 else (-1, -1))
    for y, x in level.cells.reshape(-1, 2):
        if y >= 0:
            counts[y, x] += 1
    assert np.array_equal(level.count_maxima(layer.map_hw), counts)
    of_one = [level.count_maxima(layer.map_hw, c) for c in range(len(layer.map))]
    assert np.array_equal(sum(of_one), counts)


def test_ties_nan_and_means_have_no_cell_of_their_maximum():
    fmap = torch.zeros(1, 3, 3, 4)
    fmap[0, 1, 2, 3], fmap[0, 2, 1, 2] = 1, float("nan")
    (level,) = pool_region(fmap, (0, 0, 4, 3), (1,), "max")
    assert level.cells.reshape(3, 2).tolist() == [[-1, -1], [2, 3], [-1, -1]]
    assert np.isnan(level.values[2, 0, 0])
    assert np.argwhere(level.count_maxima((3, 4))).tolist() == [[2, 3]]
    assert level.count_maxima((3, 4), 0).sum() == 0
    (means,) = pool_region(fmap, (1, 0, 4, 3), (1,), "avg")
    assert np.allclose(means.values[:2, 0, 0], fmap[0, :2, :, 1:].mean((1, 2)))
    assert means.cells is None
    assert means.count_maxima((3, 4)).sum() == 0


def test_cells_surround_their_centers(pooled):
    for layer, stride, offset in zip(pooled[0], (8, 16), (7, 15), strict=True):
        assert (layer.geometry.stride, layer.geometry.offset) == (stride, offset)
        for x, y in np.ndindex(layer.map_hw[1], layer.map_hw[0]):
            x0, y0, x1, y1 = layer.cells_in([x, y, x + 1, y + 1])
            # The centre of pixel i is half a pixel from its edges.
            assert ((x0 + x1) / 2 - 0.5, (y0 + y1) / 2 - 0.5) == (offset + stride * x, offset + stride * y)
            assert (x1 - x0, y1 - y0) == (stride, stride)


def test_boxes_are_clipped_scaled_and_flagged(pooled):
    inside, clipped, _ = (layers[0] for layers in pooled)
    in_h, in_w = inside.input_hw
    assert inside.image_hw == (90, 130)
    assert (in_h, in_w) == inside.pixels.shape[:2] == (160, 231)
    assert np.allclose(inside.box_in, np.array(BOXES[0]) * ([in_w / 130, in_h / 90] * 2))
    assert clipped.box_in[0] == 0
    assert clipped.box_in[3] == in_h
    assert [layers[0].flag for layers in pooled] == [0, 1, 4]


@pytest.mark.parametrize("box", [(5, 5, 5, 20), (200, 0, 300, 50), (9, 9, 1, 1), (0, 0, np.nan, 9)])
def test_a_box_without_area_is_refused_with_the_size_of_its_image(extractor, picture, box):
    with pytest.raises(BoxError, match=r"no area inside its image of 130 x 90 pixels \(width x height\)"):
        pooled_boxes(extractor, picture, [View(box)])


class Mixing(nn.Module):
    """A network whose cells depend on all of the image: boxes cannot be projected."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 8, stride=8)
        self.last = nn.Identity()

    def forward(self, x):
        x = self.first(x)
        cells = x.flatten(2)
        mixed = cells @ torch.softmax(cells.transpose(1, 2) @ cells, 1)
        return self.last(mixed.reshape(x.shape))


def test_cells_without_geometry_are_spread_evenly_and_take_no_boxes(picture):
    extractor = sppfeat.Extractor(Mixing(), layer="last", size=64, device="cpu")
    (whole,) = pooled_boxes(extractor, picture)
    (layer,) = whole
    assert layer.geometry is None
    (height, width), (in_h, in_w) = layer.map_hw, layer.input_hw
    assert layer.region == (0, 0, width, height)
    edges = layer.cells_in([[0, 0, width, height], [1, 0, 2, 1]])
    assert np.allclose(edges, [[0, 0, in_w, in_h], [in_w / width, 0, 2 * in_w / width, in_h / height]])
    with pytest.raises(ConfigError, match="boxes cannot be projected"):
        pooled_boxes(extractor, picture, VIEWS[:1])
    with pytest.raises(ConfigError, match="boxes cannot be projected"):
        pooled_boxes(extractor, picture, projection="paper")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    top = tmp_path_factory.mktemp("rows")
    for i, (height, width) in enumerate([(60, 90), (120, 70)]):
        write_image(top / f"{i}.png", height, width, seed=i)
    return top


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boxes", "settings"),
    [
        (None, {"size": 64}),
        ("grid:2x3:0.3", {"scales": (64, 100, 180)}),
        ("multiview", {"scales": (64, 100)}),
    ],
)
def test_rows_of_a_file_are_pooled_as_they_were(images, tmp_path, boxes, settings):
    output = tmp_path / "f.h5"
    choice = None if boxes is None else BoxChoice(boxes=boxes)
    extract([images], output, boxes=choice, input=InputSpec(**settings))
    with sppfeat.open(output) as file:
        extractor = sppfeat.Extractor.from_file(file, device="cpu")
        for row in range(0, file.n_rows, 5):
            path, view = view_of_row(file, row)
            (box,) = pooled_boxes(extractor, path, [view])
            expected = file.features[row]
            assert np.linalg.norm(descriptor_of(box) - expected) <= 1e-5 * np.linalg.norm(expected)
            if boxes:
                assert box[0].region == tuple(file.row_region[row, 0])
                assert min(box[0].input_hw) == file.row_scale[row]
    if boxes:  # of a new box, the scale is chosen as the extractor chooses it
        chosen = [(0.0, 0.0, 90.0, 60.0), (3.0, 3.0, 9.0, 9.0)]
        pooled = pooled_boxes(extractor, images / "0.png", [View(box) for box in chosen])
        for box, expected in zip(pooled, extractor(images / "0.png", chosen), strict=True):
            assert np.array_equal(descriptor_of(box), expected)


def test_rows_without_descriptor_or_image_are_refused(images, tmp_path):
    (tmp_path / "boxes.csv").write_text("path,x0,y0,x1,y1\n0.png,0,0,50,50\n1.png,5,5,5,9\n")
    output = tmp_path / "f.h5"
    extract([images], output, boxes=BoxChoice(boxes=str(tmp_path / "boxes.csv")))
    with sppfeat.open(output) as file:
        assert view_of_row(file, 0) == (str(images / "0.png"), View((0.0, 0.0, 50.0, 50.0), 0, False))
        with pytest.raises(StoreError, match=r"row 1 of .* has no descriptor"):
            view_of_row(file, 1)
        for row in (2, -1):
            with pytest.raises(ConfigError, match=f"--row is {row}; .* has rows 0 to 1"):
                view_of_row(file, row)
