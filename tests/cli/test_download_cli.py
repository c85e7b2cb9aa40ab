"""``sppfeat backbones --download``, and runs whose weights are in a folder."""

import hashlib
import io
import json
import signal
import threading

import pytest
import torch
from command_line import run
from torchvision.models import get_model

import sppfeat
from sppfeat.config import progress

NAMES = ("squeezenet1_0", "squeezenet1_1")


@pytest.fixture
def entries(offer):
    return {name: offer(name, f"weights of {name}".encode() * 1000) for name in NAMES}


@pytest.fixture
def cache(tmp_path):
    """torch's hub cache."""
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_one_network_by_name(entries, cache, weight_server):
    path = cache / entries[NAMES[1]].file_name
    result = run("backbones", "--download", NAMES[1], code=0)
    assert result.stdout == f"{NAMES[1]} IMAGENET1K_V1: {path} (24.0 kB, downloaded)\n"
    assert path.read_bytes() == weight_server.files[path.name]
    again = run("backbones", "--download", NAMES[1], code=0)
    assert again.stdout == f"{NAMES[1]} IMAGENET1K_V1: {path} (24.0 kB, already there, checksum verified)\n"
    assert len(weight_server.asked) == 1


def test_json_lists_downloaded_files(entries, cache, weight_server):
    expected = [
        {
            "name": name,
            "weights": "IMAGENET1K_V1",
            "path": str(cache / entries[name].file_name),
            "sha256": hashlib.sha256(weight_server.files[entries[name].file_name]).hexdigest(),
            "bytes": 24000,
            "downloaded": True,
        }
        for name in NAMES
    ]
    assert json.loads(run("backbones", "--download", "squeezenet*", "--json").stdout) == expected
    again = [{**file, "downloaded": False} for file in expected]
    assert json.loads(run("backbones", "--download", "squeezenet*", "--json").stdout) == again


def test_a_folder_from_the_option_or_the_environment(entries, cache, tmp_path):
    name, file_name = NAMES[0], entries[NAMES[0]].file_name
    environment = {"SPPFEAT_WEIGHTS_DIR": str(tmp_path / "c")}
    run("backbones", "--download", name, "--weights-dir", tmp_path / "a" / "b", code=0)
    run("backbones", "--download", name, env=environment, code=0)
    assert (tmp_path / "a" / "b" / file_name).is_file()
    assert (tmp_path / "c" / file_name).is_file()
    assert not cache.exists()


def test_a_failed_download_does_not_stop_the_others(entries, cache, weight_server):
    del weight_server.files[entries[NAMES[0]].file_name]
    result = run("backbones", "--download", "squeezenet*", code=1)
    assert result.stdout.startswith(f"{NAMES[1]} IMAGENET1K_V1: ")
    assert f"{NAMES[0]}: cannot download {entries[NAMES[0]].url} to " in result.stderr
    assert result.stderr.endswith(f"Error: 1 of 2 downloads failed: {NAMES[0]}\n")
    assert [path.name for path in cache.iterdir()] == [entries[NAMES[1]].file_name]
    result = run("backbones", "--download", "squeezenet*", "--json", code=1)
    assert [file["name"] for file in json.loads(result.stdout)] == [NAMES[1]]


def test_a_failed_download_by_name_is_reported_once(entries, weight_server):
    weight_server.files.clear()
    result = run("backbones", "--download", NAMES[0], code=1)
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: cannot download {entries[NAMES[0]].url} to ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        ((), 2, "--download needs NAME"),
        (("",), 2, "--download needs NAME"),
        (("vit_b_16",), 2, "'vit_b_16' is not supported"),
        (("squeezenet",), 2, "did you mean squeezenet1_"),
        (("squeeze?",), 2, "no backbone matches 'squeeze?'"),
        (("resnet18", "--weights", "V7"), 1, "resnet18 has no weights 'V7'; allowed: DEFAULT, IMAGENET1K_V1"),
        (("resnet18", "--weights", "none"), 1, "resnet18 has no weights 'none'; allowed: DEFAULT"),
        (
            (NAMES[0], "--weights-dir", ""),
            1,
            "--weights-dir (or SPPFEAT_WEIGHTS_DIR) is empty; name a folder",
        ),
        ((NAMES[0], "--weights-dir", "/dev/null"), 1, "File exists"),
    ],
)
def test_impossible_downloads_are_refused(entries, cache, args, exit_code, message, weight_server):
    result = run("backbones", "--download", *args, code=exit_code)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert weight_server.asked == []
    assert not cache.exists()


