"""Allowed values and defaults of the analyses; imports nothing heavy, because ``--help`` shows them."""

from dataclasses import dataclass

from sppfeat.config.machine import available_nbytes
from sppfeat.config.values import check_choice, set_numbers
from sppfeat.errors import ConfigError

__all__ = [
    "CLASS_WEIGHTS",
    "DEFAULT_EMBEDDING",
    "DEFAULT_METRIC",
    "DEFAULT_NEIGHBORS",
    "EMBEDDINGS",
    "EXPORT_DTYPES",
    "EXPORT_FORMATS",
    "EXPORT_SUFFIXES",
    "METRICS",
    "MOST_EMBEDDED",
    "MOST_NORMS",
    "MOST_PICTURED",
    "SHEET_NEIGHBORS",
    "SHEET_QUERIES",
    "SIZES_OF",
    "STREAM_FORMATS",
    "TEXT_FORMATS",
    "ProbeSettings",
]

METRICS = ("cosine", "l2")
DEFAULT_METRIC = "cosine"
DEFAULT_NEIGHBORS = 10  # per query

EMBEDDINGS = ("pca", "tsne", "umap")
DEFAULT_EMBEDDING = "pca"
MOST_EMBEDDED = 2000  # maximum number of rows in an embedding
MOST_PICTURED = 30  # maximum number of them with a thumbnail

SHEET_QUERIES = 8  # lines of a contact sheet
SHEET_NEIGHBORS = 8  # per line

MOST_NORMS = 20_000  # maximum number of rows to measure norms of
SIZES_OF = ("images", "boxes")
CLASS_WEIGHTS = ("balanced", "none")

EXPORT_SUFFIXES = {
    "npz": (".npz",),
    "npy": (".npy",),
    "pt": (".pt", ".pth"),
    "safetensors": (".safetensors",),
    "zarr": (".zarr",),
    "parquet": (".parquet", ".pq"),
    "svmlight": (".svm", ".svmlight", ".libsvm"),
    "mat": (".mat",),
    "csv": (".csv", ".csv.gz"),
    "tsv": (".tsv", ".tsv.gz"),
}
EXPORT_FORMATS = tuple(EXPORT_SUFFIXES)
STREAM_FORMATS = ("npz", "npy", "pt", "safetensors", "svmlight", "csv", "tsv")  # can be written to a pipe
TEXT_FORMATS = ("svmlight", "csv", "tsv")
EXPORT_DTYPES = ("float32", "float16", "float64")

# Chosen for rows of norm 1. On one of five folds of Caltech-101 (3030 x 10752), accuracy was 85.6 % with C = 1.7,
# 87.0 % with 5, and 86.8 % with 17.
_DEFAULT_C = 5.0
_C = (1e-30, 1e30)  # range in which alpha = 1 / (2 C) fits float32


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Settings of a probe; :func:`sppfeat.probe` describes them.

    Raises:
        ConfigError: a value is not allowed.
    """

    folds: int = 5
    repeats: int = 1
    seed: int = 0
    C: float = _DEFAULT_C
    class_weight: str = "balanced"
    min_per_class: int | None = None
    ablation: bool = True
    max_nbytes: int | None = None

    def __post_init__(self) -> None:
        set_numbers(self, folds=(2,), repeats=(1,), min_per_class=(1,))
        set_numbers(self, seed=(0, 2**32 - 1 - self.repeats))
        if not _C[0] <= self.C <= _C[1]:
            raise ConfigError(f"C is {self.C}; allowed: {_C[0]:g} to {_C[1]:g}")
        check_choice("class-weight", self.class_weight, CLASS_WEIGHTS)

    @property
    def memory_nbytes(self) -> int:
        """Maximum memory to use, in bytes."""
        return available_nbytes() // 4 if self.max_nbytes is None else self.max_nbytes

    @property
    def least_per_class(self) -> int:
        """Minimum number of rows of a class, or of images if rows are boxes."""
        return self.folds if self.min_per_class is None else self.min_per_class
