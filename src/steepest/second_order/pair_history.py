"""The last m pairs of L-BFGS in a ring, and the direction from them in matrix products.

Sources: Nocedal & Wright, Numerical Optimization, 2nd ed. (2006), algorithm 7.4 and section 7.2; Byrd,
Nocedal & Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
Math. Prog. 63 (1994), theorem 2.2.

| paper                               | here               | shape  |
|-------------------------------------|--------------------|--------|
| S = [s_0 ... s_{m-1}], transposed   | `steps`            | (up to m, D) |
| Y = [y_0 ... y_{m-1}], transposed   | `gradient_changes` | (up to m, D) |
| R_ij = s_i^T y_j for i <= j, else 0 | its inverse, `inverse_products` | (m, m) |
| ρ_i = 1 / s_i^T y_i, D = diag(1/ρ_i) | diagonal of R^-1, `_inverse_curvatures` | (m,) |
| γ                                   | `scale`            | ()     |
| α, α - β, D α - γ Y^T q             | `alpha`, `weights`, `right` | (m,) |

The two-loop recursion takes 4 m operations on vectors, each waiting for the one before. Written out, its
first loop is the triangular system R α = S^T q, its second one R^T (α - β) = D α - γ Y^T q'. Four products
with matrices and two with R^-1 do the same work in the same number of additions. A new pair adds one
column to R^-1, and leaving out the oldest pair leaves out its first row and column, so that R^-1 is never
computed anew. Rows may then stand in any order, as long as those of R^-1 stand in the same: the ring needs no
sorting.
"""

import torch

# Pairs that there is room for at first.
FIRST_ROWS = 8


class PairHistory:
    """The newest pairs (s, y) with s^T y > 0, and the direction -H g from them.

    Memory grows with the pairs, by doubling, to (2 D + m) m + 1 numbers: a large m costs nothing in a short run.
    Nothing here waits for the device.

    Args:
        capacity: m, the number of pairs to keep.
        like: a vector (D,) that gives size, dtype and device.
    """

    TENSORS = ("steps", "gradient_changes", "inverse_products", "scale")
    NUMBERS = ("count", "next_row")

    def __init__(self, capacity: int, like: torch.Tensor) -> None:
        self.steps = like.new_zeros(min(capacity, FIRST_ROWS), like.numel())
        self.gradient_changes = torch.zeros_like(self.steps)
        self.inverse_products = like.new_zeros(capacity, capacity)
        self.scale = like.new_ones(())
        self.clear()

    def clear(self) -> None:
        """Forget all pairs."""
        self.inverse_products.zero_()
        self.count = 0
        self.next_row = 0
        self._select_rows()

    def push(
        self,
        step_size: float,
        direction: torch.Tensor,
        gradient: torch.Tensor,
        previous_gradient: torch.Tensor,
    ) -> None:
        """Store s = step_size * direction and y = gradient - previous_gradient, over the oldest pair if full.

        The caller answers for s^T y > 0; it knows the slopes at both ends without another transfer.
        """
        row, capacity = self.next_row, len(self.inverse_products)
        self.next_row = (row + 1) % capacity
        if row == len(self.steps):
            self._grow(min(2 * row, capacity))
        if self.count < capacity:
            self.count += 1
            self._select_rows()
        torch.mul(direction, step_size, out=self.steps[row])
        change = torch.sub(gradient, previous_gradient, out=self.gradient_changes[row])

        products = torch.mv(self._steps, change)  # (count,), s_i^T y
        curvature = products[row]
        torch.div(curvature, torch.dot(change, change), out=self.scale)  # N&W, eq. 7.20
        # [R r; 0 1/ρ] has the inverse [R^-1 -ρ R^-1 r; 0 ρ]. The oldest pair's column of R^-1 holds only the
        # diagonal entry, so that zeroing its row takes it out of the product and makes room for the new one.
        self._inverse_products[row].zero_()
        column = torch.addmv(products, self._inverse_products, products, beta=0, alpha=-1)
        column[row].fill_(1)
        torch.div(column, curvature, out=self._inverse_products[:, row])

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return -H g, (D,), as `lbfgs_direction` does from the same pairs; at least one is stored."""
        alpha = torch.mv(self._inverse_products, torch.mv(self._steps, gradient))  # first loop: R α = S^T g
        q = torch.addmv(gradient, self._gradient_changes.t(), alpha, alpha=-1).mul_(self.scale)
        right = torch.addmv(alpha / self._inverse_curvatures, self._gradient_changes, q, alpha=-1)
        weights = torch.mv(self._inverse_products.t(), right)  # second loop: R^T (α - β) = D α - γ Y^T q
        return q.addmv_(self._steps.t(), weights, beta=-1, alpha=-1)

    def state(self) -> dict[str, torch.Tensor | int]:
        """Return the tensors and numbers that `from_state` takes; the tensors are shared, not copied."""
        return {name: getattr(self, name) for name in self.TENSORS + self.NUMBERS}

    @classmethod
    def from_state(cls, state: dict[str, torch.Tensor | int]) -> "PairHistory":
        """Return a history that goes on where the one with this `state()` stood."""
        history = cls.__new__(cls)
        for name in cls.TENSORS + cls.NUMBERS:
            setattr(history, name, state[name])
        history._select_rows()
        return history

    def _grow(self, rows: int) -> None:
        """Make room for more pairs, behind those there are."""
        for name in ("steps", "gradient_changes"):
            pairs = getattr(self, name)
            setattr(self, name, torch.cat([pairs, pairs.new_zeros(rows - len(pairs), pairs.shape[1])]))

    def _select_rows(self) -> None:
        """Make the views of the rows in use; kept between pushes because making them costs like a product."""
        self._steps = self.steps.narrow(0, 0, self.count)
        self._gradient_changes = self.gradient_changes.narrow(0, 0, self.count)
        self._inverse_products = self.inverse_products[: self.count, : self.count]
        self._inverse_curvatures = self._inverse_products.diagonal()  # ρ_i
