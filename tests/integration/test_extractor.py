"""``sppfeat.Extractor``: the descriptors of images from Python equal those of the command."""

import re
import warnings

import numpy as np
import pytest
import torch
from extraction_runs import extract, plain_maps, plain_network
from PIL import Image
from terminal import Terminal
from torch import nn

import sppfeat
from sppfeat.config.request import BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import BoxError, BoxWarning, ConfigError, ImageError
from sppfeat.geometry import FeatureGeometry, project_boxes, scale_boxes

NETWORK = {"backbone": "squeezenet1_1", "weights": "none", "seed": 3, "size": 48, "device": "cpu"}


@pytest.fixture(scope="module")
def extractor():
    return sppfeat.Extractor(**NETWORK, levels=(1, 2))


def same(a, b) -> bool:
    return bool(np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b))


def test_one_image_gives_a_vector_and_many_a_matrix_in_their_order(extractor, folder):
    paths = sorted(folder.rglob("*.png"))
    many = extractor(paths)
    assert many.shape == (12, extractor.dimension)
    assert many.dtype == np.float32
    for path, row in zip(paths, many, strict=True):
        one = extractor(path)
        assert one.shape == (extractor.dimension,)
        assert same(one, row)
    assert same(extractor(paths[::-1]), many[::-1])
    assert extractor([]).shape == (0, extractor.dimension)


def test_paths_pillow_images_and_arrays_give_the_same_row(extractor, folder):
    path = folder / "cat" / "img1.png"
    picture = Image.open(path)
    expected = extractor(path)
    for image in (str(path), picture, np.asarray(picture)):
        assert same(extractor(image), expected)
    assert same(extractor([np.asarray(picture), path])[0], expected)


def test_boxes_pool_the_cells_of_the_geometry(folder):
    extractor = sppfeat.Extractor(**{**NETWORK, "size": 200}, levels=(1,))
    path = folder / "dog" / "img0.png"
    boxes = np.array([[5.0, 3, 30, 22], [20, 10, 60, 40], [1, 1, 2, 2]])
    result = extractor(path, boxes)
    assert result.shape == (3, 512)
    fmap = plain_maps(plain_network(), path, size=200)
    boxes_in = scale_boxes(torch.from_numpy(boxes), (40, 60), (200, 300))
    cells = project_boxes(boxes_in, FeatureGeometry(16.0, 15.0), tuple(fmap.shape[-2:]))
    for row, (x0, y0, x1, y1) in zip(result, cells.tolist(), strict=True):
        assert same(row, fmap[0, :, y0:y1, x0:x1].amax((1, 2)).numpy())


def test_boxes_of_several_images_give_a_list_and_may_be_empty(extractor, folder):
    paths = sorted(folder.rglob("*.png"))[:2]
    found = extractor(paths, [np.empty((0, 4)), [[0, 0, 10, 10], [5, 5, 30, 30]]])
    assert [part.shape for part in found] == [(0, extractor.dimension), (2, extractor.dimension)]


def test_a_network_of_the_caller(folder):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    extractor = sppfeat.Extractor(module, layer="1", levels=(1, 3), size=32, device="cpu", normalize="l2")
    rows = extractor(sorted(folder.rglob("*.png")))
    assert rows.shape == (12, 8 * 10)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert module.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_are_close(extractor, folder, precision):
    path = folder / "cat" / "img1.png"
    near = sppfeat.Extractor(**NETWORK, levels=(1, 2), precision=precision)(path)
    exact = extractor(path)
    assert 1e-5 < np.linalg.norm(near - exact) / np.linalg.norm(exact) < 0.06


def test_bad_images_are_named(extractor, folder, tmp_path):
    (tmp_path / "bad.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        extractor(tmp_path / "bad.jpg")
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        extractor([folder / "cat" / "img1.png", tmp_path / "missing.jpg"])


@pytest.mark.parametrize(
    ("shape", "dtype", "found"),
    [
        ((4, 6, 3), np.float32, "(4, 6, 3) and dtype float32"),
        ((3, 40, 60), np.uint8, "(3, 40, 60) and dtype uint8"),
        ((2, 3, 40, 60), np.uint8, "(3, 40, 60) and dtype uint8"),
        ((9,), np.uint8, "(9,) is not an image"),
        ((1, 2, 40, 60, 3), np.uint8, "(1, 2, 40, 60, 3) is not an image"),
    ],
)
def test_arrays_that_are_not_images_are_refused_with_their_shape(extractor, shape, dtype, found):
    for method in (extractor, extractor.feature_maps):
        with pytest.raises(ImageError, match=re.escape(f"an array of shape {found}")):
            method(np.zeros(shape, dtype))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(3, 4, 6), "not an image but Tensor of shape (4, 6)"),
        (b"\x89PNG", "not an image but bytes"),
    ],
)
def test_tensors_and_encoded_bytes_are_refused_with_what_they_are(extractor, value, found):
    with pytest.raises(ImageError, match=re.escape(found)):
        extractor(value)


