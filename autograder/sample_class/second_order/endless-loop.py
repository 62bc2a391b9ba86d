# %% [markdown] start="solved"
# A Newton loop that forgets to move.

# %% replace="newton_minimize"
def newton_minimize(gradient, hessian, start, tolerance, max_steps):
    trace = [start.clone()]
    while gradient(start).abs().max() > tolerance:
        trace[-1] = start - torch.linalg.solve(hessian(start), gradient(start))
    return torch.stack(trace)
