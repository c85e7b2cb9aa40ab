"""Settings: refused values and their messages, and a fingerprint that changes only with the descriptor."""

import dataclasses
import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sppfeat.boxes.table import boxes_to_px
from sppfeat.config.distribution import RunOptions, parse_device
from sppfeat.config.extract_config import ExtractConfig, config_differences
from sppfeat.config.regions import BOX_STYLES, BoxConvention, GridSpec, RegionSpec, parse_grid
from sppfeat.config.request import BoxChoice
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec, parse_levels, parse_normalize
from sppfeat.config.values import CHOICES
from sppfeat.decoding.images import resize_image
from sppfeat.errors import ConfigError

BACKBONE = {
    "name": "resnet50",
    "weights": "IMAGENET1K_V2",
    "weights_sha256": "0" * 64,
    "layers": ("layer3", "layer4"),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "seed": None,
}
CHANGED = {
    "backbone": {
        "name": "resnet18",
        "weights": "file",
        "weights_sha256": "1" * 64,
        "layers": ("layer4", "layer3"),
        "mean": (0.485, 0.456, 0.4060000001),
        "std": (0.229, 0.224, 0.226),
        "interpolation": "bicubic",
        "seed": 0,
        "head": "fc7",
    },
    "input": {
        "size": None,
        "scales": (480, 576),
        "max_pixels": 3_999_999,
        "min_side": 32,
        "round_to": 32,
        "exif": "ignore",
        "decode": "fast",
        "flip": True,
    },
    "descriptor": {
        "levels": (4, 2, 1),
        "pool": "avg",
        "normalize": "meannorm:20",
        "norm_factors": (0.5, 2.0),
        "dtype": "float16",
        "nonfinite": "keep",
    },
}
REGIONS = {
    "boxes": "file",
    "boxes_sha256": "2" * 64,
    "box_format": "csv",
    "convention": BoxConvention(),
}
CHANGED_REGIONS = {
    "boxes_sha256": "3" * 64,
    "box_format": "coco",
    "box_label": "species",
    "convention": BoxConvention(coords="xywh"),
    "projection": "paper",
    "margin": 2.5,
    "drop_duplicates": True,
}
PARTS = {"backbone": BackboneSpec, "input": InputSpec, "descriptor": DescriptorSpec}


def config(*, precision="fp32", **parts):
    return ExtractConfig(
        backbone=BackboneSpec(**{**BACKBONE, **parts.get("backbone", {})}),
        input=InputSpec(**parts.get("input", {})),
        descriptor=DescriptorSpec(**parts.get("descriptor", {})),
        precision=precision,
        regions=RegionSpec(**{**REGIONS, **parts["regions"]}) if "regions" in parts else None,
    )


# --- recording ------------------------------------------------------------------------------------


def test_each_change_of_a_setting_is_recorded_and_changes_the_fingerprint():
    assert {part: set(fields) for part, fields in CHANGED.items()} == {
        part: {field.name for field in dataclasses.fields(kind)} for part, kind in PARTS.items()
    }
    assert {*CHANGED_REGIONS, "boxes"} == {field.name for field in dataclasses.fields(RegionSpec)}
    needed = {"norm_factors": {"normalize": "meannorm:20"}, "scales": {}}
    variants = [
        config(
            **{part: {**needed.get(field, {}), field: value}},
            **({"regions": {}} if field == "scales" else {}),
        )
        for part in CHANGED
        for field, value in CHANGED[part].items()
    ]
    variants += [config(), config(precision="tf32"), config(regions={})]
    variants += [config(regions={field: value}) for field, value in CHANGED_REGIONS.items()]
    assert len({variant.fingerprint for variant in variants}) == len(variants)
    for variant in variants:
        through_json = ExtractConfig.from_dict(json.loads(variant.to_json()))
        assert through_json == variant == ExtractConfig.from_dict(dict(reversed(variant.to_dict().items())))
        assert through_json.fingerprint == variant.fingerprint


