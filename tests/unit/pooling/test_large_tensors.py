import pytest
import torch

from sppfeat.pooling.large_tensors import empty_tensor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 7), (700, 900)])
def test_allocated_tensors_can_be_written_to(shape, dtype):
    tensor = empty_tensor(shape, torch.empty(0, dtype=dtype))
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert torch.equal(tensor.fill_(2), torch.full(shape, 2, dtype=dtype))