def test_an_empty_list_of_boxes_is_no_box(extractor, folder):
    path = folder / "cat" / "img1.png"
    assert extractor(path, []).shape == (0, extractor.dimension)
    assert [len(rows) for rows in extractor([path, path], [[], [[0, 0, 9, 9]]])] == [0, 1]
    with pytest.warns(
        BoxWarning, match="^1 box has no area inside the image, so its descriptor is NaN: box 0"
    ):
        extractor(path, [[99, 0, 100, 9]])


def test_feature_maps_accept_the_same_images_as_a_call(extractor, folder):
    path = folder / "cat" / "img1.png"
    picture = Image.open(path)
    pixels = np.asarray(picture)
    (expected,) = extractor.feature_maps(path)
    assert expected.values.dtype == torch.float32
    for image in (str(path), picture, pixels, extractor.network_input(path)):
        assert torch.equal(extractor.feature_maps(image)[0].values, expected.values)
    for images in ([path, picture], (path, pixels), np.stack([pixels] * 2), np.array([str(path)] * 2)):
        assert [len(maps) for maps in extractor.feature_maps(images)] == [1, 1]
    assert extractor.feature_maps([]) == []


def test_boxes_are_clipped_and_boxes_without_area_give_rows_of_nan(extractor, folder):
    path = folder / "cat" / "img1.png"  # 40 x 60
    boxes = [[-9, -9, 30, 50], [0, 0, np.nan, 1], [0, 0, 30, 50], [61, 5, 90, 6], [7, 5, 3, 9]]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("error")
        warnings.simplefilter("always", BoxWarning)
        rows = extractor(path, boxes)
        _, again = extractor([path, np.asarray(Image.open(path))], [boxes[:1], boxes[3:]])
    assert [str(warning.message) for warning in warned] == [
        "3 boxes have no area inside the image, so their descriptors are NaN; "
        "the first is box 1, [0.0, 0.0, nan, 1.0], in the "
        f"40 x 60 pixels of {str(path)!r}",
        "2 boxes have no area inside the image, so their descriptors are NaN; "
        "the first is box 0, [61.0, 5.0, 90.0, 6.0], in the "
        "40 x 60 pixels of image 1",
    ]
    assert np.isnan(again).all()
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, True]
    assert np.array_equal(rows[0], rows[2])


def test_bad_boxes_and_settings_are_refused(extractor, folder):
    path = folder / "cat" / "img1.png"
    with pytest.raises(BoxError, match=r"\(K, 4\)"):
        extractor(path, [1, 2, 3, 4])
    with pytest.raises(BoxError, match="boxes are given for 1 image, but there are 2 images"):
        extractor([path, path], [[[0, 0, 1, 1]]])
    with pytest.raises(ConfigError, match="projection is 'nearest'"):
        extractor(path, [[0, 0, 5, 5]], projection="nearest")
    with pytest.raises(ConfigError, match=r"'big'; allowed: .*or native"):
        sppfeat.Extractor(**{**NETWORK, "size": "big"})
    with pytest.raises(TypeError, match="color_space"):
        sppfeat.Extractor(**NETWORK, color_space="blue")


def test_the_largest_image_of_a_file_can_be_read_again_whatever_the_limit(folder, tmp_path, monkeypatch):
    paths = sorted(folder.rglob("*.png"))
    extract(paths, tmp_path / "f.h5")
    monkeypatch.setattr("sppfeat.store.feature_table.DEFAULT_MAX_DECODE_PIXELS", 1)
    extractor = sppfeat.Extractor.from_file(tmp_path / "f.h5", device="cpu")
    assert len(extractor(paths)) == len(paths)
    Image.new("L", (500, 500)).save(tmp_path / "larger.png")
    with pytest.raises(ImageError, match="--max-decode-pixels 250000 --retry-failed lets it in"):
        extractor(tmp_path / "larger.png")


