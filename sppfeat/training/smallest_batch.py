"""Whether a network can be trained on the smallest batch that it will be given."""

import copy

import torch

from sppfeat.errors import ConfigError
from sppfeat.extraction.describe import device_memory
from sppfeat.training.epochs import TrainBatch, epoch_batches
from sppfeat.training.settings import TrainSettings
from sppfeat.training.trainer import TrainingSet

__all__ = ["check_smallest_batch"]


def check_smallest_batch(settings: TrainSettings, what: TrainingSet, device: torch.device) -> None:
    """Try the smallest batch: a normalisation over the batch cannot learn from a map of one cell of one image.

    Args:
        settings: of the training.
        what: learner and images.
        device: where the learner is.

    Raises:
        ConfigError: the network cannot be run on it in training mode.
    """
    images, (height, width) = min(_batches(settings, what), key=_n_values)
    # A copy: in training mode the running means of normalisations move.
    learner = copy.deepcopy(what.learner).train()
    pixels = torch.zeros((min(2, len(images)), 3, height, width), dtype=torch.uint8, device=device)
    try:
        with torch.no_grad(), device_memory(device):
            learner.body(pixels)
    except (ValueError, RuntimeError) as error:  # of torch, and of the network's own code
        raise ConfigError(
            f"{settings.backbone.name} cannot be trained on a batch of {len(images)} of {height} x {width} pixels, "
            f"which would come: {error}"
        ) from error


def _batches(settings: TrainSettings, what: TrainingSet) -> list[TrainBatch]:
    """One epoch of each size."""
    return [
        batch
        for epoch in range(len(settings.data.sizes))
        for batch in epoch_batches(
            what.train,
            settings.data,
            epoch=epoch,
            batch_size=settings.recipe.batch_size,
            seed=settings.recipe.seed,
            min_side=what.min_side,
        )
    ]


def _n_values(batch: TrainBatch) -> tuple[int, int]:
    """A key by which single images are the smallest batches."""
    height, width = batch.input_hw
    return min(2, len(batch.images)), height * width
