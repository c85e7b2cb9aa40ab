"""The interface of learners: the backbone, a learner that computes loss and scores, and the source of its targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sppfeat.networks.backbones import Backbone
from sppfeat.training.examples import Examples

__all__ = ["BatchResult", "Body", "Learner", "TargetSource", "TrainingTask"]


class Body(nn.Module):
    """A backbone as a module that maps pixels to the feature maps of its layers.

    Args:
        backbone: the network; its normalizations must not be folded if it is to be trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.network = backbone.network
        self._layers = backbone.spec.layers
        for name, values in (("mean", backbone.spec.mean), ("std", backbone.spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Computes the feature maps ``(N, C, H', W')`` of ``(N, 3, H, W)`` uint8 pixels, one per layer."""
        batch = pixels.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        maps = self.network(batch.contiguous(memory_format=torch.channels_last))
        return [maps[layer] for layer in self._layers]


class BatchResult(NamedTuple):
    """The loss and the scores of a batch.

    Attributes:
        loss: mean over the batch, to be minimized.
        scores: ``(N, K)``, one score per class, or the explained share of the variance per layer of each teacher.
    """

    loss: Tensor
    scores: Tensor


class Learner(nn.Module):
    """A backbone with the modules after it, and their loss.

    Attributes:
        body: the backbone.
    """

    body: Body

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> BatchResult:
        """Computes loss and scores of ``(N, 3, H, W)`` uint8 pixels against the targets of a :class:`TargetSource`."""
        raise NotImplementedError


class TargetSource(Protocol):
    """Source of a learner's targets, which also measures scores against them."""

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:
        """Computes the targets for ``(n,)`` image indices, whose ``(n, 3, H, W)`` uint8 pixels are on the device."""
        ...

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:
        """Computes measures, by name, of a learner's ``(n, K)`` scores for ``(n,)`` image indices."""
        ...


@dataclass(frozen=True)
class TrainingTask:
    """A learner with its targets and its images.

    Attributes:
        learner: the learner, on the device.
        targets: targets of the images in ``train``.
        validation_targets: targets of the images in ``validation``.
        train: images to train on.
        validation: held-out images, or None.
        resample: name of the Pillow filter for resizing.
        min_side: smallest side of an input that the networks accept, in pixels.
    """

    learner: Learner
    targets: TargetSource
    validation_targets: TargetSource
    train: Examples
    validation: Examples | None
    resample: str
    min_side: int
