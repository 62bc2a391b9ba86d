"""Exercises on second-order methods, in the order of the assignment."""

from .bfgs_update import BFGS_UPDATE
from .lbfgs_direction import LBFGS_DIRECTION
from .newton_minimize import NEWTON_MINIMIZE
from .newton_step import NEWTON_STEP
from .saddle_free_step import SADDLE_FREE_STEP

EXERCISES = (NEWTON_STEP, SADDLE_FREE_STEP, BFGS_UPDATE, LBFGS_DIRECTION, NEWTON_MINIMIZE)
