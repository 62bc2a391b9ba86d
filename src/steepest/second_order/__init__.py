"""Second-order methods: Newton, quasi-Newton, conjugate gradients, natural gradient, and a diagonal of the Hessian."""

from steepest.second_order.adahessian import AdaHessian
from steepest.second_order.bfgs import bfgs_inverse_update
from steepest.second_order.conjugate_gradient import ConjugateGradientResult, conjugate_gradient
from steepest.second_order.fisher import empirical_fisher, fisher_information
from steepest.second_order.gauss_newton import gauss_newton_matrix, gauss_newton_vector_product
from steepest.second_order.hessian_vector import hessian_vector_product
from steepest.second_order.hutchinson import hutchinson_diagonal, hutchinson_trace
from steepest.second_order.kfac import KFAC
from steepest.second_order.lbfgs import LBFGS, LBFGSReport
from steepest.second_order.lbfgs_direction import lbfgs_direction
from steepest.second_order.line_search import LineSearchResult, strong_wolfe
from steepest.second_order.natural_gradient import natural_gradient_step
from steepest.second_order.newton import newton_step
from steepest.second_order.newton_cg import NewtonCGResult, newton_cg
from steepest.second_order.nonlinear_cg import NonlinearCG
from steepest.second_order.nonlinear_cg_beta import fletcher_reeves_beta, polak_ribiere_plus_beta
from steepest.second_order.nonlinear_cg_report import NonlinearCGReport
from steepest.second_order.saddle_free import saddle_free_newton_step

__all__ = [
    "KFAC",
    "LBFGS",
    "AdaHessian",
    "ConjugateGradientResult",
    "LBFGSReport",
    "LineSearchResult",
    "NewtonCGResult",
    "NonlinearCG",
    "NonlinearCGReport",
    "bfgs_inverse_update",
    "conjugate_gradient",
    "empirical_fisher",
    "fisher_information",
    "fletcher_reeves_beta",
    "gauss_newton_matrix",
    "gauss_newton_vector_product",
    "hessian_vector_product",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "lbfgs_direction",
    "natural_gradient_step",
    "newton_cg",
    "newton_step",
    "polak_ribiere_plus_beta",
    "saddle_free_newton_step",
    "strong_wolfe",
]
