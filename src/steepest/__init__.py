"""Steepest: reference implementations behind a course on training deep networks.

Each topic is a subpackage and is imported by itself, for example
``from steepest.second_order import LBFGS``.
"""

__version__ = "0.1.0"
