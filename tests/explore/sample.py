"""Figures that the tests draw: small, quick, with every kind of mark."""

from functools import cache

import numpy as np

from steepest.explore import (
    axis,
    bars,
    choice,
    contour,
    figure,
    heatmap,
    image,
    line,
    panel,
    rule,
    stops,
    switch,
    text,
    until_divergence,
)

STEPS = 20


@cache
def path(condition, rate, noise):
    """Gradient descent on diag(1, condition), (STEPS + 1, 2); it diverges where rate > 2 / condition."""
    generator = np.random.default_rng(0)
    points = [np.array([-2.5, 1.8])]
    for _ in range(STEPS):
        gradient = points[-1] * [1.0, condition] + noise * generator.normal(size=2)
        points.append(points[-1] - rate * gradient)
    return np.array(points)


def descent(condition, rate, noise, step):
    """A path on contours, its loss on a log axis; Newton's path does not depend on anything but the condition."""
    grid = np.linspace(-3, 3, 31)
    x, y = np.meshgrid(grid, grid)
    points = path(condition, rate, noise)
    px, py = until_divergence(points[:, 0], points[:, 1])
    loss = 0.5 * (px**2 + condition * py**2)
    start = 0.5 * (2.5**2 + condition * 1.8**2)
    newton_loss = np.r_[start, np.full(STEPS, start * 1e-3)]
    ends = "leaves the frame" if max(abs(px[-1]), abs(py[-1])) > 3 else f"ends at a loss of {loss[-1]:.1e}"
    return figure(
        panel(
            contour(grid, grid, 0.5 * (x**2 + condition * y**2), [0.1, 1, 10, 30], depends=["condition"]),
            line(px, py, label="gradient descent", series=0, style="both", reveal="step"),
            line([-2.5, 0.0], [1.8, 0.0], label="Newton", series=1, depends=[]),
            text(0.1, 0.2, "minimum", depends=[]),
            title="Path",
            x=axis("first", domain=(-3, 3)),
            y=axis("second", domain=(-3, 3)),
            equal=True,
        ),
        panel(
            line(range(STEPS + 1), loss, label="gradient descent", series=0, reveal="step"),
            line(range(STEPS + 1), newton_loss, label="Newton", series=1, depends=["condition"], reveal="step"),
            rule(y=1e-4, label="tolerance", depends=[]),
            title="Loss",
            x=axis("step", domain=(0, STEPS)),
            y=axis("loss", domain=(1e-8, 1e3), scale="log"),
        ),
        alt=f"With condition number {condition} and rate {rate}, gradient descent {ends}.",
    )


DESCENT = {
    "condition": stops([1, 3, 10, 30, 100], default=10, label="condition number"),
    "rate": stops([0.01, 0.03, 0.1, 0.18, 0.3], default=0.18, label="learning rate", unit="1/s"),
    "noise": switch(False, label="gradient noise"),
    "step": stops(range(STEPS + 1), default=STEPS, label="step", play=True),
}


def gallery(size, method):
    """Heatmap, image, bars upright and lying, dots on log axes."""
    grid = np.linspace(-1, 1, 12)
    x, y = np.meshgrid(grid, grid)
    factor = {"one": 1.0, "two": 2.0}[method]
    names = ["gradient descent", "L-BFGS", "BFGS"]
    counts = np.array([900.0, 40.0 * factor, 34.0])
    square = (-1, 1)
    return figure(
        panel(
            heatmap(np.sin(3 * size * x) * y, square, square, domain=(-1, 1), label="height"),
            title="Heatmap",
            x=axis("x", domain=square),
            y=axis("y", domain=square),
        ),
        panel(
            image(np.clip(np.stack([x, y, 0 * x], -1), 0, 1), square, square, depends=[]),
            title="Image",
            x=axis("x", domain=square),
            y=axis("y", domain=square),
        ),
        panel(
            bars(names, counts, label="iterations", series=0, depends=["method"]),
            bars(names, counts * size, label="evaluations", series=1),
            title="Cost",
            x=axis("count", domain=(1, 3000), scale="log"),
            y=axis("method", categories=names),
        ),
        panel(
            bars(names, counts / 1000, series=3, depends=["method"]),
            title="Share",
            x=axis("method", categories=names),
            y=axis("share", domain=(0, 1)),
        ),
        panel(
            line([1e2, 1e4, 1e6], [1e4 * size, 1e8, 1e12], style="dots", label="Hessian", series=2, depends=["size"]),
            title="Bytes",
            x=axis("parameters", domain=(10, 1e7), scale="log"),
            y=axis("memory", domain=(1e2, 1e14), scale="log", unit="bytes"),
        ),
        alt=f"Size {size}, method {method}.",
    )


GALLERY = {"size": stops([0.5, 1.0, 2.0], default=1.0, unit="m"), "method": choice(["one", "two"])}


EXCURSION_X = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
EXCURSION_Y = [0.5, 0.5, 9.0, 9.0, 0.5, 0.5]


def excursion(point):
    """A line that goes far out of the frame, by ways outside it, and comes back."""
    mark = line(EXCURSION_X, EXCURSION_Y, series=1, reveal="point")
    frame = panel(mark, x=axis("x", domain=(0, 1)), y=axis("y", domain=(0, 1)))
    return figure(frame, alt=f"A line that leaves and comes back, up to point {point}.")


EXCURSION = {"point": stops(range(6), default=5)}
