"""A picture of an image shows the pooled values, and no texts overlap."""

import functools
import itertools

import numpy as np
import pytest
from PIL import Image

import sppfeat
from sppfeat.analysis.show.activations import View, pooled_boxes, strength

pytest.importorskip("matplotlib")

from matplotlib.collections import QuadMesh

from sppfeat.analysis.show.figure import drawing, new_figure
from sppfeat.analysis.show.image_panels import draw_bins, draw_maxima, draw_pooled, window_of
from sppfeat.analysis.show.image_picture import draw_image

WHOLE = ((),)
BOXES = ((10, 10, 60, 50), (-9, 30, 40, 900), (70, 20, 71, 21))


@functools.cache
def network(levels=(1, 2, 3, 6), pool="max", layer=("features.5", "features.12")):
    settings = {"levels": levels, "pool": pool, "layer": layer}
    return sppfeat.Extractor("squeezenet1_1", weights="none", seed=3, size=96, device="cpu", **settings)


def picture(height=80, width=110):
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height))


def pool(extractor, boxes=BOXES, image=None):
    """The layers of all boxes."""
    pooled = pooled_boxes(extractor, image or picture(), [View(box or None) for box in boxes])
    return list(itertools.chain.from_iterable(pooled))


def drawn(layers, **settings):
    with drawing():
        figure = draw_image(layers, title="a $title$.png", note="a network", **settings)
        figure.draw_without_rendering()
    return figure


@pytest.mark.slow
@pytest.mark.parametrize(
    ("boxes", "levels", "mode", "image"),
    [
        (BOXES[1:], (1, 2, 3, 6), "max", picture()),
        (WHOLE, (1,), "avg", picture(300, 20)),
        (WHOLE, (1, 2, 4), "max", picture(20, 300)),
    ],
)
def test_every_layer_and_level_has_a_panel_and_no_texts_overlap(boxes, levels, mode, image):
    figure = drawn(pool(network(levels, mode), boxes, image))
    n_blocks, n_bars = 2 * len(boxes), 3 if mode == "max" else 2
    assert len(figure.axes) == n_blocks * (2 * (1 + len(levels)) + n_bars)
    renderer = figure._get_renderer()
    blocks = [figure, *figure.subfigs]
    texts = [text for block in blocks for text in (block._suptitle, block._supxlabel) if text is not None]
    for axes in figure.axes:
        left, right = axes.get_xlim()
        labels = [tick.label1 for tick in axes.xaxis.get_major_ticks() if left <= tick.get_loc() <= right]
        texts += [axes.xaxis.label, axes._left_title, *labels, *axes.texts]
    extents = [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]
    panels = [axes.get_window_extent(renderer) for axes in figure.axes]
    for a, b in itertools.combinations(extents, 2):
        assert not (a.x0 < b.x1 and b.x0 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1), (a, b)
    for a, b in itertools.combinations(panels, 2):
        assert not (a.x0 + 1 < b.x1 and b.x0 + 1 < a.x1 and a.y0 + 1 < b.y1 and b.y0 + 1 < a.y1)


def axes_of(layer):
    """Empty axes that show the window of a layer."""
    x0, y0, x1, y1 = window_of(layer)
    return new_figure(3, 3).add_subplot(xlim=(x0, x1), ylim=(y1, y0))


@pytest.mark.slow
def test_drawn_bins_are_the_pooled_ones():
    for layer in pool(network()):
        stride = np.ptp(layer.cells_in((0, 0, 1, 1))[::2])
        for position, level in enumerate(layer.levels):
            axes = axes_of(layer)
            draw_bins(axes, layer, position)
            paths = axes.collections[0].get_paths()
            assert len(paths) == level.level**2
            for path, cells in zip(paths, level.bins.reshape(-1, 4), strict=True):
                expected = layer.areas_in(cells)
                # A little inside the cells, never outside.
                inset = (path.get_extents().extents - expected) * [1, 1, -1, -1]
                assert (inset > 0).all()
                assert (inset < stride / 5).all()


def test_heat_and_maxima_are_drawn_at_their_cells():
    layer = pool(network())[1]
    level, counts = layer.levels[1], layer.levels[1].count_maxima(layer.map_hw)
    height, width = layer.map_hw
    for draw, values, cells in (
        (draw_pooled, strength(level.values), layer.region),
        (draw_maxima, counts / counts.max(), (0, 0, width, height)),
    ):
        axes = axes_of(layer)
        draw(axes, layer, level, None)
        mesh = next(each for each in axes.collections if isinstance(each, QuadMesh))
        assert np.allclose(mesh.get_array().filled(0), values)
        corners = mesh.get_coordinates()
        assert np.allclose((*corners[0, 0], *corners[-1, -1]), layer.areas_in(cells))


def test_cells_share_the_network_input_without_gaps():
    for layer in pool(network(), WHOLE):
        (height, width), (input_h, input_w) = layer.map_hw, layer.input_hw
        for x, y in itertools.product(range(width), range(height)):
            x0, y0, x1, y1 = layer.areas_in((x, y, x + 1, y + 1))
            inner = layer.cells_in((x, y, x + 1, y + 1))
            assert x0 == (0 if x == 0 else inner[0])
            assert y0 == (0 if y == 0 else inner[1])
            assert x1 == (input_w if x == width - 1 else inner[2])
            assert y1 == (input_h if y == height - 1 else inner[3])


@pytest.mark.slow
def test_constant_and_nonfinite_values_can_be_drawn():
    layers = pool(network((1, 2), layer=("features.12",)), WHOLE)
    for value in (0.0, 1e30, np.nan, np.inf):
        layers[0].map[...] = value
        for level in layers[0].levels:
            level.values[...] = value
        drawn(layers)


@pytest.mark.slow
def test_one_channel_is_shown_by_its_values():
    layers = pool(network((1, 2)), WHOLE)
    figure = drawn(layers, channel=5)
    assert any(axes.get_xlabel() == "strength of a bin\n(channel 5)" for axes in figure.axes)
