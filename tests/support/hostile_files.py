"""Feature files to damage, edits that damage them, and calls of everything that reads one."""

import contextlib
import os
import warnings

import h5py
import numpy as np
import pytest
from box_rows import plan_of, rows_of
from command_line import run
from feature_files import BLOCKS, LAYERS, config, descriptors, fill, new_file

from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import BoxConvention, RegionSpec
from sppfeat.config.specs import InputSpec
from sppfeat.errors import StoreError
from sppfeat.files.paths import PathTable
from sppfeat.store.layout import create_file
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import RowRegions
from sppfeat.store.verify import verify_file
from sppfeat.store.writer import FeatureWriter


def refused_by_the_library(path, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(StoreError, match=said) as raised:
            FeatureFile(path)
    assert os.path.basename(path) in str(raised.value)
    return str(raised.value)


N = 6
PROPERTIES = [name for name in dir(FeatureFile) if isinstance(getattr(FeatureFile, name), property)] + [
    name for name in dir(FeatureFile) if type(getattr(FeatureFile, name)).__name__ == "cached_property"
]


def whole_images(path, *, pending=(4, 5)):
    """Six images: number 2 failed, the last two are pending."""
    new_file(path, n=N, labels=[0, 1, 0, 1, 0, -1], classes=[b"cat", b"dog"])
    return fill(path, descriptors(N), failed=[2], reason="no such file", pending=pending)


def with_boxes(path):
    """Three finished images with two, zero and one box."""
    image_hw = [(40, 60), (30, 30), (50, 20)]
    rows = rows_of([[(1, 2, 30, 20), (5, 5, 50, 35)], [], [(0, 0, 20, 50)]], image_hw)
    plain = config()
    regions = RegionSpec(boxes="file", boxes_sha256="0" * 64, box_format="csv", convention=BoxConvention())
    spec = InputSpec(scales=(32, 64))
    settings = ExtractConfig(
        backbone=plain.backbone, input=spec, descriptor=plain.descriptor, regions=regions
    )
    create_file(path, plan_of(rows, image_hw, spec), settings, BLOCKS)
    region = np.tile(np.array([0, 0, 2, 3], dtype=np.int32), (3, len(LAYERS), 1))
    with contextlib.closing(FeatureWriter(path)) as writer:
        flag = np.zeros(3, dtype=np.uint8)
        writer.write_rows(np.arange(3), descriptors(3), RowRegions(flag, region))
        for image in range(3):
            writer.mark_done(image)
    return path


def edit(path, change):
    with h5py.File(path, "r+") as opened:
        change(opened)


def replace(name, values, **options):
    """An edit that replaces a dataset, or removes it if ``values`` is None."""

    def change(opened):
        del opened[name]
        if values is not None:
            opened.create_dataset(name, data=values, **options)

    return change


def set_items(name, index, value):
    return lambda opened: opened[name].__setitem__(index, value)


def refused(path, said):
    """Checks that the library and ``info`` refuse a file in one line."""
    assert refused_by_the_library(path, said).isprintable()
    result = run("info", path, code=1)
    assert result.stderr.count("\n") == 1


def error_of(call):
    """The message of the StoreError that a call raises; empty if it succeeds."""
    try:
        call()
    except StoreError as error:
        return str(error)
    return ""


def use(path):
    """Calls every property, both forms of info, and verify; only StoreError may be raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opens = not error_of(lambda: read_everything(path))
    for arguments in (["info"], ["info", "--json"], ["verify", "--quiet"]) if opens else (["info"],):
        result = run(*arguments, path)
        assert result.exit_code in (0, 1)
        assert all(character.isprintable() or character == "\n" for character in result.output)


def read_everything(path):
    with FeatureFile(path) as features:
        for name in PROPERTIES:
            error_of(lambda name=name: getattr(features, name))
        for call in (features.to_sklearn, lambda: verify_file(features)):
            error_of(call)


def plain(value):
    if isinstance(value, np.ndarray):
        return (value.dtype, value.shape, np.ascontiguousarray(value).tobytes())
    return list(value) if isinstance(value, PathTable) else value
