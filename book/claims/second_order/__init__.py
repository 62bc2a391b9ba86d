"""Claims of the topic second_order: two or three modules a question."""

from book.claims.second_order import (
    convergence,
    gpu_steps,
    hessian_costs,
    inverse_approximations,
    quasi_newton_use,
    rates,
    saddles,
    stochastic_gradients,
)

CLAIMS = (
    *convergence.CLAIMS,
    *gpu_steps.CLAIMS,
    *rates.CLAIMS,
    *hessian_costs.CLAIMS,
    *saddles.CLAIMS,
    *inverse_approximations.CLAIMS,
    *quasi_newton_use.CLAIMS,
    *stochastic_gradients.CLAIMS,
)
