"""Extractions of whole images: interrupted, continued, extended and replaced; rows equal plain torch."""

import errno
import functools
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import write_image
from extraction_runs import (
    SIZE,
    assert_all_done,
    assert_same_descriptors,
    assert_same_file,
    difference,
    extract,
    float32_products,
    memory_for,
    plain_descriptor,
    plain_network,
    request,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import BackboneChoice, DescriptorChoice
from sppfeat.config.specs import InputSpec
from sppfeat.errors import StoreError
from sppfeat.extraction.extract import open_part
from sppfeat.extraction.recompute import recompute_rows


@pytest.fixture(scope="module")
def network():
    return plain_network()


@functools.cache
def plain_descriptors(network, folder, flip):
    return {path: plain_descriptor(network, path, flip=flip) for path in folder.rglob("*.png")}


@pytest.mark.slow
@settings(max_examples=12)
@given(
    batch_size=st.sampled_from([None, 1, 2, 5]),
    workers=st.sampled_from([0, 0, 0, 2]),
    stop_after=st.sampled_from([None, 1, 3]),
    flip=st.booleans(),
    order=st.randoms(use_true_random=False),
    room=st.sampled_from([None, 1, 2]),
    lowered=st.booleans(),
)
def test_descriptors_equal_plain_torch_whatever_the_run_settings(
    folder, tmp_path_factory, network, batch_size, workers, stop_after, flip, order, room, lowered
):
    """Whatever the order, the memory of the device (images at once) and the process's precision of float32."""
    described = plain_descriptors(network, folder, flip)
    output = tmp_path_factory.mktemp("out") / "features.h5"
    inputs = sorted(folder.rglob("*.png"))
    order.shuffle(inputs)
    changes = {
        "run": RunOptions(workers=workers, batch_size=batch_size, device="cpu"),
        "input": InputSpec(size=SIZE, flip=flip),
    }
    with memory_for(room), float32_products("medium" if lowered else "highest"):
        if stop_after:
            extract(inputs, output, stop_after=stop_after, **changes)
        extract(inputs, output, **changes)
    with sppfeat.open(output) as file:
        assert (file.status == 1).all()
        assert file.paths == [str(path.relative_to(folder)) for path in inputs]
        for path, row in zip(inputs, file.features, strict=True):
            assert difference(row, described[path]) <= 1e-5


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_rows_and_continues_the_file(folder, tmp_path, monkeypatch):
    n_batches = 0

    def compile_(network):
        def compiled(batch):
            nonlocal n_batches
            n_batches += 1
            return network(batch)

        return compiled

    monkeypatch.setattr("torch.compile", compile_)
    extract([folder], tmp_path / "plain.h5")
    assert n_batches == 0
    extract([folder], tmp_path / "compiled.h5", stop_after=1)
    extract([folder], tmp_path / "compiled.h5", run=RunOptions(compile=True, device="cpu"))
    assert n_batches > 0
    assert_same_file(tmp_path / "plain.h5", tmp_path / "compiled.h5")


def test_a_finished_file_is_left_alone(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    before = (tmp_path / "f.h5").read_bytes()
    extraction, progress = extract([folder], tmp_path / "f.h5")
    assert progress.n_done == progress.n_failed == 0
    assert extraction.summary().already_done == 12
    assert (tmp_path / "f.h5").read_bytes() == before


@pytest.mark.slow
def test_other_settings_are_refused_with_both_values(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    with pytest.raises(StoreError, match=r"size: 48 in the file, 64 in this command.*") as caught:
        extract([folder], tmp_path / "f.h5", input=InputSpec(size=64))
    assert "--overwrite" in str(caught.value)
    with pytest.raises(StoreError, match=r"seed.*weights_sha256"):
        extract(
            [folder], tmp_path / "f.h5", backbone=BackboneChoice(name="squeezenet1_1", weights="none", seed=4)
        )


def test_inputs_unrelated_to_the_file_are_refused(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    write_image(tmp_path / "other" / "x.png", 40, 40, 0)
    with pytest.raises(StoreError, match="it holds none of these inputs"):
        extract([tmp_path / "other"], tmp_path / "f.h5")


def test_a_moved_folder_continues_the_file(folder, tmp_path):
    extract([folder], tmp_path / "f.h5", stop_after=1)
    moved = folder.rename(tmp_path / "moved")
    extraction, _ = extract([moved], tmp_path / "f.h5")
    assert extraction.outcome().pending == 0
    assert_all_done(tmp_path / "f.h5")


def test_images_outside_a_given_subfolder_count_as_missing(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    extraction, _ = extract([folder / "cat"], tmp_path / "f.h5")
    assert any("6 images in the file are missing from the inputs" in note for note in extraction.run.notes)
    assert_all_done(tmp_path / "f.h5")


@pytest.mark.slow
def test_missing_images_fail_and_retry_failed_runs_them_when_they_are_back(folder, tmp_path, network):
    output = tmp_path / "f.h5"
    extract([folder], output, stop_after=1)
    with sppfeat.open(output) as file:
        gone = folder / file.paths[int(np.flatnonzero(file.status == 0)[0])]
    aside = gone.rename(tmp_path / "aside.png")
    extract([folder], output)
    with sppfeat.open(output) as file:
        (reason,) = file.errors.values()
        assert reason == "missing from the inputs"
    aside.rename(gone)
    extract([folder], output)
    with sppfeat.open(output) as file:
        assert len(file.errors) == 1
    extract([folder], output, retry_failed=True)
    with sppfeat.open(output) as file:
        assert (file.status == 1).all()
        assert file.errors == {}
        image = file.paths.index(str(gone.relative_to(folder)))
        assert difference(file.features[image], plain_descriptor(network, gone)) <= 1e-5


def test_a_repaired_image_of_another_size_gets_its_new_size_and_row(mixed_folder, tmp_path, network):
    output = tmp_path / "f.h5"
    extract([mixed_folder], output)
    write_image(tmp_path / "new.png", 50, 70, 9)
    (tmp_path / "new.png").replace(mixed_folder / "dog" / "short.png")
    _, progress = extract([mixed_folder], output, retry_failed=True)
    assert (progress.n_done, progress.n_failed) == (1, 2)
    with sppfeat.open(output) as file:
        image = file.paths.index("dog/short.png")
        assert file.image_hw[image].tolist() == [50, 70]
        assert file.boxes[image].tolist() == [0, 0, 70, 50]
        assert (
            difference(file.features[image], plain_descriptor(network, mixed_folder / "dog/short.png"))
            <= 1e-5
        )


def test_an_image_replaced_during_the_run_fails_with_both_sizes(folder, tmp_path):
    with open_part(request([folder], tmp_path / "f.h5")) as extraction:
        write_image(folder / "cat" / "img1.png", 99, 98, 0)
        extraction.fill()
    with sppfeat.open(tmp_path / "f.h5") as file:
        (reason,) = file.errors.values()
        assert "60 x 40" in reason
        assert "99 x 98" in reason


@pytest.mark.slow
@pytest.mark.parametrize("done_before", [1, None])
def test_new_inputs_are_reported_and_added_on_request(mixed_folder, tmp_path, network, done_before):
    output = tmp_path / "f.h5"
    extract([mixed_folder], output, stop_after=done_before)
    write_image(mixed_folder / "ant" / "new.png", 44, 55, 77)
    write_image(mixed_folder / "cat" / "img1000.png", 44, 55, 78)
    extraction, _ = extract([mixed_folder], output)
    assert any(
        "2 inputs are not in the file" in note and "--update adds them" in note
        for note in extraction.run.notes
    )
    with sppfeat.open(output) as file:
        before = file.paths, np.array(file.features), dict(file.errors)
    extract([mixed_folder], output, add_new=True)
    with sppfeat.open(output) as file:
        assert file.paths == [*before[0], "ant/new.png", "cat/img1000.png"]
        assert np.array_equal(file.features[: len(before[1])], before[1], equal_nan=True)
        assert file.errors == before[2]
        assert file.classes == ["cat", "dog", "ant"]
        assert file.labels[-2:].tolist() == [2, 0]
        for i in (-1, -2):
            assert (
                difference(file.features[i], plain_descriptor(network, mixed_folder / file.paths[i])) <= 1e-5
            )
    assert not Path(f"{output}.partial").exists()


@pytest.mark.slow
def test_overwrite_keeps_the_old_file_until_the_new_one_is_complete(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output)
    old = output.read_bytes()
    bigger = {"input": InputSpec(size=64), "overwrite": True}
    extract([folder], output, stop_after=1, **bigger)
    assert output.read_bytes() == old
    assert Path(f"{output}.partial").exists()
    extraction, progress = extract([folder], output, **bigger)
    assert extraction.summary().already_done > 0
    assert progress.n_done < 12
    assert not Path(f"{output}.partial").exists()
    extract([folder], tmp_path / "fresh.h5", input=InputSpec(size=64))
    assert_same_file(output, tmp_path / "fresh.h5")


def test_an_interrupted_overwrite_is_continued_only_for_the_same_inputs(folder, tmp_path):
    output, partial = tmp_path / "f.h5", tmp_path / "f.h5.partial"
    again = {"input": InputSpec(size=64), "overwrite": True}
    extract([folder], output)
    extract([folder / "cat"], output, stop_after=1, **again)
    assert partial.exists()
    extraction, _ = extract([folder], output, stop_after=1)
    assert any("an interrupted --overwrite left" in note for note in extraction.run.notes)
    extraction, progress = extract([folder], output, **again)
    assert extraction.summary().already_done == 0
    assert progress.n_done == 12
    with sppfeat.open(output) as file:
        assert file.n_images == 12
        assert (file.status == 1).all()
    assert not partial.exists()


def test_an_interrupted_overwrite_continues_without_the_old_file(folder, tmp_path):
    output = tmp_path / "f.h5"
    extract([folder], output)
    extract([folder], output, stop_after=1, input=InputSpec(size=64), overwrite=True)
    output.unlink()
    extraction, _ = extract([folder], output, input=InputSpec(size=64), overwrite=True)
    assert extraction.summary().already_done > 0
    assert sorted(os.listdir(tmp_path)) == ["f.h5", "pictures"]


def test_overwrite_refuses_another_file_at_its_temporary_path(folder, tmp_path):
    extract([folder], tmp_path / "f.h5")
    (tmp_path / "f.h5.partial").write_text("a download")
    with pytest.raises(StoreError, match=r"needs the path '.*f.h5.partial', but another file is there"):
        extract([folder], tmp_path / "f.h5", overwrite=True)
    assert (tmp_path / "f.h5.partial").read_text() == "a download"


def test_leftovers_of_killed_runs_are_removed_by_the_next_run(folder, tmp_path):
    left = ["f.h5.sppfeat-layout", "f.h5.sppfeat-longer", "f.h5.partial.sppfeat-layout", "f.h5.lock"]
    for name in left:
        (tmp_path / name).write_text("left")
    extract([folder], tmp_path / "f.h5")
    assert sorted(os.listdir(tmp_path)) == ["f.h5", "pictures"]


def test_a_complete_file_that_cannot_be_renamed_stays(folder, tmp_path, monkeypatch):
    output = tmp_path / "f.h5"
    extract([folder], output)
    true_replace = os.replace

    def replace(source, target):
        if str(target) == str(output):
            raise OSError(errno.EBUSY, "Device or resource busy")
        true_replace(source, target)

    again = {"input": InputSpec(size=64), "overwrite": True}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(
            StoreError, match=r"cannot rename '.*f.h5.partial' to '.*f.h5': Device or resource"
        ):
            extract([folder], output, **again)
    _, progress = extract([folder], output, **again)
    assert progress.n_done == 0
    with sppfeat.open(output) as file:
        assert file.config.input.size == 64


def test_overwrite_replaces_a_file_that_is_not_a_feature_file(folder, tmp_path):
    (tmp_path / "f.h5").write_text("something else")
    with pytest.raises(StoreError, match="cannot continue"):
        extract([folder], tmp_path / "f.h5")
    extract([folder], tmp_path / "f.h5", overwrite=True)
    assert_all_done(tmp_path / "f.h5")


def test_dry_run_writes_nothing(folder, tmp_path):
    with open_part(request([folder], tmp_path / "f.h5", dry_run=True)) as extraction:
        plan = extraction.summary()
    assert (plan.images, plan.rows, plan.dimension, plan.input_shapes) == (12, 12, 512 * 5, 5)
    assert plan.output_bytes == 12 * 512 * 5 * 4
    assert os.listdir(tmp_path) == ["pictures"]


@pytest.mark.slow
def test_layers_are_concatenated_and_scaled_separately(folder, tmp_path):
    layers = ("features.7", "features")
    many = BackboneChoice(name="squeezenet1_1", weights="none", seed=3, layers=layers)
    extract(
        [folder],
        tmp_path / "both.h5",
        backbone=many,
        descriptor=DescriptorChoice(levels=(1, 2), normalize="l2"),
    )
    with sppfeat.open(tmp_path / "both.h5") as both:
        split = both.columns[1].stop
        assert [block[:3] for block in both.columns] == [
            ("features.7", 1, 256),
            ("features.7", 2, 256),
            ("features", 1, 512),
            ("features", 2, 512),
        ]
        for layer, part in zip(layers, (slice(split), slice(split, None)), strict=True):
            one = BackboneChoice(name="squeezenet1_1", weights="none", seed=3, layers=(layer,))
            output = tmp_path / f"{layer}.h5"
            extract(
                [folder], output, backbone=one, descriptor=DescriptorChoice(levels=(1, 2), normalize="l2")
            )
            with sppfeat.open(output) as alone:
                assert_same_descriptors(both.features[:, part], alone.features)


def test_outputs_that_cannot_exist_are_refused(folder, tmp_path):
    with pytest.raises(StoreError, match="does not exist"):
        extract([folder], tmp_path / "missing" / "f.h5")
    with pytest.raises(StoreError, match="is a folder"):
        extract([folder], tmp_path)


def test_an_output_that_is_a_link_stays_one(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "f.h5"
    link.symlink_to(tmp_path / "elsewhere" / "real.h5")
    extract([folder], link)
    extract([folder], link, input=InputSpec(size=64), overwrite=True)
    assert link.is_symlink()
    with sppfeat.open(link) as file:
        assert (file.status == 1).all()
        assert file.config.input.size == 64


def test_missing_labels_are_reported(folder, tmp_path):
    extraction, _ = extract([folder / "cat"], tmp_path / "f.h5", labels="folder")
    assert any("no labels" in note for note in extraction.run.notes)


def test_native_size_is_no_resizing(folder, tmp_path, network):
    extract([folder], tmp_path / "f.h5", input=InputSpec(size=None))
    with sppfeat.open(tmp_path / "f.h5") as file:
        for path, hw, row in zip(file.paths, file.image_hw.tolist(), file.features, strict=True):
            assert difference(row, plain_descriptor(network, folder / path, size=min(hw))) <= 1e-5


# --- sides in multiples ---------------------------------------------------------------------------


def rows_of_resized(folder, paths, input_hws, tmp_path):
    """The descriptors of pictures that were resized beforehand, each at its own size."""
    resized = tmp_path / "resized"
    resized.mkdir()
    for i, (path, (height, width)) in enumerate(zip(paths, input_hws, strict=True)):
        with Image.open(folder / path) as image:
            image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR).save(resized / f"{i}.png")
    network = plain_network()
    return [plain_descriptor(network, resized / f"{i}.png", size=min(hw)) for i, hw in enumerate(input_hws)]


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZE, None])
def test_sides_are_rounded_to_multiples(folder, tmp_path, size):
    # By hand: 60 = 3.75 x 16 and 40 = 2.5 x 16, halves up; at 48, the long sides are 72, 103 and 67.5.
    image_hws = [(40, 60), (60, 40), (48, 48), (33, 71), (90, 64)]
    input_hws = {
        SIZE: [(48, 80), (80, 48), (48, 48), (48, 96), (64, 48)],
        None: [(48, 64), (64, 48), (48, 48), (32, 64), (96, 64)],
    }
    sizes = dict(zip(image_hws, input_hws[size], strict=True))
    spec = InputSpec(size=size, round_to=16)
    extraction, _ = extract([folder], tmp_path / "f.h5", input=spec)
    assert extraction.summary().round_to == 16
    assert extraction.summary().input_shapes == 5
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert file.config.input.round_to == 16
        hws = [sizes[tuple(hw)] for hw in file.image_hw.tolist()]
        for row, expected in zip(
            file.features, rows_of_resized(folder, file.paths, hws, tmp_path), strict=True
        ):
            assert difference(row, expected) <= 1e-5
        again = recompute_rows(file, 5)
        assert not again.problems
        assert again.largest_difference <= 1e-5


def test_an_image_that_cannot_be_rounded_fails_with_its_reason(folder, tmp_path):
    write_image(folder / "dog" / "long.png", 40, 400, 1)
    spec = InputSpec(size=None, max_pixels=18_000, round_to=64)
    extract([folder], tmp_path / "f.h5", input=spec)
    with sppfeat.open(tmp_path / "f.h5") as file:
        (reason,) = file.errors.values()
        assert (
            "cannot be rounded to multiples of 64: 64 x 384 = 24576 pixels are more than max-pixels" in reason
        )


# --- decoding at a part of the size ---------------------------------------------------------------


@pytest.fixture
def jpegs(tmp_path):
    """Six JPEGs: two much larger than the network input, one of them rotated, one slightly larger, and two small."""
    top = tmp_path / "jpegs"
    for i, (height, width) in enumerate([(401, 603), (200, 300), (300, 200), (90, 120), (40, 60), (48, 48)]):
        write_image(top / f"img{i}.jpg", height, width, seed=i)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(top / "img2.jpg") as image:
        image.save(top / "img2.jpg", exif=exif, quality="keep")
    return top


def plain_fast_pictures(jpegs, folder):
    """The same images; those much larger than 48 pixels are decoded by ``draft`` and resized, by hand."""
    folder.mkdir()
    for i, stored_wh in enumerate([(72, 48), (72, 48), (48, 72), None, None, None]):
        with Image.open(jpegs / f"img{i}.jpg") as image:
            if stored_wh is not None:
                _, box = image.draft(None, stored_wh)
                image = image.resize(stored_wh, Image.Resampling.BILINEAR, box)
            if i == 2:
                image = image.transpose(Image.Transpose.ROTATE_270)
            image.save(folder / f"img{i}.png")
    return folder


@pytest.mark.slow
def test_fast_decoding_equals_draft_of_pillow(jpegs, tmp_path, network):
    by_hand = plain_fast_pictures(jpegs, tmp_path / "by-hand")
    spec = InputSpec(size=SIZE, decode="fast")
    for workers in (0, 1):
        output = tmp_path / f"{workers}.h5"
        extraction, _ = extract([jpegs], output, input=spec, run=RunOptions(workers=workers, device="cpu"))
        assert [note for note in extraction.run.notes if "--decode fast" in note] == [
            "--decode fast decodes JPEGs of at least twice the size of their network input at 1/2, 1/4 or 1/8 of their "
            "size, which moves their descriptors by 2 to 15 %; 3 of 6 images are large enough"
        ]
        with sppfeat.open(output) as file:
            assert (file.status == 1).all()
            assert file.config.input.decode == "fast"
            for i, row in enumerate(file.features):
                expected = plain_descriptor(network, by_hand / f"img{i}.png")
                # With swapped sides, rows and columns are rounded to integers in the other order.
                assert difference(row, expected) <= (1e-2 if i == 2 else 1e-5)
            again = recompute_rows(file, 6)
            assert not again.problems
            assert len(again.rows) == 6


def test_fast_decoding_changes_large_images_only(jpegs, tmp_path):
    exact, _ = extract([jpegs], tmp_path / "f.h5")
    assert not any("--decode" in note for note in exact.run.notes)
    extract([jpegs], tmp_path / "fast.h5", input=InputSpec(size=SIZE, decode="fast"))
    with sppfeat.open(tmp_path / "f.h5") as slow, sppfeat.open(tmp_path / "fast.h5") as fast:
        moved = [difference(b, a) > 1e-4 for a, b in zip(slow.features, fast.features, strict=True)]
        assert moved == [True, True, True, False, False, False]


def test_a_mean_norm_is_estimated_on_images_decoded_as_in_the_run(jpegs, tmp_path):
    spec = InputSpec(size=SIZE, decode="fast")
    scaled = DescriptorChoice(levels=(1, 2), normalize="meannorm:20")
    extract([jpegs], tmp_path / "f.h5", input=spec, descriptor=scaled)
    with sppfeat.open(tmp_path / "f.h5") as file:
        assert np.linalg.norm(file.features, axis=1).mean() == pytest.approx(20, rel=1e-5)
