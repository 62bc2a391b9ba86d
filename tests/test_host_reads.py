"""The counter of host reads sees each kind of read, and nothing else."""

import pytest
import torch

from tests.host_reads import host_reads

VECTOR = torch.tensor([1.0, -2.0, 3.0])


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.inv(torch.outer(x, x) + torch.eye(3)),
    ],
)
def test_a_read_is_seen(read):
    with host_reads() as reads:
        read(VECTOR)
    assert reads


@pytest.mark.parametrize(
    "work",
    [
        lambda x: torch.where(x > 0, x, 0).sum() / x.norm(),
        lambda x: x[1:] + x[torch.tensor([0, 1])],
        lambda x: torch.linalg.inv_ex(torch.outer(x, x) + torch.eye(3)),
    ],
)
def test_work_on_the_device_is_not_a_read(work):
    with host_reads() as reads:
        work(VECTOR)
    assert reads == []
