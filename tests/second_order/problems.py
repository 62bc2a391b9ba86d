"""Functions with known starts, and what minimises them, for the tests of several methods."""

import torch


def chained_rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def extended_rosenbrock(x):
    return (100 * (x[1::2] - x[0::2] ** 2) ** 2 + (1 - x[0::2]) ** 2).sum()


def logistic_regression(x):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, len(x), dtype=torch.float64, generator=generator)
    uniforms = torch.rand(200, dtype=torch.float64, generator=generator)
    signs = torch.where(uniforms < torch.sigmoid(features[:, 0]), 1.0, -1.0)
    margins = signs.to(x) * (features.to(x) @ x)
    return torch.nn.functional.softplus(-margins).mean() + 0.01 * x.square().sum()


ROSENBROCK_START = torch.tensor([-1.2, 1.0] * 10, dtype=torch.float64)
PROBLEMS = {
    "extended Rosenbrock": (extended_rosenbrock, ROSENBROCK_START),
    "chained Rosenbrock": (chained_rosenbrock, ROSENBROCK_START),
    "logistic regression": (logistic_regression, torch.zeros(20, dtype=torch.float64)),
}


def closure_for(optimizer, fn, parameters, trace=None):
    """Return a closure of fn over the concatenated parameters that also notes the losses."""

    def closure():
        optimizer.zero_grad()
        loss = fn(torch.cat([parameter.reshape(-1) for parameter in parameters]))
        loss.backward()
        if trace is not None:
            trace.append(loss.item())
        return loss

    return closure


def minimised(kind, fn, start, **options):
    """Return the final point, the optimizer of that kind and the losses of all evaluations."""
    point = start.clone().requires_grad_()
    optimizer = kind([point], **{"max_iter": 2000, "tolerance_change": 0, **options})
    trace = []
    optimizer.step(closure_for(optimizer, fn, [point], trace))
    return point.detach(), optimizer, trace


def value_and_gradient_of(fn, trace=None):
    """Return fn as scipy wants it, with jac=True: from a numpy vector to the value and the gradient."""

    def value_and_gradient(x):
        point = torch.from_numpy(x).requires_grad_()
        loss = fn(point)
        if trace is not None:
            trace.append(loss.item())
        return loss.item(), torch.autograd.grad(loss, point)[0].numpy()

    return value_and_gradient


def parameters_of_any_shape_and_stride(vector):
    """Return four parameters that are a vector of 20 entries in a row: a matrix, a scalar, a transposed one, a rest."""
    parameters = [
        vector[:6].reshape(2, 3).clone(),
        vector[6:7].reshape(()).clone(),
        vector[7:19].reshape(4, 3).T.contiguous().T,
        vector[19:].clone(),
    ]
    assert not parameters[2].is_contiguous()
    return [parameter.requires_grad_() for parameter in parameters]
