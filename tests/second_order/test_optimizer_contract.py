"""What torch expects of an optimizer, asked of every optimizer of the topic in the same words."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from steepest.second_order import KFAC, LBFGS, AdaHessian, NonlinearCG


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(16, 4, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(3, (16,), generator=generator)


@dataclass
class Trainer:
    """A network with an optimizer; `step` trains on a batch as the optimizer wants to be called."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[tuple[torch.Tensor, torch.Tensor]], object]

    def parameters(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]


def with_closure(kind: type[torch.optim.Optimizer], backward: bool, **options) -> Callable[[], Trainer]:
    def make() -> Trainer:
        model = network()
        optimizer = kind(model.parameters(), **options)

        def step(batch):
            def closure():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
                if backward:
                    loss.backward()
                return loss

            return optimizer.step(closure)

        return Trainer(model, optimizer, step)

    return make


def make_adahessian() -> Trainer:
    return with_closure(AdaHessian, False, lr=0.1, generator=torch.Generator().manual_seed(5))()


def make_kfac() -> Trainer:
    model = network()
    generator = torch.Generator().manual_seed(5)
    optimizer = KFAC(model.parameters(), model, momentum=0.5, inverse_interval=2, generator=generator)

    def step(batch):
        optimizer.zero_grad()
        outputs = model(batch[0])
        optimizer.update_factors(outputs)
        nn.functional.cross_entropy(outputs, batch[1]).backward()
        optimizer.step()

    return Trainer(model, optimizer, step)


MAKERS = {
    "LBFGS": with_closure(LBFGS, True, max_iter=3),
    "NonlinearCG": with_closure(NonlinearCG, True, max_iter=3),
    "AdaHessian": make_adahessian,
    "KFAC": make_kfac,
}
optimizers = pytest.mark.parametrize("name", MAKERS)


@optimizers
def test_is_an_optimizer_that_lowers_the_loss(name):
    trainer = MAKERS[name]()
    assert isinstance(trainer.optimizer, torch.optim.Optimizer)
    batch = data(1)
    before = nn.functional.cross_entropy(trainer.model(batch[0]), batch[1])
    for _ in range(5):
        trainer.step(batch)
    assert nn.functional.cross_entropy(trainer.model(batch[0]), batch[1]) < before


@optimizers
def test_two_runs_from_the_same_start_are_identical(name):
    ends = []
    for _ in range(2):
        trainer = MAKERS[name]()
        for seed in range(4):
            trainer.step(data(seed))
        ends.append(trainer.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@optimizers
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_saving_and_loading_continues_bit_for_bit(name, steps):
    trainer = MAKERS[name]()
    for seed in range(steps):
        trainer.step(data(seed))
    file = io.BytesIO()
    torch.save({"model": trainer.model.state_dict(), "optimizer": trainer.optimizer.state_dict()}, file)
    for seed in range(steps, steps + 4):
        trainer.step(data(seed))

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = MAKERS[name]()
    resumed.step(data(99))
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    for seed in range(steps, steps + 4):
        resumed.step(data(seed))
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters(), resumed.parameters(), strict=True))


@pytest.mark.parametrize("name", ["AdaHessian", "KFAC"])
def test_a_state_dict_without_the_generator_is_refused(name):
    optimizer = MAKERS[name]().optimizer
    with pytest.raises(ValueError, match="both have a generator or both none"):
        optimizer.load_state_dict({**optimizer.state_dict(), "generator_state": None})
    other = torch.optim.SGD([parameter for group in optimizer.param_groups for parameter in group["params"]])
    with pytest.raises(ValueError, match=rf"state_dict must be one of {name}'s"):
        optimizer.load_state_dict(other.state_dict())


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["AdaHessian", "KFAC"])
def test_a_state_dict_mapped_to_the_gpu_sets_the_generator_there(name):
    def make():
        layer = nn.Linear(4, 3, device="cuda")
        generator = torch.Generator("cuda").manual_seed(5)
        kind = type(MAKERS[name]().optimizer)
        arguments = (layer,) if kind is KFAC else ()
        return kind(layer.parameters(), *arguments, generator=generator), generator

    (saved, source), (loaded, target) = make(), make()
    torch.rand(3, device="cuda", generator=source)
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True, map_location="cuda"))
    draws = [torch.rand(3, device="cuda", generator=generator) for generator in (source, target)]
    assert torch.equal(*draws)


