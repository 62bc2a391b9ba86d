# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown] nbgrader={"grade": false, "grade_id": "intro", "locked": true, "schema_version": 3, "solution": false, "task": false}
# # Second-order methods
#
# Five functions and one question: damped Newton, a step that leaves saddles, BFGS, L-BFGS, and a Newton loop whose
# convergence you will see in its digits. Plan about two and a half hours. The assignment is worth 28 points.
#
# How to work:
#
# - Run the next cell first. It needs PyTorch, NumPy and the files that came with this notebook, nothing else.
# - Replace `raise NotImplementedError()` by your code and run the check below it. A failing check says which case
#   failed; where it recognises the mistake, it gives a hint.
# - The checks here are *public checks*. Grading runs hidden ones too, on inputs of other shapes and precisions,
#   with a single entry, and on tensors that are not contiguous in memory.
# - Everywhere: return a new tensor of the dtype of the inputs (float32 or float64), and leave the inputs unchanged.
#
# Notation: $x$ is a point with $D$ components, $g$ the gradient there, $H$ the Hessian, $I$ the identity.
# Each exercise names its difficulty and importance (1 to 5) and the minutes to plan.

# %% nbgrader={"grade": false, "grade_id": "imports", "locked": true, "schema_version": 3, "solution": false, "task": false}
try:
    import grader
    import numpy as np
    import torch
except ModuleNotFoundError as error:
    needed = {
        "torch": "Install PyTorch: pip install torch",
        "numpy": "Install NumPy: pip install numpy",
        "grader": "Put grader.py and the folder grader_kit beside this notebook; both are in its zip.",
    }
    advice = needed.get(error.name, "Unpack the zip of this notebook again.")
    raise ImportError(f"The module {error.name} is missing. {advice} Then run this cell again.") from None

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_newton_step", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 1. Newton step with damping
# *Difficulty 2 · importance 5 · 15 minutes · 4 points · book page:
# second_order/why_second_order_converges_faster.html*
#
# Gradient descent uses one step size for all directions, so the steepest direction dictates it and the flat ones
# crawl. Newton's step divides the gradient by the curvature, direction by direction. Where the curvature is close to
# zero that division explodes, which is why nobody uses it without *damping*: a number added to the curvature in every
# direction. Damping is the dial between Newton's method and short gradient steps, and it returns under other names in
# most second-order methods for networks.
#
# Write `newton_step(point, gradient, hessian, damping)` for a batch of $B$ points at once.
#
# | argument | shape | |
# |---|---|---|
# | `point` | (B, D) | row $b$ is $x_b$ |
# | `gradient` | (B, D) | row $b$ is $g_b$ |
# | `hessian` | (B, D, D) | $H_b$, symmetric; $H_b$ + damping · $I$ is positive definite |
# | `damping` | number ≥ 0 | the same for all points |
#
# Returns the **new points** (B, D): row $b$ minimises the quadratic model at $x_b$ whose Hessian is
# $H_b + \text{damping} \cdot I$.
#
# Watch: a batch of matrices does not share its curvature; a number added to a matrix lands on every entry; with a
# very large damping the new point should come close to $x$.

# %% nbgrader={"grade": false, "grade_id": "newton_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def newton_step(point, gradient, hessian, damping):
    """Return the damped Newton step's new points (B, D)."""
    ### BEGIN SOLUTION
    identity = torch.eye(hessian.shape[-1], dtype=hessian.dtype, device=hessian.device)
    damped = hessian + damping * identity  # (B, D, D)
    # Solving costs less than inverting and loses fewer digits.
    return point - torch.linalg.solve(damped, gradient.unsqueeze(-1)).squeeze(-1)
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check_newton_step", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
grader.check("newton_step", newton_step)

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_saddle_free_step", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 2. Saddle-free step
# *Difficulty 3 · importance 4 · 20 minutes · 4 points · book page:
# second_order/why_not_newton_in_deep_learning.html*
#
# Newton's method looks for a point where the gradient vanishes, and a saddle is such a point. Dauphin et al. (2014,
# arXiv 1406.2572) argue that in a network most such points are saddles. They keep Newton's rescaling and mend its
# direction: they replace $H$ by $|H|$, the matrix with the same eigenvectors and the *absolute values* of the eigenvalues. Because
# the quadratic model can only be trusted nearby, the step is also limited in length.
#
# Write `saddle_free_step(point, gradient, hessian, damping, radius)`.
#
# | argument | shape | |
# |---|---|---|
# | `point`, `gradient` | (D,) | $x$ and $g$ |
# | `hessian` | (D, D) | $H$, symmetric, usually with negative eigenvalues |
# | `damping` | number ≥ 0 | added to each absolute eigenvalue |
# | `radius` | number > 0 | the largest length $\lVert s \rVert_2$ of the step |
#
# Returns the **new point** (D,): $x + s$, where $s$ is the damped saddle-free step. If $s$ is longer than the radius,
# it is shortened to the radius and keeps its direction. Where $g = 0$ the point stays where it is.
#
# Watch: the absolute value of a symmetric matrix is not the absolute value of its entries; find out how
# `torch.linalg.eigh` arranges its eigenvectors; think of a step of length zero.

