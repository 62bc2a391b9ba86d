"""Second-order methods: Newton, saddle-free Newton, BFGS and L-BFGS."""

from steepest.second_order.bfgs import bfgs_inverse_update
from steepest.second_order.hessian_vector import hessian_vector_product
from steepest.second_order.lbfgs import LBFGS, LBFGSReport
from steepest.second_order.lbfgs_direction import lbfgs_direction
from steepest.second_order.line_search import LineSearchResult, strong_wolfe
from steepest.second_order.newton import newton_step
from steepest.second_order.saddle_free import saddle_free_newton_step

__all__ = [
    "LBFGS",
    "LBFGSReport",
    "LineSearchResult",
    "bfgs_inverse_update",
    "hessian_vector_product",
    "lbfgs_direction",
    "newton_step",
    "saddle_free_newton_step",
    "strong_wolfe",
]
