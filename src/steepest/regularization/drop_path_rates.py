"""How the drop probability of stochastic depth grows with the layer.

Source: Huang, Sun, Liu, Sedra, Weinberger, "Deep networks with stochastic depth", arXiv 1603.09382 (2016),
equation 4: survival p_l = 1 - (l / L)(1 - p_L).

| paper         | here                       |
|---------------|----------------------------|
| L             | `depth`                    |
| l = 1, ..., L | place in the list, plus 1  |
| 1 - p_L       | `drop_path_rate`           |
| 1 - p_l       | entry l of the list        |
"""

from steepest.validation import require_count, require_probability

RULES = ("linspace", "huang")


def drop_path_rates(depth: int, drop_path_rate: float, rule: str = "linspace") -> list[float]:
    """Return the drop probability of each layer, rising linearly to `drop_path_rate` at the last one.

    Early layers compute features that all later ones use, so they are dropped less. Two rules are in use:

    - ``"linspace"``, timm's: drop_path_rate * (l - 1) / (L - 1). The first layer is never dropped, and a single
      layer isn't either.
    - ``"huang"``, the paper's: drop_path_rate * l / L. Each layer can be dropped.

    Both are rules over depth, fixed during training. The ScheduledDropPath of NASNet (Zoph, Vasudevan, Shlens,
    Le, arXiv 1707.07012) is one over time: there the probability of each path grows linearly from 0 during
    training. For that, assign `DropPath.drop_prob` before each epoch.

    Args:
        depth: number L >= 1 of layers.
        drop_path_rate: probability in [0, 1] to drop the last layer.
        rule: "linspace" or "huang".

    Returns:
        L probabilities, from the first layer to the last.

    Raises:
        TypeError: `depth` isn't an int, or `drop_path_rate` isn't a number.
        ValueError: `depth` < 1, `drop_path_rate` is outside [0, 1], or `rule` is unknown.

    Example:
        >>> drop_path_rates(5, 0.5)
        [0.0, 0.125, 0.25, 0.375, 0.5]
        >>> drop_path_rates(4, 0.5, rule="huang")
        [0.125, 0.25, 0.375, 0.5]
    """
    require_count("depth", depth)
    require_probability("drop_path_rate", drop_path_rate)
    if rule not in RULES:
        raise ValueError(f"rule must be 'linspace' or 'huang', got {rule!r}")
    # The fraction first: it is exactly 1 at the last layer, so that rounding can't exceed the maximum.
    if rule == "huang":
        return [drop_path_rate * (layer / depth) for layer in range(1, depth + 1)]
    return [drop_path_rate * (layer / max(depth - 1, 1)) for layer in range(depth)]