# %% nbgrader={"grade": false, "grade_id": "saddle_free_step", "locked": false, "schema_version": 3, "solution": true, "task": false}
def saddle_free_step(point, gradient, hessian, damping, radius):
    """Return the new point (D,) of a saddle-free Newton step of at most the given length."""
    ### BEGIN SOLUTION
    eigenvalues, eigenvectors = torch.linalg.eigh(hessian)  # (D,), and (D, D) with eigenvectors as columns
    components = eigenvectors.mT @ gradient  # the gradient in the basis of the eigenvectors
    step = -(eigenvectors @ (components / (eigenvalues.abs() + damping)))
    length = torch.linalg.vector_norm(step)
    # A step of length 0 is never longer than the radius, so nothing is divided by 0.
    if length > radius:
        step = step * (radius / length)
    return point + step
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check_saddle_free_step", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
grader.check("saddle_free_step", saddle_free_step)

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_bfgs_update", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 3. BFGS update
# *Difficulty 3 · importance 4 · 20 minutes · 4 points · book page: second_order/bfgs_vs_lbfgs.html*
#
# A quasi-Newton method never asks for the Hessian. It watches how the gradient changes along the steps it takes and
# writes that into a matrix. The book's function updates the *inverse*, because an optimizer needs it. Here you update
# the matrix $B$ that approximates the *Hessian itself*. Both are the same update seen from two sides, and knowing which
# side you are on is what this exercise is for.
#
# Write `bfgs_update(hessian, step, gradient_change)`.
#
# | argument | shape | |
# |---|---|---|
# | `hessian` | (D, D) | $B$, symmetric positive definite |
# | `step` | (D,) | $s = x_\text{new} - x_\text{old}$ |
# | `gradient_change` | (D,) | $y = g_\text{new} - g_\text{old}$ |
#
# Returns the updated approximation (D, D): the BFGS update of $B$ (Nocedal & Wright, *Numerical Optimization*,
# eq. 6.19), symmetric, positive definite, with $B_\text{new} s = y$. Where $s^\top y \le 0$ no positive definite
# matrix can do that: return a copy of $B$.
#
# Watch: the equation $B_\text{new} s = y$ is your test, but several updates satisfy it; for two 1-D tensors `a @ b` is
# a number; check the units of each term.

# %% nbgrader={"grade": false, "grade_id": "bfgs_update", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bfgs_update(hessian, step, gradient_change):
    """Return the BFGS update (D, D) of an approximation of the Hessian."""
    ### BEGIN SOLUTION
    curvature = step @ gradient_change
    if curvature <= 0:
        return hessian.clone()
    product = hessian @ step  # B s, (D,)
    forget = torch.outer(product, product) / (step @ product)  # the old curvature along the step
    learn = torch.outer(gradient_change, gradient_change) / curvature  # the observed one
    return hessian - forget + learn
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check_bfgs_update", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
grader.check("bfgs_update", bfgs_update)

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_lbfgs_direction", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 4. L-BFGS direction
# *Difficulty 4 · importance 5 · 35 minutes · 6 points · book page: second_order/bfgs_vs_lbfgs.html*
#
# A matrix of $D^2$ numbers does not fit for a million parameters. L-BFGS keeps the last $m$ pairs $(s_i, y_i)$ instead
# and applies the matrix that BFGS would have built from them to the gradient, without forming it: two loops over the
# pairs, $4mD$ multiplications. Most wrong versions of these loops still reach the minimum of an easy function, only
# later, so a falling loss proves nothing. The check compares directions.
#
# Write `lbfgs_direction(gradient, steps, gradient_changes)`.
#
# | argument | shape | |
# |---|---|---|
# | `gradient` | (D,) | $g$ |
# | `steps` | (m, D) | row $i$ is $s_i$; **oldest first**; $m \ge 0$ |
# | `gradient_changes` | (m, D) | row $i$ is $y_i$ |
#
# Returns the direction $-M g$ (D,), with $M$ the L-BFGS approximation of the inverse Hessian (Nocedal & Wright,
# algorithm 7.4). Its initial matrix is $\gamma I$, with $\gamma$ of their eq. 7.20 from the newest pair in use.
# **Pairs with $s_i^\top y_i \le 0$ count as if they were not there.** If no pair is in use, return $-g$.
#
# Watch: which end of the history each loop starts from; which vector each coefficient is computed from; the last row
# may be a pair that is left out. With one pair in use, $M y = s$ must hold exactly, which makes a test on paper.

