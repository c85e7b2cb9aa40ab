"""Named weights, such as ``IMAGENET1K_V2`` of ``resnet50``: their list, their files and their downloads."""

import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torchvision.models import get_model_weights

from sppfeat.config.specs import COMPACT_NAME, BackboneSpec
from sppfeat.config.values import StrPath
from sppfeat.errors import WeightsError
from sppfeat.files.downloads import OnDownload, download
from sppfeat.networks.weight_files import ParameterSets, read_weights_file
from sppfeat.networks.weights import file_sha256

__all__ = [
    "BUNDLED_ENTRY",
    "BUNDLED_FOLDER",
    "IMAGENET_INPUT",
    "FetchedWeights",
    "InputTransform",
    "WeightEntry",
    "bundled_hint",
    "fetch_entry",
    "find_entry",
    "list_entries",
    "read_entry",
]

BUNDLED_FOLDER = Path(__file__).parent / "pretrained"

# torchvision names its files <name>-<first digits of the SHA-256>.pth.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[^.]+$")


class InputTransform(NamedTuple):
    """The input that a network expects: mean and std of each channel (RGB, in 0..1), and the Pillow filter."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


IMAGENET_INPUT = InputTransform((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear")


class WeightEntry(NamedTuple):
    """A set of named weights of a model."""

    model: str
    name: str
    file_name: str
    url: str | None  # URL of the file; None if the file is part of the package
    sha256_prefix: str  # first digits of the file's SHA-256, in hexadecimal
    transform: InputTransform
    size_mb: float  # size of the file, in units of 2**20 bytes
    # Accuracy of the whole network on ImageNet's validation images in percent, as torchvision reports it, if it does.
    top1: float | None = None


# Part of the package, so that descriptors need no download.
BUNDLED_ENTRY = WeightEntry(
    model=COMPACT_NAME,
    name="DISTILLED_V1",
    file_name="spp_s16-ebf52c73.pth",
    url=None,
    sha256_prefix="ebf52c73dd57201fdecfc4295af2101b56eb6520095f29a512dea669360ab978",
    transform=IMAGENET_INPUT,
    size_mb=3.5,
)


class FetchedWeights(TypedDict):
    """A weights file on this machine.

    Attributes:
        name: name of the network.
        weights: name of the weights.
        path: absolute path of the file.
        sha256: SHA-256 of the file, in hexadecimal.
        bytes: size of the file.
        downloaded: false if the file was already there.
    """

    name: str
    weights: str
    path: str
    sha256: str
    bytes: int
    downloaded: bool


def list_entries(model_name: str) -> tuple[WeightEntry, ...]:
    """The weight entries of a model that can be a backbone; the first is its ``DEFAULT``.

    Example:
        >>> [entry.name for entry in list_entries("resnet50")]
        ['IMAGENET1K_V2', 'IMAGENET1K_V1']
    """
    if model_name == COMPACT_NAME:
        return (BUNDLED_ENTRY,)
    members = get_model_weights(model_name)
    default = members.DEFAULT
    others = [member for member in members if member is not default]
    return tuple(_torchvision_entry(model_name, member) for member in [default, *others])


def bundled_hint(backbone: BackboneSpec) -> str | None:
    """Advice for a user of the bundled weights; None for other weights."""
    if (backbone.name, backbone.weights) != (BUNDLED_ENTRY.model, BUNDLED_ENTRY.name):
        return None
    return (
        f"{backbone.name} is a small demo network; for real work use --backbone resnet50 (98 MB, downloaded "
        "once)"
    )


def find_entry(model_name: str, weights: str = "DEFAULT") -> WeightEntry:
    """Finds the weight entry of a model by name, or raises WeightsError; ``DEFAULT`` is the first entry."""
    entries = list_entries(model_name)
    if weights == "DEFAULT":
        return entries[0]
    for entry in entries:
        if entry.name == weights:
            return entry
    names = ", ".join(entry.name for entry in entries)
    raise WeightsError(f"{model_name} has no weights {weights!r}; allowed: DEFAULT, {names}")


def fetch_entry(
    entry: WeightEntry,
    *,
    folder: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
) -> FetchedWeights:
    """Downloads the file of an entry, unless it is present with the right checksum.

    A missing folder is created; None is torch's hub cache. A damaged file is replaced once the new one is complete.
    Raises WeightsError if the file cannot be downloaded.
    """
    if folder is not None and not str(folder):
        raise WeightsError("--weights-dir (or SPPFEAT_WEIGHTS_DIR) is empty; name a folder")
    path = _search_folders(entry, folder)[0] / entry.file_name
    sha256 = _checksum(path)
    is_missing = sha256 is None or not sha256.startswith(entry.sha256_prefix)
    if is_missing:
        if entry.url is None:
            raise WeightsError(
                f"{str(path)!r}, a file of the package with the {entry.name} weights of {entry.model}, is missing or "
                "damaged; install sppfeat again"
            )
        sha256 = download(entry.url, path, sha256_prefix=entry.sha256_prefix, on_progress=on_download)
    return {
        "name": entry.model,
        "weights": entry.name,
        "path": str(path.absolute()),
        "sha256": str(sha256),
        "bytes": path.stat().st_size,
        "downloaded": is_missing,
    }


def read_entry(
    entry: WeightEntry,
    *,
    folder: StrPath | None = None,
    on_download: OnDownload = lambda name, done, total: None,
) -> tuple[ParameterSets, str]:
    """Reads the parameters of an entry by name, and the SHA-256 of their file, which is always verified.

    The given folder is searched first, then torch's hub cache; a missing file is downloaded into the cache.
    Raises WeightsError if the folder is missing, or the file is damaged or cannot be downloaded.
    """
    if entry.url is not None and folder is not None and not (str(folder) and Path(folder).is_dir()):
        problem = "is not a folder" if str(folder) and Path(folder).exists() else "does not exist"
        raise WeightsError(
            f"the weights folder {str(folder)!r} {problem}; --weights-dir and SPPFEAT_WEIGHTS_DIR take an "
            "existing folder"
        )
    folders = _search_folders(entry, folder)
    paths = (place / entry.file_name for place in folders)
    path, sha256 = next(((path, found) for path in paths if (found := _checksum(path))), (Path(), ""))
    if not sha256:
        try:
            fetched = fetch_entry(entry, on_download=on_download)
        except WeightsError as error:
            if entry.url is None:
                raise
            raise WeightsError(f"{error}; {_offline_advice(entry, folders)}") from error
        path, sha256 = Path(fetched["path"]), fetched["sha256"]
    if not sha256.startswith(entry.sha256_prefix):
        raise WeightsError(
            f"{str(path)!r} is damaged or incomplete ({path.stat().st_size} bytes): its SHA-256 is "
            f"{sha256}, but should begin with {entry.sha256_prefix}; copy it again, or delete it"
        )
    return read_weights_file(path), sha256


def _torchvision_entry(model_name: str, member: Any) -> WeightEntry:
    file_name = member.url.rsplit("/", 1)[1]
    hash_in_name = _HASH_IN_NAME.search(file_name)
    transforms = member.transforms()
    top1 = member.meta.get("_metrics", {}).get("ImageNet-1K", {}).get("acc@1")
    return WeightEntry(
        model=model_name,
        name=member.name,
        file_name=file_name,
        url=member.url,
        sha256_prefix=hash_in_name[1] if hash_in_name else "",
        transform=InputTransform(
            tuple(transforms.mean), tuple(transforms.std), transforms.interpolation.value
        ),
        size_mb=float(member.meta["_file_size"]),
        top1=None if top1 is None or math.isnan(top1) else float(top1),
    )


def _search_folders(entry: WeightEntry, folder: StrPath | None) -> list[Path]:
    """The folders to search for the file of an entry, in order."""
    if entry.url is None:
        return [BUNDLED_FOLDER]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    return [hub] if folder is None else [Path(folder), hub]


def _checksum(path: Path) -> str | None:
    """The SHA-256 of a file; None if it does not exist."""
    if os.path.lexists(path) and not path.is_file():
        raise WeightsError(f"{str(path)!r} is not a weights file; allowed: a regular file, or a link to one")
    try:
        return file_sha256(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise WeightsError(f"cannot read the weights {str(path)!r}: {error.strerror}") from error


def _offline_advice(entry: WeightEntry, folders: list[Path]) -> str:
    searched = " or ".join(repr(str(place.absolute())) for place in folders)
    option = "" if entry.name == find_entry(entry.model).name else f" --weights {entry.name}"
    return (
        f"{entry.file_name}, the {entry.name} weights of {entry.model}, is not in {searched}. Offline: run "
        f"'sppfeat backbones --download {entry.model}{option}' on a machine with internet access, copy the "
        "file, and name its folder with --weights-dir or SPPFEAT_WEIGHTS_DIR; or use --weights FILE, or "
        "--weights none for an untrained network"
    )