def test_a_signal_leaves_only_complete_files(entries, cache, weight_server):
    weight_server.cut[entries[NAMES[1]].file_name] = 1000
    here, released = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        signal.pthread_kill(here, signal.SIGTERM)
        released.wait(10)

    weight_server.on_cut = interrupt
    result = run("backbones", "--download", "squeezenet*")
    released.set()
    assert result.exit_code == 130
    assert result.stderr.endswith("Interrupted.\n")
    assert [path.name for path in cache.iterdir()] == [entries[NAMES[0]].file_name]


@pytest.mark.slow
def test_a_run_without_network_from_a_copied_folder(offer, folder, tmp_path, weight_server):
    content = io.BytesIO()
    torch.save(get_model(NAMES[1], weights=None).state_dict(), content)
    entry = offer(NAMES[1], content.getvalue())
    run("backbones", "--download", NAMES[1], "--weights-dir", tmp_path / "w", code=0)
    weight_server.files.clear()
    output = tmp_path / "f.h5"
    extract = ["extract", folder, "-o", output, "--backbone", NAMES[1], "--size", "48", "--workers", "0"]
    result = run(*extract, code=1)
    assert f"run 'sppfeat backbones --download {NAMES[1]}'" in result.stderr
    assert not output.exists()
    result = run(*extract, "--weights-dir", tmp_path / "w", code=0)
    with sppfeat.open(output) as file:
        assert file.config.backbone.weights == "IMAGENET1K_V1"
        assert file.config.backbone.weights_sha256.startswith(entry.sha256_prefix)
    (tmp_path / "w").rename(tmp_path / "v")
    # The same weights from another place: continued.
    result = run(*extract, env={"SPPFEAT_WEIGHTS_DIR": str(tmp_path / "v")}, code=0)
    run("verify", output, "--recompute", "3", code=1)
    result = run("verify", output, "--recompute", "3", "--weights-dir", tmp_path / "v", code=0)
    result = run(*extract, "--weights-dir", tmp_path / "w", code=1)
    assert f"the weights folder '{tmp_path / 'w'}' does not exist" in result.stderr


@pytest.mark.slow
def test_all_downloads_show_progress_with_the_name_of_the_file(offer, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    content = io.BytesIO()
    torch.save(get_model(NAMES[1], weights=None).state_dict(), content)
    file_name = offer(NAMES[1], content.getvalue()).file_name
    line, cached = f"{file_name}: ", tmp_path / "torch" / "hub" / "checkpoints" / file_name
    output, photo = tmp_path / "f.h5", next(path for path in sorted(folder.rglob("*")) if path.is_file())
    small = ["--backbone", NAMES[1], "--size", "48"]
    for command in (
        ["backbones", "--download", NAMES[1]],
        ["extract", folder, "-o", output, *small, "--workers", "0"],
        ["search", output, photo],
    ):
        result = run(*command, code=0)
        assert line in result.stderr, command
        cached.unlink()
    seen = []
    sppfeat.Extractor(NAMES[1], device="cpu", on_download=lambda *call: seen.append(call))
    assert seen[-1] == (file_name, len(content.getvalue()), len(content.getvalue()))
    assert line not in capsys.readouterr().err
    cached.unlink()
    sppfeat.Extractor(NAMES[1], device="cpu")
    assert line in capsys.readouterr().err
