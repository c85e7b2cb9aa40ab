import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import SEED, tiny_network  # noqa: F401

from sppfeat.errors import SppfeatError
from sppfeat.networks.backbones import load_backbone
from sppfeat.training.classification import Body, PyramidClassifier, TeacherAdapter
from sppfeat.training.distillation import (
    ClassLearner,
    ClassTargets,
    TeacherLearner,
    TeacherTargets,
)
from sppfeat.training.evaluation import evaluate
from sppfeat.training.loader import Batch
from sppfeat.training.settings import NetworkSettings

CPU = torch.device("cpu")
SETTINGS = NetworkSettings(levels=(1, 2), hidden=(6,), dropout=0.0)

pytestmark = pytest.mark.usefixtures("tiny_network")


def body(seed=SEED) -> Body:
    return Body(load_backbone("spp_s16", weights="none", seed=seed, fold=False))


def pixels(n=4) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def class_learner(*, freeze=False, label_smoothing=0.2) -> ClassLearner:
    return ClassLearner(
        body(), PyramidClassifier(16, SETTINGS, 3), label_smoothing=label_smoothing, freeze=freeze
    )


def test_the_loss_of_classes_is_cross_entropy_smoothed_in_training():
    learner, labels = class_learner().train(), torch.tensor([0, 2, 1, 1])
    answer = learner(pixels(), [labels])
    log_p = F.log_softmax(answer.scores, 1)
    by_hand = -(0.8 * log_p[range(4), labels] + 0.2 * log_p.mean(1)).mean()
    torch.testing.assert_close(answer.loss, by_hand)
    torch.testing.assert_close(answer.loss, F.cross_entropy(answer.scores, labels, label_smoothing=0.2))
    judged = learner.eval()(pixels(), [labels])
    torch.testing.assert_close(judged.loss, F.cross_entropy(judged.scores, labels))


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_body_keeps_its_parameters_and_its_statistics(freeze):
    learner = class_learner(freeze=freeze)
    before = {name: value.clone() for name, value in learner.body.state_dict().items()}
    learner.train()
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    learner(pixels(), [torch.tensor([0, 1, 2, 0])]).loss.backward()
    optimizer.step()
    after = learner.body.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(after[name], value)]
    assert bool(moved) != freeze
    assert any("running_mean" in name for name in moved) != freeze
    assert learner.classifier.training
    learner.eval()
    assert not learner.classifier.training


def test_classes_are_judged_over_images_and_over_classes():
    targets = ClassTargets(np.array([0, 0, 0, 1, 2, -1]), CPU)
    scores = torch.eye(3)[torch.tensor([0, 0, 1, 1, 0])]  # class 0: two of three; 1: right; 2: wrong
    judged = targets.judge(torch.tensor([0, 1, 2, 3, 4]), scores)
    assert judged == pytest.approx({"top1": 3 / 5, "mean_class": (2 / 3 + 1 + 0) / 3})
    assert targets(torch.tensor([4, 0]), pixels(2))[0].tolist() == [2, 0]


def test_a_student_that_is_its_teacher_has_no_loss_and_explains_everything():
    teacher = body().eval()
    adapter = TeacherAdapter(16, 16, SETTINGS, "map")
    targets = TeacherTargets([teacher], [adapter], ["twin:features"])
    targets.standardize([pixels()])
    student = TeacherLearner(body(), [adapter]).eval()
    scale, mean = adapter.scale.flatten(), adapter.mean.flatten()
    with torch.no_grad():  # the linear map that standardises
        adapter.linear.weight.copy_(torch.diag(scale)[:, :, None, None])
        adapter.linear.bias.copy_(-mean * scale)
        answer = student(pixels(), targets(torch.arange(4), pixels()))
    assert float(answer.loss) < 1e-9
    judged = targets.judge(torch.arange(4), answer.scores)
    assert judged == pytest.approx({"explained_twin:features": 1.0})


def test_the_loss_of_teachers_is_the_sum_of_mean_squares_and_the_mean_explains_nothing():
    adapters = [TeacherAdapter(16, 16, SETTINGS, mode) for mode in ("map", "descriptor")]
    targets = TeacherTargets([body(6).eval(), body(7).eval()], adapters, ["a", "b"])
    targets.standardize([pixels()])
    student = TeacherLearner(body(), adapters).eval()
    wanted = targets(torch.arange(4), pixels())
    answer = student(pixels(), wanted)
    feature_map = student.body(pixels())[0]
    by_hand = 0.0
    for adapter, target in zip(adapters, wanted, strict=True):
        given, cells = adapter(feature_map, target)
        by_hand += float((given - cells).detach().square().mean())
    assert float(answer.loss.detach()) == pytest.approx(by_hand, rel=1e-4)
    for adapter in adapters:
        nn.init.zeros_(adapter.linear.weight)
        nn.init.zeros_(adapter.linear.bias)
    explained = targets.judge(torch.arange(4), student(pixels(), wanted).scores)
    alive = [float((adapter.scale.flatten() > 0).float().mean()) for adapter in adapters]
    assert all(-0.01 <= 1 - share <= 1 for share in alive)
    assert all(-0.05 < share < 1 for share in explained.values())


def test_nothing_to_standardise_by():
    with pytest.raises(SppfeatError, match="no image could be read"):
        TeacherTargets([body().eval()], [TeacherAdapter(16, 16, SETTINGS, "map")], ["a"]).standardize([])


def test_an_evaluation_weighs_batches_by_their_images_and_passes_over_empty_ones():
    learner, labels = class_learner().train(), np.array([0, 1, 2, 0])
    targets, images = ClassTargets(labels, CPU), torch.arange(4)
    whole = learner.eval()(pixels(), [torch.from_numpy(labels)])
    learner.train()
    parts = [Batch(images[i], pixels()[i], {}) for i in (slice(0, 1), slice(0, 0), slice(1, 4))]
    found = evaluate(learner, targets, parts, to_device=lambda tensor: tensor)
    right = (whole.scores.argmax(1).numpy() == labels).mean()
    assert learner.training
    assert found["images"] == 4
    assert found["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    assert found["top1"] == pytest.approx(right)
    with pytest.raises(SppfeatError, match="no image to validate on could be read"):
        evaluate(learner, targets, parts[1:2], to_device=lambda tensor: tensor)
