"""How good a network is on images that it was not trained on."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sppfeat.errors import SppfeatError
from sppfeat.training.distillation import Learner, TargetSource
from sppfeat.training.loader import Batch

__all__ = ["evaluate"]


def evaluate(
    learner: Learner,
    targets: TargetSource,
    batches: Iterable[Batch],
    *,
    to_device: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Loss and scores over some images, in evaluation mode; the mode that the learner was in is restored.

    Args:
        learner: what is judged.
        targets: what it shall give.
        batches: the images.
        to_device: brings pixels to where the learner is.

    Returns:
        ``images``: how many; ``loss``: their mean; and what the targets judge by.

    Raises:
        SppfeatError: no image could be read.
    """
    was_training = learner.training
    learner.eval()
    images, scores, loss = [], [], 0.0
    with torch.no_grad():
        for batch in batches:
            if not len(batch.images):
                continue
            pixels = to_device(batch.pixels)
            answer = learner(pixels, targets(batch.images, pixels))
            images.append(batch.images)
            scores.append(answer.scores.float().cpu())
            loss += float(answer.loss) * len(batch.images)
    learner.train(was_training)
    if not images:
        raise SppfeatError("no image to validate on could be read")
    every = torch.cat(images)
    judged = targets.judge(every, torch.cat(scores))
    return {"images": len(every), "loss": loss / len(every), **judged}
