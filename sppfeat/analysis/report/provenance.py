"""Origin and settings of a feature file, as texts."""

import os

from sppfeat.analysis.wording import dimensions_text, network_text, variance_text
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec
from sppfeat.config.wording import counted
from sppfeat.store.feature_table import FeatureTable
from sppfeat.store.reduction import Reduction

__all__ = ["describe_provenance", "describe_settings"]

_MOST_SOURCES = 20  # maximum number of source files to name
_NORMALIZE = {
    "none": "left as they are",
    "l2": "scaled to l2 norm 1, layer by layer",
    "power": "replaced by signed square roots, then scaled to l2 norm 1, layer by layer",
}


def describe_provenance(file: FeatureTable) -> list[tuple[str, str]]:
    """Lists the known facts about the origin of a file, as names and values."""
    config, ids = file.config, file.image_id_table
    found = [
        ("file", str(file.path.absolute())),
        ("made", file.attribute("created")),
        ("by", f"sppfeat {file.attribute('sppfeat_version')}, schema {file.schema_version}"),
        ("images under", file.root),
        ("ids of images", f"as the inputs had them, the first: {os.fsdecode(ids[0])}" if ids else ""),
        ("network", network_text(config.backbone)),
        ("file of weights", file.attribute("weights_path")),
        ("SHA-256 of weights", config.backbone.weights_sha256),
    ]
    if config.regions is not None:
        found += [
            ("boxes", file.attribute("boxes_path") or config.regions.boxes),
            ("SHA-256 of boxes", str(config.to_dict().get("boxes_sha256") or "")),
        ]
    if file.norm_factors:
        found.append(("factors of the mean norm", ", ".join(f"{factor:.6g}" for factor in file.norm_factors)))
    if (shard := file.shard) is not None:
        images = _range_text("image", shard.first_image, shard.stop_image)
        rows = _range_text("row", shard.first_row, shard.stop_row)
        text = f"shard {shard.index} of {shard.count}: {images} of {shard.n_images:,}, {rows} of {shard.n_rows:,}"
        found.append(("part of a run", text))
    if file.sources is not None:
        n = len(file.sources.files)
        found.append(("merged of", f"{counted(n, 'file', thousands=',')}, in which the descriptors lie"))
        for i, source in enumerate(file.sources.files[:_MOST_SOURCES]):
            rows = _range_text("row", source.first_row, source.stop_row)
            found.append((f"file {i + 1} of {n}", f"{file.sources.path_of(i)}: {rows}"))
        if n > _MOST_SOURCES:
            found.append(("and more", f"{n - _MOST_SOURCES:,}; sppfeat info --json names all"))
    if (reduction := file.reduction) is not None:
        found += [
            ("reduced", _reduction_text(reduction)),
            ("fitted on rows", ", ".join(reduction.spec.fit_rows)),
            ("fitted on the file with fingerprint", reduction.record.source_fingerprint),
            ("fingerprint of the reduction", reduction.fingerprint),
        ]
    found.append(("fingerprint of the settings", file.attribute("fingerprint")))
    return [(name, value) for name, value in found if value]


def _reduction_text(reduction: Reduction) -> str:
    """Dimensions of a reduction, and the share of the variance that it keeps."""
    record, spec = reduction.record, reduction.spec
    text = dimensions_text(
        spec.method,
        selected=record.selection.width,
        source_dimension=reduction.source_dimension,
        dimension=reduction.dimension,
    )
    text += " values, whitened" if spec.whiten else " values"
    text += ", scaled to l2 norm 1" if spec.normalize == "l2" else ""
    if record.explained_variance is not None:
        text += f"; {variance_text(record.explained_variance, record.fitted_rows)}"
    return text


def _range_text(what: str, first: int, stop: int) -> str:
    """Text of a half-open range, counted from 0: its first and last members."""
    return f"{what}s {first:,} to {stop - 1:,}" if stop > first else f"no {what}"


def describe_settings(
    config: ExtractConfig, dimension: int, *, reduction: Reduction | None = None
) -> list[tuple[str, str]]:
    """Describes the steps from image to descriptor: a name and a sentence for each.

    Args:
        config: settings of the file.
        dimension: length of a descriptor before any reduction.
        reduction: reduction applied after the extraction; None without one.
    """
    steps = [("Network", _network(config.backbone)), ("Input", _input(config.input, config.backbone))]
    if config.regions is not None:
        steps.append(("Boxes", _regions(config.regions)))
    steps.append(("Pooling", _pooling(config.descriptor, config.backbone, dimension)))
    steps.append(("Scaling", f"Values are {_scaling(config.descriptor)}."))
    if reduction is not None:
        steps.append(("Reduction", f"Descriptors are reduced: {_reduction_text(reduction)}."))
    steps.append(("Numbers", f"Computed in {config.precision}, stored as {config.descriptor.dtype}."))
    return steps


def _network(spec: BackboneSpec) -> str:
    layers = " and ".join(spec.layers) if len(spec.layers) < 3 else ", ".join(spec.layers)
    head = f", then its fully connected layers up to {spec.head}" if spec.head else ""
    return f"{network_text(spec)}, up to layer{'s' * (len(spec.layers) > 1)} {layers}{head}."


def _input(spec: InputSpec, backbone: BackboneSpec) -> str:
    turned = "turned upright" if spec.exif == "apply" else "as stored"
    if spec.scales:
        size = f"at short sides of {', '.join(map(str, spec.scales))} pixels, each box at one of them"
    elif spec.size is None:
        size = "at their own size"
    else:
        size = f"with a short side of {spec.size} pixels"
    text = (
        f"Whole images, {turned}, at their own aspect ratio, {size} ({backbone.interpolation} filter, "
        f"at most {spec.max_pixels:,} pixels)"
    )
    if spec.round_to > 1:
        text += f", sides rounded to multiples of {spec.round_to}"
    if spec.decode == "fast":
        text += ", large JPEGs decoded at a fraction of their size"
    if spec.flip:
        text += "; averaged with the mirror image"
    return f"{text}."


def _regions(spec: RegionSpec) -> str:
    what = "the boxes of a file" if spec.boxes == "file" else spec.boxes
    margin = f", tightened by {spec.margin:g} input pixels" if spec.margin else ""
    same = "; boxes on the same region of an image are stored once" if spec.drop_duplicates else ""
    return f"One row per box: {what}, projected to cells by the rule {spec.projection}{margin}{same}."


def _pooling(spec: DescriptorSpec, backbone: BackboneSpec, dimension: int) -> str:
    if backbone.head:
        return (
            f"{spec.pool} over the grid that the network's fully connected layers take: {dimension:,} values."
        )
    grids = ", ".join(f"{n} x {n}" for n in spec.levels)
    return f"The {spec.pool} of each channel in each bin of the grids {grids}: {dimension:,} values."


def _scaling(spec: DescriptorSpec) -> str:
    if spec.mean_norm is not None:
        return f"multiplied by one factor per layer, so that their mean l2 norm is {spec.mean_norm:g}"
    return _NORMALIZE[spec.normalize]
