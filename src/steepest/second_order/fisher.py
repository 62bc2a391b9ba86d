"""The Fisher information matrix of a model, and the empirical Fisher, which is another matrix.

Sources: Amari, "Natural gradient works efficiently in learning", Neural Computation 10 (1998); Martens, "New
insights and perspectives on the natural gradient method", arXiv 1412.1193, sections 5, 9 and 11; Kunstner,
Balles, Hennig, "Limitations of the empirical Fisher approximation", arXiv 1905.12558, section 3.

| papers                       | here                | shape     |
|------------------------------|---------------------|-----------|
| θ                            | `theta`             | (D,)      |
| f(x_n, θ)                    | rows of `outputs`   | (N, C)    |
| ∇_f log p(y given f)         | `output_scores`     | (N, K, C) |
| J_n = ∂f(x_n, θ)/∂θ          | never formed        | (C, D)    |
| ∇_θ log p = J_nᵀ ∇_f log p   | `scores`            | (N, K, D) |
| F                            | the returned matrix | (D, D)    |

K counts the labels of a datum: those over which the expectation runs, those drawn, or the one observed.
"""

from collections.abc import Callable

import torch

from steepest.second_order.functional_model import (
    Parameters,
    flat_function,
    functional_mode,
    require_batch,
    require_independent_samples,
)
from steepest.validation import require_count, require_floating, require_generator, require_tensor

LIKELIHOODS = ("categorical", "gaussian")


