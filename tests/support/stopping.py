"""Runs that are asked to stop."""

import itertools
from collections.abc import Callable


def stop_at(n: int | None) -> Callable[[], bool]:
    """What a run asks whether to stop: yes from the ``n``-th time on, or never."""
    asked = itertools.count(1)
    return lambda: n is not None and next(asked) >= n
