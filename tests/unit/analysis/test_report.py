"""Pages of ``sppfeat report``: their texts and charts, escaped names, and no loading of other files."""

import base64
import contextlib
import dataclasses
import functools
import io
import itertools
import os
import re
from html.parser import HTMLParser

import h5py
import numpy as np
import pytest
from command_line import run
from feature_files import BLOCKS, config, descriptors, fill, new_file, plan_of
from pictured_files import CLASSES, pictured_file
from PIL import Image
from sharded_files import whole_images, write_shards, write_whole

import sppfeat
from sppfeat.analysis.reduce import reduce
from sppfeat.analysis.report.facts import describe_provenance, group_failures
from sppfeat.analysis.wording import network_text
from sppfeat.config.extract_config import ExtractConfig
from sppfeat.config.regions import RegionSpec
from sppfeat.config.specs import DescriptorSpec, InputSpec
from sppfeat.store.layout import create_file
from sppfeat.store.merge import merge_shards
from sppfeat.store.reader import FeatureFile
from sppfeat.store.writer import FeatureWriter

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

from sppfeat.analysis.report import gather_facts
from sppfeat.analysis.report.page import render_page

VOID = {"meta", "img", "source", "br", "link", "input", "wbr", "rect", "circle", "path"}
HARMLESS = VOID - {"meta", "link", "input"} | set(
    re.findall(
        r"\w+",
        """html head meta title style body header main footer nav section h1 h2 h3 p a ul ol li dl dt dd div small span
        b figure figcaption picture table thead tbody tr th td code details summary svg""",
    )
)
LOADING = ("src", "srcset", "href", "data", "poster", "action", "background", "xlink:href", "style")


class Page(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.shown.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.shown).split())

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


report = functools.partial(run, "report", "-q")


def page_of(path, **settings):
    with FeatureFile(path) as file:
        facts = gather_facts(file.select(), **settings)
        text = render_page(facts)
    return facts, Page(text), text


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return pictured_file(tmp_path_factory.mktemp("pictured"))


@pytest.fixture(scope="module")
def made(path):
    return page_of(path, title='A "title" & <b>more</b>')


@pytest.mark.slow
def test_the_page_states_the_facts_of_the_file(made):
    facts, page, _ = made
    assert facts.content["images"] == {"total": 24, "done": 23, "failed": 1, "pending": 0}
    assert (facts.content["rows"], facts.n_described, facts.content["dimension"]) == (24, 23, 15)
    assert dict(facts.classes) == {"cat": 8, "dog": 7, CLASSES[2]: 8}
    assert facts.probe.result.accuracy.mean > 0.8
    assert f"{100 * facts.probe.result.accuracy.mean:.1f} %" in page.text
    assert [part.kind for part in facts.probe.result.ablation] == ["all", "level", "level", "layer", "layer"]
    assert len(facts.sheet.lines) == 8
    assert "resnet18, untrained, with random values (seed 0); layers layer3, layer4." in page.text
    assert dict(facts.provenance)["SHA-256 of weights"] in page.text
    assert "24 images, and what it found in each is one row of 15 numbers" in page.text
    sheet = facts.sheet
    shown, possible = (f"{100 * n / sheet.n_judged:.1f} %" for n in (sheet.n_same, sheet.n_possible))
    assert f"same-class neighbors {shown} of at most {possible}, in 8 examples" in page.text
    assert f"{sheet.n_same} of 64 neighbors have the class of their query" in page.text
    assert f"at random would give {100 * sheet.n_by_chance / 64:.1f} %" in page.text
    for text in (
        "The network is untrained",
        "broken at 7",
        "images 24 23 done failed 1",
        "1 of 24 images could not",
    ):
        assert text in page.text


