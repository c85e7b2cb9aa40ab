"""What a reduction of descriptors to fewer dimensions is asked to be."""

from dataclasses import dataclass

from sppfeat.config.specs import parse_levels
from sppfeat.config.values import check_choice, set_fields, whole_number
from sppfeat.errors import ConfigError

__all__ = ["REDUCED_NORMALIZATIONS", "REDUCTIONS", "ReductionSpec"]

REDUCTIONS = ("pca", "random")
REDUCED_NORMALIZATIONS = ("none", "l2")
_MAX_SEED = 2**32 - 1  # of scikit-learn


@dataclass(frozen=True, kw_only=True)
class ReductionSpec:
    """How descriptors are reduced.

    Attributes:
        method: ``pca``, principal components, or ``random``, a Gaussian random projection.
        components: the dimension afterwards.
        whiten: bring every component to variance 1; with ``pca`` alone.
        normalize: of what comes out: ``none`` or ``l2``.
        seed: of the order of rows, the randomised solver and the random projection.
        layers, levels: what of the descriptors is taken; all where None.
        fit_rows: conditions on the rows that it is fitted on; all that have a descriptor where empty.
    """

    method: str = "pca"
    components: int = 256
    whiten: bool = False
    normalize: str = "none"
    seed: int = 0
    layers: tuple[str, ...] | None = None
    levels: tuple[int, ...] | None = None
    fit_rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("method", self.method, REDUCTIONS)
        check_choice("normalize", self.normalize, REDUCED_NORMALIZATIONS)
        set_fields(self, components=whole_number("components", self.components, 1))
        set_fields(self, seed=whole_number("seed", self.seed, 0, _MAX_SEED))
        if not isinstance(self.whiten, bool):
            raise ConfigError(f"whiten is {self.whiten!r}; allowed: True, False")
        if self.levels is not None:
            set_fields(self, levels=parse_levels(self.levels))
        for name in ("layers", "fit_rows"):
            texts = getattr(self, name)
            if texts is not None and not all(isinstance(text, str) for text in texts):
                raise ConfigError(f"{name} are {texts!r}; allowed: texts")
        if self.method == "random" and self.whiten:
            raise ConfigError(
                "whitening goes with pca; a random projection knows nothing of the rows' variance"
            )
        if self.method == "random" and self.fit_rows:
            raise ConfigError("rows to fit on go with pca; a random projection is fitted on none")
