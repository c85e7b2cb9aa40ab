"""Folds of a cross-validation: classes spread evenly, rows of one image never on both sides."""

import warnings
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sppfeat.config.machine import import_extra
from sppfeat.config.wording import counted
from sppfeat.errors import LabelError

__all__ = ["Fold", "make_folds"]


class Fold(NamedTuple):
    """What is trained on and what is tested on, each ``(k,)`` int64 positions, ascending."""

    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def make_folds(
    y: npt.NDArray[np.int64], groups: npt.NDArray[np.int64] | None, *, n_folds: int, repeats: int, seed: int
) -> list[Fold]:
    """The folds of all repeats, one repeat after the other.

    Args:
        y: ``(n,)`` class of each row.
        groups: ``(n,)``; rows of one group stay together. None: each row for itself.
        n_folds: of each repeat; every row is tested once in each.
        repeats: how many shuffles, seeded with ``seed``, ``seed + 1``, ...

    Raises:
        LabelError: these rows cannot be split so that each fold has rows to test and two classes to train on.
    """
    splits = import_extra("sklearn.model_selection", extra="sklearn", purpose="cross-validation")
    kind = splits.StratifiedKFold if groups is None else splits.StratifiedGroupKFold
    folds = []
    for repeat in range(repeats):
        splitter = kind(n_folds, shuffle=True, random_state=seed + repeat)
        try:
            with warnings.catch_warnings():
                # Of classes with fewer rows than folds: the caller has asked for them.
                warnings.simplefilter("ignore", UserWarning)
                found = [Fold(train, test) for train, test in splitter.split(np.zeros(len(y)), y, groups)]
        except ValueError as error:
            raise LabelError(
                f"{counted(len(y), 'row')} cannot be split into {n_folds} folds: {error}"
            ) from error
        for number, fold in enumerate(found):
            if not len(fold.test) or len(np.unique(y[fold.train])) < 2:
                raise LabelError(
                    f"fold {number} of {n_folds} would have {counted(len(fold.test), 'row')} to test and "
                    f"{counted(len(np.unique(y[fold.train])), 'class')} to train on; needed: 1 and 2. Try fewer --folds"
                )
        folds += found
    return folds
