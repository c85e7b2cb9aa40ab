import atexit
import copy
import dataclasses
import functools
import gc
import hashlib
import os
import shutil
import signal
import subprocess
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from places import PHOTOS

if TYPE_CHECKING:
    from flaky_server import FlakyServer
    from killing import CommandServer, KillableRuns
    from object_store import ObjectStore
    from torch import Tensor, nn
    from weight_server import WeightServer

    from sppfeat.networks.backbones import Backbone
    from sppfeat.networks.named_weights import WeightEntry
    from sppfeat.networks.receptive_field import FeatureGeometry

# Imported objects stay alive; scanning them repeatedly takes a quarter of the collection time.
gc.disable()

# Before torch is loaded, as in the command line: idle threads stop spinning early.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# One thread per worker: more threads than cores cost a tenth of the time.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Few examples and no deadline: the suite runs on small, shared machines. Each run draws the same examples, so that a
# failure belongs to the change that is tested; SPPFEAT_DRAW_ANEW=1 draws others.
settings.register_profile(
    "sppfeat",
    max_examples=30,
    deadline=None,
    derandomize=not os.environ.get("SPPFEAT_DRAW_ANEW"),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("sppfeat")

collect_ignore = ["fuzz", "support/ray_nodes"]  # --doctest-modules would import these programs

# Tests send signals, which shells ignore in background jobs and nohup.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

COMMANDS: pytest.StashKey["CommandServer"] = pytest.StashKey()

SERVERS = {"s3", "weight_server", "web"}  # fixtures that start a server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests whose fixtures start a server."""
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.remote)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names bytes by their parameter: bytes may hold the time, and all workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_finish() -> None:
    """Excludes imported objects from garbage collection, which takes 0.3 s to scan them.

    They are collected at exit, since libraries made with nanobind report leaks, but not earlier, since pytest collects
    five times at its end.
    """
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Starts the command server after all imports, and before any test starts a thread."""
    if any("commands" in getattr(item, "fixturenames", ()) for item in session.items):
        from killing import CommandServer

        session.config.stash[COMMANDS] = CommandServer()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stops the command server."""
    if COMMANDS in config.stash:
        config.stash[COMMANDS].close()


@pytest.fixture(scope="session", autouse=True)
def cache_of_tests(tmp_path_factory) -> None:
    """Sets a cache folder for the tests and the processes that they start."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # matplotlib's list of fonts takes seconds to make.
    os.environ.setdefault("MPLCONFIGDIR", f"{user_cache}/matplotlib")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def errors_of_commands_are_raised() -> Iterator[None]:
    """Raises unexpected errors of commands; click's runner would turn them into exit code 1, as for a refusal."""
    from click.testing import CliRunner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CliRunner, "invoke", functools.partialmethod(CliRunner.invoke, catch_exceptions=False))
        yield


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs, a folder per class."""
    return PHOTOS


def write_image(path: Path, height: int, width: int, seed: int) -> None:
    """Writes a smooth random image, which resizing and JPEG change little."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)


def copy_module(module: "nn.Module") -> "nn.Module":
    """Copies parameters and buffers, which an extraction converts in place.

    Everything else is shared, since copying the graph of a network takes as long as a dozen images.
    """
    import torch

    copied = object.__new__(type(module))
    for name, value in vars(module).items():
        vars(copied)[name] = value.copy() if isinstance(value, dict) else value
    for name, child in module._modules.items():
        copied._modules[name] = child and copy_module(child)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            copied._parameters[name] = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
    for name, buffer in module._buffers.items():
        copied._buffers[name] = None if buffer is None else buffer.clone()
    return copied


