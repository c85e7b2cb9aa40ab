import numpy as np
import pytest
import torch
from learners import CPU, class_learner, pixels
from training_runs import tiny_network  # noqa: F401

from sppfeat.errors import SppfeatError
from sppfeat.networks.backbones import load_backbone
from sppfeat.training.batches import PixelBatch
from sppfeat.training.learners import Body, ClassTargets, evaluate

pytestmark = pytest.mark.usefixtures("tiny_network")


def test_an_evaluation_weighs_batches_by_their_images_and_passes_over_empty_ones():
    learner, labels = class_learner().train(), np.array([0, 1, 2, 0])
    targets, images = ClassTargets(labels, CPU), torch.arange(4)
    whole = learner.eval()(pixels(), [torch.from_numpy(labels)])
    parts = [PixelBatch(images[i], pixels()[i], {}) for i in (slice(0, 1), slice(0, 0), slice(1, 4))]
    found = evaluate(learner, targets, parts, to_device=lambda tensor: tensor)
    right = (whole.scores.argmax(1).numpy() == labels).mean()
    assert found["images"] == 4
    assert found["loss"] == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    assert found["top1"] == pytest.approx(right)
    with pytest.raises(SppfeatError, match="no image to validate on could be read"):
        evaluate(learner, targets, parts[1:2], to_device=lambda tensor: tensor)


def test_a_body_normalises_pixels_as_the_backbone_expects():
    backbone = load_backbone("squeezenet1_1", weights="none", seed=1, fold=False)
    pixels = torch.randint(
        0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
    with torch.no_grad():
        expected = backbone.network((pixels.float() / 255 - mean) / std)["features"]
        torch.testing.assert_close(Body(backbone)(pixels)[0], expected, rtol=1e-4, atol=1e-4)
