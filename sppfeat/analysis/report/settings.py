"""The settings of a feature file, in words."""

from sppfeat.analysis.network_text import network_text
from sppfeat.analysis.report.provenance import reduction_text
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import BackboneSpec, DescriptorSpec, InputSpec
from sppfeat.store.reduction import Reduction

__all__ = ["describe_settings"]

_NORMALIZE = {
    "none": "left as they are",
    "l2": "scaled to l2 norm 1, layer by layer",
    "power": "replaced by signed square roots, then scaled to l2 norm 1, layer by layer",
}


def describe_settings(
    config: ExtractConfig, dimension: int, *, reduction: Reduction | None = None
) -> list[tuple[str, str]]:
    """What was done to make a descriptor, step by step: the name of each step and a sentence.

    Args:
        config: of the file.
        dimension: of a descriptor, as extracted.
        reduction: what was done to it then.
    """
    steps = [("Network", _network(config.backbone)), ("Input", _input(config.input, config.backbone))]
    if config.regions is not None:
        steps.append(("Boxes", _regions(config.regions)))
    steps.append(("Pooling", _pooling(config.descriptor, config.backbone, dimension)))
    steps.append(("Scaling", f"Values are {_scaling(config.descriptor)}."))
    if reduction is not None:
        steps.append(("Reduction", f"Descriptors are reduced: {reduction_text(reduction)}."))
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
