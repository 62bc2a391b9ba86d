"""Small training runs, healthy ones and ones that are ill in a known way, that the monitors' tests watch."""

from functools import cache
from itertools import pairwise

import torch
from torch import nn

from steepest.gradient_debugging import TrainingMonitor


def generator_of(seed):
    return torch.Generator().manual_seed(seed)


def initialised(model, seed, gain=2.0):
    """Return the model with He-like weights of a seed and zero biases, without touching the global random state."""
    generator = generator_of(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() < 2:
                continue
            fan_in = parameter[0].numel()
            parameter.normal_(0, (gain / fan_in) ** 0.5, generator=generator)
        for module in model.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
                module.bias.zero_()
    return model


def mlp(seed, widths, activation=nn.ReLU):
    """Return an MLP, initialised for its activation."""
    layers = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return initialised(nn.Sequential(*layers[:-1]), seed, gain=2.0 if activation is nn.ReLU else 1.0)


def with_biases(model, value):
    """Return the MLP with all biases of its hidden layers at a value."""
    with torch.no_grad():
        for layer in model[:-1]:
            if isinstance(layer, nn.Linear):
                layer.bias.fill_(value)
    return model


def with_gradients(*gradients, dtype=torch.float32):
    """Return a module whose parameters p0, p1, ... have the given gradients, and weights 1, 2, 3, ..."""
    model = nn.Module()
    for i, gradient in enumerate(gradients):
        if gradient is None:
            model.register_parameter(f"p{i}", nn.Parameter(torch.ones(2, dtype=dtype)))
            continue
        gradient = torch.as_tensor(gradient, dtype=dtype)
        weight = torch.arange(1, gradient.numel() + 1).reshape(gradient.shape).to(dtype)
        model.register_parameter(f"p{i}", nn.Parameter(weight))
        model.get_parameter(f"p{i}").grad = gradient
    return model


class Encoder(nn.Module):
    """A transformer of two layers that tags each token."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(30, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 30)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x))).transpose(1, 2)


class Recurrent(nn.Module):
    """A GRU that classifies a sequence by its last state."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 24, batch_first=True)
        self.head = nn.Linear(24, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0][:, -1])


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def classification(seed, batch=32, features=20, classes=5, noise=0.5):
    """Yield batches of a noisy linear teacher for ever."""
    generator = generator_of(1000 + seed)
    teacher = torch.randn(features, classes, generator=generator)
    while True:
        x = torch.randn(batch, features, generator=generator)
        scores = x @ teacher + noise * torch.randn(batch, classes, generator=generator)
        yield x, scores.argmax(1)


def regression(seed, batch=32, features=20, noise=0.1):
    """Yield batches of a nonlinear teacher for ever."""
    generator = generator_of(2000 + seed)
    teacher = torch.randn(features, 1, generator=generator) / features**0.5
    while True:
        x = torch.randn(batch, features, generator=generator)
        yield x, (x @ teacher).sin() + noise * torch.randn(batch, 1, generator=generator)


def images(seed):
    """Yield noisy pictures of five classes for ever."""
    generator = generator_of(3000 + seed)
    patterns = torch.randn(5, 1, 8, 8, generator=generator)
    while True:
        y = torch.randint(5, (32,), generator=generator)
        yield patterns[y] + 2 * torch.randn(32, 1, 8, 8, generator=generator), y


def sequences(seed):
    """Yield sequences whose class is the sign of a sum over time."""
    generator = generator_of(4000 + seed)
    while True:
        x = torch.randn(32, 12, 4, generator=generator)
        yield x, (x[:, :, 0].sum(1) > 0).long()


def tokens(seed):
    """Yield sentences that are to be reversed."""
    generator = generator_of(5000 + seed)
    while True:
        x = torch.randint(30, (16, 8), generator=generator)
        yield x, x.flip(1)


def with_bad_batch(batches, step, factor=100.0):
    """Yield batches, one of whose inputs are too large by a factor."""
    for i, (x, y) in enumerate(batches):
        yield (factor * x if i == step else x), y


