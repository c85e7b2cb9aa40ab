"""Which settings make descriptors that cannot be compared, and which do not matter."""

import dataclasses

import h5py
import pytest
from feature_files import config, new_file

from sppfeat.config.regions import RegionSpec
from sppfeat.store.comparability import descriptor_differences, extraction_differences
from sppfeat.store.reader import FeatureFile


def changed(**settings):
    """The configuration of the test files with some settings changed, in whichever part they are."""
    result = config()
    for part in ("backbone", "input", "descriptor"):
        spec = getattr(result, part)
        own = {name: value for name, value in settings.items() if hasattr(spec, name)}
        result = dataclasses.replace(result, **{part: dataclasses.replace(spec, **own)})
    rest = {name: value for name, value in settings.items() if name in ("precision", "regions")}
    return dataclasses.replace(result, **rest)


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": "float16"},
        {"nonfinite": "keep"},
        {"precision": "bf16"},
        {"exif": "ignore"},
        {"regions": RegionSpec(boxes="multiview", projection="paper")},
    ],
)
def test_what_may_differ(settings):
    assert descriptor_differences(config(), changed(**settings)) == []
    assert descriptor_differences(changed(**settings), config()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"levels": (1, 3)}, "levels: [1, 2] in a, [1, 3] in b"),
        ({"pool": "avg"}, "pool: 'max' in a, 'avg' in b"),
        ({"normalize": "l2"}, "normalize: 'none' in a, 'l2' in b"),
        ({"size": 64}, "size: 224 in a, 64 in b"),
        ({"weights_sha256": "1" * 64}, f"weights_sha256: '{'0' * 64}' in a, '{'1' * 64}' in b"),
    ],
)
def test_what_must_not_differ(settings, said):
    assert descriptor_differences(config(), changed(**settings), names=("a", "b")) == [said]
    name = next(iter(settings))
    assert descriptor_differences(config(), changed(**settings), ignoring=[name]) == []


def test_the_projection_counts_where_both_are_of_boxes():
    a = changed(regions=RegionSpec(boxes="multiview"))
    b = changed(regions=RegionSpec(boxes="multiview", projection="paper"))
    assert [line.split(":")[0] for line in descriptor_differences(a, b)] == ["projection"]


def test_files_are_called_by_name_and_their_factors_count(tmp_path):
    a, b = new_file(tmp_path / "a.h5"), new_file(tmp_path / "b.h5", dtype="float16")
    with FeatureFile(a) as one, FeatureFile(b) as other:
        assert extraction_differences(one, other) == []
    with h5py.File(b, "r+") as file:
        file.attrs["norm_factors"] = "[2.0, 0.5]"
    with FeatureFile(a) as one, FeatureFile(b) as other:
        (line,) = extraction_differences(one, other)
    assert line.startswith(f"meannorm factors: {str(a)!r} has none, {str(b)!r} has 2, 0.5")
