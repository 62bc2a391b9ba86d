"""Gradient flow: accumulation, monitoring and diagnosis, and architectures that keep gradients in range."""

from steepest.gradient_flow.accumulation import accumulate_gradients, accumulation_windows
from steepest.gradient_flow.jacobian import jacobian_spectrum
from steepest.gradient_flow.transformer_blocks import PostLNBlock, PreLNBlock

__all__ = [
    "PostLNBlock",
    "PreLNBlock",
    "accumulate_gradients",
    "accumulation_windows",
    "jacobian_spectrum",
]
