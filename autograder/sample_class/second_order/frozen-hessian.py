# %% [markdown] start="solved"
# A Newton loop that computes the Hessian once, at the start: it converges, linearly.

# %% replace="newton_minimize"
def newton_minimize(gradient, hessian, start, tolerance, max_steps):
    curvature = hessian(start)
    trace = [start.clone()]
    while len(trace) <= max_steps and gradient(trace[-1]).abs().max() > tolerance:
        trace.append(trace[-1] - torch.linalg.solve(curvature, gradient(trace[-1])))
    return torch.stack(trace)
