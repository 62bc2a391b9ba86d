# %% [markdown] start="solved"
# The right Newton step, but the damping is added to the caller's Hessian in place.

# %% replace="newton_step"
def newton_step(point, gradient, hessian, damping):
    hessian.diagonal(dim1=-2, dim2=-1).add_(damping)
    return point - torch.linalg.solve(hessian, gradient.unsqueeze(-1)).squeeze(-1)
