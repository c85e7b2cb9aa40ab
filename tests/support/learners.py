"""Small learners, pixels and maps for the tests of training."""

import torch
from training_runs import SEED

from sppfeat.networks.backbones import load_backbone
from sppfeat.training.learners import Body, ClassLearner, PyramidClassifier
from sppfeat.training.settings import NetworkSettings

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
