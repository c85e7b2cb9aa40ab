"""Learners on class labels and on teachers: their layers, losses, targets and measures."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import SEED, tiny_network  # noqa: F401

from sppfeat.errors import SppfeatError
from sppfeat.networks.backbones import load_backbone
from sppfeat.training.batches import PixelBatch
from sppfeat.training.learners import (
    Body,
    ClassLearner,
    PyramidClassifier,
    TeacherAdapter,
    TeacherLearner,
    Teachers,
    evaluate,
)
from sppfeat.training.settings import NetworkSettings

pytestmark = pytest.mark.usefixtures("tiny_network")

LEVELS = (3, 2, 1)
SETTINGS = NetworkSettings(levels=(1, 2), hidden=(6,), dropout=0.0)


def body(seed=SEED) -> Body:
    return Body(load_backbone("spp_s16", weights="none", seed=seed, fold=False))


def class_learner(*, freeze=False, label_smoothing=0.2) -> ClassLearner:
    return ClassLearner(
        body(), PyramidClassifier(16, SETTINGS, 3), label_smoothing=label_smoothing, freeze=freeze
    )


def pixels(n=4) -> torch.Tensor:
    return torch.randint(
        0, 256, (n, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def maps(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def standardized(rows):
    return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("hw", [(6, 9), (13, 7)])
@pytest.mark.parametrize("hidden", [(), (11,), (11, 7)])
def test_the_classifier_is_plain_layers_on_concatenated_levels(hw, hidden):
    network = PyramidClassifier(5, NetworkSettings(levels=LEVELS, hidden=hidden, dropout=0.5), 4).eval()
    feature_map = maps(2, 5, *hw)
    descriptor = torch.cat([F.adaptive_max_pool2d(feature_map, n).flatten(1) for n in LEVELS], 1)
    expected = standardized(descriptor)
    for i in range(len(hidden)):
        fc = getattr(network.layers, f"fc{6 + i}")
        expected = standardized(expected @ fc.weight.T + fc.bias).clamp_min(0)
    last = network.layers.classifier
    torch.testing.assert_close(network(feature_map), expected @ last.weight.T + last.bias)


def test_dropout_follows_each_hidden_layer():
    network = PyramidClassifier(5, NetworkSettings(levels=(1,), hidden=(8, 8), dropout=0.25), 3)
    names = ["norm5", "fc6", "norm6", "relu6", "drop6", "fc7", "norm7", "relu7", "drop7", "classifier"]
    assert [name for name, _ in network.layers.named_children()] == names
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.25}


def test_class_loss_is_cross_entropy_smoothed_in_training():
    learner, labels = class_learner().train(), torch.tensor([0, 2, 1, 1])
    answer = learner(pixels(), labels)
    log_p = F.log_softmax(answer.scores, 1)
    by_hand = -(0.8 * log_p[range(4), labels] + 0.2 * log_p.mean(1)).mean()
    torch.testing.assert_close(answer.loss, by_hand)
    torch.testing.assert_close(answer.loss, F.cross_entropy(answer.scores, labels, label_smoothing=0.2))
    judged = learner.eval()(pixels(), labels)
    torch.testing.assert_close(judged.loss, F.cross_entropy(judged.scores, labels))


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_body_keeps_its_parameters_and_its_statistics(freeze):
    learner = class_learner(freeze=freeze)
    before = {name: value.clone() for name, value in learner.body.state_dict().items()}
    learner.train()
    optimizer = torch.optim.SGD([p for p in learner.parameters() if p.requires_grad], lr=0.1)
    learner(pixels(), torch.tensor([0, 1, 2, 0])).loss.backward()
    optimizer.step()
    after = learner.body.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(after[name], value)]
    assert bool(moved) != freeze
    assert any("running_mean" in name for name in moved) != freeze
    assert learner.classifier.training
    learner.eval()
    assert not learner.classifier.training


def test_accuracy_is_measured_over_images_and_over_classes():
    scores = torch.eye(3)[torch.tensor([0, 0, 1, 1, 0])]  # class 0: two of three; 1: right; 2: wrong
    judged = class_learner().judge(scores, torch.tensor([0, 0, 0, 1, 2]))
    assert judged == pytest.approx({"top1": 3 / 5, "mean_class": (2 / 3 + 1 + 0) / 3})


def test_a_teacher_is_standardized_by_channel_over_all_maps():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = [3 * maps(2, 4, 5, 6) + 7, 3 * maps(1, 4, 2, 9, seed=1) + 7]
    adapter.standardize_by([adapter.moments(m) for m in sample])
    values = torch.cat([adapter.target(m).transpose(0, 1).flatten(1) for m in sample], 1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(values.std(1, correction=0), torch.ones(4), atol=1e-5, rtol=0)


def test_a_channel_that_is_dead_in_the_sample_does_not_dominate():
    adapter = TeacherAdapter(3, 4, NetworkSettings(), "map")
    sample = maps(2, 4, 6, 6)
    sample[:, 1] = 0
    adapter.standardize_by([adapter.moments(sample)])
    awake = sample.clone()
    awake[:, 1] = 1
    assert adapter.target(sample)[:, 1].abs().max() == 0
    assert 1 < adapter.target(awake)[:, 1].max() < 20
    adapter.standardize_by([adapter.moments(torch.zeros(1, 4, 3, 3))])
    assert adapter.target(torch.ones(1, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("student", "teacher", "common"),
    [((8, 6), (4, 3), (4, 3)), ((4, 3), (8, 6), (4, 3)), ((4, 9), (8, 3), (4, 3))],
)
def test_the_finer_grid_is_averaged_to_the_coarser_one(student, teacher, common):
    adapter = TeacherAdapter(3, 5, NetworkSettings(), "map")
    feature_map, target = maps(2, 3, *student).requires_grad_(), maps(2, 5, *teacher, seed=1)
    given, wanted = adapter(feature_map, adapter.target(target))
    assert given.shape == wanted.shape == (2, 5, *common)
    torch.testing.assert_close(wanted, F.adaptive_avg_pool2d(target, common))
    weight = adapter.linear.weight[:, :, 0, 0]
    pooled = F.adaptive_avg_pool2d(feature_map, common)
    expected = torch.einsum("oc,nchw->nohw", weight, pooled) + adapter.linear.bias[:, None, None]
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)
    given.square().sum().backward()
    assert feature_map.grad.abs().min() > 0
    assert adapter.linear.weight.grad.abs().min() > 0


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_descriptors_of_different_grids_are_compared_bin_by_bin(pool):
    adapter = TeacherAdapter(3, 5, NetworkSettings(levels=LEVELS, pool=pool), "descriptor")
    pooled = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    feature_map, teacher = maps(2, 3, 7, 9), maps(2, 5, 4, 13, seed=1)
    given, wanted = adapter(feature_map, adapter.target(teacher))
    assert given.shape == wanted.shape == (2, 5, 14, 1)
    expected = torch.cat([pooled(teacher, n).flatten(2) for n in LEVELS], 2)[..., None]
    torch.testing.assert_close(wanted, expected)


def test_a_student_equal_to_its_teacher_has_no_loss():
    teacher = body().eval()
    adapter = TeacherAdapter(16, 16, SETTINGS, "map")
    teachers = Teachers([teacher], [adapter])
    teachers.standardize([pixels()])
    student = TeacherLearner(body(), [adapter], ["twin:features"]).eval()
    scale, mean = adapter.scale.flatten(), adapter.mean.flatten()
    with torch.no_grad():  # the linear map that standardizes
        adapter.linear.weight.copy_(torch.diag(scale)[:, :, None, None])
        adapter.linear.bias.copy_(-mean * scale)
        answer = student(pixels(), teachers.targets(pixels()))
    assert float(answer.loss) < 1e-9
    judged = student.judge(answer.scores, torch.arange(4))
    assert judged == pytest.approx({"explained_twin:features": 1.0})


def test_teacher_loss_sums_mean_squares_and_predicting_the_mean_explains_nothing():
    adapters = [TeacherAdapter(16, 16, SETTINGS, mode) for mode in ("map", "descriptor")]
    teachers = Teachers([body(6), body(7)], adapters)
    teachers.standardize([pixels()])
    student = TeacherLearner(body(), adapters, ["a", "b"]).eval()
    wanted = teachers.targets(pixels())
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
    explained = student.judge(student(pixels(), wanted).scores, torch.arange(4))
    alive = [float((adapter.scale.flatten() > 0).float().mean()) for adapter in adapters]
    assert all(-0.01 <= 1 - share <= 1 for share in alive)
    assert all(-0.05 < share < 1 for share in explained.values())


def test_standardizing_without_images_is_refused():
    with pytest.raises(SppfeatError, match="none of the sample images could be read"):
        Teachers([body()], [TeacherAdapter(16, 16, SETTINGS, "map")]).standardize([])


def test_evaluation_weighs_batches_by_images_and_skips_empty_ones():
    learner, labels, images = class_learner().train(), torch.tensor([0, 1, 2, 0]), torch.arange(4)
    whole = learner.eval()(pixels(), labels)
    slices = (slice(0, 1), slice(0, 0), slice(1, 4))
    parts = [PixelBatch(images[part], labels[part], pixels()[part], {}) for part in slices]

    def run(module, batch):
        return module(batch.pixels, batch.labels)

    found = evaluate(learner, parts, run=run)
    right = (whole.scores.argmax(1) == labels).float().mean()
    assert found["images"] == 4
    assert found["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    assert found["top1"] == pytest.approx(float(right))
    with pytest.raises(SppfeatError, match="none of the validation images could be read"):
        evaluate(learner, parts[1:2], run=run)


def test_a_body_normalizes_pixels_as_the_backbone_expects():
    backbone = load_backbone("squeezenet1_1", weights="none", seed=1, fold=False)
    pixels = torch.randint(
        0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
    with torch.no_grad():
        expected = backbone.network((pixels.float() / 255 - mean) / std)["features"]
        torch.testing.assert_close(Body(backbone)(pixels)[0], expected, rtol=1e-4, atol=1e-4)
