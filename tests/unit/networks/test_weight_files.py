"""Weights files, and the messages about files of other kinds."""

import argparse
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sppfeat.errors import WeightsError
from sppfeat.networks.weight_files import read_weights_file

STATE = {"conv.weight": torch.arange(4.0), "conv.bias": torch.zeros(1)}


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("weights/model.pth", "x" * 99)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as file:
            file.addfile(tarfile.TarInfo("model.pth"))
    return buffer.getvalue()


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as refused:
        read_weights_file(path)
    message = str(refused.value)
    assert message.isprintable()
    for text in ("weights_only", "safe_globals", "Unpickl", "torch.load", "PyTorch 2.6"):
        assert text not in message
    return message.removeprefix(f"{str(path)!r} ")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; copy or download it again"),
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning", "is an HTML page"),
        (b"\n<!-- saved -->\n<HTML lang=en><head>", "is an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n",
            "is a Git LFS pointer; 'git lfs pull'",
        ),
        (
            b'{"error": "Repository not found"}',
            """is JSON text, not weights; it begins with '{"error": "Repository""",
        ),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is XML text"),
        (b"404: Not Found", "is text, not weights; it begins with '404: Not Found'"),
        ("Zugriff verweigert: für".encode(), "is text, not weights"),
        (b"\x1b[31mdenied\x1b[0m", "is text, not weights"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (archive("zip"), "is a ZIP archive that torch.save did not write"),
        (archive(""), "is a tar archive; unpack it"),
        (archive("gz"), "is compressed with gzip; unpack it"),
        (b"\x00\x01\x02\xff" * 9, "is neither a PyTorch nor a safetensors file, or is cut short (36 bytes)"),
        (b"PK", "is neither a PyTorch nor a safetensors file, or is cut short (2 bytes)"),
        (saved(STATE)[:40] + b"\xff" * 160 + saved(STATE)[200:], "is damaged or cut short"),
    ],
)
def test_files_of_other_kinds_are_identified(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in refusal(path)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            {"model": STATE, "args": argparse.Namespace(lr=0.1)},
            "holds argparse.Namespace objects; save model.state_dict() alone",
        ),
        ({"state_dict": STATE, "best": np.float64(0.9)}, "holds numpy objects; save"),
        ({"state_dict": STATE, "mean": np.zeros(3)}, "holds numpy objects; save"),
        (
            {"model": STATE, "args": argparse.Namespace(path=Path("a"), x=np.ones(1))},
            "holds argparse.Namespace, pathlib.",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 1, 1)),
            "holds a whole model, torch.nn.modules.container.Sequential; save",
        ),
        (
            {"model": nn.Conv2d(1, 1, 1), "epoch": 3},
            "holds a whole model, torch.nn.modules.conv.Conv2d; save",
        ),
    ],
)
def test_classes_of_pickled_objects_are_named(tmp_path, content, reason, old):
    path = tmp_path / "w.pth"
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not old))
    assert refusal(path).startswith(reason)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_that_torch_did_not_write_are_refused(tmp_path, protocol):
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(3)}}, protocol))
    assert refusal(path) == "holds numpy objects; save model.state_dict() alone"
    path.write_bytes(pickle.dumps(STATE, protocol))
    assert "a damaged pickle, or torch.save did not write it; save model.state_dict() alone" in refusal(path)


def test_a_program_is_refused(tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "w.pt")
    program = "is a TorchScript or exported program; save model.state_dict() alone"
    assert refusal(tmp_path / "w.pt") == program
    with zipfile.ZipFile(tmp_path / "w.pt2", "w") as file:
        file.writestr("w/archive_format", "pt2")
    assert refusal(tmp_path / "w.pt2") == program


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
        assert refusal(path) == f"is damaged or cut short ({n_bytes} bytes); copy or download it again"


def test_formats_are_told_by_content_not_by_suffix(tmp_path):
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
    path.write_bytes(pickle.dumps({"state_dict": _Evil()}))
    assert "exec objects; save model.state_dict() alone" in refusal(path)
    path.write_bytes(saved({"features.0.weight": _Evil()}))
    assert "exec objects; save model.state_dict() alone" in refusal(path)


@pytest.mark.parametrize("content", [{"epoch": 3}, {}, [torch.ones(1)], torch.ones(3)])
def test_a_file_without_a_state_dict_says_what_it_found(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(saved(content))
    assert refusal(tmp_path / "w.pth").startswith("holds no state dict: found ")


def test_a_checkpoint_that_holds_itself_is_read(tmp_path):
    content = {"state_dict": dict(STATE)}
    content["self"] = content
    (tmp_path / "w.pth").write_bytes(saved(content))
    assert next(iter(read_weights_file(tmp_path / "w.pth"))) == "state_dict."
