"""Extractions with a small untrained network, and the same descriptors by plain torch."""

import contextlib
from pathlib import Path

import h5py
import numpy as np
import torch
from conftest import write_image
from PIL import Image
from stopping import stop_at
from torch.nn import functional as F
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

import sppfeat
from sppfeat.config.distribution import RunOptions
from sppfeat.config.request import BackboneChoice, DescriptorChoice, Request
from sppfeat.config.specs import InputSpec
from sppfeat.extraction.describe import Describer
from sppfeat.extraction.extract import open_part

BACKBONE = BackboneChoice(name="squeezenet1_1", weights="none", seed=3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 48


def request(inputs, output, **changes) -> Request:
    settings = {
        "backbone": BACKBONE,
        "input": InputSpec(size=SIZE),
        "descriptor": DescriptorChoice(levels=(1, 2)),
        "run": RunOptions(workers=0, device="cpu"),
    }
    return Request(inputs=tuple(map(str, inputs)), output=Path(output), **{**settings, **changes})


def extract(inputs, output, *, stop_after: int | None = None, **changes):
    with open_part(request(inputs, output, **changes)) as extraction:
        return extraction, extraction.fill(should_stop=stop_at(stop_after))


def write_eleven_images(folder: Path) -> Path:
    """Writes images of four widths in two class folders; one of them is damaged."""
    for i in range(11):
        write_image(folder / f"c{i % 2}" / f"{i}.png", 60, 50 + 9 * (i % 4), seed=i)
    (folder / "c1" / "3.png").write_bytes(b"damaged")
    return folder


@contextlib.contextmanager
def memory_for(n_images: int | None):
    """Let the device run out of memory with more images than this at once; yield the sizes of all batches."""
    true_maps, asked = Describer.compute_maps, []

    def maps(self, batch):
        asked.append(len(batch))
        if n_images is not None and len(batch) > n_images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return true_maps(self, batch)

    Describer.compute_maps = maps
    try:
        yield asked
    finally:
        Describer.compute_maps = true_maps


@contextlib.contextmanager
def float32_products(precision: str):
    """Set the precision of float32 matrix products in this process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def plain_network(name=BACKBONE.name, *, layer="features"):
    """The model of torchvision with the same seed, up to a layer."""
    with torch.random.fork_rng():
        torch.manual_seed(BACKBONE.seed)
        model = get_model(name, weights=None).eval()
    return create_feature_extractor(model, {layer: "fmap"})


def plain_maps(network, path, *, size=SIZE, mirrored=False) -> torch.Tensor:
    """The feature map of an image, by plain torch."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    short = min(image.size)
    width, height = (size if side == short else int(side * size / short + 0.5) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.BILINEAR))
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    batch = (batch - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.inference_mode():
        return network(batch.flip(-1) if mirrored else batch)["fmap"]


def plain_descriptor(network, path, *, size=SIZE, levels=(1, 2), flip=False) -> np.ndarray:
    """The descriptor of a whole image, with plain torch."""
    maps = [plain_maps(network, path, size=size, mirrored=mirrored) for mirrored in ([0, 1] if flip else [0])]
    vectors = [torch.cat([F.adaptive_max_pool2d(fmap, n).flatten(1) for n in levels], 1) for fmap in maps]
    return torch.stack(vectors).mean(0)[0].numpy()


# Relative to the norm. Batch size, threads and processor change the order in which a convolution sums its products:
# up to n = 4608 in float32 (512 channels, 3 x 3), with relative rounding errors of about sqrt(n) * 2**-24 = 4e-6.
SAME_DESCRIPTOR = 1e-5


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The norm of the difference, relative to the norm of ``b``."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b))


def assert_same_descriptors(a, b) -> None:
    """Compares rows computed in different batches; NaN must be in the same places."""
    assert a.shape == b.shape
    assert np.array_equal(np.isnan(a), np.isnan(b))
    good = ~np.isnan(a).any(axis=1)
    assert all(difference(x, y) <= SAME_DESCRIPTOR for x, y in zip(a[good], b[good], strict=True))


def contents(path) -> dict:
    """Every dataset and attribute except the time of creation."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {}))
        found.update({f"@{name}": value for name, value in file.attrs.items() if name != "created"})
    return found


def assert_all_done(path) -> None:
    with sppfeat.open(path) as file:
        assert (file.status == 1).all()


def assert_same_file(path, other) -> None:
    assert_same_contents(contents(path), contents(other))


def assert_same_contents(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        if name == "features":
            assert_same_descriptors(a[name], b[name])
        else:
            is_float = np.asarray(a[name]).dtype.kind == "f"
            assert np.array_equal(a[name], b[name], equal_nan=is_float), name