def test_texts_from_the_file_are_escaped(made):
    _, page, text = made
    assert not page.of("script")
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag in HARMLESS
    assert "<script>alert(1)</script>" in "".join(page.shown)  # may be broken in two, after its slash
    assert '<img src="x" onerror="alert(1)">' in page.text
    assert 'A "title" & <b>more</b>' in page.text
    assert '\\udcff" onerror="x.png' in "".join(page.shown)
    text.encode("utf-8")  # no halves of characters


def test_the_page_loads_nothing(made):
    _, page, text = made
    for _, attributes in page.elements:
        for name in LOADING:
            value = attributes.get(name) or "#"
            own = re.fullmatch(r"--share: [\d.]+%", value) if name == "style" else None
            assert own or value.startswith(("#", "data:image/")), (name, value[:80])
    forbidden = {"link", "script", "iframe", "object", "embed", "base", "form"}
    assert not forbidden & {tag for tag, _ in page.elements}
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    targets = {attributes.get("id") for _, attributes in page.elements}
    assert {a["href"][1:] for a in page.of("a")} <= targets


def test_the_page_can_be_read_without_seeing_it(made):
    _, page, _ = made
    assert page.of("html")[0]["lang"] == "en"
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(headings))
    assert all(image["alt"] for image in page.of("img"))
    assert any(re.match(r"Neighbor 1: .*\.png", image["alt"]) for image in page.of("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.of("th"))


def test_charts_can_be_read_on_light_and_dark_pages(made):
    _, page, _ = made
    charts = [image for image in page.of("img") if image.get("class") == "chart"]
    assert len(charts) == 4  # embedding, two layers, sizes
    for chart in charts:
        content = base64.b64decode(chart["src"].partition(",")[2])
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGBA"))
        assert pixels[0, 0, 3] == 0  # transparent
        colors, counts = np.unique(pixels[pixels[..., 3] == 255][:, :3], axis=0, return_counts=True)
        gray = np.ptp(colors.astype(int), axis=1) == 0
        ink = "#" + bytes(colors[gray][counts[gray].argmax()]).hex()
        style = re.search(r"<style>(.*?)</style>", made[2], re.DOTALL)[1]
        for ground in re.findall(r"--page: (#\w{6})", style):
            assert contrast(ink, ground) >= 4


def test_text_contrasts_with_its_background(made):
    """The guidelines for web content (WCAG) require a contrast of 4.5, here in light and in dark pages."""
    style = re.search(r"<style>(.*?)</style>", made[2], re.DOTALL)[1]
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(roots) == 2
    for root in roots:
        colors = dict(re.findall(r"--([\w-]+): (#\w{6})", root))
        for ink in ("ink", "soft", "accent", "same", "other"):
            for ground in ("page", "card"):
                assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)
        assert contrast(colors["ink"], colors["warn"]) >= 4.5
        assert contrast(colors["ink"], colors["bar"]) >= 4.5


def contrast(one: str, other: str) -> float:
    lights = []
    for color in (one, other):
        channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        lights.append(sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.slow
def test_the_command_writes_a_whole_page_with_the_same_bytes(path, tmp_path, made):
    output = tmp_path / "o.html"
    result = report(path, "-o", output, "--title", made[0].title, code=0)
    assert result.stdout == ""
    assert output.read_bytes() == made[2].encode()
    assert list(tmp_path.iterdir()) == [output]


def test_wrong_outputs_are_refused(path, tmp_path):
    there = tmp_path / "there.html"
    there.write_text("mine")
    report(path, "-o", tmp_path / "o.pdf", code=2)
    report(path, "-o", there, code=1)
    report(path, "-o", tmp_path / "no" / "o.html", code=1)
    report(tmp_path / "no.h5", "-o", tmp_path / "o.html", code=1)
    report(path, "-o", tmp_path / "o.html", "--rows", "label=no", code=2)
    report(path, "-o", path, "--overwrite", code=2)
    assert there.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [there]


@pytest.mark.slow
@pytest.mark.parametrize(("n", "text"), [(0, "The file has no rows."), (5, "0 done, 5 pending")])
def test_a_file_without_descriptors_has_a_page(tmp_path, n, text):
    facts, page, _ = page_of(new_file(tmp_path / "f.h5", n))
    assert facts.embedding is None
    assert "There are no descriptors." in page.text
    assert text in page.text


@pytest.mark.slow
def test_without_images_and_labels_there_is_still_a_page(tmp_path):
    _, page, _ = page_of(pictured_file(tmp_path, 7, images=False, labels=False))
    for text in ("There are no labels.", "no image", "cannot be read (no such file)", "shows examples"):
        assert text in page.text
    assert "colored by class" not in page.text


@pytest.mark.slow
def test_a_page_about_a_selection_says_so(path, tmp_path):
    steps = []
    nbytes = sppfeat.report(
        path,
        tmp_path / "o.html",
        rows=["label=cat", "label=dog"],
        levels=1,
        probe=False,
        on_progress=lambda *done: steps.append(done),
    )
    assert nbytes == (tmp_path / "o.html").stat().st_size
    assert (steps[0], steps[-1]) == ((0, 6, "norms"), (6, 6, ""))
    shown = Page((tmp_path / "o.html").read_text("utf-8")).text
    for text in (
        "This page covers 15 of 23 images.",
        "This page covers 3 of the 15 values of each image.",
        "PCA of 15 rows",
    ):
        assert text in shown
    assert "classifier" not in shown


def test_a_page_about_one_class_compares_no_classes(path):
    with FeatureFile(path) as file:
        shown = Page(render_page(gather_facts(file.select(rows=["label=cat"])))).text
    assert "No classifier was trained. There is only one class." in shown
    assert "classes 1 8 images" in shown
    for text in ("same-class neighbors", "class of their query", "by chance", "overlap here"):
        assert text not in shown


def provenance_of(path):
    with FeatureFile(path) as file:
        return dict(describe_provenance(file))


def test_provenance_names_the_shard_and_the_files_of_a_merge(tmp_path):
    work = whole_images()
    paths = write_shards(tmp_path, work, (0, 4, 4, 11))
    found = provenance_of(paths[0])
    assert found["shard"] == "1 of 3: images 0 to 3 of 11, rows 0 to 3 of 11"
    assert found["image ids"].startswith("from the inputs; the first is ")
    assert provenance_of(paths[1])["shard"] == "2 of 3: no images of 11, no rows of 11"
    merge_shards(tmp_path / "merged.h5", paths)
    found = provenance_of(tmp_path / "merged.h5")
    assert (
        found["merged from"] == "2 files, which hold the descriptors"
    )  # the shard without rows is not needed
    assert f"{paths[2]}: rows 4 to 10" in found.values()
    assert found["file"] == str(tmp_path / "merged.h5")


def test_a_reduced_file_has_the_settings_of_its_source_and_of_the_reduction(path, tmp_path):
    reduced = tmp_path / "r.h5"
    reduce(path, reduced, components=2, whiten=True)
    facts, page, _ = page_of(reduced, most_probed=0)
    assert "in each bin of grids of 1 x 1, 2 x 2: 15 values." in page.text  # not the two that are left
    assert "one row of 2 numbers (reduced from 15)" in page.text
    assert "pca, 15 -> 2 values, whitened; " in page.text
    with FeatureFile(path) as file:
        assert dict(facts.provenance)["fingerprint of the source"] == file.attribute("fingerprint")


def test_failures_are_grouped_by_reason(tmp_path):
    path = new_file(tmp_path / "f.h5", 9)
    with contextlib.closing(FeatureWriter(path)) as writer:
        for i in range(7):
            writer.mark_failed(i, f"cut at byte {100 + i}" if i % 3 else "empty file")
    with FeatureFile(path) as file:
        assert [(group.reason, group.count, group.paths) for group in group_failures(file)] == [
            ("cut at byte 101", 4, ("1.jpg", "2.jpg", "4.jpg", "5.jpg")),
            ("empty file", 3, ("0.jpg", "3.jpg", "6.jpg")),
        ]
    with FeatureFile(write_whole(tmp_path / "ids.h5", whole_images())) as file:
        image = next(iter(file.errors))
        name = f"{file.path_of(image)} (id {os.fsdecode(file.image_id_table[image])})"
        assert group_failures(file)[0].paths[:1] == (name,)


@pytest.mark.slow
def test_ten_thousand_images_fit_in_five_megabytes(tmp_path):
    n = 10_000
    path = tmp_path / "f.h5"
    names = [f"a rather long name of a folder/{i}" + "x" * 60 + ".jpg" for i in range(n)]
    classes = [f"class {i} ".encode() + b"x" * 300 for i in range(500)]
    create_file(path, plan_of(names, labels=[i % 500 for i in range(n)], classes=classes), config(), BLOCKS)
    with contextlib.closing(FeatureWriter(path)) as writer:
        writer.write_rows(np.arange(n // 2), descriptors(n // 2))
    with h5py.File(path, "r+") as file:  # quicker than one by one
        file["images/status"][:] = [1] * (n // 2) + [2] * (n // 2)
        file["images/error"][n // 2 :] = [
            b"reason " + b"abcdefghij"[i % 10 : i % 10 + 1] * (i % 97) for i in range(n // 2)
        ]
    facts, page, text = page_of(path, most=500, most_probed=0)
    assert len(text.encode()) < 5_000_000
    for text in ("500 of 5,000 rows, drawn at random", "more classes with", "more reasons"):
        assert text in page.text
    assert len(facts.thumbnails) <= 30 + 8 * 9


@pytest.mark.parametrize(
    ("weights", "seed", "text"),
    [
        ("none", 3, "resnet18, untrained, with random values (seed 3)"),
        ("file", None, "resnet18, weights of a file (SHA-256 01234567...)"),
        ("IMAGENET1K_V1", None, "resnet18, weights IMAGENET1K_V1"),
    ],
)
def test_a_network_is_named_with_its_weights(weights, seed, text):
    spec = config().backbone
    spec = dataclasses.replace(spec, weights=weights, seed=seed, weights_sha256="0123456789abcdef" * 4)
    assert network_text(spec) == text


def test_some_classes_are_drawn_if_there_are_too_many_to_probe(tmp_path):
    path = new_file(tmp_path / "f.h5", 240)
    rows = descriptors(240)
    rows[:, :2] += 9 * np.stack([np.arange(240) % 6, np.arange(240) % 6 // 2], axis=1)
    fill(path, rows)
    with FeatureFile(path) as file:
        selection = file.select(labels=[f"class {i % 24}" for i in range(240)])
        probed = gather_facts(selection, most_probed=60).probe
    assert (probed.n_drawn, probed.n_rows, probed.n_classes) == (60, 240, 24)
    assert (probed.result.n_rows, probed.result.n_classes) == (60, 6)


def test_settings_are_described_in_words(made):
    base = config()
    boxes = ExtractConfig(
        backbone=base.backbone,
        input=InputSpec(scales=(480, 688), flip=True, exif="ignore", decode="fast", round_to=32),
        descriptor=DescriptorSpec(normalize="meannorm:20", norm_factors=None, pool="avg"),
        regions=RegionSpec(boxes="multiview"),
        precision="bf16",
    )
    facts = dataclasses.replace(made[0], config=boxes, embedding=None, norms=None, sizes=(), thumbnails={})
    shown = Page(render_page(facts)).text
    for text in (
        "as stored (EXIF rotation ignored), aspect ratio kept, at short sides of 480, 688 pixels, each box at one",
        "sides rounded to multiples of 32, large JPEGs decoded at a fraction of their size; averaged with the mirror",
        "multiview, mapped to cells by the rule sppnet.",
        "Each layer multiplied by one factor, so that its mean l2 norm is 20.",
        "Computed in bf16, stored as float32.",
    ):
        assert text in shown
