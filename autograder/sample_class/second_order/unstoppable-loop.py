# %% [markdown] start="solved"
# A loop that never ends, in a program that has switched interruption off.

# %% replace="lbfgs_direction"
import signal


def lbfgs_direction(gradient, steps, gradient_changes):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        gradient = gradient - gradient
