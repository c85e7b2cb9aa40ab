import csv
import json

import pytest
import torch
from training_runs import SIDE, prepared, settings, tiny_network, train, write_classes  # noqa: F401

from sppfeat.config.request import BackboneChoice
from sppfeat.errors import ConfigError, SppfeatError, StoreError
from sppfeat.networks.backbones import load_backbone
from sppfeat.training.learners import TeacherLearner
from sppfeat.training.settings import NetworkSettings, TeacherChoice

pytestmark = pytest.mark.usefixtures("tiny_network")

SQUEEZENET = BackboneChoice(name="squeezenet1_1", weights="none", seed=1)


@pytest.fixture
def classes(tmp_path):
    return write_classes(tmp_path / "classes")


def saved(folder):
    return torch.load(folder / "model.pth", weights_only=True)


def same_tensors(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_a_training_separates_colors_and_logs_its_accuracy(classes, tmp_path):
    training, finished = train(
        [classes],
        tmp_path / "run",
        epochs=8,
        val_fraction=0.25,
        color=0.0,
        learning_rate=0.03,
        label_smoothing=0.0,
        ema=0.5,
    )
    assert finished
    history = training.trainer.progress.history
    assert [entry["epoch"] for entry in history] == list(range(1, 9))
    assert min(entry["loss"] for entry in history) < 0.5 * history[0]["loss"]
    assert history[-1]["validation"][str(SIDE)] == pytest.approx(
        {"images": 4, "top1": 1.0, "mean_class": 1.0, "loss": history[-1]["validation"][str(SIDE)]["loss"]}
    )
    assert [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()] == history


@pytest.mark.slow
def test_extract_takes_the_weights_which_record_their_training(classes, tmp_path):
    training, _ = train([classes], tmp_path / "run", val_fraction=0.25)
    backbone = load_backbone("spp_s16", weights=str(tmp_path / "run/model.pth"), fold=False)
    result = training.trainer.result
    assert same_tensors(backbone.network.state_dict(), result.body.network.state_dict())
    content = saved(tmp_path / "run")
    assert content["classes"] == ["blue", "red"]
    assert same_tensors(content["head"], result.classifier.state_dict())
    provenance = json.loads(content["provenance"])
    assert provenance["settings"] == json.loads(json.dumps(settings(val_fraction=0.25).canonical()))
    assert (provenance["images"], provenance["validation_images"]) == (12, 4)
    assert len(provenance["history"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(("views", "stops"), [("crop", (1, 4)), ("full", (4,))])
def test_resumed_equals_uninterrupted(classes, tmp_path, views, stops):
    changes = {"views": views, "sizes": (SIDE, 48), "val_fraction": 0.25, "ema": 0.9}
    changes["network"] = NetworkSettings(levels=(1, 2), hidden=(16,), dropout=0.5)
    whole, _ = train([classes], tmp_path / "whole", **changes)
    for stop_after in stops:
        _, finished = train([classes], tmp_path / "run", stop_after=stop_after, overwrite=True, **changes)
        assert not finished
        resumed, finished = train([classes], tmp_path / "run", resume=True, **changes)
        assert finished
        assert same_tensors(saved(tmp_path / "run")["state_dict"], saved(tmp_path / "whole")["state_dict"])
        assert same_tensors(saved(tmp_path / "run")["head"], saved(tmp_path / "whole")["head"])
        untimed = [
            [{**entry, "seconds": 0} for entry in run.trainer.progress.history] for run in (whole, resumed)
        ]
        assert untimed[0] == untimed[1]


@pytest.mark.slow
def test_checkpoints_are_written_between_epochs_when_due(classes, tmp_path):
    clock = iter(range(0, 10_000, 40))
    with prepared([classes], tmp_path / "run", epochs=1, run={"checkpoint_minutes": 1.0}) as training:
        written = []
        write = training.folder.write_checkpoint
        training.folder.write_checkpoint = lambda state: (
            written.append(state["progress"]["batch"]),
            write(state),
        )
        training.run(seconds=lambda: next(clock))
    assert written == [0, 2, 4, 0]  # at the beginning, every second step, and at the end of the epoch


def test_resuming_a_finished_training_changes_nothing(classes, tmp_path):
    train([classes], tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    _, finished = train([classes], tmp_path / "run", resume=True)
    assert finished
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.slow
def test_an_existing_training_is_kept_unless_overwritten(classes, tmp_path):
    train([classes], tmp_path / "run")
    with pytest.raises(StoreError, match="--resume continues it, --overwrite starts over"):
        train([classes], tmp_path / "run")
    with pytest.raises(StoreError, match=r"epochs is 3, was 2"):
        train([classes], tmp_path / "run", resume=True, epochs=3)
    (classes / "blue/0.png").unlink()
    with pytest.raises(StoreError, match=r"images is 15, was 16"):
        train([classes], tmp_path / "run", resume=True)
    _, finished = train([classes], tmp_path / "run", overwrite=True)
    assert finished


def test_resuming_without_a_checkpoint_is_refused(classes, tmp_path):
    with pytest.raises(StoreError, match="no training to resume"):
        train([classes], tmp_path / "run", resume=True)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/checkpoint.pth").write_bytes(b"PK")
    with pytest.raises(StoreError, match=r"cannot be resumed: .*cut short"):
        train([classes], tmp_path / "run", resume=True)


@pytest.mark.slow
def test_a_student_learns_to_explain_its_teacher(classes, tmp_path):
    teacher = TeacherChoice(name="squeezenet1_1", weights="none")
    training, _ = train(
        [classes],
        tmp_path / "run",
        teachers=(teacher,),
        epochs=10,
        ema=0.0,
        sizes=(48,),
        color=0.0,
        learning_rate=0.02,
    )
    history = training.trainer.progress.history
    assert isinstance(training.trainer.result, TeacherLearner)
    assert history[-1]["loss"] < 0.85 * history[0]["loss"]
    content = saved(tmp_path / "run")
    assert set(content) == {"state_dict", "provenance"}
    load_backbone("spp_s16", weights=str(tmp_path / "run/model.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("distill", ["map", "descriptor"])
def test_a_resumed_student_has_the_same_teachers(classes, tmp_path, distill):
    changes = {"teachers": (TeacherChoice(name="squeezenet1_1", weights="none"),), "distill": distill}
    changes |= {"epochs": 1, "sizes": (48,), "val_fraction": 0.25}
    whole, _ = train([classes], tmp_path / "whole", **changes)
    train([classes], tmp_path / "run", stop_after=1, **changes)
    resumed, _ = train([classes], tmp_path / "run", resume=True, **changes)
    assert same_tensors(resumed.trainer.result.state_dict(), whole.trainer.result.state_dict())
    scores = whole.trainer.progress.history[0]["validation"]["48"]
    assert set(scores) == {"images", "loss", "explained_squeezenet1_1:features"}


@pytest.mark.slow
def test_a_frozen_backbone_does_not_change(classes, tmp_path):
    training, _ = train(
        [classes], tmp_path / "run", backbone=SQUEEZENET, network=NetworkSettings(hidden=(), freeze=True)
    )
    untouched = load_backbone("squeezenet1_1", weights="none", seed=1, fold=False).network.state_dict()
    assert same_tensors(saved(tmp_path / "run")["state_dict"], untouched)
    assert training.summary()["parameters"] == 512 * 21 * 2 + 2


@pytest.mark.slow
def test_a_torchvision_network_starts_from_named_weights(classes, tmp_path):
    first, _ = train([classes], tmp_path / "first", epochs=1)
    given = BackboneChoice(name="spp_s16", weights=str(tmp_path / "first/model.pth"))
    with prepared([classes], tmp_path / "second", backbone=given) as training:
        start = training.trainer.learner.body.network.state_dict()
        assert same_tensors(start, first.trainer.result.body.network.state_dict())


def test_half_precision_weights_load(classes, tmp_path):
    train([classes], tmp_path / "run", epochs=1, run={"weights_dtype": "float16"})
    state = saved(tmp_path / "run")["state_dict"]
    assert {value.dtype for value in state.values() if value.is_floating_point()} == {torch.float16}
    load_backbone("spp_s16", weights=str(tmp_path / "run/model.pth"))


def test_training_in_bfloat16(classes, tmp_path):
    training, finished = train([classes], tmp_path / "run", epochs=1, precision="bf16")
    assert finished
    assert all(p.dtype == torch.float32 for p in training.trainer.learner.parameters())


def test_the_list_of_images_marks_held_out_ones(classes, tmp_path):
    training, _ = train([classes], tmp_path / "run", val_fraction=0.25, epochs=1)
    with open(tmp_path / "run/images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["set"] for row in rows] == ["train"] * 12 + ["validation"] * 4
    assert sorted(row["path"] for row in rows) == sorted(map(str, classes.rglob("*.png")))
    assert all(f"/{row['class']}/" in row["path"] for row in rows)
    held_out = {row["path"] for row in rows if row["set"] == "validation"}
    used = {training.sets.train.name(i) for i in training.sets.train.images.tolist()}
    assert not used & held_out


def test_images_that_cannot_be_read_are_left_out_and_named(classes, tmp_path):
    (classes / "blue/header.png").write_bytes(b"no picture")
    whole = (classes / "blue/0.png").read_bytes()
    (classes / "blue/pixels.png").write_bytes(whole[: len(whole) // 2])
    training, finished = train([classes], tmp_path / "run")
    assert finished
    assert [path.endswith("blue/header.png") for path in training.sets.left_out] == [True]
    assert ["blue/pixels.png" in failure for failure in training.trainer.progress.failures] == [True]


def test_validation_images_in_a_separate_folder(classes, tmp_path):
    other = write_classes(tmp_path / "other", n=3)
    training, _ = train([classes], tmp_path / "run", validation=[other], epochs=1)
    assert training.trainer.progress.history[0]["validation"][str(SIDE)]["images"] == 6
    (other / "blue").rename(other / "slanted")
    with pytest.raises(ConfigError, match=r"the validation images have other classes, such as 'slanted'"):
        train([classes], tmp_path / "run", validation=[other], overwrite=True)


def test_labels_are_required_without_a_teacher(classes, tmp_path):
    with pytest.raises(ConfigError, match=r"found a single class|8 of 8 images have no label"):
        train([classes / "blue"], tmp_path / "run")
    assert not (tmp_path / "run/checkpoint.pth").exists()


def test_a_loss_that_is_not_finite_ends_the_training(classes, tmp_path):
    with pytest.raises(
        SppfeatError,
        match=r"the loss is (nan|inf) in epoch \d, batch \d; try a lower --lr|are not finite as float32",
    ):
        train([classes], tmp_path / "run", optimizer="sgd", learning_rate=100.0, epochs=20, warmup_epochs=0)


def test_a_batch_too_small_for_batch_normalization_is_refused(classes, tmp_path):
    with pytest.raises(
        ConfigError, match="spp_s16 cannot be trained on a batch of size 1 with 16 x 16 pixels: "
    ):
        train([classes], tmp_path / "run", batch_size=1, sizes=(16,))


def test_starting_over_removes_the_earlier_training(classes, tmp_path):
    train([classes], tmp_path / "run", epochs=1)
    train([classes], tmp_path / "run", epochs=1, seed=6, overwrite=True, stop_after=1)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.pth", "images.csv"]


def test_weights_that_overflow_half_precision_are_not_saved(classes, tmp_path):
    with prepared([classes], tmp_path / "run", run={"weights_dtype": "float16"}, ema=0.0) as training:
        dict(training.trainer.learner.body.network.named_buffers())["features.0.1.running_var"].fill_(1e5)
        with pytest.raises(SppfeatError, match=r"'features.0.1.running_var' are not finite as float16"):
            training.write_weights()
