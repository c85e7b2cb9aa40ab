"""Parameters of networks: reading from files, loading into a network, and checksums."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from sppfeat.config.wording import first_few
from sppfeat.errors import WeightsError

__all__ = [
    "file_sha256",
    "is_weights_file",
    "load_parameters",
    "read_tensors",
    "read_weights_file",
    "state_sha256",
    "trained_backbone",
]

# Keys under which training scripts store the parameters in a checkpoint, the most usual first.
_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "params")
# Prefixes that DataParallel and torch.compile put before every name.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# torchvision's densenet files still name norm1 as norm.1, as modules could be named before torch 0.4.
_LEGACY_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_SHOWN_KEYS = 5


def is_weights_file(weights: str) -> bool:
    """True if a ``--weights`` value is a file rather than the name of weights.

    Example:
        >>> is_weights_file("IMAGENET1K_V1"), is_weights_file("runs/model.pth")
        (False, True)
    """
    return os.sep in weights or Path(weights).suffix != "" or Path(weights).is_file()


def read_weights_file(path: Path) -> dict[str, Tensor]:
    """Reads parameters from a local file: a state dict, or a checkpoint that holds one under a usual key.

    Only tensors are read, never pickled objects; WeightsError if there are none. The prefixes ``module.`` and
    ``_orig_mod.`` are dropped if every name has them.
    """
    if not path.is_file():
        raise WeightsError(f"no weights file {str(path)!r}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_tensors(path)
    at_top = dict(content) if isinstance(content, Mapping) else {}
    state = next(filter(_is_state_dict, [at_top, *(at_top.get(key) for key in _CHECKPOINT_KEYS)]), None)
    if state is None:
        found = list(at_top)[:_SHOWN_KEYS] if isinstance(content, Mapping) else type(content).__name__
        raise WeightsError(
            f"{str(path)!r} holds no state dict: found {found}; allowed: names to tensors, "
            f"at the top or under {', '.join(_CHECKPOINT_KEYS)}"
        )
    while wrapper := next((p for p in _WRAPPER_PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return dict(state)


def trained_backbone(path: Path) -> str | None:
    """The name of the backbone in a file from ``sppfeat train``; None if the file does not say."""
    content = None if path.suffix == ".safetensors" else read_tensors(path)
    try:
        name = json.loads(content["provenance"])["settings"]["backbone"]["name"]  # type: ignore[index]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None


def load_parameters(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    needed: Collection[str],
    used_modules: Collection[str],
    source: str,
) -> None:
    """Copies a state dict of any floating-point type into a model.

    Args:
        state: tensors by name. Those that are not needed, such as a classifier, are skipped if they do not fit.
        needed: names of the parameters that the chosen layers and the head depend on; these must match.
        used_modules: names of their modules. Other parameters there (of a normalization after fc6, say) are refused.
        source: name of the weights, for the WeightsError that names the keys that do not match.
    """
    own = model.state_dict()
    state = {_LEGACY_DENSENET.sub(r"\1\2", name): value for name, value in state.items()}
    parts = {name.partition(".")[0] for name in own}
    used_prefixes = tuple(f"{module}." for module in used_modules)
    unfit = {
        # num_batches_tracked is a counter that evaluation does not read; checkpoints before torch 0.4 lack it.
        "missing": [
            name for name in needed if name not in state and not name.endswith("num_batches_tracked")
        ],
        "unknown": [
            name
            for name in state
            if name not in own and (name.partition(".")[0] not in parts or name.startswith(used_prefixes))
        ],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in needed
            if name in state and state[name].shape != own[name].shape
        ],
    }
    if any(unfit.values()):
        details = "; ".join(
            f"{len(names)} {what}: {first_few(names, _SHOWN_KEYS)}" for what, names in unfit.items() if names
        )
        raise WeightsError(f"{source} does not fit this backbone: {details}")
    fitting = {name: value for name, value in state.items() if name in own and value.shape == own[name].shape}
    # The model's own dict carries the versions of its modules; mnasnet cannot be loaded without its version.
    own.update(fitting)
    model.load_state_dict(own)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the names, types, shapes and values of a state dict, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_tensors(path: Path) -> Any:
    """Reads a file of ``torch.save`` that holds tensors, numbers, texts and containers of them.

    Raises WeightsError for other files, also for those with pickled objects, which are never executed.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any type, from its unpickler or zip reader
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise WeightsError(f"cannot read {str(path)!r} as a file of tensors: {reason}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"reading {str(path)!r} needs the package safetensors: pip install 'sppfeat[safetensors]'"
        ) from error
    try:
        state: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"cannot read {str(path)!r} as safetensors: {error}") from error
    return state


def _is_state_dict(value: Any) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(part, Tensor) for name, part in value.items())
    )