@pytest.fixture(scope="session", autouse=True)
def networks_loaded_once() -> Iterator[None]:
    """Loads each network and traces its geometry once for all tests; both take longer than a dozen images."""
    from sppfeat import extractor
    from sppfeat.config.specs import DEFAULT_BACKBONE
    from sppfeat.extraction import recompute, run
    from sppfeat.networks.backbones import Backbone, load_backbone

    loaded: dict[str, Backbone] = {}
    walked: dict[tuple[str, int], FeatureGeometry] = {}
    keys: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()

    def load(name: str, **settings: Any) -> "Backbone":
        key = f"{name} {sorted((k, v) for k, v in settings.items() if k != 'on_download')}"
        is_bundled = name == DEFAULT_BACKBONE and settings["weights"] in ("DEFAULT", "DISTILLED_V1")
        if settings["weights"] != "none" and not is_bundled:  # a file may change
            return load_backbone(name, **settings)
        if key not in loaded:
            loaded[key] = load_backbone(name, **settings)
        kept = loaded[key]
        network, head = copy_module(kept.network), kept.head and copy.deepcopy(kept.head)
        backbone = dataclasses.replace(kept, network=network, head=head)
        keys[network] = key
        return backbone

    def geometry(backbone: Backbone, layer: int) -> "FeatureGeometry":
        if backbone.network not in keys:
            return walk(backbone, layer)
        key = keys[backbone.network], layer
        if key not in walked:
            walked[key] = walk(backbone, layer)
        return walked[key]

    walk = Backbone.geometry
    with pytest.MonkeyPatch.context() as patch:
        for module in (extractor, recompute, run):
            patch.setattr(module, "load_backbone", load)
        patch.setattr(Backbone, "geometry", geometry)
        yield


@pytest.fixture(scope="session")
def squeezenet_state() -> dict[str, "Tensor"]:
    """The parameters of an untrained squeezenet1_1."""
    import torch
    from torchvision.models import get_model

    with torch.random.fork_rng():
        torch.manual_seed(11)
        state: dict[str, Tensor] = get_model("squeezenet1_1", weights=None).state_dict()
    return state


@pytest.fixture(scope="session")
def commands(request) -> "CommandServer":
    """The command server."""
    return request.config.stash[COMMANDS]


@pytest.fixture(scope="session")
def runs(commands, tmp_path_factory) -> "KillableRuns":
    """Runs in real processes that can be killed."""
    from killing import KillableRuns

    return KillableRuns(commands, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def weight_server(monkeypatch) -> Iterator["WeightServer"]:
    """A local server of weights."""
    from weight_server import WeightServer

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = WeightServer()
    yield server
    server.close()


@pytest.fixture
def offer(
    weight_server: "WeightServer", monkeypatch, tmp_path: Path
) -> Callable[[str, bytes], "WeightEntry"]:
    """Offers weights of a model on that server; the cache of torch.hub is empty."""
    from sppfeat.networks import named_weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torchvision_entries, offered = named_weights.list_entries, {}

    def offer_weights(model: str, content: bytes) -> "WeightEntry":
        sha256 = hashlib.sha256(content).hexdigest()
        name = f"{model}-{sha256[:8]}.pth"
        weight_server.files[name] = content
        offered[model] = torchvision_entries(model)[0]._replace(
            file_name=name, url=weight_server.url(name), sha256_prefix=sha256[:8]
        )
        return offered[model]

    def list_entries(model: str) -> tuple["WeightEntry", ...]:
        return (offered[model],) if model in offered else torchvision_entries(model)

    monkeypatch.setattr(named_weights, "list_entries", list_entries)
    return offer_weights


@pytest.fixture
def mount_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of a size in megabytes; needs root."""
    mounted = tmp_path / "disk"

    def mount(n_megabytes: int) -> Path:
        mounted.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_megabytes}m", "tmpfs", str(mounted)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("cannot mount a file system here")
        return mounted

    yield mount
    if mounted.is_mount():
        subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images of five sizes in two class folders."""
    top = tmp_path / "pictures"
    sizes = [(40, 60), (60, 40), (48, 48), (33, 71), (90, 64)]
    for i in range(12):
        write_image(top / ("cat" if i % 2 else "dog") / f"img{i}.png", *sizes[i % len(sizes)], seed=i)
    return top


@pytest.fixture
def mixed_folder(folder: Path) -> Path:
    """The same folder with three files that cannot be read as images."""
    (folder / "cat" / "empty.jpg").touch()
    (folder / "cat" / "text.jpg").write_text("not a picture")
    whole = (folder / "dog" / "img0.png").read_bytes()
    (folder / "dog" / "short.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def s3() -> "Iterator[FlakyServer]":
    """A local S3 server behind a proxy that can fail."""
    from object_store import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def store(s3: "FlakyServer", monkeypatch: pytest.MonkeyPatch) -> "Iterator[ObjectStore]":
    """The empty buckets of that server, which the environment points to."""
    from object_store import ObjectStore

    store = ObjectStore(s3, monkeypatch)
    yield store
    store.close()
