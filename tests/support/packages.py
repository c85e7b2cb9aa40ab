"""Checks for optional packages without importing them, which takes seconds of every collection."""

from importlib.util import find_spec

import pytest

__all__ = ["need_packages"]


def need_packages(*names: str) -> None:
    """Skips the calling test module if a package is not installed."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
