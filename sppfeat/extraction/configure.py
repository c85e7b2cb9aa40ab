"""From what a user asks to the settings of a run: the box file read, the head and the scaling looked up."""

import dataclasses
import os

from sppfeat.boxes.formats import BoxFile, read_boxes
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import RegionSpec, parse_grid
from sppfeat.config.request import BackboneChoice, BoxChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import BoxError
from sppfeat.extraction.box_rows import BoxSource, FileBoxes, ViewBoxes
from sppfeat.extraction.mean_norm import factors_of_file
from sppfeat.extraction.regions import Projector, map_sizes
from sppfeat.extraction.row_planner import RowPlanner
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.store.schema import ColumnBlock, column_blocks

__all__ = ["configure", "descriptor_blocks", "load_choice", "read_box_choice", "row_planner_of"]


def read_box_choice(choice: BoxChoice | None) -> BoxFile | None:
    """The box file, if there is one, in the convention that it is meant in.

    Raises:
        BoxError: it cannot be read.
        ConfigError: a convention that contradicts itself.
    """
    if choice is None or not choice.is_file:
        return None
    if not os.path.lexists(choice.boxes):
        raise BoxError(
            f"no such box file: {choice.boxes!r}; allowed: a file or folder, grid:RxC, such as grid:3x3, or multiview"
        )
    found = read_boxes(choice.boxes, box_format=choice.box_format)
    convention = found.table.convention.replace(
        coords=choice.coords,
        units=choice.units,
        origin=choice.origin,
        ends=choice.ends,
        order=choice.order,
    )
    return dataclasses.replace(found, table=dataclasses.replace(found.table, convention=convention))


def load_choice(choice: BackboneChoice, *, fold: bool = True) -> Backbone:
    """The backbone that was chosen; see :func:`sppfeat.networks.backbones.load_backbone`."""
    settings = dict(vars(choice))
    return load_backbone(settings.pop("name"), **settings, fold=fold)


def configure(
    backbone: Backbone,
    inputs: InputSpec,
    descriptor: DescriptorChoice,
    *,
    precision: str,
    boxes: BoxChoice | None = None,
    box_file: BoxFile | None = None,
) -> ExtractConfig:
    """Everything that the descriptors of a run depend on.

    Raises:
        ConfigError: settings that do not go together, or with the backbone's head.
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
    config = ExtractConfig(
        backbone=backbone.spec,
        input=dataclasses.replace(inputs, min_side=backbone.min_side),
        descriptor=descriptor.spec(head=backbone.spec.head, head_level=head.level if head else None),
        precision=precision,
        regions=regions,
    )
    if descriptor.normalize_from is None:
        return config
    return dataclasses.replace(config, descriptor=factors_of_file(descriptor.normalize_from, config))


def row_planner_of(
    choice: BoxChoice | None, config: ExtractConfig, backbone: Backbone, box_file: BoxFile | None
) -> RowPlanner | None:
    """What makes the rows, where they are boxes.

    Raises:
        ConfigError: boxes cannot be projected onto the maps of this backbone.
    """
    if choice is None or config.regions is None:
        return None
    source: BoxSource
    if box_file is not None:
        source = FileBoxes(box_file.table, choice.boxes)
    else:
        grid = None if choice.boxes == "multiview" else parse_grid(choice.boxes)
        source = ViewBoxes(grid, config.input)
    projector = Projector.of(backbone, config.regions)
    return RowPlanner(
        source, config.input, projector, map_sizes(backbone) if choice.drop_duplicates else None
    )


def descriptor_blocks(config: ExtractConfig, backbone: Backbone) -> tuple[ColumnBlock, ...]:
    """The columns of a descriptor: of the pyramid, or the one block of a head."""
    if backbone.head is not None:
        return column_blocks((backbone.head.name,), (backbone.head.channels,), (1,))
    return column_blocks(backbone.spec.layers, backbone.channels, config.descriptor.levels)
