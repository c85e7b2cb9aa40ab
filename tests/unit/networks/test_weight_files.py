"""Weights files, and the messages about files of other kinds."""

import argparse
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sppfeat.errors import WeightsError
from sppfeat.networks.weight_files import read_weights_file

CUT = "is neither a PyTorch nor a safetensors file, or is cut short ({} bytes); copy or download it again"
STATE = {"conv.weight": torch.arange(4.0), "conv.bias": torch.zeros(1)}


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        read_weights_file(path)
    message = str(refused.value)
    assert message.isprintable()
    for text in ("weights_only", "safe_globals", "Unpickl", "torch.load", "PyTorch 2.6"):
        assert text not in message
    return message.removeprefix(f"{str(path)!r} ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", CUT.format(0)),
        (b"PK", CUT.format(2)),
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning", "is an HTML page"),
        (b"\n<!-- saved -->\n<HTML lang=en><head>", "is an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n",
            "is a Git LFS pointer; 'git lfs pull'",
        ),
        (
            b'{"error": "Repository not found"}',
            """is text, not weights; it begins with '{"error": "Repository""",
        ),
        ("Zugriff verweigert: für".encode(), "is text, not weights"),
        (b"\x1b[31mdenied\x1b[0m", "is text, not weights"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), CUT.format(107)),
    ],
)
def test_files_of_other_kinds_are_refused(tmp_path, content, reason):
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    assert refusal(path).startswith(reason)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"model": STATE, "args": argparse.Namespace(path=Path("a"))}, "argparse.Namespace, pathlib."),
        ({"state_dict": STATE, "mean": np.zeros(3)}, "numpy"),
        (
            nn.Sequential(nn.Conv2d(1, 1, 1)),
            "torch.nn.modules.container.Sequential, torch.nn.modules.conv.Conv2d",
        ),
    ],
)
def test_pickled_objects_are_refused(tmp_path, content, names):
    path = tmp_path / "w.pth"
    path.write_bytes(saved(content))
    assert names in refusal(path)
    assert refusal(path).startswith("holds objects (")
    for other in (saved(content, _use_new_zipfile_serialization=False), pickle.dumps(content)):
        path.write_bytes(other)
        assert refusal(path).startswith(
            "is a damaged pickle, or one of objects, which are never loaded; save"
        )


def test_a_program_is_refused(tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "w.pt")
    assert "is neither a PyTorch nor" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("kind", ["zip", "before 1.6", "safetensors"])
def test_a_file_that_is_cut_short_anywhere_says_so(tmp_path, kind):
    path = tmp_path / "w"
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        path.write_bytes(saved(STATE, _use_new_zipfile_serialization=kind == "zip"))
    whole = path.read_bytes()
    for n_bytes in (9, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:n_bytes])
        assert refusal(path).startswith(
            "is a damaged pickle" if kind == "before 1.6" else CUT.format(n_bytes)
        )


def test_the_format_is_recognized_by_content_not_suffix(tmp_path):
    save_file(STATE, tmp_path / "w.pth")
    (tmp_path / "w.safetensors").write_bytes(saved(STATE))
    for name in ("w.pth", "w.safetensors"):
        assert torch.equal(read_weights_file(tmp_path / name)[""]["conv.weight"], STATE["conv.weight"])


def test_paths_without_a_regular_file_are_refused(tmp_path):
    assert "is a folder; allowed: a weights file" in refusal(tmp_path)
    assert "no weights file" in refusal(tmp_path / "missing.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    assert "no weights file" in refusal(tmp_path / "pipe.pth")


class _Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_but_tensors_is_ever_unpickled(tmp_path):
    path = tmp_path / "evil.pth"
    for content in (pickle.dumps({"state_dict": _Evil()}), saved({"features.0.weight": _Evil()})):
        path.write_bytes(content)
        assert "objects" in refusal(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], torch.ones(3)])
def test_a_file_without_a_state_dict_says_what_it_found(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(saved(content))
    assert refusal(tmp_path / "w.pth").startswith("holds no state dict: found ")


def test_a_checkpoint_that_holds_itself_is_read(tmp_path):
    content = {"state_dict": dict(STATE)}
    content["self"] = content
    (tmp_path / "w.pth").write_bytes(saved(content))
    assert next(iter(read_weights_file(tmp_path / "w.pth"))) == "state_dict."
