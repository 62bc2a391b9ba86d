"""Small networks, and the bytes that autograd saves, counted without any code of the package."""

from contextlib import contextmanager

import torch
from torch import nn


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 6))


def dropout():
    return nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 6), nn.Dropout(0.3))


def in_place():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.Sigmoid())


def batch_norm():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))


def transformer():
    return nn.TransformerEncoderLayer(6, 2, 12, dropout=0.2, batch_first=True)


def convolution():
    return nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3, padding=1), nn.Dropout1d(0.5), nn.Flatten())


NETS = {net.__name__: net for net in (mlp, dropout, in_place, batch_norm, transformer, convolution)}


def build(name, seed=0, device="cpu"):
    """The net with parameters drawn under a seed, and an input of the right shape that requires a gradient."""
    torch.manual_seed(seed)
    net = NETS[name]()
    shape = (4, 5, 6) if name == "transformer" else (4, 6)
    return net.to(device), torch.randn(shape).to(device).requires_grad_()


def gradients(run, net, x, seed=1):
    """The output, the gradients of the input and the parameters, and the random state after the step."""
    torch.manual_seed(seed)
    net.zero_grad()
    x.grad = None
    output = run(x)
    # What is drawn between the two passes must not matter, nor be drawn again.
    torch.rand(3)
    (output**2).sum().backward()
    return [output.detach().clone(), x.grad, *(p.grad.clone() for p in net.parameters()), torch.get_rng_state()]


def under_autocast(run, device_type="cpu", **options):
    """The function, run under autocast."""

    def forward(x):
        with torch.autocast(device_type, **options):
            return run(x)

    return forward


def assert_same_bits(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


@contextmanager
def saved_bytes(excluded=()):
    """Yield a dict from storages to bytes: what autograd was given to save, excluding some tensors' storages."""
    storages = {}
    skipped = {tensor.untyped_storage().data_ptr() for tensor in excluded}
    kept = []

    def pack(tensor):
        pointer = tensor.untyped_storage().data_ptr()
        kept.append(tensor)
        if pointer not in skipped:
            storages[pointer] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield storages


class Counted(nn.Module):
    """A module that notes each start and each end of its forward pass."""

    def __init__(self, module, notes=None):
        super().__init__()
        self.module = module
        self.notes = [] if notes is None else notes

    def forward(self, x):
        self.notes.append("start")
        x = self.module(x)
        self.notes.append("end")
        return x