def test_equal_numbers_of_different_types_are_the_same_settings():
    plain = config(input={"size": 224, "max_pixels": 10, "min_side": 3}, backbone={"mean": (0.0, 1.0, 0.5)})
    typed = config(
        input={"size": np.int64(224), "max_pixels": np.uint16(10), "min_side": np.int8(3)},
        backbone={"mean": [0, np.float32(1), np.float64(0.5)], "layers": ["layer3", "layer4"]},
        descriptor={"levels": np.array([1, 2, 4])},
    )
    assert typed == plain
    assert typed.fingerprint == plain.fingerprint


def test_the_fingerprint_is_fixed_for_all_versions():
    # A change here makes every existing file impossible to continue.
    assert config().fingerprint == "acf7e76858b2d78635441751028d00ac9b3bdaa655ea8b0b6f36162cc7aea3a2"


def test_settings_of_later_versions_are_recorded_only_where_they_change_a_descriptor():
    """Files made before these settings existed can be continued."""
    recorded = config(input={"round_to": 1, "decode": "exact"}).to_dict()
    assert not {"round_to", "decode"} & set(recorded)
    assert ExtractConfig.from_dict(recorded).input == InputSpec(round_to=1, decode="exact")
    changed = config(input={"round_to": np.int16(32), "decode": "fast"})
    assert (changed.to_dict()["round_to"], changed.to_dict()["decode"]) == (32, "fast")
    assert config_differences(recorded, recorded) == []
    assert config_differences(recorded, changed.to_dict()) == [
        "decode: not set in the file, 'fast' in this command",
        "round_to: not set in the file, 32 in this command",
    ]


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (lambda d: d.pop("backbone"), "backbone"),
        (lambda d: d.pop("precision"), "precision"),
        (lambda d: d.update(dilation=2), "dilation"),
        (lambda d: d.update(pool="median"), "median"),
        (lambda d: d.update(size="224"), "'224'"),
        (lambda d: d.update(levels=None), "levels"),
        (lambda d: d.update(layers="layer4"), "layer4"),
        (lambda d: d.update(flip=0), "flip"),
        (lambda d: d.update(precision=None), "precision"),
    ],
)
def test_a_recorded_configuration_that_is_damaged_is_refused(broken, named):
    recorded = config().to_dict()
    broken(recorded)
    with pytest.raises(ConfigError, match=named):
        ExtractConfig.from_dict(recorded)
    for nothing in ([], None, "text", {}):
        with pytest.raises(ConfigError, match="recorded configuration"):
            ExtractConfig.from_dict(nothing)


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "field", "value", "allowed"),
    [
        (InputSpec, "size", 0, "1 to 65535"),
        (InputSpec, "size", 65_536, "1 to 65535"),
        (InputSpec, "size", True, "1 to 65535"),
        (InputSpec, "size", "native", "1 to 65535"),
        (InputSpec, "max_pixels", None, "1 or more"),
        (InputSpec, "min_side", -1, "1 or more"),
        (InputSpec, "round_to", 1025, "1 to 1024 pixels"),
        (InputSpec, "round_to", 32.0, "1 to 1024 pixels"),
        (InputSpec, "exif", "strip", "apply, ignore"),
        (InputSpec, "decode", None, "exact, fast"),
        (InputSpec, "flip", "yes", "True, False"),
        (DescriptorSpec, "levels", (), "1 to 64"),
        (DescriptorSpec, "pool", "min", "max, avg"),
        (DescriptorSpec, "normalize", "L2", "none, l2, power"),
        (DescriptorSpec, "dtype", np.float32, "float32, float16"),
        (RunOptions, "device", "gpu", "auto, cpu, cuda, cuda:N, mps"),
        (RunOptions, "batch_size", 0, "1 or more, or auto"),
        (RunOptions, "workers", -1, "0 or more, or auto"),
        (RunOptions, "workers", Decimal(1), "0 or more, or auto"),
        (BackboneSpec, "name", None, "a text"),
        (BackboneSpec, "weights_sha256", 0, "a text"),
        (BackboneSpec, "layers", (), "each once"),
        (BackboneSpec, "layers", ("layer4", "layer4"), "each once"),
        (BackboneSpec, "layers", "layer4", "each once"),
        (BackboneSpec, "layers", (4,), "each once"),
        (BackboneSpec, "mean", (0.5, 0.5), "three numbers"),
        (BackboneSpec, "mean", (0.5, 0.5, float("nan")), "three numbers"),
        (BackboneSpec, "std", [0.5, 0.5, 0.0], "above 0"),
        (BackboneSpec, "std", (0.5, 0.5, float("inf")), "three numbers"),
        (BackboneSpec, "interpolation", "cubic", "bicubic"),
        (BackboneSpec, "seed", 1.5, "to 18446744073709551615"),
        (BackboneSpec, "seed", 2**64, "to 18446744073709551615"),
    ],
)
def test_an_invalid_value_is_named_with_what_is_allowed(kind, field, value, allowed):
    others = BACKBONE if kind is BackboneSpec else {}
    with pytest.raises(ConfigError) as raised:
        kind(**{**others, field: value})
    message = str(raised.value)
    assert repr(value) in message
    assert allowed in message
    assert field in message.replace("-", "_")


