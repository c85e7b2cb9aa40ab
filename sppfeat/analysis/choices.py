"""What analyses can be asked for, and what they do unasked; nothing heavy is imported for it."""

__all__ = [
    "DEFAULT_EMBEDDING",
    "DEFAULT_ENGINE",
    "DEFAULT_METRIC",
    "DEFAULT_NEIGHBOURS",
    "EMBEDDINGS",
    "ENGINES",
    "METRICS",
    "MOST_EMBEDDED",
    "MOST_NORMS",
    "MOST_PICTURED",
    "SHEET_NEIGHBOURS",
    "SHEET_QUERIES",
    "SIZES_OF",
]

METRICS = ("cosine", "l2")
DEFAULT_METRIC = "cosine"
ENGINES = ("exact", "faiss")
DEFAULT_ENGINE = "exact"
DEFAULT_NEIGHBOURS = 10  # of each query

EMBEDDINGS = ("pca", "tsne", "umap")
DEFAULT_EMBEDDING = "pca"
MOST_EMBEDDED = 2000  # rows
MOST_PICTURED = 30  # rows of an embedding

SHEET_QUERIES = 8  # lines of a contact sheet
SHEET_NEIGHBOURS = 8  # in each of them

MOST_NORMS = 20_000  # rows whose norms are measured
SIZES_OF = ("images", "boxes")
