"""The record fits functions, classes, optimizers, autograd Functions, and judging by invariants.

One small exercise of each kind, complete: sampler, driver, reference, misconceptions; and for each,
solutions written in other ways that must pass.
"""

import dataclasses

import pytest
import torch

from autograder.client.judging import Violation, invariants, judged_by
from autograder.client.observe import call, observe, record
from autograder.exercise import Exercise, ExerciseError, Misconception


def exercise(name, sample, driver, reference, bank, **options):
    mistakes = tuple(Misconception(title, wrong, f"hint: {title}") for title, wrong in bank.items())
    return Exercise(name, "test", 2, 2, 3, 10, sample, driver, reference, mistakes, **options)


# --- a function: scale a vector down to a norm -------------------------------------------------
def sample_clip(generator, kind):
    for length in (0.5, 4.0):
        vector = generator.normal(size=5 if kind == "public" else 3) + 2
        vector = torch.from_numpy(length * vector / (vector**2).sum() ** 0.5)
        yield f"norm {length}", {"vector": vector.float() if length > 1 else vector, "limit": 1.5}


CLIP = exercise(
    "clip",
    sample_clip,
    lambda solution, inputs: call(solution, inputs),
    lambda v, limit: v * (limit / v.norm()).clamp(max=1),
    {
        "small vectors grow": lambda v, limit: v * limit / v.norm(),
        "each entry clipped": lambda v, limit: v.clamp(-limit, limit),
        "squared norm": lambda v, limit: v * (limit / (v @ v)).clamp(max=1),
    },
)
CLIP_OTHERS = [
    lambda v, limit: v if v.norm() <= limit else limit * v / v.norm(),
    lambda v, limit: (v.double() / max(1.0, v.double().norm().item() / limit)).to(v.dtype),
    lambda v, limit: torch.from_numpy(v.numpy() * min(1, limit / float((v.numpy() ** 2).sum() ** 0.5))),
]


# --- a class with state: a dynamic loss scaler, judged by its trace -------------------------------
class LossScaler:
    """`update(found_inf)` returns whether to take the step and adapts `scale`."""

    resets, raises_on_skip, steps_anyway, backs_off = True, False, False, 0.5

    def __init__(self, scale, interval):
        self.scale, self.interval, self.clean = scale, interval, 0

    def update(self, found_inf):
        if found_inf:
            self.scale *= self.backs_off
            self.clean = 0 if self.resets else self.clean + self.raises_on_skip
            return self.steps_anyway
        self.clean += 1
        if self.clean == self.interval:
            self.scale, self.clean = 2 * self.scale, 0
        return True


class TorchScaler:
    """The same by torch's own update, which runs on the CPU."""

    def __init__(self, scale, interval):
        self.value, self.growth, self.interval = torch.tensor(scale), torch.tensor(0, dtype=torch.int32), interval

    @property
    def scale(self):
        return self.value.item()

    def update(self, found_inf):
        torch._amp_update_scale_(self.value, self.growth, torch.tensor(float(found_inf)), 2.0, 0.5, self.interval)
        return not found_inf


def sample_scaler(generator, kind):
    for index in range(3):
        found_inf = torch.from_numpy(generator.uniform(size=30) < 0.15)
        yield f"sequence {index}", {"found_inf": found_inf, "interval": 3 + (kind == "hidden")}


def drive_scaler(solution, inputs):
    scaler = solution(2.0**10, inputs["interval"])
    taken, scales = [], []
    for found_inf in inputs["found_inf"].tolist():
        taken.append(bool(scaler.update(found_inf)))
        scales.append(float(scaler.scale))
    return {"taken": torch.tensor(taken), "scales": torch.tensor(scales, dtype=torch.float64)}


SCALER = exercise(
    "LossScaler",
    sample_scaler,
    drive_scaler,
    LossScaler,
    {
        "counter not reset": type("NotReset", (LossScaler,), {"resets": False}),
        "skipped steps counted": type("Counted", (LossScaler,), {"resets": False, "raises_on_skip": True}),
        "step despite inf": type("Steps", (LossScaler,), {"steps_anyway": True}),
        "backs off too far": type("Quarter", (LossScaler,), {"backs_off": 0.25}),
    },
)


# --- an optimizer: heavy ball over two groups, a change of rate and a state_dict round trip -------
class HeavyBall(torch.optim.Optimizer):
    """v ← momentum · v + g; θ ← θ − lr · v."""

    rate_inside, dampened, own_attribute = False, False, False

    def __init__(self, params, lr=0.1, momentum=0.9):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.hidden = {}

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.hidden.setdefault(p, {}) if self.own_attribute else self.state[p]
                velocity = state.setdefault("velocity", torch.zeros_like(p))
                change = p.grad * (1 - group["momentum"]) if self.dampened else p.grad
                change = change * group["lr"] if self.rate_inside else change
                velocity.mul_(group["momentum"]).add_(change)
                p.sub_(velocity if self.rate_inside else group["lr"] * velocity)


