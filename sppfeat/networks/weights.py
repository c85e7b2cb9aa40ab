"""Finds the parameters of a network in a checkpoint and loads them; checksums of files and parameters."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sppfeat.config.wording import counted, escaped, first_few
from sppfeat.errors import WeightsError
from sppfeat.networks.weight_files import ParameterSets, read_tensors

__all__ = ["file_sha256", "load_parameters", "state_sha256", "trained_backbone"]

# Keys under which training scripts store the parameters in a checkpoint, the most usual first.
_CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "params")
# Prefixes that DataParallel, FSDP and torch.compile put before every name, and usual names of a network in scripts.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")
_USUAL_PARTS = frozenset((*_CHECKPOINT_KEYS, *_WRAPPERS, "backbone", "encoder"))
# Modules that take a backbone's features: heads other than the model's own.
_HEAD = re.compile(r"head|classif|project|predict|prototype|logit|embedding|^fc|_fc$", re.IGNORECASE)
# torchvision's densenet files still say norm.1 for norm1, a name that torch allowed before 0.4.
_LEGACY_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_SHOWN_KEYS = 5


class _Candidate(NamedTuple):
    """Parameters of a checkpoint whose names follow a prefix, under the keys of ``place``."""

    place: str
    prefix: str
    state: Mapping[str, Tensor]  # by name after the prefix
    others: tuple[str, ...]  # the modules of the same dict whose names lack the prefix

    @property
    def rank(self) -> tuple[int, bool, bool]:
        """Order of candidates: at the top, under the usual keys, elsewhere; no prefix, a usual prefix, any other."""
        key = self.place.partition(".")[0]
        usual = _CHECKPOINT_KEYS.index(key) if key in _CHECKPOINT_KEYS else len(_CHECKPOINT_KEYS)
        return usual if key else -1, bool(self.prefix), not _USUAL_PARTS.issuperset(_parts(self.prefix))

    def __str__(self) -> str:
        return repr(self.place + self.prefix or "the top")


def trained_backbone(path: Path) -> str | None:
    """The name of the backbone in a file from ``sppfeat train``; None for other files."""
    try:
        name = json.loads(read_tensors(path)["provenance"])["settings"]["backbone"]["name"]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return name if isinstance(name, str) else None


def load_parameters(
    model: nn.Module,
    sets: ParameterSets,
    *,
    needed: Collection[str],
    used_modules: Collection[str],
    source: str,
) -> str:
    """Copies parameters of any floating-point type from a checkpoint into a model.

    A prefix of the names is dropped if all needed parameters follow it: ``model.``, ``module.backbone.``, or any other.

    Args:
        sets: tensors by name, as :func:`sppfeat.networks.weight_files.read_weights_file` returns them. Unneeded
            ones, such as a classifier, are skipped if they do not fit.
        needed: names of the parameters that the chosen layers and the head depend on; these must match.
        used_modules: names of their modules. Other parameters there (of a normalization after fc6, say) are refused.
        source: name of the weights, for messages.

    Returns:
        A note for the user on a chosen prefix and skipped modules; empty if all parameters were used under their names.

    Raises:
        WeightsError: no parameters fit (the message names the keys that do not match), or several fit equally well.
    """
    own = model.state_dict()
    # num_batches_tracked is a counter that evaluation does not read; checkpoints before torch 0.4 lack it.
    shapes = {name: own[name].shape for name in needed if not name.endswith("num_batches_tracked")}
    found, alternatives = _choose(sets, shapes, source)
    parts = {name.partition(".")[0] for name in own}
    used_prefixes = tuple(f"{module}." for module in used_modules)
    unknown = [
        name
        for name in found.state
        if name not in own and (name.partition(".")[0] not in parts or name.startswith(used_prefixes))
    ]
    heads = [
        name
        for name in unknown
        if _HEAD.search(name.partition(".")[0]) and not name.startswith(used_prefixes)
    ]
    unfit = {
        "missing": [name for name in shapes if name not in found.state],
        "unknown": [name for name in unknown if name not in heads],
        "with another shape": [
            f"{name} {tuple(found.state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in needed
            if name in found.state and found.state[name].shape != own[name].shape
        ],
    }
    if any(unfit.values()):
        details = "; ".join(
            f"{len(names)} {problem}: {first_few(map(escaped, names), _SHOWN_KEYS)}"
            for problem, names in unfit.items()
            if names
        )
        where = f" (names under {found})" if found.place or found.prefix else ""
        raise WeightsError(f"{source} does not fit this backbone{where}: {details}")
    fitting = {
        name: value for name, value in found.state.items() if name in own and value.shape == own[name].shape
    }
    # The model's own dict carries the versions of its modules; mnasnet cannot be loaded without its version.
    own.update(fitting)
    model.load_state_dict(own)
    return _note(found, alternatives, [*found.others, *_modules(heads)])


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


def _choose(
    sets: ParameterSets, shapes: Mapping[str, torch.Size], source: str
) -> tuple[_Candidate, list[_Candidate]]:
    """Chooses the parameters that fit best, and lists others that fit; WeightsError if several are the best."""
    candidates = [
        candidate for place, tensors in sets.items() for candidate in _candidates(place, tensors, shapes)
    ]
    candidates.sort(key=lambda candidate: candidate.rank)
    fitting = [
        candidate
        for candidate in candidates
        if all(name in candidate.state and candidate.state[name].shape == shapes[name] for name in shapes)
    ]
    if not fitting:
        return max(candidates, key=lambda candidate: len(shapes.keys() & candidate.state.keys())), []
    best = fitting[0]
    # A network that a module holds under two names is in the file twice.
    others = [
        other
        for other in fitting[1:]
        if not all(torch.equal(other.state[name], best.state[name]) for name in shapes)
    ]
    equals = [str(other) for other in others if other.rank == best.rank]
    if equals:
        raise WeightsError(
            f"{source}: {len(equals) + 1} sets of parameters fit this backbone: "
            f"{first_few([str(best), *equals], _SHOWN_KEYS)}; save one of them alone"
        )
    return best, others


def _candidates(place: str, tensors: Mapping[str, Tensor], wanted: Collection[str]) -> Iterator[_Candidate]:
    """Yields the parameters under each prefix that comes before the largest number of wanted names."""
    tensors = {_LEGACY_DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
    counts = Counter({"": 0})
    for name in tensors:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        counts.update(name[:start] for start in starts if name[start:] in wanted)
    most = max(counts.values())
    for prefix in (prefix for prefix, count in counts.items() if count == most):
        state = {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}
        others = _modules(name for name in tensors if not name.startswith(prefix))
        yield _Candidate(place, prefix, state, others)


def _parts(prefix: str) -> list[str]:
    return prefix.split(".")[:-1]


def _modules(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.partition(".")[0] for name in names))


def _note(found: _Candidate, alternatives: Sequence[_Candidate], skipped: Sequence[str]) -> str:
    notes = []
    is_usual = {*_parts(found.place)} <= {*_CHECKPOINT_KEYS} and {*_parts(found.prefix)} <= {*_WRAPPERS}
    if alternatives or not is_usual:
        notes.append(f"using the parameters under {found} of the weights file")
    if alternatives:
        others = first_few(map(str, alternatives), _SHOWN_KEYS)
        notes.append(f"others fit, too; to use one, save it alone: {others}")
    if skipped:
        names = first_few(map(escaped, skipped), _SHOWN_KEYS)
        notes.append(f"skipped {counted(len(skipped), 'other module')} of the weights file: {names}")
    return "; ".join(notes)
