# %% [markdown] start="solved"
# The Newton step is added with a plus: it leads uphill.

# %% replace="newton_step"
def newton_step(point, gradient, hessian, damping):
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype)
    return point + torch.linalg.solve(hessian + damping * identity, gradient.unsqueeze(-1)).squeeze(-1)
