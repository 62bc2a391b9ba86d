"""Misconceptions about second-order methods, written into the reference."""

from tests.mutants import Mutant

NEWTON = ("tests/second_order/test_newton.py",)

MUTANTS = [
    Mutant(
        "saddle-free Newton clamps negative eigenvalues instead of reflecting them",
        "steepest/second_order/saddle_free.py",
        "curvature = eigenvalues.abs() + damping",
        "curvature = eigenvalues.clamp(min=1e-3) + damping",
        NEWTON,
    ),
    Mutant(
        "saddle-free step uphill",
        "steepest/second_order/saddle_free.py",
        "return -(eigenvectors",
        "return (eigenvectors",
        NEWTON,
    ),
]