def test_all_interpolations_can_resize():
    image = Image.new("RGB", (3, 3))
    for name in CHOICES["interpolation"]:
        assert resize_image(image, input_hw=(2, 2), resample=name).shape == (2, 2, 3)


# --- levels, devices, choices ---------------------------------------------------------------------

LEVELS = st.lists(st.integers(1, 64), min_size=1, max_size=8, unique=True)


@given(LEVELS)
def test_levels_are_the_same_from_text_and_from_numbers(levels):
    assert parse_levels(",".join(map(str, levels))) == tuple(levels)
    assert parse_levels(", ".join(map(str, levels))) == tuple(levels)
    assert parse_levels(levels) == parse_levels(np.array(levels)) == tuple(levels)
    assert DescriptorSpec(levels=levels).n_bins == sum(n**2 for n in levels)


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_devices(device):
    assert parse_device(device) == RunOptions(device=device).device == device


REFUSED = {
    parse_levels: (
        "levels are",
        *("", "1,", "1,,2", "a", "1;2", "0", "65", "-1", "1,1", "1.0", "1_0", "1\n,2"),
        *((), (1.0,), (float("nan"),), (True,), (1, 1), (0,), (65,), 4, None, ("1", "x")),
    ),
    parse_device: ("device is", "", "CPU", "cuda:", "cuda:-1", "cuda:a", "cpu ", "xpu", "cpu\n", None, 0),
    parse_grid: (
        "grid:ROWSxCOLUMNS",
        *("grid", "grid:", "grid:3", "grid:0x3", "grid:3x3:1", "grid:3x3:.", "grid:3x3x3", "raster"),
    ),
    parse_normalize: (
        r"normalize is .*; allowed: none, l2, power, meannorm:NORM",
        *("meannorm", "meannorm:", "meannorm:0", "meannorm:-1", "meannorm:inf", "l3", "l2:5", 3),
    ),
}


@pytest.mark.parametrize(
    ("parse", "message", "value"),
    [(parse, message, value) for parse, (message, *values) in REFUSED.items() for value in values],
)
def test_unparsable_values_are_refused(parse, message, value):
    with pytest.raises(ConfigError, match=message):
        parse(value)


# --- boxes ----------------------------------------------------------------------------------------


