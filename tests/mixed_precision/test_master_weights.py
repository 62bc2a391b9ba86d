"""MasterWeights against the same training in float32, and the loss of small updates without them."""

import io

import pytest
import torch

from steepest.mixed_precision import DynamicLossScaler, MasterWeights
from tests.host_reads import host_reads

DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def small_model(dtype, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).to(dtype)


def test_bf16_stalls_at_one_without_masters_and_moves_with_them():
    stalled = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = torch.optim.SGD([stalled], lr=1e-3)
    moved = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    masters = MasterWeights([moved])
    master_optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
    for _ in range(1000):
        stalled.grad, moved.grad = torch.ones_like(stalled), torch.ones_like(moved)
        optimizer.step()
        masters.model_grads_to_master_grads()
        master_optimizer.step()
        masters.master_params_to_model_params()
    assert stalled.item() == 1.0
    assert abs(moved.item()) < 1e-4 and abs(masters.parameters()[0].item()) < 1e-4


@DTYPES
def test_masters_are_trained_as_float32_parameters_are_by_the_same_gradients(dtype):
    model = small_model(dtype)
    masters = MasterWeights(model.parameters())
    optimizer = torch.optim.Adam(masters.parameters(), lr=0.01)
    slow = [parameter.detach().float().requires_grad_() for parameter in model.parameters()]
    slow_optimizer = torch.optim.Adam(slow, lr=0.01)
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    for _ in range(10):
        masters.zero_grad()
        model(inputs).float().square().mean().backward()
        for parameter, reference in zip(model.parameters(), slow, strict=True):
            reference.grad = parameter.grad.float()
        masters.model_grads_to_master_grads()
        optimizer.step()
        slow_optimizer.step()
        masters.master_params_to_model_params()
        for parameter, master, reference in zip(model.parameters(), masters.parameters(), slow, strict=True):
            assert master.dtype == torch.float32 and parameter.dtype == dtype
            assert torch.equal(master, reference)
            assert torch.equal(parameter, reference.detach().to(dtype))


@pytest.mark.parametrize("scale", [2.0**20, torch.tensor(2.0**20), torch.tensor([2.0**20])])
def test_dividing_comes_after_converting(scale):
    # 2^-6 / 2^20 is zero in float16.
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    masters = MasterWeights([weight])
    weight.grad = torch.full((2,), 2.0**-6, dtype=torch.float16)
    masters.model_grads_to_master_grads(scale)
    assert torch.equal(masters.parameters()[0].grad, torch.full((2,), 2.0**-26))
    assert torch.equal(weight.grad, torch.full((2,), 2.0**-6, dtype=torch.float16))
    masters.model_grads_to_master_grads(scale)
    assert torch.equal(masters.parameters()[0].grad, torch.full((2,), 2.0**-26))


def test_works_under_a_loss_scaler_which_skips():
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
    masters, scaler = MasterWeights([weight]), DynamicLossScaler(init_scale=1024.0)
    optimizer = torch.optim.SGD(masters.parameters(), lr=0.5)
    for factor, expected in ((1.0, 0.5), (1000.0, 0.5), (1.0, 0.0)):
        masters.zero_grad()
        scaler.scale((factor * weight).float().sum()).backward()
        masters.model_grads_to_master_grads()
        scaler.step(optimizer)
        scaler.update()
        masters.master_params_to_model_params()
        assert torch.equal(weight, torch.full((2,), expected, dtype=torch.float16))
    assert scaler.skipped_steps == 1


def test_mixed_dtypes_frozen_and_unused_parameters():
    frozen = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16), requires_grad=False)
    unused = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    single = torch.nn.Parameter(torch.full((2, 2), 0.1).T)
    masters = MasterWeights([frozen, unused, single])
    assert [master.requires_grad for master in masters.parameters()] == [False, True, True]
    assert masters.parameters()[2].data_ptr() != single.data_ptr()
    single.grad = torch.ones(2, 2)
    masters.model_grads_to_master_grads(4.0)
    assert masters.parameters()[1].grad is None
    assert torch.equal(masters.parameters()[2].grad, torch.full((2, 2), 0.25))
    assert torch.equal(single.grad, torch.ones(2, 2))
    single.grad = None
    masters.model_grads_to_master_grads()
    assert masters.parameters()[2].grad is None
    unused.grad = torch.ones(3, dtype=torch.bfloat16)
    masters.model_grads_to_master_grads()
    masters.zero_grad()
    assert unused.grad is None and masters.parameters()[1].grad is None


