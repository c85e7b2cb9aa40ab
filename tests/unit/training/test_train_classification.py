import numpy as np
import pytest
import torch
from learners import CPU, class_learner, maps, pixels
from torch import nn
from torch.nn import functional as F
from training_runs import tiny_network  # noqa: F401

from sppfeat.training.learners import ClassTargets, PyramidClassifier
from sppfeat.training.settings import NetworkSettings

LEVELS = (3, 2, 1)

pytestmark = pytest.mark.usefixtures("tiny_network")


def standardized(rows):
    return (rows - rows.mean(1, keepdim=True)) / (rows.var(1, correction=0, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("hw", [(6, 9), (13, 7)])
@pytest.mark.parametrize("hidden", [(), (11,), (11, 7)])
def test_the_classifier_is_plain_layers_on_the_levels_side_by_side(hw, hidden):
    network = PyramidClassifier(5, NetworkSettings(levels=LEVELS, hidden=hidden, dropout=0.5), 4).eval()
    feature_map = maps(2, 5, *hw)
    descriptor = torch.cat([F.adaptive_max_pool2d(feature_map, n).flatten(1) for n in LEVELS], 1)
    expected = standardized(descriptor)
    for i in range(len(hidden)):
        fc = getattr(network.layers, f"fc{6 + i}")
        expected = standardized(expected @ fc.weight.T + fc.bias).clamp_min(0)
    last = network.layers.classifier
    torch.testing.assert_close(network(feature_map), expected @ last.weight.T + last.bias)


def test_dropout_is_behind_each_hidden_layer():
    network = PyramidClassifier(5, NetworkSettings(levels=(1,), hidden=(8, 8), dropout=0.25), 3)
    names = ["norm5", "fc6", "norm6", "relu6", "drop6", "fc7", "norm7", "relu7", "drop7", "classifier"]
    assert [name for name, _ in network.layers.named_children()] == names
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.25}


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
