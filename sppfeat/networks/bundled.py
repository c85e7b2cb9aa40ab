"""The weights that come with the package, so that descriptors can be had without a download."""

from pathlib import Path
from typing import NamedTuple

from sppfeat.config.specs import COMPACT_NAME, BackboneSpec

__all__ = ["BUNDLED", "BUNDLED_FOLDER", "BundledWeights", "bundled_note"]

BUNDLED_FOLDER = Path(__file__).parent / "pretrained"


class BundledWeights(NamedTuple):
    """A file in :data:`BUNDLED_FOLDER`.

    Attributes:
        model: the network that it is of.
        name: of the weights.
        file_name: of the file.
        sha256: of the file, in hexadecimal.
    """

    model: str
    name: str
    file_name: str
    sha256: str


BUNDLED = (
    BundledWeights(
        COMPACT_NAME,
        "DISTILLED_V1",
        "spp_s16-ebf52c73.pth",
        "ebf52c73dd57201fdecfc4295af2101b56eb6520095f29a512dea669360ab978",
    ),
)


def bundled_note(backbone: BackboneSpec) -> str | None:
    """What a user of bundled weights should know; None for other weights."""
    if (backbone.name, backbone.weights) not in ((own.model, own.name) for own in BUNDLED):
        return None
    return (
        f"{backbone.name} is the small network that comes with sppfeat; --backbone resnet50 gives features "
        "of ImageNet scale (98 MB, downloaded once)"
    )
