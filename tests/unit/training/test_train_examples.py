import numpy as np
import pytest
from conftest import write_image
from feature_files import listing_of
from hypothesis import given
from hypothesis import strategies as st

from sppfeat.decoding import DecodeSettings, InlineDecoder
from sppfeat.errors import ConfigError
from sppfeat.files.paths import PathTable
from sppfeat.training.examples import Examples, read_examples, split_examples, with_classes

DECODER = InlineDecoder(DecodeSettings("apply", "bilinear"))


def examples_of(counts, *, left_out=()) -> Examples:
    """Images with these counts per class, without those left out."""
    labels = np.repeat(np.arange(len(counts)), counts)
    classes = tuple(f"c{i}" for i in range(len(counts)))
    names = [f"{classes[label]}/{i}.png" for i, label in enumerate(labels)]
    listing = listing_of(b"/top", PathTable(names), labels, tuple(map(str.encode, classes)))
    images = np.setdiff1d(np.arange(len(labels)), left_out)
    return Examples(listing, np.full((len(labels), 2), 40, np.int32), images, labels, classes)


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 9),
)
def test_a_split_is_complete_disjoint_stratified_and_seeded(counts, fraction, seed):
    examples = examples_of(counts)
    wanted = [round(fraction * n) for n in counts]
    if not any(wanted) or any(n == w for n, w in zip(counts, wanted, strict=True)):
        with pytest.raises(ConfigError, match=r"val-fraction"):
            split_examples(examples, fraction, seed=seed)
        return
    train, held_out = split_examples(examples, fraction, seed=seed)
    assert sorted([*train.images, *held_out.images]) == examples.images.tolist()
    assert [int((held_out.labels[held_out.images] == i).sum()) for i in range(len(counts))] == wanted
    again = split_examples(examples, fraction, seed=seed)
    assert np.array_equal(again[1].images, held_out.images)


def test_a_split_takes_only_readable_images():
    train, held_out = split_examples(examples_of([10, 10], left_out=[3, 12]), 0.5, seed=0)
    assert not {3, 12} & {*train.images.tolist(), *held_out.images.tolist()}


def test_another_seed_gives_another_split():
    assert len({tuple(split_examples(examples_of([30] * 2), 0.3, seed=i)[1].images) for i in range(5)}) == 5


def test_a_split_without_training_or_validation_images_is_refused():
    with pytest.raises(
        ConfigError, match=r"val-fraction 0.9 leaves no image of 'c1' to train on \(it has 1\)"
    ):
        split_examples(examples_of([20, 1]), 0.9, seed=0)
    with pytest.raises(ConfigError, match=r"val-fraction 0.01 holds out none of 20 images in 2 classes"):
        split_examples(examples_of([10, 10]), 0.01, seed=0)


def test_classes_are_matched_by_name():
    examples = examples_of([2, 3])
    renamed = with_classes(examples, ("z", "c1", "a", "c0"))
    assert [renamed.classes[label] for label in renamed.labels] == [
        examples.classes[label] for label in examples.labels
    ]
    assert renamed.classes == ("z", "c1", "a", "c0")


def test_validation_images_of_other_classes_are_refused():
    with pytest.raises(
        ConfigError,
        match=r"^the validation images have other classes, such as 'c1'; allowed: the 1 class to train",
    ):
        with_classes(examples_of([1, 1]), ("c0",))
    left_out = examples_of([1, 1], left_out=[1])
    assert with_classes(left_out, ("c0",)).labels[0] == 0


def test_headers_are_read_and_failures_recorded(tmp_path):
    write_image(tmp_path / "a/0.png", 40, 60, seed=0)
    write_image(tmp_path / "b/1.png", 50, 30, seed=1)
    (tmp_path / "b/2.png").write_text("no picture")
    said = []
    examples, unreadable = read_examples(
        [str(tmp_path)], DECODER, labels="auto", on_probe=lambda done, total: said.append((done, total))
    )
    assert [examples.name(i) for i in examples.images] == [
        str(tmp_path / "a/0.png"),
        str(tmp_path / "b/1.png"),
    ]
    assert examples.image_hw[examples.images].tolist() == [[40, 60], [50, 30]]
    assert list(unreadable) == [str(tmp_path / "b/2.png")]
    assert (examples.classes, examples.labels.tolist()) == (("a", "b"), [0, 1, 1])
    assert said == [(1, 3), (2, 3), (3, 3)]


def test_inputs_without_a_readable_image_are_refused(tmp_path):
    (tmp_path / "2.png").write_text("no picture")
    with pytest.raises(ConfigError, match=r"none of 1 image can be read; the first, '.*2.png': "):
        read_examples([str(tmp_path)], DECODER, labels="none")
