"""What importing a module loads: a command's help needs no network, a decoding worker neither, a reader no torch."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "h5py",
    "PIL",
    "click",
    "tqdm",
    "numpy",
    "matplotlib",
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "jinja2",
    "fsspec",
    "s3fs",
    "aiohttp",
)


def loaded_after_each(lines):
    """Return which of the heavy packages a fresh Python has loaded after each of some lines of code."""
    report = f"print(json.dumps([n for n in {HEAVY!r} if n in sys.modules]))"
    script = "\n".join(["import json, sys", *(f"{line}\n{report}" for line in lines)])
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = [set(json.loads(line)) for line in result.stdout.splitlines() if line.startswith("[")]
    assert len(found) == len(lines)
    return dict(zip(lines, found, strict=True))


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        (
            (
                "import sppfeat",
                "import sppfeat.config",
                "import sppfeat.networks.zoo",
                "import sppfeat.analysis.choices",
            ),
            set(),
        ),
        (("import sppfeat.cli", "import sppfeat.cli.bench", "import sppfeat.cli.probe"), {"click"}),
        (("import sppfeat.store.schema",), {"numpy"}),
        (
            (
                "import sppfeat.bench.samples",
                "import sppfeat.decoding.worker",
                "import sppfeat.inputs",
                "import sppfeat.extraction.plan",
                "import sppfeat.extraction.pipeline",
                "import sppfeat.boxes.formats",
                "import sppfeat.store.reduction",
            ),
            {"numpy", "PIL"},
        ),
        (
            (
                "import sppfeat.store.writer",
                "import sppfeat.store.layout",
                "import sppfeat.store.reader",
                "sppfeat.open",
                "import sppfeat.store.reader, sppfeat.analysis.export",
                "import sppfeat.analysis.probe, sppfeat.analysis.probe.classifier",
                "import sppfeat.analysis.reduce",
                "import sppfeat.analysis.neighbors, sppfeat.analysis.search",
                "import sppfeat.analysis.report.page, sppfeat.analysis.report",
            ),
            {"numpy", "PIL", "h5py"},
        ),
    ],
)
def test_what_an_import_loads(lines, allowed):
    too_much = {line: found - allowed for line, found in loaded_after_each(lines).items() if found - allowed}
    assert not too_much


def test_help_of_no_command_loads_a_heavy_package():
    # In one process: what a command's help adds to what those before it have loaded.
    code = f"""
import contextlib, io, json, sys
import click
from sppfeat.cli import main

def commands_of(group, names):
    yield names
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        yield from commands_of(command, [*names, name]) if isinstance(command, click.Group) else [[*names, name]]

def shown(arguments):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:
        main(arguments)
    return text.getvalue()

shown(["--version"])
for names in commands_of(main, []):
    assert "Usage: " in shown([*names, "--help"]), names
    print(json.dumps([" ".join(names), [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = dict(map(json.loads, result.stdout.splitlines()))
    assert {"", "extract", "show image", "bench regions"} <= set(loaded)
    assert {command: names for command, names in loaded.items() if names != ["click"]} == {}


def test_worker_processes_load_neither_torch_nor_h5py(tmp_path, monkeypatch):
    from sppfeat.decoding import DecoderPool, DecodeSettings

    maps = []
    pool = DecoderPool(DecodeSettings("apply", "bilinear"), n_workers=1)
    try:
        list(pool.probe([b"gone.jpg"]))
        with open(f"/proc/{pool._workers[0].process.pid}/maps") as file:
            maps = file.read()
    finally:
        pool.close()
    assert "_imaging" in maps
    assert "torch" not in maps
    assert "hdf5" not in maps
