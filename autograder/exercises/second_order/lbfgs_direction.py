"""lbfgs_direction(gradient, steps, gradient_changes): L-BFGS with the pairs that have positive curvature.

gradient (D,), steps and gradient_changes (m, D), oldest first, m >= 0; returns the direction (D,).
Pairs with step·gradient_change <= 0 count as if they were not there; without pairs it is −gradient.
"""

from steepest.second_order import lbfgs_direction as book_lbfgs_direction

from ...drivers import second_order as drivers
from ...exercise import Exercise, Misconception
from .sampling import case, positive, symmetric, vectors


def _kept(steps, changes):
    keep = (steps * changes).sum(dim=1) > 0
    return steps[keep], changes[keep]


def reference(gradient, steps, gradient_changes):
    """The book's direction from the pairs that are kept."""
    return book_lbfgs_direction(gradient, *_kept(steps, gradient_changes))


def sample(generator, kind):
    """Pairs from a quadratic, y = A s; in some of them y is turned round, in some orthogonal to s."""
    plans = {
        "public": [  # D, m, indexes of pairs with negative curvature, and with none
            (3, 0, (), (), 1.0, "float64", "contiguous"),
            (4, 3, (), (), 1.0, "float64", "contiguous"),
            (5, 4, (1, 3), (), 1.0, "float64", "contiguous"),
            (6, 3, (), (), 1.0, "float32", "contiguous"),
        ],
        "hidden": [
            (1, 1, (), (), 1.0, "float64", "contiguous"),
            (8, 5, (2, 4), (), 1.0, "float64", "strided"),
            (6, 4, (), (), 1e-2, "float32", "strided"),
            (4, 2, (0,), (1,), 1.0, "float64", "contiguous"),
            (2, 0, (), (), 1.0, "float32", "contiguous"),
        ],
    }
    for size, pairs, negative, flat, scale, dtype, layout in plans[kind]:
        steps = vectors(generator, pairs, size)
        changes = 3 * steps @ symmetric(generator, positive(generator, size, condition=8.0))
        changes[list(negative)] *= -1
        for index in flat:  # no entry of s meets one of y, so their product is 0 in any order of summation
            steps[index, 1:] = changes[index, :1] = 0
        inputs = {
            "gradient": vectors(generator, size, scale=scale),
            "steps": scale * steps,
            "gradient_changes": scale * changes,
        }
        skipped = f", {len(negative)} of them with negative curvature" if negative else ""
        skipped += f", {len(flat)} with none" if flat else ""
        yield case(f"D = {size}, {pairs} pair{'s' * (pairs != 1)}{skipped}", inputs, dtype, layout)


def _newest_gamma(steps, changes):
    return steps[-1] @ changes[-1] / (changes[-1] @ changes[-1])


def _two_loops(gamma=_newest_gamma, first="newest", second="oldest", refreshed=True, sign=-1, kept=_kept):
    """A two-loop recursion with one thing wrong; the defaults are right."""

    def implementation(gradient, steps, changes):
        all_steps, all_changes = steps, changes
        steps, changes = kept(steps, changes)
        if not len(steps):
            return sign * gradient
        order = {"oldest": range(len(steps)), "newest": range(len(steps) - 1, -1, -1)}
        q, alphas = gradient.clone(), {}
        for i in order[first]:
            alphas[i] = steps[i] @ (q if refreshed else gradient) / (steps[i] @ changes[i])
            q = q - alphas[i] * changes[i]
        q = q * (gamma(all_steps, all_changes) if gamma is _any_newest_gamma else gamma(steps, changes))
        for i in order[second]:
            q = q + (alphas[i] - changes[i] @ q / (steps[i] @ changes[i])) * steps[i]
        return sign * q

    return implementation


def _any_newest_gamma(steps, changes):
    return _newest_gamma(steps, changes)


MISCONCEPTIONS = (
    Misconception(
        "scale from the oldest pair",
        _two_loops(gamma=lambda s, y: s[0] @ y[0] / (y[0] @ y[0])),
        "The initial scale comes from the oldest pair. It should describe the curvature where you are now.",
        "scale",
    ),
    Misconception(
        "scale inverted",
        _two_loops(gamma=lambda s, y: 1 / _newest_gamma(s, y)),
        "The initial scale is upside down. It stands for an inverse curvature: where the gradient changes fast along "
        "the step, should it be large or small?",
        "scale",
    ),
    Misconception(
        "scale missing",
        _two_loops(gamma=lambda s, y: 1.0),
        "The recursion starts from the identity, so directions that no pair has explored get the wrong length and a "
        "step size of 1 will rarely fit.",
        "scale",
    ),
    Misconception(
        "the other scale",
        _two_loops(gamma=lambda s, y: s[-1] @ s[-1] / (s[-1] @ y[-1])),
        "Your scale is the longer of the two Barzilai-Borwein lengths, step·step over step·change. L-BFGS uses the "
        "other one, which divides by the squared length of the change.",
        "scale",
    ),
    Misconception(
        "scale from a pair that was left out",
        _two_loops(gamma=_any_newest_gamma),
        "A pair that is left out of the loops still sets the initial scale, which then may be negative.",
        "scale",
    ),
    Misconception(
        "both loops from the newest",
        _two_loops(second="newest"),
        "Both loops run from the newest pair to the oldest. The second undoes the first and must visit the pairs in "
        "the reverse order.",
        "order",
    ),
    Misconception(
        "both loops from the oldest",
        _two_loops(first="oldest"),
        "Both loops run from the oldest pair to the newest. The direction peels the history off from one end, then "
        "puts it back: think about which end comes first.",
        "order",
    ),
    Misconception(
        "histories read newest first",
        lambda g, s, y: _two_loops()(g, s.flip(0), y.flip(0)),
        "You treat row 0 as the newest pair. Histories run oldest first, so the newest pair is the last row.",
        "order",
    ),
    Misconception(
        "negative curvature accepted",
        _two_loops(kept=lambda s, y: (s, y)),
        "A pair with step·change <= 0 takes part. It makes the implied matrix lose positive definiteness, and the "
        "direction may lead uphill.",
    ),
    Misconception(
        "uphill direction",
        _two_loops(sign=1),
        "This is the inverse Hessian times the gradient: it points uphill. A direction to walk along has a negative "
        "product with the gradient.",
    ),
    Misconception(
        "newest pair only",
        _two_loops(kept=lambda s, y: tuple(rows[-1:] for rows in _kept(s, y))),
        "Only the newest pair has any effect. The older pairs carry the curvature of the directions walked before.",
    ),
    Misconception(
        "gradient not refreshed in the first loop",
        _two_loops(refreshed=False),
        "The coefficients of the first loop all come from the original gradient. Each pair should see the vector that "
        "the pairs before it have left behind.",
    ),
    Misconception(
        "plain gradient",
        lambda g, s, y: -g,
        "The direction is the negative gradient whatever the history holds. Look at the condition under which you "
        "return early.",
    ),
)

LBFGS_DIRECTION = Exercise(
    name="lbfgs_direction",
    topic="second_order",
    points=6,
    difficulty=4,
    importance=5,
    minutes=35,
    sample=sample,
    driver=drivers.lbfgs_direction,
    reference=reference,
    misconceptions=MISCONCEPTIONS,
    families={
        "scale": "The initial scale between the two loops is not right. It is one number, made from the newest pair "
        "that is kept; look at which inner products it needs.",
        "order": "The pairs are visited in the wrong order. Histories run oldest first; decide for each loop which "
        "end it starts from.",
    },
)
