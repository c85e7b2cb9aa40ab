"""Folders and files of the checkout that tests read."""

from pathlib import Path

__all__ = ["PHOTOS", "README", "REAL_DATA", "REPOSITORY", "SUPPORT"]

SUPPORT = Path(__file__).parent
REPOSITORY = SUPPORT.parent.parent
README = REPOSITORY / "README.md"
PHOTOS = REPOSITORY / "tests/images"
REAL_DATA = REPOSITORY.parent / "shared/data"  # image collections next to some checkouts
