"""Whether descriptors made with two configurations, or of two files, can be compared with each other."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sppfeat.config.extract_config import ExtractConfig, config_differences

if TYPE_CHECKING:
    from sppfeat.store.reader import FeatureFile

__all__ = ["descriptor_differences", "extraction_differences", "file_differences"]

# What may differ between comparable descriptors: how they are stored and computed, and of which boxes they are.
# The factors of a mean norm are in the settings only where they were taken from another file: they are compared apart.
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
_OF_BOXES = {"projection", "margin"}  # these may differ where one side is of whole images


def descriptor_differences(
    recorded: ExtractConfig,
    other: ExtractConfig,
    *,
    names: tuple[str, str] = ("the file", "this command"),
    ignoring: Collection[str] = (),
) -> list[str]:
    """One line per setting because of which the descriptors of two configurations cannot be compared.

    Network, weights, layers, pyramid, pooling, size and scaling have to be the same; what is pooled, how exactly it
    is computed and how it is stored may differ. Factors of a mean norm are not compared.

    Args:
        recorded, other: the configurations.
        names: how each of them is called in these lines.
        ignoring: further settings that may differ, by their names in :meth:`ExtractConfig.to_dict`.
    """
    free = _FREE.union(ignoring) | (set() if recorded.regions and other.regions else _OF_BOXES)
    return config_differences(_comparable(recorded, free), _comparable(other, free), names=names)


def file_differences(recorded: "FeatureFile", other: "FeatureFile") -> list[str]:
    """One line per reason why the descriptors of two open files cannot be compared; see above.

    Factors of a mean norm count, from wherever they come, and so does what reduced the descriptors.
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


def extraction_differences(recorded: "FeatureFile", other: "FeatureFile") -> list[str]:
    """The same of the descriptors as they were extracted, whatever has reduced them since."""
    names = _names_of(recorded, other)
    differences = descriptor_differences(recorded.config, other.config, names=names)
    factors = recorded.norm_factors, other.norm_factors
    if factors[0] != factors[1]:
        differences.append(
            f"factors of the mean norm: {names[0]} has {_listed(factors[0])}, {names[1]} {_listed(factors[1])}; "
            "'sppfeat extract --normalize-from' takes them over"
        )
    return differences


def _names_of(recorded: "FeatureFile", other: "FeatureFile") -> tuple[str, str]:
    return repr(str(recorded.path)), repr(str(other.path))


def _comparable(config: ExtractConfig, free: Collection[str]) -> dict[str, Any]:
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in free and not name.startswith("box_")
    }


def _listed(factors: tuple[float, ...] | None) -> str:
    return "none" if factors is None else ", ".join(f"{factor:.6g}" for factor in factors)
