"""Small feature files with a known spectrum, for dimension reduction."""

import numpy as np
from feature_files import BLOCKS, DIMENSION, config, fill, plan_of

from sppfeat.analysis.reduce import reduce
from sppfeat.store.layout import create_file

N = 60
FAILED = (7, 31)
HAVE = np.setdiff1d(np.arange(N), FAILED)


def spectral(n=N, seed=0):
    """``(n, DIMENSION)``: far from zero, each direction half as wide as the one before, sorted by class."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((DIMENSION, DIMENSION)))
    rows = rng.standard_normal((n, DIMENSION)) * 2.0 ** -np.arange(DIMENSION)
    rows[:, 0] += np.arange(n) * 0.1
    return (rows @ turn + 3).astype(np.float32)


def write_file(path, rows, *, failed=FAILED, settings=None, dtype="float32"):
    """A finished file of one row per image in two classes; the images ``failed`` have failed."""
    n = len(rows)
    plan = plan_of(
        [f"{i}.jpg" for i in range(n)], labels=[i * 2 // n for i in range(n)], classes=[b"a", b"\xff"]
    )
    create_file(path, plan, settings or config(dtype), BLOCKS)
    return fill(path, rows, failed=failed)


def rounding(reduction, rows):
    """Bounds on the rounding of float32 sums in another order, for each row: ``(n, 1)``."""
    return DIMENSION * np.finfo(np.float32).eps * reduction.sensitivity(rows)[:, None]


def reduced(source, output, *, overwrite=False, dtype="float32", batch_size=None, **spec):
    """Reduces a file to four components unless ``spec`` says otherwise; returns the output."""
    reduce(
        source, output, overwrite=overwrite, dtype=dtype, batch_size=batch_size, **{"components": 4, **spec}
    )
    return output
