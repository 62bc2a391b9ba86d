"""Regularisation: stochastic depth, mixing of samples, soft labels, calibration, layer-wise learning rates."""

from steepest.regularization.calibration_error import CalibrationError, expected_calibration_error
from steepest.regularization.cutmix import cutmix
from steepest.regularization.cutout import cutout
from steepest.regularization.drop_path import DropPath, drop_path, drop_path_residual
from steepest.regularization.drop_path_rates import drop_path_rates
from steepest.regularization.label_smoothing import smooth_labels
from steepest.regularization.layer_decay import layer_decay_groups
from steepest.regularization.mixing import MixedBatch
from steepest.regularization.mixup import mixup
from steepest.regularization.temperature import fit_temperature
from steepest.regularization.training_recipes import Recipe, recipes

__all__ = [
    "CalibrationError",
    "DropPath",
    "MixedBatch",
    "Recipe",
    "cutmix",
    "cutout",
    "drop_path",
    "drop_path_rates",
    "drop_path_residual",
    "expected_calibration_error",
    "fit_temperature",
    "layer_decay_groups",
    "mixup",
    "recipes",
    "smooth_labels",
]
