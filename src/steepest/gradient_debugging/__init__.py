"""Gradient debugging: measure, clip, find what went wrong, and keep it from happening."""

from steepest.gradient_debugging.activations import ActivationStatistics, activation_statistics
from steepest.gradient_debugging.alerts import Alert, AlertPolicy, FixedThresholds
from steepest.gradient_debugging.clipping import clip_grad_norm_, clip_grad_value_
from steepest.gradient_debugging.gradient_norms import GradientNorms, gradient_norms, total_norm
from steepest.gradient_debugging.gradient_record import GradientRecord
from steepest.gradient_debugging.initialisation import kaiming_normal_, xavier_uniform_
from steepest.gradient_debugging.nonfinite import NonFinite, find_nonfinite
from steepest.gradient_debugging.normalisation import batch_norm, group_norm, layer_norm
from steepest.gradient_debugging.recorder import GradientRecorder, LossScaler
from steepest.gradient_debugging.running_quantile import RunningQuantile
from steepest.gradient_debugging.running_thresholds import RunningThresholds, spike_threshold
from steepest.gradient_debugging.schedules import noam_lr
from steepest.gradient_debugging.sinks import JSONLSink, TensorBoardSink, read_jsonl
from steepest.gradient_debugging.training_monitor import TrainingMonitor

__all__ = [
    "ActivationStatistics",
    "Alert",
    "AlertPolicy",
    "FixedThresholds",
    "GradientNorms",
    "GradientRecord",
    "GradientRecorder",
    "JSONLSink",
    "LossScaler",
    "NonFinite",
    "RunningQuantile",
    "RunningThresholds",
    "TensorBoardSink",
    "TrainingMonitor",
    "activation_statistics",
    "batch_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "find_nonfinite",
    "gradient_norms",
    "group_norm",
    "kaiming_normal_",
    "layer_norm",
    "noam_lr",
    "read_jsonl",
    "spike_threshold",
    "total_norm",
    "xavier_uniform_",
]
