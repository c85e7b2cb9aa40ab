"""The network that made a feature file, built again."""

from pathlib import Path

from sppfeat.config.values import StrPath
from sppfeat.errors import StoreError
from sppfeat.networks.backbones import Backbone, load_backbone
from sppfeat.store.reader import FeatureFile

__all__ = ["load_recorded_backbone"]


def load_recorded_backbone(
    file: FeatureFile, *, weights: str | None = None, weights_dir: StrPath | None = None
) -> Backbone:
    """The backbone of a file, with the very weights that are recorded.

    Args:
        file: an open file.
        weights: file or name; the recorded one where None.
        weights_dir: a folder in which weights that are named are looked for first, before torch's hub cache.

    Raises:
        StoreError: it was a network of the caller's own, its weights are gone, or others by now.
        SppfeatError: it cannot be loaded.
    """
    spec = file.config.backbone
    if spec.weights == "module":
        raise StoreError(f"rows of {spec.name} cannot be computed again: its network is not known here")
    if weights is None:
        weights = file.attribute("weights_path") if spec.weights == "file" else spec.weights
        if spec.weights == "file" and not Path(weights).is_file():
            raise StoreError(f"the weights {weights!r} are not there any more; say where with --weights")
    backbone = load_backbone(
        spec.name,
        weights=weights,
        weights_dir=weights_dir,
        layers=spec.layers,
        seed=spec.seed or 0,
        mean=spec.mean,
        std=spec.std,
        head=spec.head,
    )
    if backbone.spec.weights_sha256 != spec.weights_sha256:
        raise StoreError(
            f"the weights {weights!r} are not those of the file: sha256 is {backbone.spec.weights_sha256[:12]}..., "
            f"recorded is {spec.weights_sha256[:12]}..."
        )
    return backbone