def test_state_dict_goes_on_bit_for_bit():
    inputs = torch.ones(2, 3, dtype=torch.bfloat16)

    def step(model, masters, optimizer):
        masters.zero_grad()
        model(inputs).float().square().mean().backward()
        masters.model_grads_to_master_grads()
        optimizer.step()
        masters.master_params_to_model_params()

    model = small_model(torch.bfloat16)
    masters = MasterWeights(model.parameters())
    optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
    for _ in range(3):
        step(model, masters, optimizer)
    buffer = io.BytesIO()
    in_memory = masters.state_dict()
    torch.save(in_memory, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    other = small_model(torch.bfloat16, seed=1)
    other_masters = MasterWeights(other.parameters())
    other_masters.load_state_dict(saved)
    other_optimizer = torch.optim.SGD(other_masters.parameters(), lr=1e-3)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for _ in range(3):
        step(model, masters, optimizer)
        step(other, other_masters, other_optimizer)
    for mine, theirs in zip(masters.parameters(), other_masters.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(*pair) for pair in zip(in_memory["masters"], saved["masters"], strict=True))


def test_the_host_reads_nothing():
    model = small_model(torch.bfloat16)
    masters = MasterWeights(model.parameters())
    model(torch.ones(2, 3, dtype=torch.bfloat16)).sum().backward()
    with host_reads() as reads:
        masters.model_grads_to_master_grads(torch.tensor(2.0))
        masters.master_params_to_model_params()
    assert reads == []


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ([], ValueError, "parameters is empty"),
        (torch.ones(2), TypeError, "parameters must be an iterable of tensors, got a single one"),
        ([1.0], TypeError, r"parameters\[0\] must be a torch\.Tensor"),
        ([torch.ones(2), torch.ones(2).double()], TypeError, r"parameters\[1\] must be float16, bfloat16 or float32"),
        ([torch.eye(2).to_sparse()], TypeError, r"parameters\[0\] must be dense"),
        ([torch.ones(2)] * 2, ValueError, "parameters holds the same tensor twice"),
    ],
)
def test_wrong_parameters_are_named(parameters, error, message):
    with pytest.raises(error, match=message):
        MasterWeights(parameters)


def test_wrong_arguments_are_named():
    table = torch.nn.Embedding(4, 2, sparse=True)
    masters = MasterWeights(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(TypeError, match=r"the gradient of parameters\[0\] must be dense"):
        masters.model_grads_to_master_grads()
    with pytest.raises(ValueError, match="scale must be > 0"):
        masters.model_grads_to_master_grads(0.0)
    with pytest.raises(ValueError, match=r"scale must have one element, got shape \(2,\)"):
        masters.model_grads_to_master_grads(torch.ones(2))
    with pytest.raises(ValueError, match=r"state_dict must hold masters of shapes \[\(4, 2\)\]"):
        masters.load_state_dict({"masters": [torch.ones(2, 4)]})


@pytest.mark.gpu
def test_cuda_follows_the_cpu_without_waiting():
    results = []
    for device in ("cpu", "cuda"):
        model = small_model(torch.bfloat16).to(device)
        masters = MasterWeights(model.parameters())
        gradients = [torch.full_like(parameter, 0.1) for parameter in model.parameters()]
        optimizer = torch.optim.SGD(masters.parameters(), lr=1e-3)
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter.grad = gradient
                masters.model_grads_to_master_grads(3.0)
                optimizer.step()
                masters.master_params_to_model_params()
        finally:
            if device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        results.append([master.detach().cpu() for master in masters.parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