def train(model, batches, loss_fn, optimizer, steps, observe, after_step=None, clip=None, schedule=None):
    """Train; `observe(loss)` is called after backward, `after_step()` after the step; `schedule(step)` is the rate."""
    for step, (x, y) in zip(range(steps), batches, strict=False):
        if schedule is not None:
            for group in optimizer.param_groups:
                group["lr"] = schedule(step)
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        observe(loss)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if after_step is not None:
            after_step()


def sgd(lr, **options):
    return lambda parameters: torch.optim.SGD(parameters, lr, **options)


def adam(lr):
    return lambda parameters: torch.optim.Adam(parameters, lr)


CROSS_ENTROPY, SQUARED = nn.CrossEntropyLoss(), nn.MSELoss()
WIDTHS = (20, 32, 32, 5)
DEEP = (20, *(24,) * 10, 5)
STEPS = 200
# name: model of a seed, batches of a seed, loss, optimizer, options of `train`
HEALTHY = {
    "classification": (lambda s: mlp(s, WIDTHS), classification, CROSS_ENTROPY, sgd(0.1), {}),
    "regression": (lambda s: mlp(s, (20, 32, 32, 1)), regression, SQUARED, adam(1e-3), {}),
    "deep": (lambda s: mlp(s, DEEP), classification, CROSS_ENTROPY, adam(1e-3), {}),
    "tanh": (lambda s: mlp(s, WIDTHS, nn.Tanh), classification, CROSS_ENTROPY, sgd(0.1), {}),
    # Its norms are in the thousands at first, and above 100 for long.
    "summed loss": (
        lambda s: mlp(s, (20, 32, 32, 1)),
        lambda s: regression(s, batch=256),
        nn.MSELoss(reduction="sum"),
        sgd(2e-5),
        {},
    ),
    "convolutional": (lambda s: initialised(convolutional(), s), images, CROSS_ENTROPY, sgd(0.05), {}),
    "recurrent": (lambda s: initialised(Recurrent(), s, 1.0), sequences, CROSS_ENTROPY, adam(3e-3), {}),
    "transformer": (lambda s: initialised(Encoder(), s, 1.0), tokens, CROSS_ENTROPY, adam(1e-3), {}),
}
ILL = {
    "rate too high": (lambda s: mlp(s, (20, 32, 32, 1)), regression, SQUARED, sgd(3.0), {}),
    # Clipping keeps it from diverging and leaves the norm where it is.
    "rate too high, clipped": (
        lambda s: initialised(nn.Linear(20, 1), s),
        lambda s: ((30 * x, y) for x, y in regression(s)),
        SQUARED,
        sgd(1.0),
        {"clip": 1.0},
    ),
    "rate growing": (
        lambda s: initialised(nn.Linear(20, 1), s),
        regression,
        SQUARED,
        sgd(1.0),
        {"schedule": lambda step: 0.05 * 1.018**step},
    ),
    "sigmoid": (lambda s: mlp(s, DEEP, nn.Sigmoid), classification, CROSS_ENTROPY, sgd(0.1), {}),
    "bad batch": (
        lambda s: mlp(s, WIDTHS),
        lambda s: with_bad_batch(classification(s), step=150),
        CROSS_ENTROPY,
        sgd(0.1),
        {"clip": 1.0},
    ),
    "dead": (lambda s: with_biases(mlp(s, WIDTHS), -20.0), classification, CROSS_ENTROPY, sgd(0.1), {}),
}


@cache
def watched(name, seed):
    """Return the history and the alerts of a run of `HEALTHY` or `ILL`."""
    make, batches, loss_fn, optimizer, options = (HEALTHY | ILL)[name]
    torch.manual_seed(seed)
    model = make(seed)
    with TrainingMonitor(model) as monitor:
        train(
            model,
            batches(seed),
            loss_fn,
            optimizer(model.parameters()),
            STEPS,
            monitor.observe,
            monitor.after_step,
            **options,
        )
    return tuple(monitor.history), tuple(monitor.alerts)
