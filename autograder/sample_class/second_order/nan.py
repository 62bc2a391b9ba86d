# %% [markdown] start="solved"
# The absolute value is taken as the root's square, which is NaN for negative eigenvalues.

# %% replace="saddle_free_step"
def saddle_free_step(point, gradient, hessian, damping, radius):
    values, vectors = torch.linalg.eigh(hessian)
    step = -(vectors @ ((vectors.T @ gradient) / (values.sqrt() ** 2 + damping)))
    return point + step * torch.clamp(radius / step.norm(), max=1.0)
