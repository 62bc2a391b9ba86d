"""autocast_report against the dtypes that the same calls return under torch.autocast."""

import sys

import pytest
import torch
from torch.nn import functional as F

from steepest.mixed_precision import autocast_report

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


class Function(torch.nn.Module):
    """A function as a module, with a parameter that tells the device."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, *inputs, **options):
        return self.function(*inputs, **options)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.block = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(4))
        self.last = torch.nn.Linear(4, 4)

    def forward(self, x):
        x = torch.relu(self.first(x) * 2)
        x = self.block(x)
        x = self.last(self.last(torch.sigmoid(x)))
        return x.float().logsumexp(-1)


def rows_of(report, **wanted):
    return [row for row in report if all(getattr(row, name) == value for name, value in wanted.items())]


@LOW
@pytest.mark.parametrize(
    ("operator", "function", "shapes"),
    [
        ("aten.mm", torch.matmul, ((4, 4), (4, 4))),
        ("aten.bmm", torch.bmm, ((2, 4, 4), (2, 4, 4))),
        ("aten.convolution", F.conv2d, ((1, 2, 5, 5), (3, 2, 3, 3))),
        ("aten._softmax", lambda x: x.softmax(-1), ((4, 4),)),
        ("aten._softmax", lambda x, y: (x @ y).softmax(-1), ((4, 4), (4, 4))),
        ("aten.native_layer_norm", lambda x, y: F.layer_norm(x @ y, (4,)), ((4, 4), (4, 4))),
        ("aten.mse_loss", lambda x, y: F.mse_loss(x @ y, y), ((4, 4), (4, 4))),
        ("aten.exp", lambda x, y: (x @ y).exp(), ((4, 4), (4, 4))),
        ("aten.sum", lambda x, y: (x @ y).sum(), ((4, 4), (4, 4))),
        ("aten.cumsum", lambda x, y: (x @ y).cumsum(0), ((4, 4), (4, 4))),
    ],
)
def test_the_output_dtype_is_what_the_call_returns(operator, function, shapes, dtype):
    inputs = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes]
    with torch.autocast("cpu", dtype=dtype):
        expected = function(*inputs).dtype
    report = autocast_report(Function(function), *inputs, dtype=dtype)
    row = rows_of(report, operator=operator)[-1]
    assert row.output_dtype == expected
    assert (row.phase, row.module, row.count) == ("forward", "", 1)


@LOW
def test_each_module_gives_what_a_hook_on_it_sees(dtype):
    model, x = Net(), torch.randn(5, 3)
    outputs = {}
    handles = [
        module.register_forward_hook(lambda m, args, output, path=path: outputs.update({path: output.dtype}))
        for path, module in model.named_modules()
    ]
    with torch.autocast("cpu", dtype=dtype):
        model(x)
    for handle in handles:
        handle.remove()
    report = autocast_report(model, x, dtype=dtype)
    for path in ("first", "block.0", "block.1", "block.2", "last", ""):
        assert rows_of(report, phase="forward", module=path)[-1].output_dtype == outputs[path]
    assert outputs["first"] == dtype and outputs[""] == torch.float32


def test_operators_belong_to_the_module_that_called_them_in_both_passes():
    report = autocast_report(Net(), torch.randn(5, 3), dtype=torch.bfloat16, backward=True)

    def operators(phase, module):
        casts = ("aten._to_copy", "aten.add")
        return [row.operator for row in rows_of(report, phase=phase, module=module) if row.operator not in casts]

    assert operators("forward", "first") == operators("forward", "last") == ["aten.addmm"]
    assert operators("forward", "") == ["aten.mul", "aten.relu", "aten.sigmoid", "aten.logsumexp"]
    assert operators("forward", "block") == []
    assert operators("forward", "block.0") == ["aten.native_layer_norm"]
    assert operators("forward", "block.2") == ["aten.native_batch_norm"]
    assert operators("backward", "first") == operators("backward", "last") == ["aten.mm", "aten.sum"]
    assert operators("backward", "block.0") == ["aten.native_layer_norm_backward"]
    assert operators("backward", "block.2") == ["aten.native_batch_norm_backward"]
    own = operators("backward", "")
    assert "aten.threshold_backward" in own and "aten.sigmoid_backward" in own and "aten.mm" not in own
    assert rows_of(report, phase="forward", module="last", operator="aten.addmm")[0].count == 2
    # Two calls, each with the gradients of input and weight.
    assert rows_of(report, phase="backward", module="last", operator="aten.mm")[0].count == 4


def test_parameters_and_their_gradients_stay_float32_and_casts_show():
    report = autocast_report(torch.nn.Linear(3, 2), torch.randn(4, 3), dtype=torch.bfloat16, backward=True)
    bf16, fp32 = torch.bfloat16, torch.float32
    (addmm,) = rows_of(report, operator="aten.addmm")
    assert (addmm.input_dtypes, addmm.output_dtype) == ((bf16, bf16, bf16), bf16)
    (down,) = rows_of(report, phase="forward", operator="aten._to_copy")
    assert (down.input_dtypes, down.output_dtype, down.count) == ((fp32,), bf16, 3)
    (up,) = rows_of(report, phase="backward", operator="aten._to_copy")
    assert (up.input_dtypes, up.output_dtype, up.count) == ((bf16,), fp32, 2)


@pytest.mark.filterwarnings("error")
def test_float32_turns_autocast_off():
    report = autocast_report(Net(), torch.randn(5, 3), dtype=torch.float32, backward=True)
    assert {dtype for row in report for dtype in (*row.input_dtypes, row.output_dtype)} == {torch.float32}
    assert rows_of(report, operator="aten._to_copy") == []


def test_the_devices_dtype_is_the_default():
    model, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    assert autocast_report(model, x) == autocast_report(model, x, dtype=torch.get_autocast_dtype("cpu"))
    assert autocast_report(model, x) == autocast_report(model, x, device_type="cpu")


def test_integers_and_views_are_left_out():
    report = autocast_report(Function(lambda x, i: x.T.reshape(4, 4)[i + 1]), torch.randn(4, 4), torch.tensor([0, 2]))
    assert [row.operator for row in report] == ["aten.index"]
    assert report[0].input_dtypes == (torch.float32, torch.int64)


def test_keyword_arguments_are_passed_on_copied_and_differentiated():
    class Keywords(torch.nn.Module):
        def forward(self, x, *, mask, scale=1.0):
            return x.mul_(scale) @ mask.mul_(2)

    x, mask = torch.ones(2, 3), torch.ones(3, 4, requires_grad=True)
    with torch.no_grad():
        options = {"kwargs": {"mask": mask, "scale": 2.0}, "device_type": "cpu", "dtype": torch.bfloat16}
        report = autocast_report(Keywords(), x, **options)
    assert [row.operator for row in report] == ["aten.mul_", "aten._to_copy", "aten.mm"]
    assert torch.equal(x, torch.ones(2, 3)) and torch.equal(mask, torch.ones(3, 4))
    report = autocast_report(Function(lambda x, mask: x @ mask), x, kwargs={"mask": mask}, backward=True)
    assert [row.count for row in rows_of(report, phase="backward", operator="aten.mm")] == [1] and mask.grad is None


def test_a_view_that_its_schema_hides_is_left_out():
    layer = torch.nn.Linear(3, 4, bias=False)
    report = autocast_report(layer, torch.ones(2, 5, 3), dtype=torch.bfloat16)
    assert [row.operator for row in report] == ["aten._to_copy", "aten.mm"]


def test_a_graph_that_the_model_keeps_is_not_watched_on(monkeypatch):
    recorders = []

    module = sys.modules[autocast_report.__module__]

    class Kept(module._Recorder):
        def __init__(self):
            super().__init__()
            recorders.append(self)

    class Stateful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.state = self.weight * 2

        def forward(self, x):
            return x + self.state

    monkeypatch.setattr(module, "_Recorder", Kept)
    model = Stateful()
    autocast_report(torch.nn.Sequential(model), torch.ones(3))
    recorders[0].path = "untouched"
    model.state.sum().backward()
    assert recorders[0].path == "untouched" and torch.equal(model.weight.grad, torch.full((3,), 2.0))


def test_nothing_is_left_behind():
    model, x = Net(), torch.randn(5, 3, requires_grad=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, values = torch.get_rng_state(), x.detach().clone()
    earlier = (x * 2).sigmoid()
    autocast_report(model, earlier, dtype=torch.bfloat16, backward=True)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters()) and x.grad is None
    assert torch.equal(x, values)
    earlier.sum().backward()
    assert x.grad is not None
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    autocast_report(Function(lambda x: x.mul_(2)), values)
    assert torch.equal(x, values)


def test_hooks_go_even_if_the_model_fails():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    with pytest.raises(RuntimeError):
        autocast_report(model, torch.ones(1, 4))
    assert not model._forward_hooks and not model[0]._forward_hooks and not model[0]._forward_pre_hooks


def test_inference_is_seen_as_it_runs_and_inputs_may_be_differentiated():
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        report = autocast_report(model, torch.ones(1, 3), dtype=torch.bfloat16)
    assert rows_of(report, operator="aten.addmm")
    model.requires_grad_(False)
    report = autocast_report(model, torch.ones(1, 3, requires_grad=True), dtype=torch.bfloat16, backward=True)
    assert [row.count for row in rows_of(report, phase="backward", operator="aten.mm")] == [1]


def test_the_table_is_aligned_and_says_where_there_is_no_tensor():
    report = autocast_report(Function(lambda x: x * torch.ones(2)), torch.ones(2))
    lines = str(report).splitlines()
    assert lines[0].split() == ["pass", "module", "operator", "inputs", "output", "count"]
    assert len(lines) == 1 + len(report)
    assert lines[1].split() == ["forward", "aten.ones", "-", "float32", "1"]
    assert lines[2].split() == ["forward", "aten.mul", "float32,", "float32", "float32", "1"]
    assert {line.index(word) for line, word in zip(lines, ["operator", "aten", "aten"], strict=True)} == {17}


def test_wrong_arguments_are_named():
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match="dtype must be"):
        autocast_report(model, torch.ones(1, 3), dtype=torch.float64)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        autocast_report(lambda x: x, torch.ones(1, 3))
    with pytest.raises(ValueError, match="device_type must be given"):
        autocast_report(torch.nn.ReLU(), torch.ones(3))
    assert autocast_report(torch.nn.ReLU(), torch.ones(3), device_type="cpu")[0].operator == "aten.relu"
    with pytest.raises(ValueError, match="backward needs an output that requires a gradient"):
        autocast_report(torch.nn.ReLU(), torch.ones(3), device_type="cpu", backward=True)


@pytest.mark.gpu
@LOW
def test_cuda_runs_sensitive_operators_in_float32(dtype):
    class Sensitive(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = torch.nn.Linear(4, 4), torch.nn.LayerNorm(4)

        def forward(self, x):
            return F.cross_entropy(self.norm(self.layer(x)).softmax(-1), torch.zeros(2, dtype=torch.int64).cuda())

    report = autocast_report(Sensitive().cuda(), torch.randn(2, 4).cuda(), dtype=dtype, backward=True)
    outputs = {row.operator: row.output_dtype for row in report if row.phase == "forward"}
    assert outputs["aten.addmm"] == dtype
    for operator in ("aten.native_layer_norm", "aten._softmax", "aten._log_softmax"):
        assert outputs[operator] == torch.float32
    backward = {(row.module, row.operator) for row in report if row.phase == "backward"}
    assert ("layer", "aten.mm") in backward and ("norm", "aten.native_layer_norm_backward") in backward
