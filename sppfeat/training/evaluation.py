"""Runs of a learner without training it: its loss and scores on held-out images, and a trial of the smallest batch."""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from sppfeat.errors import ConfigError, SppfeatError
from sppfeat.networks.devices import device_memory
from sppfeat.training.epochs import TrainBatch, epoch_batches
from sppfeat.training.learner import Learner, TargetSource, TrainingTask
from sppfeat.training.loader import PixelBatch
from sppfeat.training.settings import TrainSettings

__all__ = ["check_smallest_batch", "evaluate"]


def evaluate(
    learner: Learner,
    targets: TargetSource,
    batches: Iterable[PixelBatch],
    *,
    to_device: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """Runs a learner on some images in evaluation mode, then restores its previous mode.

    Args:
        learner: the learner.
        targets: source of the learner's targets.
        batches: pixels of the images.
        to_device: copies pixels to the learner's device.

    Returns:
        ``images`` (number of images), ``loss`` (mean over the images), and the measures of ``targets.judge``.

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


def check_smallest_batch(settings: TrainSettings, task: TrainingTask, device: torch.device) -> None:
    """Tries the smallest batch in training mode; batch normalization fails on a map of one cell of one image.

    Args:
        settings: settings of the training.
        task: learner and images.
        device: the device of the learner.

    Raises:
        ConfigError: the network cannot run on this batch in training mode.
    """
    images, (height, width) = min(_batches(settings, task), key=_n_values)
    # A copy, because training mode changes the running means of normalizations.
    learner = copy.deepcopy(task.learner).train()
    pixels = torch.zeros((min(2, len(images)), 3, height, width), dtype=torch.uint8, device=device)
    try:
        with torch.no_grad(), device_memory(device):
            learner.body(pixels)
    except (ValueError, RuntimeError) as error:  # raised by torch, or by the network's own code
        raise ConfigError(
            f"{settings.backbone.name} cannot be trained on a batch of {len(images)} of {height} x {width} pixels, "
            f"which would come: {error}"
        ) from error


def _batches(settings: TrainSettings, task: TrainingTask) -> list[TrainBatch]:
    """The batches of one epoch of each size."""
    return [
        batch
        for epoch in range(len(settings.data.sizes))
        for batch in epoch_batches(
            task.train,
            settings.data,
            epoch=epoch,
            batch_size=settings.recipe.batch_size,
            seed=settings.recipe.seed,
            min_side=task.min_side,
        )
    ]


def _n_values(batch: TrainBatch) -> tuple[int, int]:
    """A sort key that puts single images first."""
    height, width = batch.input_hw
    return min(2, len(batch.images)), height * width
