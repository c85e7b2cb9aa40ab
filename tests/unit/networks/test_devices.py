import numpy as np
import pytest
import torch

from sppfeat.networks.devices import DeviceCopier

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NEEDS_CUDA])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("is_writeable", [True, False])
def test_values_come_there_and_back(device, is_writeable):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    pixels.flags.writeable = is_writeable
    copier = DeviceCopier(torch.device(device))
    on_device = copier.to_device(pixels)
    assert on_device.device.type == device
    values, wait = copier.to_host(on_device.float() * 2)
    wait()
    assert values.dtype == np.float32
    assert np.array_equal(values, 2 * pixels)


@pytest.mark.gpu
@NEEDS_CUDA
def test_pixels_may_change_and_copies_may_be_many_while_cuda_is_busy():
    copier = DeviceCopier(torch.device("cuda"))
    busy = torch.rand(4000, 4000, device="cuda")
    deliveries = []
    pixels = np.empty((64, 1000), dtype=np.uint8)
    for i in range(50):
        pixels[:] = i
        on_device = copier.to_device(pixels)
        busy = busy @ busy / busy.norm()
        deliveries.append(copier.to_host(on_device.float() + i))
    for i, (values, wait) in enumerate(deliveries):
        wait()
        assert (values == 2 * i).all()
