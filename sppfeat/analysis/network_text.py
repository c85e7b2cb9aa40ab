"""Which network made descriptors, in words."""

from sppfeat.config.specs import BackboneSpec

__all__ = ["network_text"]

_SHOWN_DIGITS = 8  # of a checksum


def network_text(spec: BackboneSpec) -> str:
    """Name of a network and where its weights are from."""
    if spec.weights == "none":
        return f"{spec.name}, untrained, with random values (seed {spec.seed})"
    if spec.weights == "module":
        return f"{spec.name}, weights of a network of one's own"
    if spec.weights == "file":
        return f"{spec.name}, weights of a file (SHA-256 {spec.weights_sha256[:_SHOWN_DIGITS]}...)"
    return f"{spec.name}, weights {spec.weights}"