def test_sides_are_rounded_and_files_decoded_as_in_the_command(folder, tmp_path):
    picture = Image.open(folder / "cat" / "img1.png").resize((600, 401))
    picture.save(tmp_path / "large.jpg", quality=95)
    extract([tmp_path / "large.jpg"], tmp_path / "f.h5", input=InputSpec(size=48, round_to=32, decode="fast"))
    settings = {**NETWORK, "levels": (1, 2), "round_to": 32}
    fast, exact = sppfeat.Extractor(**settings, decode="fast"), sppfeat.Extractor(**settings)
    path = tmp_path / "large.jpg"
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.config == fast.config
        assert same(fast(path), file.features[0])
    assert same(fast(path, [[0, 0, 600, 401]])[0], fast(path))
    assert not same(fast(path), exact(path))
    pixels = np.asarray(Image.open(path))  # in memory there is nothing to decode
    assert same(fast(pixels), exact(path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"size": 48, "normalize": "power", "flip": True},
        {"size": 48, "normalize": "meannorm:7"},
        {"scales": (48, 96), "boxes": "grid:2x2", "projection": "sppnet", "margin": 2.5},
    ],
)
def test_the_extractor_of_a_file_reproduces_its_rows(folder, tmp_path, how):
    how = dict(how)
    boxes = {key: how.pop(key) for key in ("boxes", "projection", "margin") if key in how}
    descriptor = DescriptorChoice(levels=(2, 1), normalize=how.pop("normalize", "none"))
    output = tmp_path / "f.h5"
    extract(
        [folder],
        output,
        input=InputSpec(**how),
        descriptor=descriptor,
        boxes=BoxChoice(**boxes) if boxes else None,
    )
    with sppfeat.open(output) as file:
        again = sppfeat.Extractor.from_file(file, device="cpu")
        assert again.columns == file.columns
        for image, (first, stop) in enumerate(file.image_rows.tolist()[:4]):
            photo = f"{file.root}/{file.path_of(image)}"
            rows = again(photo, file.boxes[first:stop]) if boxes else again([photo])
            assert all(same(a, b) for a, b in zip(rows, file.features[first:stop], strict=True))
    whole = sppfeat.Extractor.from_file(output, device="cpu")(sorted(folder.rglob("*.png")))
    assert whole.shape == (12, again.dimension)
    assert np.isfinite(whole).all()


def test_input_maps_and_projector_make_the_descriptor(extractor, folder):
    path = folder / "dog" / "img2.png"
    image_hw, pixels = extractor.network_input(path)
    with Image.open(path) as picture:
        assert image_hw == (picture.height, picture.width)
    assert min(pixels.shape[:2]) == 48
    assert pixels.dtype == np.uint8
    (fmap,) = extractor.feature_maps(path)
    assert (fmap.layer, fmap.values.shape[0], fmap.stride) == ("features", 512, 16.0)
    pooled = sppfeat.pyramid.spatial_pyramid_pool(fmap.values[None], (1, 2))[0].numpy()
    assert same(pooled, extractor(path))
    projector = extractor.projector(projection="roi_pool")
    assert (projector.rule, projector.margin, len(projector.geometries)) == ("roi_pool", 0.0, 1)
    with pytest.raises(ConfigError, match="margin"):
        extractor.projector(projection="paper", margin=3.0)


@pytest.mark.parametrize("with_boxes", [False, True])
def test_progress_is_shown_on_request(photos, monkeypatch, with_boxes):
    paths = sorted(photos.rglob("*.jpg"))[:3]
    boxes = [[[0, 0, 50, 50]]] * 3 if with_boxes else None
    extractor = sppfeat.Extractor(size=64, device="cpu")
    with Terminal(monkeypatch, 80) as terminal:
        quiet = extractor(paths, boxes)
        assert terminal.read() == ""
        shown = extractor(paths, boxes, progress=True)
        printed = terminal.read()
    assert "extracting: 100%" in printed
    assert "3/3 [" in printed
    for one, other in zip(quiet, shown, strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_of_other_kinds_are_refused(extractor, folder):
    photo = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    with pytest.raises(ImageError, match="not an image but NoneType"):
        extractor(None)
    with pytest.raises(BoxError, match=r"not numbers of shape \(K, 4\)"):
        extractor(photo, boxes="x")