class FirstGroupOnly(HeavyBall):
    @torch.no_grad()
    def step(self):
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] = rates[0]
        super().step()
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate


def sample_optimizer(generator, kind):
    for dtype in (torch.float64, torch.float32):
        gradients = generator.normal(size=(6, 2, 3 if kind == "public" else 1))
        yield str(dtype), {"gradients": torch.from_numpy(gradients).to(dtype)}


def drive_optimizer(solution, inputs):
    gradients = inputs["gradients"]
    params = [torch.nn.Parameter(torch.ones_like(gradients[0, 0])) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    optimizer = solution(groups, lr=0.1, momentum=0.8)
    trace = []
    for number, gradient in enumerate(gradients):
        if number == 2:
            optimizer.param_groups[0]["lr"] = 0.01
        if number == 4:
            saved = optimizer.state_dict()
            optimizer = solution([{"params": [p]} for p in params])
            optimizer.load_state_dict(saved)
        for p, g in zip(params, gradient, strict=True):
            p.grad = g.clone()
        optimizer.step()
        trace.append(torch.stack([p.detach().clone() for p in params]))
    return {"is_optimizer": isinstance(optimizer, torch.optim.Optimizer)} | record(torch.stack(trace), "trace.")


HEAVY_BALL = exercise(
    "HeavyBall",
    sample_optimizer,
    drive_optimizer,
    HeavyBall,
    {
        "rate inside the velocity": type("Inside", (HeavyBall,), {"rate_inside": True}),
        "dampened gradient": type("Dampened", (HeavyBall,), {"dampened": True}),
        "state outside state_dict": type("Outside", (HeavyBall,), {"own_attribute": True}),
        "rate of the first group for all": FirstGroupOnly,
    },
)


def torch_sgd(params, lr=0.1, momentum=0.9):
    return torch.optim.SGD(params, lr=lr, momentum=momentum)


# --- an autograd Function: recompute in backward, judged by gradients and counts -----------------
class Checkpoint(torch.autograd.Function):
    """apply(run, x): forward without a graph, recomputed in backward."""

    upstream, recomputations = True, 1

    @classmethod
    def apply(cls, run, x):
        return super().apply(cls, run, x)

    @staticmethod
    def forward(ctx, kind, run, x):
        ctx.kind, ctx.run = kind, run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, grad_output):
        (x,) = ctx.saved_tensors
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            for _ in range(ctx.kind.recomputations):
                y = ctx.run(x)
        factor = grad_output if ctx.kind.upstream else torch.ones_like(grad_output)
        return None, None, torch.autograd.grad(y, x, factor)[0]


class CheckpointInPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, x):
        ctx.run, ctx.x = run, x
        return run(x.detach())

    @staticmethod
    def backward(ctx, grad_output):
        _, pullback = torch.func.vjp(ctx.run, ctx.x.detach())
        return None, pullback(grad_output)[0]


class PlainComposition:
    @staticmethod
    def apply(run, x):
        return run(x)


class NoGradient(Checkpoint):
    @staticmethod
    def apply(run, x):
        return run(x.detach()) + 0 * x


def sample_checkpoint(generator, kind):
    size = 4 if kind == "public" else 2
    for dtype in (torch.float64, torch.float32):
        weights, x, upstream = torch.from_numpy(generator.normal(size=(3, size, size))).to(dtype)
        yield str(dtype), {"weights": weights, "x": x, "upstream": upstream}


def drive_checkpoint(solution, inputs):
    forwards = 0

    def run(x):
        nonlocal forwards
        forwards += 1
        return torch.tanh(inputs["weights"] @ x)

    x = inputs["x"].requires_grad_()
    y = solution.apply(run, x)
    before = forwards
    (y * inputs["upstream"]).sum().backward()
    return {"forwards": before, "recomputed": forwards - before} | record(y, "result.") | record(x.grad, "gradient.")


CHECKPOINT = exercise(
    "Checkpoint",
    sample_checkpoint,
    drive_checkpoint,
    Checkpoint,
    {
        "plain composition": PlainComposition,
        "upstream gradient ignored": type("Ones", (Checkpoint,), {"upstream": False}),
        "recomputed twice": type("Twice", (Checkpoint,), {"recomputations": 2}),
        "no gradient": NoGradient,
    },
)


