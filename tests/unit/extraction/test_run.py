"""Settings of a run that are taken over from another feature file."""

import dataclasses

import pytest
from box_rows import whole_images
from feature_files import BLOCKS, config, new_file

from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.errors import ConfigError
from sppfeat.extraction.run import adopt_mean_norm
from sppfeat.store.layout import create_file


def scaled_config(normalize="meannorm:20", levels=(1, 2), input_spec=None, dtype="float32", **backbone):
    spec = DescriptorSpec(levels=levels, normalize=normalize, dtype=dtype)
    return dataclasses.replace(config(**backbone), descriptor=spec, input=input_spec or InputSpec())


@pytest.fixture
def scaled_file(tmp_path):
    path = tmp_path / "train.h5"
    create_file(path, whole_images(2), scaled_config(), BLOCKS, norm_factors=(2.0, 0.125))
    return path


@pytest.mark.parametrize("normalize", ["none", "meannorm:20", "meannorm:2e1"])
def test_factors_are_adopted_from_a_file(scaled_file, normalize):
    wanted = scaled_config(normalize, dtype="float16", input_spec=InputSpec(exif="ignore"))
    found = adopt_mean_norm(wanted, scaled_file).descriptor
    assert found.norm_factors == (2.0, 0.125)
    assert (found.normalize, found.dtype, found.levels) == ("meannorm:20", "float16", (1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize": "l2"}, "was made with meannorm:20, but --normalize is l2"),
        ({"levels": (1,)}, r"different settings: levels: \[1, 2\] in the file, \[1\] in this command"),
        ({"layers": ("layer4", "layer3")}, "different settings: layers"),
        (
            {"input_spec": InputSpec(size=300)},
            "different settings: size: 224 in the file, 300 in this command",
        ),
        ({"input_spec": InputSpec(flip=True)}, "different settings: flip"),
        ({"weights_sha256": "1" * 64}, "different settings: weights_sha256"),
        (
            {"name": "resnet34"},
            "different settings: backbone: 'resnet18' in the file, 'resnet34' in this command",
        ),
    ],
)
def test_factors_of_other_descriptors_are_refused(scaled_file, changes, message):
    with pytest.raises(ConfigError, match=message):
        adopt_mean_norm(scaled_config(**{"normalize": "none", **changes}), scaled_file)


def test_a_file_without_a_mean_norm_is_refused(tmp_path):
    path = new_file(tmp_path / "plain.h5")
    with pytest.raises(ConfigError, match="made with --normalize none; give a file made with meannorm"):
        adopt_mean_norm(scaled_config(), path)