# %% nbgrader={"grade": false, "grade_id": "lbfgs_direction", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lbfgs_direction(gradient, steps, gradient_changes):
    """Return the L-BFGS direction (D,) from pairs of positive curvature."""
    ### BEGIN SOLUTION
    pairs = [(s, y, s @ y) for s, y in zip(steps, gradient_changes) if s @ y > 0]  # oldest first
    if not pairs:
        return -gradient
    q = gradient.clone()
    coefficients = []
    for s, y, curvature in reversed(pairs):  # newest to oldest
        alpha = (s @ q) / curvature
        q = q - alpha * y
        coefficients.append(alpha)
    _, newest_change, newest_curvature = pairs[-1]
    r = newest_curvature / (newest_change @ newest_change) * q
    for (s, y, curvature), alpha in zip(pairs, reversed(coefficients)):  # oldest to newest
        beta = (y @ r) / curvature
        r = r + (alpha - beta) * s
    return -r
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check_lbfgs_direction", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
grader.check("lbfgs_direction", lbfgs_direction)

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_newton_minimize", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 5. A Newton loop, and its digits
# *Difficulty 3 · importance 5 · 30 minutes · 6 points · book page:
# second_order/why_second_order_converges_faster.html*
#
# 'Converges quadratically' means that near the minimum each error is about the square of the one before: 2 correct
# digits, then 4, then 8. The way to see it is a *trace* of the iterates. A loop with a small mistake still converges
# and still looks fast; only the trace shows that its digits grow by a constant amount and no longer double.
#
# Write `newton_minimize(gradient, hessian, start, tolerance, max_steps)`.
#
# | argument | | |
# |---|---|---|
# | `gradient` | function | `gradient(x)` returns $g$ (D,) at the point `x` (D,) |
# | `hessian` | function | `hessian(x)` returns $H$ (D, D) there, positive definite |
# | `start` | (D,) | the first iterate |
# | `tolerance` | number ≥ 0 | stop at the first iterate whose gradient has no component larger than this in size |
# | `max_steps` | integer ≥ 0 | take at most this many steps |
#
# Returns the **trace** $(K + 1, D)$ after $K$ steps: row 0 is the start, row $k$ the iterate after $k$ full,
# undamped Newton steps, and the last row is the iterate at which the loop stopped.
#
# Watch: test before you step, for the start may be good enough already; a list of tensors holds references, so an
# in-place step changes what you have stored.

# %% nbgrader={"grade": false, "grade_id": "newton_minimize", "locked": false, "schema_version": 3, "solution": true, "task": false}
def newton_minimize(gradient, hessian, start, tolerance, max_steps):
    """Return the trace (K + 1, D) of Newton's method."""
    ### BEGIN SOLUTION
    trace = [start.clone()]
    for _ in range(max_steps):
        x = trace[-1]
        slope = gradient(x)
        if slope.abs().max() <= tolerance:
            break
        trace.append(x - torch.linalg.solve(hessian(x), slope))
    return torch.stack(trace)
    ### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "check_newton_minimize", "locked": true, "points": 6, "schema_version": 3, "solution": false, "task": false}
grader.check("newton_minimize", newton_minimize)

# %% [markdown] nbgrader={"grade": false, "grade_id": "about_written_large_network", "locked": true, "schema_version": 3, "solution": false, "task": false}
# ## 6. In your own words
# *Difficulty 2 · importance 4 · 20 minutes · 4 points · graded by hand*
#
# A colleague wants to train a network of $D = 10^8$ parameters in float32 with your `newton_minimize`, one Hessian
# for each step. Answer in ten lines or fewer, with numbers where there are any:
#
# 1. How much memory does one Hessian take, and how does the time to solve with it grow with $D$?
# 2. Training starts near a saddle. What does Newton's step do there, and why?
# 3. Which of the functions above would you offer instead? Give its memory for $m = 10$, and one reason why it may
#    still disappoint on mini-batches.

# %% [markdown] nbgrader={"grade": true, "grade_id": "written_large_network", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
# ### BEGIN SOLUTION
# 1. $D^2 = 10^{16}$ entries of 4 bytes are $4 \cdot 10^{16}$ bytes, 40 petabytes (half of it if symmetry is used).
#    A dense factorisation takes $O(D^3)$ operations, about $10^{24}$.
# 2. Newton solves for a zero of the gradient of the quadratic model. Along an eigenvector with a negative eigenvalue
#    it divides by that negative number, so its step goes uphill there and the iterates are drawn to the saddle.
# 3. `lbfgs_direction`: $2mD = 2 \cdot 10^9$ numbers, 8 gigabytes, and time linear in $mD$. On mini-batches the change
#    $y$ mixes curvature with the difference between two batches; pairs are then noisy, often with $s^\top y \le 0$,
#    unless both gradients are taken on the same batch.
#
# **Rubric, 4 points.** 1 point: memory within a factor of 2 *and* $O(D^3)$. 1 point: attracted to the saddle, with the
# sign of the eigenvalue as the reason (naming the saddle without a reason: half). 1 point: L-BFGS with 8 GB, or
# $2mD$ numbers; half if only the steps or only the gradient changes are counted. 1 point: noise in $y$ from different
# batches, or a line search that a noisy loss misleads. A Hessian-free method (Newton-CG with Hessian-vector products)
# in part 3 earns full points with its own memory.
# ### END SOLUTION
