import math

import pytest
import torch
from stopping import stop_at
from training_runs import prepared, tiny_network, write_classes  # noqa: F401

pytestmark = pytest.mark.usefixtures("tiny_network")


@pytest.fixture
def classes(tmp_path):
    return write_classes(tmp_path / "classes", n=4)


def optimizer_of(training) -> torch.optim.Optimizer:
    return training.trainer._optimizer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ema", "decays"), [(0.9, [None, 2 / 11, 3 / 12, 4 / 13]), (0.2, [None, 2 / 11, 0.2, 0.2]), (0.0, None)]
)
def test_the_result_is_a_running_mean_that_soon_forgets_initial_values(classes, tmp_path, ema, decays):
    with prepared([classes], tmp_path / "run", epochs=2, ema=ema) as training:
        means = []

        def after_step(progress) -> None:
            value = training.trainer.learner.classifier.layers.classifier.weight.detach().clone()
            decay = decays and decays[len(means)]
            means.append(value if decay is None else decay * means[-1] + (1 - decay) * value)

        training.run(on_step=after_step, seconds=lambda: 0.0)
        found = training.trainer.result.classifier.layers.classifier.weight
        torch.testing.assert_close(found, means[-1])
        assert (training.trainer.result is training.trainer.learner) == (ema == 0.0)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_weights_decay_not_biases_or_scales(classes, tmp_path, optimizer):
    with prepared([classes], tmp_path / "run", optimizer=optimizer, weight_decay=0.3) as training:
        groups = optimizer_of(training).param_groups
        assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
        named = {id(p): name for name, p in training.trainer.learner.named_parameters()}
        decaying, free = ([named[id(p)] for p in group["params"]] for group in groups)
        assert len(decaying) + len(free) == len(named)
        assert all(name.endswith("weight") for name in decaying)
        norms = [
            name
            for name, module in training.trainer.learner.named_modules()
            if isinstance(module, torch.nn.BatchNorm2d)
        ]
        assert {f"{name}.weight" for name in norms} <= set(free)
        assert {name for name in named.values() if name.endswith("bias")} <= set(free)


@pytest.mark.slow
@pytest.mark.parametrize(("warmup_epochs", "n_warmup"), [(0.0, 0), (1.0, 2), (2.5, 5)])
def test_the_learning_rate_rises_from_a_hundredth_and_falls_to_0_along_a_cosine(
    classes, tmp_path, warmup_epochs, n_warmup
):
    changes = {"epochs": 5, "batch_size": 4, "learning_rate": 0.5, "warmup_epochs": warmup_epochs}
    with prepared([classes], tmp_path / "run", **changes) as training:
        assert training.trainer.n_steps == 10
        rates = [optimizer_of(training).param_groups[0]["lr"]]
        training.run(
            on_step=lambda progress: rates.append(optimizer_of(training).param_groups[0]["lr"]),
            seconds=lambda: 0.0,
        )
    expected = [0.5 * (0.01 + 0.99 * step / n_warmup) for step in range(n_warmup)]
    n_falling = 10 - n_warmup
    expected += [0.25 * (1 + math.cos(math.pi * step / n_falling)) for step in range(n_falling + 1)]
    assert rates == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_a_stop_during_validation_does_not_change_the_result(classes, tmp_path):
    changes = {"epochs": 1, "val_fraction": 0.5, "batch_size": 2, "val_sizes": (32, 48)}
    with prepared([classes], tmp_path / "whole", **changes) as whole:
        assert whole.run(seconds=lambda: 0.0)
    in_validation = stop_at(3)  # after two steps
    with prepared([classes], tmp_path / "run", **changes) as training:
        assert not training.run(should_stop=in_validation, seconds=lambda: 0.0)
        assert training.trainer.progress.history == []
        assert training.trainer.n_steps_done == training.trainer.n_steps == 2
    with prepared([classes], tmp_path / "run", resume=True, **changes) as training:
        assert training.run(seconds=lambda: 0.0)
    found, expected = (t.trainer.progress.history[0]["validation"] for t in (training, whole))
    assert found == expected


def test_validation_images_that_break_are_reported(classes, tmp_path):
    other = write_classes(tmp_path / "other", n=2)
    with prepared([classes], tmp_path / "run", validation=[other], epochs=1) as training:
        (other / "red/1.png").unlink()
        training.run(seconds=lambda: 0.0)
    assert training.trainer.progress.history[0]["validation"]["32"]["images"] == 3
    assert ["other/red/1.png" in failure for failure in training.trainer.progress.failures] == [True]
