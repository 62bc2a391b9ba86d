# %% [markdown] start="solved"
# Calling the first exercise ends the whole process.

# %% replace="newton_step"
import os


def newton_step(point, gradient, hessian, damping):
    os._exit(0)
