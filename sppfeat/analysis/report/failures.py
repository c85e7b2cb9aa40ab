"""Why images failed, reason by reason."""

import os
import re
from dataclasses import dataclass

from sppfeat.store.feature_table import FeatureTable

__all__ = ["FailureGroup", "group_failures"]

_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class FailureGroup:
    """Images that failed for one reason.

    Attributes:
        reason: why, in the words of the first of them; those of the others differ in numbers at most.
        count: how many images.
        paths: the first of them, with what the inputs called them where that is known.
    """

    reason: str
    count: int
    paths: tuple[str, ...]


def group_failures(file: FeatureTable, *, most_paths: int) -> list[FailureGroup]:
    """The reasons for which images of a file failed, the most frequent first.

    Args:
        file: the open file.
        most_paths: images that are named for each reason.
    """
    images: dict[str, list[int]] = {}
    errors = file.errors
    for image, reason in errors.items():
        images.setdefault(_NUMBER.sub("0", reason), []).append(image)
    groups = sorted(images.values(), key=lambda group: (-len(group), group[0]))
    return [
        FailureGroup(
            errors[group[0]] or "no reason is recorded",
            len(group),
            tuple(_name(file, i) for i in group[:most_paths]),
        )
        for group in groups
    ]


def _name(file: FeatureTable, image: int) -> str:
    ids = file.image_id_table
    path = file.path_of(image)
    return f"{path} (id {os.fsdecode(ids[image])})" if ids and ids[image] else path
