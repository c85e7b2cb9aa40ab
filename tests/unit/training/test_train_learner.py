import torch

from sppfeat.networks.backbones import load_backbone
from sppfeat.training.learner import Body


def test_a_body_normalises_pixels_as_the_backbone_expects():
    backbone = load_backbone("squeezenet1_1", weights="none", seed=1, fold=False)
    pixels = torch.randint(
        0, 256, (2, 3, 40, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (backbone.spec.mean, backbone.spec.std))
    with torch.no_grad():
        expected = backbone.network((pixels.float() / 255 - mean) / std)["features"]
        torch.testing.assert_close(Body(backbone)(pixels)[0], expected, rtol=1e-4, atol=1e-4)
