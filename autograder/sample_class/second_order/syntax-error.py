# %% [markdown] start="solved"
# One cell does not compile; the others are right.

# %% replace="bfgs_update"
def bfgs_update(hessian, step, gradient_change)
    return hessian
