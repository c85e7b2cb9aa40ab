"""Callbacks that ask a run to stop."""

import itertools
from collections.abc import Callable


def stop_at(n: int | None) -> Callable[[], bool]:
    """A callback that asks to stop from its ``n``-th call on; never if ``n`` is None."""
    asked = itertools.count(1)
    return lambda: n is not None and next(asked) >= n