def test_scales_are_distinct_ascending_and_take_the_place_of_the_size():
    spec = InputSpec(size=300, scales=(688, 480, 688))
    assert (spec.size, spec.scales) == (None, (480, 688))
    assert spec.short_sides == (480, 688)
    assert InputSpec(size=300).short_sides == (300,)
    assert InputSpec(size=None).short_sides == (None,)
    with pytest.raises(ConfigError, match=r"scales is 0; allowed: 1 to 65535 pixels"):
        InputSpec(scales=(480, 0))
    with pytest.raises(ConfigError, match="--scales needs boxes"):
        config(input={"scales": (480, 688)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"coords": "xyxyz"}, r"box-coords is 'xyxyz'; allowed: xyxy, xywh, cxcywh"),
        ({"units": "pixels"}, r"box-units is 'pixels'; allowed: absolute, normalized, percent"),
        ({"origin": 2}, r"box-origin is 2; allowed: 0, 1"),
        ({"ends": "open"}, r"box-ends is 'open'; allowed: edges, inclusive"),
        ({"order": "zx"}, r"box-order is 'zx'; allowed: xy, yx"),
        ({"coords": "xywh", "ends": "inclusive"}, r"box-ends inclusive .* box-coords xywh"),
        ({"units": "normalized", "origin": 1}, r"box-units normalized .* not 1 and edges"),
        ({"units": "normalized", "ends": "inclusive"}, r"box-units normalized .* not 0 and inclusive"),
        ({"projection": "nearest"}, r"projection is 'nearest'; allowed: sppnet, paper, roi_pool"),
        ({"margin": float("nan")}, r"margin is nan; allowed"),
        ({"projection": "paper", "margin": 1.0}, r"--margin needs --projection sppnet"),
    ],
)
def test_conventions_and_projections_that_make_no_sense_are_refused(settings, message):
    is_of_regions = settings.keys() & {"projection", "margin"}
    with pytest.raises(ConfigError, match=message):
        RegionSpec(**{**REGIONS, **settings}) if is_of_regions else BoxConvention(**settings)


def test_a_convention_is_changed_by_the_given_fields():
    voc = BoxConvention(origin=1, ends="inclusive")
    assert voc.replace(coords=None, origin=0, ends=None) == BoxConvention(ends="inclusive")
    with pytest.raises(ConfigError, match="box-ends inclusive"):
        voc.replace(coords="xywh")


# The numbers of one box in each style: 30 x 20 pixels from the pixel (10, 40) of an image 100 pixels wide and 200 high.
# Sources: the documentation of Albumentations, COCO, YOLO, torchvision, TensorFlow Datasets and Label Studio, the
# development kit of Pascal VOC, and the loader of Selective Search boxes in Fast R-CNN.
STYLES = {
    "coco": (10, 40, 30, 20),
    "pascal_voc": (11, 41, 40, 60),
    "yolo": (0.25, 0.25, 0.3, 0.1),
    "albumentations": (0.1, 0.2, 0.4, 0.3),
    "torchvision": (10, 40, 40, 60),
    "tensorflow": (0.2, 0.1, 0.3, 0.4),
    "label_studio": (10, 20, 30, 10),
    "selective_search": (41, 11, 60, 40),
}


@pytest.mark.parametrize("style", BOX_STYLES)
def test_a_style_reads_the_numbers_of_its_program(style):
    convention = BoxChoice(boxes="b.csv", box_style=style).convention(BoxConvention(origin=1))
    found = boxes_to_px(np.array([STYLES[style]]), convention, np.array([[200, 100]], np.int32))
    np.testing.assert_allclose(found, [[10, 40, 40, 60]])


def test_single_options_override_a_style():
    choice = BoxChoice(boxes="b.csv", box_style="pascal_voc", box_origin=0)
    assert choice.convention(BoxConvention()) == BoxConvention(ends="inclusive")
    with pytest.raises(ConfigError, match=r"box-ends inclusive .* box-coords xywh"):
        BoxChoice(boxes="b.csv", box_style="pascal_voc", box_coords="xywh").convention(BoxConvention())
    with pytest.raises(ConfigError, match="box-style is 'voc'; allowed: coco, pascal_voc, "):
        BoxChoice(boxes="b.csv", box_style="voc")


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("grid:3x3", GridSpec(3, 3, False, 0.0)),
        ("grid:2x5:0.25", GridSpec(2, 5, False, 0.25)),
        ("grid:224x112px:.5", GridSpec(224, 112, True, 0.5)),
    ],
)
def test_grids(text, grid):
    assert parse_grid(text) == grid
    assert RegionSpec(boxes=text).boxes == text


def test_the_mean_norm_is_recorded_in_one_form():
    spec = DescriptorSpec(normalize="meannorm:20")
    assert spec == DescriptorSpec(normalize="meannorm:2e1")
    assert spec.mean_norm == 20.0
    assert DescriptorSpec(normalize="l2").mean_norm is None
    with pytest.raises(ConfigError, match="normalize is 'l2'; factors of the mean norm need meannorm"):
        DescriptorSpec(normalize="l2", norm_factors=(1.0,))
