"""Feature files with their images, for pictures and reports."""

from pathlib import Path

import numpy as np
from conftest import write_image
from feature_files import BLOCKS, DIMENSION, config, fill, plan_of

from sppfeat.store.layout import create_file

CLASSES = ("cat", "dog", "<script>alert(1)</script>")
FAILED = 4  # number of the failed image


def labelled_rows(n: int, labels: list[int]) -> np.ndarray:
    """Rows scattered around one center per class."""
    rng = np.random.default_rng(0)
    centers = 3 * rng.standard_normal((max(labels) + 1, DIMENSION))
    return (centers[labels] + rng.standard_normal((n, DIMENSION))).astype(np.float32)


def pictured_file(folder: Path, n: int = 24, *, images: bool = True, labels: bool = True) -> Path:
    """A file of ``n`` whole images in classes; one image failed, and its name is not UTF-8."""
    numbers = [i % len(CLASSES) for i in range(n)]
    names = [f"{i}.png".encode() for i in range(n)]
    names[FAILED] = b'\xff" onerror="x.png'
    sizes = [(20 + i, 30) for i in range(n)]
    if images:
        for name, (height, width) in zip(names, sizes, strict=True):
            write_image(folder / "images" / name.decode("utf-8", "surrogateescape"), height, width, seed=0)
    path = folder / "f.h5"
    known = {"labels": numbers, "classes": [c.encode() for c in CLASSES]} if labels else {}
    plan = plan_of(names, sizes=sizes, root=bytes(folder / "images"), **known)
    create_file(path, plan, config(), BLOCKS)
    rows = labelled_rows(n, numbers)
    return fill(path, rows, failed=[FAILED], reason='broken at 7: <img src="x" onerror="alert(1)">')
