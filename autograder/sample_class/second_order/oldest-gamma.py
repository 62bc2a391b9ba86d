# %% [markdown] start="solved"
# L-BFGS whose initial scaling comes from the oldest pair.

# %% replace="lbfgs_direction"
def lbfgs_direction(gradient, steps, gradient_changes):
    pairs = [(s, y) for s, y in zip(steps, gradient_changes) if s @ y > 0]
    if not pairs:
        return -gradient
    q, weights = gradient.clone(), []
    for s, y in reversed(pairs):
        weights.append((s @ q) / (s @ y))
        q = q - weights[-1] * y
    s, y = pairs[0]
    q = q * (s @ y) / (y @ y)
    for (s, y), weight in zip(pairs, reversed(weights)):
        q = q + s * (weight - (y @ q) / (s @ y))
    return -q