@optimizers
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(3, dtype=torch.complex64), "complex|dtype"),
        (torch.zeros(3).to_sparse(), "sparse"),
    ],
)
def test_complex_and_sparse_parameters_are_refused_by_name(name, bad, message):
    bad.requires_grad_()
    kind = type(MAKERS[name]().optimizer)
    arguments = (network(),) if kind is KFAC else ()
    with pytest.raises((TypeError, ValueError), match=message):
        kind([bad], *arguments)


@optimizers
def test_no_parameters_are_refused(name):
    kind = type(MAKERS[name]().optimizer)
    arguments = (network(),) if kind is KFAC else ()
    with pytest.raises(ValueError, match=r"empty|no parameter"):
        kind([], *arguments)


@optimizers
def test_a_parameter_that_takes_no_part_keeps_its_value(name):
    trainer = MAKERS[name]()
    frozen = trainer.model[0].bias
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    trainer.step(data(0))
    assert torch.equal(frozen, before)


@pytest.mark.parametrize("name", ["LBFGS", "NonlinearCG"])
def test_what_searches_along_lines_needs_a_closure(name):
    with pytest.raises(TypeError, match="closure"):
        MAKERS[name]().optimizer.step()


@pytest.mark.parametrize("name", ["AdaHessian", "KFAC"])
def test_a_second_group_has_its_own_rate(name):
    model = network()
    options = {"lr": 0.0}
    first, last = list(model[0].parameters()), list(model[2].parameters())
    if name == "KFAC":
        optimizer = KFAC([{"params": first, "lr": 0.1}], model, samples=None)
    else:
        optimizer = AdaHessian([{"params": first, "lr": 0.1}])
    optimizer.add_param_group({"params": last, **options})
    before = [parameter.detach().clone() for parameter in last]
    inputs, labels = data(0)
    if name == "KFAC":
        outputs = model(inputs)
        optimizer.update_factors(outputs)
        nn.functional.cross_entropy(outputs, labels).backward()
        optimizer.step()
    else:
        optimizer.step(lambda: nn.functional.cross_entropy(model(inputs), labels))
    assert all(torch.equal(a, b) for a, b in zip(before, last, strict=True))
    assert not torch.equal(model[0].weight, network()[0].weight)


def train_three_steps(name: str, sign: float, maximize: bool) -> list[torch.Tensor]:
    """The parameters after three steps on the loss times `sign`."""
    model = network()
    if name == "KFAC":
        optimizer = KFAC(model.parameters(), model, maximize=maximize, samples=None)
    else:
        generator = torch.Generator().manual_seed(0)
        optimizer = AdaHessian(model.parameters(), lr=0.1, maximize=maximize, generator=generator)
    for seed in range(3):
        inputs, labels = data(seed)
        outputs = model(inputs)
        loss = sign * nn.functional.cross_entropy(outputs, labels)
        optimizer.zero_grad()
        if name == "KFAC":
            optimizer.update_factors(outputs)
            loss.backward()
            optimizer.step()
        else:
            optimizer.step(lambda value=loss: value)
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["AdaHessian", "KFAC"])
def test_maximising_is_minimising_the_negative(name):
    down, up = train_three_steps(name, 1.0, False), train_three_steps(name, -1.0, True)
    assert all(torch.equal(a, b) for a, b in zip(down, up, strict=True))


@pytest.mark.parametrize("name", ["LBFGS", "NonlinearCG"])
def test_what_searches_along_lines_has_one_group(name):
    trainer = MAKERS[name]()
    with pytest.raises(ValueError, match="one parameter group"):
        trainer.optimizer.add_param_group({"params": [torch.zeros(2, requires_grad=True, dtype=torch.float64)]})


@optimizers
def test_a_scheduler_can_drive_the_rate(name):
    trainer = MAKERS[name]()
    scheduler = torch.optim.lr_scheduler.StepLR(trainer.optimizer, 1, gamma=0.5)
    rate = trainer.optimizer.param_groups[0]["lr"]
    trainer.step(data(0))
    scheduler.step()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(rate / 2)
    trainer.step(data(1))
