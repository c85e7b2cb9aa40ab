"""Reasons why the descriptors of two configurations, or of two files, cannot be compared."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sppfeat.config.extract_config import ExtractConfig, config_differences

if TYPE_CHECKING:
    from sppfeat.store.feature_table import FeatureTable

__all__ = ["descriptor_differences", "extraction_differences", "file_differences"]

# Settings that may differ between comparable descriptors: storage, precision of the computation, and boxes.
# The settings hold the factors of a mean norm only if they were taken from another file, so these are compared apart.
_FREE = {
    "nonfinite",
    "norm_factors",
    "dtype",
    "precision",
    "exif",
    "boxes",
    "boxes_sha256",
    "drop_duplicates",
}
_OF_BOXES = {"projection", "margin"}  # may differ if one side has whole images


def descriptor_differences(
    recorded: ExtractConfig,
    other: ExtractConfig,
    *,
    names: tuple[str, str] = ("the file", "this command"),
    ignoring: Collection[str] = (),
) -> list[str]:
    """Return one line for each setting that keeps the descriptors of two configurations from being compared.

    Network, weights, layers, pyramid, pooling, size and scaling must be the same. The boxes, the precision of the
    computation and the storage may differ. Factors of a mean norm are not compared.

    Args:
        recorded, other: the configurations.
        names: the name of each of them in these lines.
        ignoring: further settings that may differ, by their names in :meth:`ExtractConfig.to_dict`.
    """
    free = _FREE.union(ignoring) | (set() if recorded.regions and other.regions else _OF_BOXES)
    return config_differences(_comparable(recorded, free), _comparable(other, free), names=names)


def file_differences(recorded: "FeatureTable", other: "FeatureTable") -> list[str]:
    """Return one line for each reason why the descriptors of two open files cannot be compared.

    In addition to :func:`descriptor_differences` it compares the factors of a mean norm and the reductions.
    """
    differences = extraction_differences(recorded, other)
    names, reductions = _names_of(recorded, other), (recorded.reduction, other.reduction)
    if recorded.reduction_fingerprint != other.reduction_fingerprint:
        said = [
            "none" if r is None else f"{r.method} to {r.dimension}, {r.fingerprint[:8]}" for r in reductions
        ]
        differences.append(
            f"reduction: {names[0]} has {said[0]}, {names[1]} {said[1]}; 'sppfeat reduce --from' applies the same"
        )
    return differences


def extraction_differences(recorded: "FeatureTable", other: "FeatureTable") -> list[str]:
    """Return the same lines for the descriptors as extracted, before any reduction."""
    names = _names_of(recorded, other)
    differences = descriptor_differences(recorded.config, other.config, names=names)
    factors = recorded.norm_factors, other.norm_factors
    if factors[0] != factors[1]:
        differences.append(
            f"factors of the mean norm: {names[0]} has {_listed(factors[0])}, {names[1]} {_listed(factors[1])}; "
            "'sppfeat extract --normalize-from' takes them over"
        )
    return differences


def _names_of(recorded: "FeatureTable", other: "FeatureTable") -> tuple[str, str]:
    return repr(str(recorded.path)), repr(str(other.path))


def _comparable(config: ExtractConfig, free: Collection[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in free and not name.startswith("box_")
    }


def _listed(factors: tuple[float, ...] | None) -> str:
    return "none" if factors is None else ", ".join(f"{factor:.6g}" for factor in factors)
