"""Gradient flow: accumulation, monitoring and diagnosis, and architectures that keep gradients in range."""

from steepest.gradient_flow.accumulation import accumulate_gradients, accumulation_windows
from steepest.gradient_flow.causes import Cause, Finding
from steepest.gradient_flow.diagnose import diagnose
from steepest.gradient_flow.gradient_monitor import GradientMonitor
from steepest.gradient_flow.jacobian import jacobian_spectrum
from steepest.gradient_flow.transformer_blocks import PostLNBlock, PreLNBlock

__all__ = [
    "Cause",
    "Finding",
    "GradientMonitor",
    "PostLNBlock",
    "PreLNBlock",
    "accumulate_gradients",
    "accumulation_windows",
    "diagnose",
    "jacobian_spectrum",
]
