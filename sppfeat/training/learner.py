"""The interface of learners: a backbone on pixels, a learner with loss and scores, the source of its targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sppfeat.networks.backbones import Backbone
from sppfeat.training.examples import Examples

__all__ = ["BatchResult", "Body", "Learner", "TargetSource", "TrainingTask"]


class Body(nn.Module):
    """A backbone as a module from pixels to the feature maps of its layers.

    Args:
        backbone: the network; for training, its normalizations must not be folded.
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
        """Return the feature maps of ``(N, 3, H, W)`` uint8 pixels, in the order of the layers."""
        batch = pixels.to(self.mean.dtype).div_(255).sub_(self.mean).div_(self.std)
        maps = self.network(batch.contiguous(memory_format=torch.channels_last))
        return [maps[layer] for layer in self._layers]


class BatchResult(NamedTuple):
    """The loss and the scores of a batch.

    Attributes:
        loss: mean over the batch, to be minimized.
        scores: ``(N, K)``: one per class; or, for each layer of each teacher, the explained share of the variance.
    """

    loss: Tensor
    scores: Tensor


class Learner(nn.Module):
    """A body with the modules that are trained after it.

    Attributes:
        body: the backbone.
    """

    body: Body

    def forward(self, pixels: Tensor, targets: Sequence[Tensor]) -> BatchResult:
        """Return loss and scores for ``(N, 3, H, W)`` uint8 pixels."""
        raise NotImplementedError


class TargetSource(Protocol):
    """Gives the targets of a learner, and measures its scores against them."""

    def __call__(self, images: Tensor, pixels: Tensor) -> list[Tensor]:
        """Return the targets for ``(n,)`` images of a listing, as ``(n, 3, H, W)`` uint8 pixels on the device."""
        ...

    def judge(self, images: Tensor, scores: Tensor) -> dict[str, float]:
        """Return measures, by name, of the ``(n, K)`` scores that a learner gave for ``(n,)`` images."""
        ...


@dataclass(frozen=True)
class TrainingTask:
    """A learner with its targets and its images.

    Attributes:
        learner: on the device.
        targets: of the images in ``train``.
        validation_targets: of the images in ``validation``.
        train: images to train on.
        validation: images held out, or None.
        resample: name of Pillow's filter for resizing.
        min_side: smallest side of an input that the networks take, in pixels.
    """

    learner: Learner
    targets: TargetSource
    validation_targets: TargetSource
    train: Examples
    validation: Examples | None
    resample: str
    min_side: int