def fisher_information(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    likelihood: str = "categorical",
    *,
    samples: int | None = None,
    diagonal: bool = False,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return F = (1/N) Σ_n E_{y ~ p(y given x_n, θ)} [∇ log p ∇ log pᵀ], labels taken from the model.

    The expectation runs over the labels that the model itself predicts, which no data enter (Martens, section
    5). That makes F the local metric of the KL divergence, and for these two likelihoods the generalised
    Gauss-Newton matrix of the negative log-likelihood (section 9). With labels of the data in the model's place
    it is `empirical_fisher`, which is neither.

    The gradients of each datum are formed, N K D numbers, and for the whole matrix D² more: meant for small
    models. Split the inputs into batches of equal size and average the results where memory is short.

    Args:
        model: a module, or a function of (parameters, inputs), that maps inputs (N, ...) to outputs (N, C), each
            row from its own input alone: BatchNorm in training mode is refused, dropout must be off. It runs without
            autocast and under `torch.func.vmap`, which lacks some operators (those of recurrent layers).
        parameters: float32 or float64 tensors by name, in whose order D is counted, such as
            `dict(model.named_parameters())`; for a function also one tensor.
        inputs: (N, ...), a batch.
        likelihood: "categorical", outputs being logits, with the negative log-likelihood
            `cross_entropy`; or "gaussian" with mean `outputs` and unit variance, whose negative log-likelihood is
            half the squared error *summed* over C: `mse_loss` with reduction "mean" is 2 / C times that.
        samples: None for the exact expectation, with K = C backward passes; or the number K of labels drawn for
            each datum, which estimates F without bias.
        diagonal: whether to return only the diagonal of F, without forming the rest.
        generator: source of the labels drawn, on the device of `inputs`.

    Returns:
        F, (D, D), symmetric positive semi-definite, or its diagonal (D,); detached, dtype of the parameters. For
        logits it is singular: adding a constant to all of them changes no probability.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes don't fit, `likelihood` is unknown, `samples` < 1, or BatchNorm uses statistics of the batch.

    Example:
        Where the parameters are the logits, F = diag(p) - p pᵀ:

        >>> logits = torch.tensor([0.5, 0.25, 0.25]).log()
        >>> fisher_information(lambda theta, inputs: theta.expand(len(inputs), 3), logits, torch.zeros(1, 1))
        tensor([[ 0.2500, -0.1250, -0.1250],
                [-0.1250,  0.1875, -0.0625],
                [-0.1250, -0.0625,  0.1875]])
    """
    if samples is not None:
        require_count("samples", samples)
    return _mean_outer_product(
        model,
        parameters,
        inputs,
        lambda outputs: output_scores(outputs, likelihood, samples=samples, generator=generator),
        diagonal,
    )


def empirical_fisher(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    likelihood: str = "categorical",
    *,
    diagonal: bool = False,
) -> torch.Tensor:
    """Return (1/N) Σ_n ∇ log p(y_n) ∇ log p(y_n)ᵀ with the labels y_n of the data.

    This is the uncentred covariance of the gradients that training sees anyway, and what Adam's second moment
    estimates. It approaches the Fisher only where the model predicts the data's labels (enough data from a model
    of this form); elsewhere it is not a curvature: for "gaussian" each term is weighted by the squared
    residual, so that it vanishes at a perfect fit (Kunstner et al., section 3; Martens, section 11).

    Args:
        model: as in `fisher_information`, and so are `parameters`, `inputs`, `likelihood` and `diagonal`.
        targets: for "categorical" class indices (N,), int64; for "gaussian" (N, C), dtype of the outputs.

    Returns:
        The matrix (D, D), of rank at most N, or its diagonal (D,); detached.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: shapes don't fit, `likelihood` is unknown, or BatchNorm uses statistics of the batch.

    Example:
        With one datum of class 0, the label's score is e_0 - p, here (0.5, -0.25, -0.25):

        >>> logits = torch.tensor([0.5, 0.25, 0.25]).log()
        >>> model = lambda theta, inputs: theta.expand(len(inputs), 3)
        >>> empirical_fisher(model, logits, torch.zeros(1, 1), torch.tensor([0]), diagonal=True)
        tensor([0.2500, 0.0625, 0.0625])
    """
    return _mean_outer_product(
        model, parameters, inputs, lambda outputs: output_scores(outputs, likelihood, targets), diagonal
    )


def output_scores(
    outputs: torch.Tensor,
    likelihood: str,
    targets: torch.Tensor | None = None,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Return scores r (N, K, C) of the outputs whose Σ_k r_k r_kᵀ is, or estimates, the Fisher matrix of an output.

    A score is ∇_f log p(y given f): one-hot(y) - softmax(f), or y - f. With `targets` K = 1. Otherwise, with
    `samples` labels from the model, each score is divided by √K. With neither, K = C and the sum is the exact
    expectation: scores of all classes times √p_c, or unit vectors, since the score of a unit Gaussian has
    covariance I.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    require_floating("outputs", outputs)
    if outputs.ndim != 2 or outputs.numel() == 0:
        raise ValueError(f"outputs must have shape (N, C) without a zero, got {tuple(outputs.shape)}; reshape them")
    require_generator(generator, outputs.device)
    if targets is not None:
        _require_targets(targets, likelihood, outputs)
    outputs = outputs.detach()
    n, c = outputs.shape

    if likelihood == "gaussian":
        if targets is not None:
            return (targets - outputs)[:, None]  # (N, 1, C)
        if samples is None:
            return torch.eye(c, dtype=outputs.dtype, device=outputs.device).expand(n, c, c)
        return outputs.new_empty(n, samples, c).normal_(generator=generator) / samples**0.5  # (N, K, C)

    probabilities = outputs.softmax(1)  # (N, C)
    if targets is None and samples is None:
        classes = torch.eye(c, dtype=outputs.dtype, device=outputs.device)
        return (classes - probabilities[:, None]) * probabilities.sqrt()[:, :, None]  # (N, C, C)
    if targets is None:
        # The smallest of exponential times with rates p is a draw from p; multinomial would make the host wait.
        times = outputs.new_empty(n, samples, c).exponential_(generator=generator) / probabilities[:, None]
        labels = times.argmin(2)  # (N, K)
    else:
        labels = targets[:, None]  # (N, 1)
    one_hot = outputs.new_zeros(n, labels.shape[1], c).scatter_(2, labels[:, :, None], 1.0)
    return (one_hot - probabilities[:, None]) / labels.shape[1] ** 0.5  # (N, K, C)


def _require_targets(targets: torch.Tensor, likelihood: str, outputs: torch.Tensor) -> None:
    require_tensor("targets", targets)
    shape, dtype = tuple(outputs.shape), outputs.dtype
    if likelihood == "categorical":
        shape, dtype = shape[:1], torch.int64
    if tuple(targets.shape) != shape:
        raise ValueError(f"targets must have shape {shape} for a {likelihood} likelihood, got {tuple(targets.shape)}")
    if targets.dtype != dtype:
        raise TypeError(f"targets must have dtype {dtype} for a {likelihood} likelihood, got {targets.dtype}")
    if targets.device != outputs.device:
        raise ValueError(f"targets is on {targets.device} but the outputs are on {outputs.device}; move one of them")


def _mean_outer_product(
    model: torch.nn.Module | Callable[..., torch.Tensor],
    parameters: Parameters,
    inputs: torch.Tensor,
    scores_of: Callable[[torch.Tensor], torch.Tensor],
    diagonal: bool,
) -> torch.Tensor:
    """Return (1/N) Σ_n Σ_k (J_nᵀ r_nk) (J_nᵀ r_nk)ᵀ, or its diagonal."""
    require_independent_samples(model)

    with functional_mode(inputs):
        inputs = require_batch(inputs)
        fn, theta = flat_function(model, parameters)

        def pull_back(datum: torch.Tensor, output_scores: torch.Tensor) -> torch.Tensor:
            _, transposed_jacobian = torch.func.vjp(lambda point: fn(point, datum[None])[0], theta)
            return torch.func.vmap(transposed_jacobian)(output_scores)[0]  # (K, D)

        scores = torch.func.vmap(pull_back)(inputs, scores_of(fn(theta, inputs)))  # (N, K, D)
        if diagonal:
            return scores.square().sum((0, 1)) / len(inputs)
        rows = scores.flatten(0, 1)  # (N K, D)
        return rows.mT @ rows / len(inputs)
