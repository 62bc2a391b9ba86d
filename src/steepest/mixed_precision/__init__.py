"""Mixed precision: number formats, loss scaling, master weights, a training step, and what autocast does."""

from steepest.mixed_precision.autocast_report import AutocastReport, AutocastRow, autocast_report
from steepest.mixed_precision.float_bands import FloatBands
from steepest.mixed_precision.float_format import BF16, FP8_E4M3, FP8_E5M2, FP16, FP32, FloatFormat
from steepest.mixed_precision.loss_scaler import DynamicLossScaler
from steepest.mixed_precision.master_weights import MasterWeights
from steepest.mixed_precision.train_step import AmpStep, train_step_amp

__all__ = [
    "BF16",
    "FP8_E4M3",
    "FP8_E5M2",
    "FP16",
    "FP32",
    "AmpStep",
    "AutocastReport",
    "AutocastRow",
    "DynamicLossScaler",
    "FloatBands",
    "FloatFormat",
    "MasterWeights",
    "autocast_report",
    "train_step_amp",
]
