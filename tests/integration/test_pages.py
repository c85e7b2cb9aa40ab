"""The README and docs/: commands parse, links resolve, and examples print the output shown."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from command_line import run
from killing import write_launcher
from pages import PAGES, Block, commands_in, read_blocks, runnable, unlike
from PIL import Image
from places import PHOTOS, REPOSITORY

from sppfeat.cli import main

CLASSES = ("brick", "galaxies", "grass", "gravel")


def lay_out(folder: Path) -> None:
    """Writes the files that the examples of docs/ name."""
    shutil.copytree(PHOTOS, folder / "photos", ignore=shutil.ignore_patterns("README.md"))
    (folder / "tests").mkdir()
    (folder / "tests/images").symlink_to(PHOTOS)
    shutil.copy(PHOTOS / "brick/brick_1.jpg", folder / "photo.jpg")
    rows = ["path,label,id"]
    images, annotations = [], []
    for number, name in enumerate(CLASSES):
        for i in range(1, 6):
            path = f"{name}/{name}_{i}.jpg"
            part = "train" if i <= 3 else "val"
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(PHOTOS / path, folder / part / name)
            rows.append(f"photos/{path},{name},{name[:2]}{i}")
            with Image.open(PHOTOS / path) as photo:
                width, height = photo.size
            images.append({"id": len(images), "file_name": path, "width": width, "height": height})
            for box in ([0, 0, width / 2, height / 2], [width / 4, height / 4, width / 2, height / 2]):
                annotations.append(
                    {"id": len(annotations), "image_id": images[-1]["id"], "category_id": number, "bbox": box}
                )
    (folder / "train.csv").write_text("\n".join(rows) + "\n")
    (folder / "list.txt").write_text("photos/brick\nphotos/grass/grass_1.jpg\n")
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(coco))
    boxes = ["path,x0,y0,x1,y1,label"]
    boxes += [f"{name}/{name}_1.jpg,10,20,150,120,{name}" for name in CLASSES]
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add(folder / "photos", arcname="photos")
    shutil.make_archive(str(folder / "photos"), "zip", folder, "photos")


@pytest.fixture(scope="session")
def example_files(tmp_path_factory) -> Path:
    """A folder with the files that the examples of docs/ name."""
    import torch
    from torchvision.models import resnet18

    folder = tmp_path_factory.mktemp("examples")
    lay_out(folder)
    common = ("--device", "cpu", "--quiet")
    run("extract", folder / "photos", "-o", folder / "features.h5", "--normalize", "l2", *common, code=0)
    boxes = ("--boxes", folder / "annotations.json", "--size", "224")
    run("extract", folder / "photos", "-o", folder / "regions.h5", *boxes, *common, code=0)
    run("probe", folder / "features.h5", "--save", folder / "model.npz", "--quiet", code=0)
    torch.manual_seed(0)
    torch.save(resnet18(weights=None).state_dict(), folder / "checkpoint.pth")
    return folder


def parse(arguments: list[str]) -> None:
    """Parses a command line without running it."""
    context = click.Context(main, info_name="sppfeat", **main.context_settings)
    command: click.Command = main
    while isinstance(command, click.Group):
        if not arguments or arguments[0].startswith("-"):
            return
        name, arguments = arguments[0], arguments[1:]
        found = command.get_command(context, name)
        assert found is not None, f"unknown command {name!r}"
        command = found
    with contextlib.suppress(click.exceptions.Exit):  # of --help
        command.make_context(command.name, list(arguments), parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_parses(page, monkeypatch):
    monkeypatch.setenv("RANK", "0")  # for --shard auto
    monkeypatch.setenv("WORLD_SIZE", "2")
    for block in read_blocks(PAGES[page]):
        if block.language == "sh":
            # A shard's number may be a variable or the placeholder of another program.
            for arguments in commands_in(re.sub(r"(%|\{\}|\$\w+)(?=/\d)", "1", block.text)):
                parse(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_links_of_a_page_resolve(page):
    text = re.sub(r"^```.*?^```$", "", PAGES[page].read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", text):
        name, _, anchor = unquote(target[0] or target[1]).partition("#")
        if re.match(r"[a-z]+:", name):
            continue
        path = (PAGES[page].parent / name) if name else PAGES[page]
        assert path.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{name}#{anchor}"


def test_the_readme_links_every_page():
    readme = PAGES["README"].read_text()
    for page, path in PAGES.items():
        if page != "README":
            assert f"({path.relative_to(REPOSITORY)}" in readme, page


def run_shell(block: Block, environment: dict[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", runnable(block.text)],
        env=environment | block.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == block.exit_code, f"line {block.line}: {done.stdout}"
    return done.stdout


def run_python(block: Block, page: Path, scope: dict) -> str:
    lines = "\n" * block.line  # an error names the line of the page
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(lines + block.text, page, "exec"), scope)
    return printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("cli", "json")])
def test_the_examples_of_a_page_print_the_output_shown(page, tmp_path, monkeypatch, commands, example_files):
    folder = tmp_path / "you"
    if page == "README":  # its commands make the files
        (folder / "tests").mkdir(parents=True)
        (folder / "tests/images").symlink_to(PHOTOS)
    else:
        shutil.copytree(example_files, folder, symlinks=True)
    (tmp_path / "bin").mkdir()
    write_launcher(tmp_path / "bin/sppfeat", commands)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SPPFEAT_DEVICE", "cpu")
    scope: dict = {"__name__": "example"}
    for block in read_blocks(PAGES[page]):
        assert not block.steering.startswith("skip") or block.is_skipped, f"line {block.line}: no reason"
        if block.is_skipped:
            continue
        if block.language == "sh":
            printed = run_shell(block, dict(os.environ))
        else:
            printed = run_python(block, PAGES[page], scope)
        if block.output is not None:
            difference = unlike(block.output, printed.replace(str(folder), "/home/you"))
            assert difference is None, f"line {block.line}: {difference}\n{printed}"
