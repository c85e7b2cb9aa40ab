import dataclasses
import json

import pytest
from training_runs import settings

from sppfeat.config.request import BackboneChoice
from sppfeat.errors import ConfigError
from sppfeat.training.settings import (
    DataSettings,
    NetworkSettings,
    Recipe,
    TeacherChoice,
    TrainRequest,
    TrainRun,
    TrainSettings,
)


@pytest.mark.parametrize(
    ("kind", "name", "value", "allowed"),
    [
        (DataSettings, "labels", "none", "auto, folder"),
        (DataSettings, "val_fraction", 0.95, "0 to 0.9"),
        (DataSettings, "min_crop", 0.0, "0.01 to 1"),
        (DataSettings, "color", True, "0 to 1"),
        (DataSettings, "color", float("nan"), "0 to 1"),
        (DataSettings, "round_to", 0, "1 to 1024"),
        (DataSettings, "sizes", (7,), "8 to 4096 pixels"),
        (DataSettings, "sizes", (64, 64), "one or more different sizes"),
        (DataSettings, "sizes", "180;224", "numbers of pixels such as 180,224"),
        (DataSettings, "sizes", "180,", "numbers of pixels such as 180,224"),
        (DataSettings, "val_sizes", (9000,), "8 to 4096 pixels"),
        (NetworkSettings, "hidden", (0,), "1 to 65536 units"),
        (Recipe, "epochs", 1.5, "1 or more"),
        (Recipe, "warmup_epochs", 31.0, "0 to 30"),
        (Recipe, "seed", 2**64, "0 to 9223372036854775807"),
        (TrainRun, "workers", -1, "0 or more"),
    ],
)
def test_an_invalid_value_is_refused_with_its_name_and_what_is_allowed(kind, name, value, allowed):
    with pytest.raises(ConfigError) as caught:
        kind(**{name: value})
    message = str(caught.value)
    assert message.startswith(name.replace("_", "-"))
    assert repr(value) in message or repr(value[0]) in message
    assert f"allowed: {allowed}" in message


def test_a_learning_rate_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"^lr is 0.0; allowed: 1e-09 to 100"):
        Recipe(learning_rate=0.0)


@pytest.mark.parametrize(
    ("optimizer", "given", "by_labels", "by_teachers"),
    [("adamw", None, 5e-4, 2e-3), ("sgd", None, 0.01, 0.04), ("sgd", 0.5, 0.5, 0.5)],
)
def test_the_learning_rate_follows_optimizer_and_objective_unless_given(
    optimizer, given, by_labels, by_teachers
):
    recipe = Recipe(optimizer=optimizer, learning_rate=given)
    settings = TrainSettings(backbone=BackboneChoice(), recipe=recipe)
    assert settings.learning_rate == by_labels
    taught = dataclasses.replace(settings, teachers=(TeacherChoice(name="resnet18"),))
    assert taught.learning_rate == by_teachers


def test_validation_sizes_default_to_the_training_sizes():
    assert DataSettings(sizes="180,224").val_sizes == (180, 224)
    assert DataSettings(sizes="180,224", val_sizes="96").val_sizes == (96,)


@pytest.mark.parametrize(
    ("text", "name", "layers", "weights"),
    [
        ("resnet18", "resnet18", (), "DEFAULT"),
        ("resnet18=none", "resnet18", (), "none"),
        ("resnet18:layer3", "resnet18", ("layer3",), "DEFAULT"),
        ("resnet18:layer3,layer4=a=b.pth", "resnet18", ("layer3", "layer4"), "a=b.pth"),
        ("resnet18=c:/d.pth", "resnet18", (), "c:/d.pth"),
    ],
)
def test_a_teacher_as_text(text, name, layers, weights):
    teacher = TeacherChoice.parse(text)
    assert (teacher.name, teacher.layers, teacher.weights) == (name, layers, weights)
    assert TeacherChoice.parse(teacher.text) == teacher


@pytest.mark.parametrize("text", ["", "=none", "resnet18=", "resnet18:layer3,"])
def test_invalid_texts_of_teachers_are_refused(text):
    with pytest.raises(ConfigError, match=r"^teacher is .*; allowed: NAME or NAME:LAYER,LAYER, each"):
        TeacherChoice.parse(text)


def test_contradictory_settings_are_refused():
    two = BackboneChoice(name="resnet18", layers=("layer3", "layer4"))
    teacher = TeacherChoice(name="resnet18")
    with pytest.raises(ConfigError, match=r"layers are \['layer3', 'layer4'\]; allowed: one layer"):
        TrainSettings(backbone=two)
    with pytest.raises(ConfigError, match="a teacher trains the backbone"):
        settings(teachers=(teacher,), network=NetworkSettings(freeze=True))
    with pytest.raises(ConfigError, match="teachers are resnet18, resnet18; allowed: each network once"):
        settings(teachers=(teacher, teacher))
    with pytest.raises(ConfigError, match="--resume and --overwrite contradict each other"):
        TrainRun(resume=True, overwrite=True)
    with pytest.raises(ConfigError, match="--val and --val-fraction contradict each other"):
        TrainRequest(inputs=("a",), output="b", settings=settings(val_fraction=0.5), validation=("c",))


def test_equal_values_are_recorded_alike():
    assert json.dumps(settings(label_smoothing=0).canonical()) == json.dumps(
        settings(label_smoothing=0.0).canonical()
    )
    assert settings(sizes="32").canonical() == settings(sizes=[32]).canonical()


def test_canonical_settings_are_plain():
    values = settings(teachers=(TeacherChoice(name="alexnet", layers=("a", "b")),)).canonical()
    assert json.loads(json.dumps(values)) == values
    assert values["teachers"] == [{"name": "alexnet", "layers": ["a", "b"], "weights": "DEFAULT"}]
