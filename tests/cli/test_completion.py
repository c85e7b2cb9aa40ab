"""Shell completion, by the protocol of the shells and in bash itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from command_line import run

from sppfeat.cli import main
from sppfeat.cli.options import complete_backbones
from sppfeat.networks.zoo import model_names


def completions(line):
    """Completions that bash receives for an unfinished line, as ``(kind, text)``."""
    words = line.split(" ")
    complete = get_completion_class("bash")(main, {}, "sppfeat", "_SPPFEAT_COMPLETE")
    return [(item.type, item.value) for item in complete.get_completions(words[1:-1], words[-1])]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sppfeat ver", [("plain", "verify")]),
        ("sppfeat bench r", [("plain", "regions")]),
        ("sppfeat extract --po", [("plain", "--pool")]),
        ("sppfeat extract --pool ", [("plain", "max"), ("plain", "avg")]),
        ("sppfeat extract pho", [("file", "pho")]),
        ("sppfeat extract photos more", [("file", "more")]),
        ("sppfeat extract --boxes b", [("file", "b")]),
        ("sppfeat extract --weights ch", [("file", "ch")]),
        ("sppfeat extract --weights no", [("plain", "none")]),
        ("sppfeat extract --backbone resnet3", [("plain", "resnet34")]),
        ("sppfeat backbones spp", [("plain", "spp_s16")]),
        ("sppfeat info f", [("file", "f")]),
    ],
)
def test_completion_of_commands_options_and_values(line, expected):
    assert completions(line) == expected


def test_completion_of_all_networks():
    assert [item.value for item in complete_backbones(None, None, "")] == model_names()


def test_completion_in_bash():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("bash") is None or shutil.which("sppfeat", path=path) is None:
        pytest.skip("bash or the sppfeat command is not there")
    script = (
        'eval "$(_SPPFEAT_COMPLETE=bash_source sppfeat)"; COMP_WORDS=(sppfeat extract --po); COMP_CWORD=2; '
        '_sppfeat_completion sppfeat; printf "%s\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": path, "TERM": "dumb"}
    command = ["bash", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert (result.returncode, result.stdout.split()) == (0, ["--pool"]), result.stderr


@pytest.mark.parametrize(("shell", "current"), [("zsh", "2"), ("fish", "--po")])
def test_zsh_and_fish_have_a_script_and_answers(shell, current):
    words = {"COMP_WORDS": "sppfeat extract --po", "COMP_CWORD": current}
    script, answer = (
        run(prog_name="sppfeat", env={"_SPPFEAT_COMPLETE": f"{shell}_{what}", **words}, code=0).stdout
        for what in ("source", "complete")
    )
    assert f"{shell}_complete" in script
    assert re.findall("--[a-z-]+", answer)[0] == "--pool"
