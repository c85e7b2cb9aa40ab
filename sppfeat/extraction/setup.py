"""The settings of a run, made from the user's choices: network, boxes, pyramid, columns and normalization."""

import dataclasses
import os
from pathlib import Path

from sppfeat.boxes.formats import BoxFile, read_boxes
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import RegionSpec, parse_grid
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import BoxError, ConfigError
from sppfeat.extraction.regions import Projector, map_sizes
from sppfeat.extraction.row_planner import RowPlanner
from sppfeat.files.downloads import OnDownload
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.store.comparability import descriptor_differences
from sppfeat.store.reader import FeatureFile
from sppfeat.store.schema import ColumnBlock, column_blocks

__all__ = [
    "adopt_mean_norm",
    "configure",
    "descriptor_columns",
    "load_chosen_backbone",
    "make_row_planner",
    "read_chosen_boxes",
]


def read_chosen_boxes(choice: BoxChoice | None) -> BoxFile | None:
    """Read the box file that the user chose, if any, and apply the user's convention."""
    if choice is None or not choice.is_file:
        return None
    if not os.path.lexists(choice.boxes):
        raise BoxError(
            f"no such box file: {choice.boxes!r}; allowed: a file or folder, grid:RxC, such as grid:3x3, or multiview"
        )
    found = read_boxes(choice.boxes, box_format=choice.box_format)
    convention = found.table.convention.replace(
        coords=choice.box_coords,
        units=choice.box_units,
        origin=choice.box_origin,
        ends=choice.box_ends,
        order=choice.box_order,
    )
    return dataclasses.replace(found, table=dataclasses.replace(found.table, convention=convention))


def load_chosen_backbone(
    choice: BackboneChoice,
    *,
    fold: bool = True,
    on_download: OnDownload = lambda name, done, total: None,
) -> Backbone:
    """Load the backbone that a user chose; see :func:`sppfeat.networks.backbones.load_backbone`."""
    settings = dict(vars(choice))
    return load_backbone(settings.pop("name"), **settings, fold=fold, on_download=on_download)


def configure(
    backbone: Backbone,
    inputs: InputSpec,
    descriptor: DescriptorChoice,
    *,
    precision: str,
    boxes: BoxChoice | None = None,
    box_file: BoxFile | None = None,
) -> ExtractConfig:
    """Combine the settings that determine a descriptor, but for ``normalize_from``: see :func:`adopt_mean_norm`.

    Raises:
        ConfigError: settings are incompatible with each other, or with the backbone's head.
    """
    regions = None
    if boxes is not None:
        regions = RegionSpec(
            boxes="file" if box_file else boxes.boxes,
            boxes_sha256=box_file.sha256 if box_file else "",
            box_format=box_file.box_format if box_file else None,
            convention=box_file.table.convention if box_file else None,
            projection=boxes.projection,
            margin=boxes.margin,
            drop_duplicates=boxes.drop_duplicates,
        )
    head = backbone.head
    return ExtractConfig(
        backbone=backbone.spec,
        input=dataclasses.replace(inputs, min_side=backbone.min_side),
        descriptor=descriptor.spec(head=backbone.spec.head, head_level=head.level if head else None),
        precision=precision,
        regions=regions,
    )


def make_row_planner(
    choice: BoxChoice | None, config: ExtractConfig, backbone: Backbone, box_file: BoxFile | None
) -> RowPlanner | None:
    """Make the planner for the rows of boxes; None for whole images.

    Raises:
        ConfigError: boxes cannot be projected to the maps of this backbone.
    """
    if choice is None or config.regions is None:
        return None
    is_grid = box_file is None and choice.boxes != "multiview"
    return RowPlanner(
        config.input,
        Projector.of(backbone, config.regions),
        map_sizes(backbone) if choice.drop_duplicates else None,
        table=box_file.table if box_file else None,
        path=choice.boxes,
        grid=parse_grid(choice.boxes) if is_grid else None,
    )


def descriptor_columns(config: ExtractConfig, backbone: Backbone) -> tuple[ColumnBlock, ...]:
    """Return the blocks of columns of a descriptor: one per layer and level, or a single one for a head."""
    if backbone.head is not None:
        return column_blocks((backbone.head.name,), (backbone.head.channels,), (1,))
    return column_blocks(backbone.spec.layers, backbone.channels, config.descriptor.levels)


def adopt_mean_norm(config: ExtractConfig, path: Path | None) -> ExtractConfig:
    """Return the settings with the normalization and the factors of a file made with ``meannorm``, if any is given.

    Raises:
        StoreError: the file is not a feature file.
        ConfigError: the file was made without ``meannorm``, or with settings other than ``config``.
    """
    if path is None:
        return config
    with FeatureFile(path) as file:
        recorded, factors = file.config, file.norm_factors
    if recorded.descriptor.mean_norm is None or factors is None:
        raise ConfigError(
            f"--normalize-from {str(path)!r}: it was made with --normalize {recorded.descriptor.normalize}; "
            "allowed: a file made with meannorm"
        )
    wanted = config.descriptor.normalize
    if wanted not in ("none", recorded.descriptor.normalize):
        raise ConfigError(
            f"--normalize-from {str(path)!r} has {recorded.descriptor.normalize}, and --normalize says {wanted}"
        )
    differences = descriptor_differences(recorded, config, ignoring=("normalize",))
    if differences:
        raise ConfigError(f"--normalize-from {str(path)!r} has other descriptors: {'; '.join(differences)}")
    descriptor = dataclasses.replace(
        config.descriptor, normalize=recorded.descriptor.normalize, norm_factors=factors
    )
    return dataclasses.replace(config, descriptor=descriptor)
