# %% [markdown] start="solved"
# Negative eigenvalues are set to zero in place of their absolute value.

# %% replace="saddle_free_step"
def saddle_free_step(point, gradient, hessian, damping, radius):
    values, vectors = torch.linalg.eigh(hessian)
    step = -(vectors @ ((vectors.T @ gradient) / (values.clamp(min=0) + damping)))
    return point + step * min(1.0, float(radius / step.norm()))
