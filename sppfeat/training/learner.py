"""The interface of learners: the backbone, a learner that computes loss and scores, and the source of its targets."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sppfeat.errors import SppfeatError
from sppfeat.networks.backbones import Backbone
from sppfeat.training.batches import PixelBatch

__all__ = ["BatchResult", "Body", "Learner", "TargetSource", "evaluate"]


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


def evaluate(
    learner: Learner,
    targets: TargetSource,
    batches: Iterable[PixelBatch],
    *,
    to_device: Callable[[Tensor], Tensor],
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Runs a learner on some images in evaluation mode.

    Args:
        learner: the learner.
        targets: source of the learner's targets.
        batches: pixels of the images.
        to_device: copies pixels to the learner's device.
        should_stop: called after each batch.

    Returns:
        ``images`` (number of images), ``loss`` (mean over the images), and the measures of ``targets.judge``; None if
        it was stopped.

    Raises:
        SppfeatError: no image could be read.
    """
    learner.eval()
    images, scores, loss = [], [], 0.0
    with torch.no_grad():
        for batch in batches:
            if len(batch.images):
                pixels = to_device(batch.pixels)
                answer = learner(pixels, targets(batch.images, pixels))
                images.append(batch.images)
                scores.append(answer.scores.float().cpu())
                loss += float(answer.loss) * len(batch.images)
            if should_stop():
                return None
    if not images:
        raise SppfeatError("no image to validate on could be read")
    every = torch.cat(images)
    return {"images": len(every), "loss": loss / len(every), **targets.judge(every, torch.cat(scores))}