# --- judged by invariants: DropPath, where two right answers draw different masks -----------------
def drop_path_rule(case, seen):
    """Rows wholly kept or dropped, not all alike, scaled by 1/(1 − p), at the right rate; identity in eval."""
    x, p, got = case.inputs["x"], case.inputs["p"], seen["train.value"]
    ratio = got / x
    dropped = (ratio == 0).all(dim=1)
    whole = (dropped | (ratio != 0).all(dim=1)).all()
    expected = 1 / (1 - p)
    broken = {
        "rows": (not whole, "a row is partly dropped"),
        "independent": (bool(dropped.all() or not (ratio == 0).any()), "all rows share one fate"),
        "scale": (bool(((ratio - expected).abs()[ratio != 0] > 1e-4).any()), "kept entries are not scaled"),
        "rate": (abs((ratio == 0).double().mean().item() - p) > 6 * (p * (1 - p) / len(x)) ** 0.5, "wrong rate"),
        "eval": (not torch.equal(seen["eval.value"], x), "eval is not the identity"),
    }
    return tuple(Violation(kind, message) for kind, (found, message) in broken.items() if found)


@judged_by(invariants(drop_path_rule))
def drive_drop_path(solution, inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs["seed"])
        train = solution(inputs["x"].clone(), inputs["p"], True)
        return record(train, "train.") | record(solution(inputs["x"].clone(), inputs["p"], False), "eval.")


def sample_drop_path(generator, kind):
    for p in (0.2, 0.3):
        x = torch.from_numpy(generator.normal(size=(400, 3))).float()
        yield f"p = {p}", {"x": x, "p": p, "seed": int(generator.integers(2**31))}


def drop_path(per=lambda x: (len(x), 1), keep=lambda p: 1 - p, scaled=True, always=False):
    def implementation(x, p, training):
        if not (training or always):
            return x
        mask = torch.rand(per(x)) < keep(p)
        return x * mask / (1 - p) if scaled else x * mask

    return implementation


DROP_PATH = exercise(
    "drop_path",
    sample_drop_path,
    drive_drop_path,
    drop_path(),
    {
        "one mask for the batch": drop_path(per=lambda x: (1, 1)),
        "mask for each element": drop_path(per=lambda x: x.shape),
        "not scaled": drop_path(scaled=False),
        "keep and drop exchanged": drop_path(keep=lambda p: p),
        "active in eval": drop_path(always=True),
    },
)


def drop_path_by_bernoulli(x, p, training):
    return x * torch.empty(len(x), 1).bernoulli_(1 - p).div_(1 - p) if training else x


def drop_path_by_loop(x, p, training):
    return torch.stack([row * (torch.rand(()) >= p) / (1 - p) for row in x]) if training else x


def drop_path_by_permutation(x, p, training):
    if not training:
        return x
    out = x / (1 - p)
    out[torch.randperm(len(x))[: round(p * len(x))]] = 0
    return out


KINDS = [
    (CLIP, CLIP_OTHERS),
    (SCALER, [TorchScaler]),
    (HEAVY_BALL, [torch_sgd]),
    (CHECKPOINT, [CheckpointInPlace]),
    (DROP_PATH, [drop_path_by_bernoulli, drop_path_by_loop, drop_path_by_permutation]),
]
each_kind = pytest.mark.parametrize(("record_", "others"), KINDS, ids=[record_.name for record_, _ in KINDS])


def grade(exercise_, solution, cases):
    return exercise_.diagnose(cases, [observe(exercise_.driver, solution, case.inputs) for case in cases])


@each_kind
@pytest.mark.parametrize("kind", ["public", "hidden"])
def test_every_misconception_fails_and_is_named(record_, others, kind):
    for seed in range(20):
        cases = record_.cases(seed, kind)
        for misconception in record_.misconceptions:
            diagnosis = grade(record_, misconception.implementation, cases)
            assert diagnosis.passed < len(cases)
            assert (diagnosis.names, diagnosis.hint) == ((misconception.name,), misconception.hint)


@each_kind
@pytest.mark.parametrize("kind", ["public", "hidden"])
def test_right_solutions_pass_however_written(record_, others, kind):
    for seed in range(20):
        cases = record_.cases(seed, kind)
        for solution in [record_.reference, *others]:
            diagnosis = grade(record_, solution, cases)
            assert (diagnosis.passed, diagnosis.names) == (len(cases), ())


def test_two_right_drop_paths_draw_different_masks():
    inputs = DROP_PATH.cases(0, "hidden")[0].inputs
    one, other = (observe(DROP_PATH.driver, f, inputs)["train.value"] for f in (drop_path(), drop_path_by_permutation))
    assert not torch.equal(one, other)


def test_a_reference_that_breaks_its_own_invariants_makes_a_faulty_record():
    wrong = dataclasses.replace(DROP_PATH, reference=drop_path(scaled=False), misconceptions=())
    with pytest.raises(ExerciseError, match="the reference fails"):
        wrong.cases(0, "hidden")
