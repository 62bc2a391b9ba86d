"""How many entries of a tensor fall where in a floating-point format.

Source: Micikevicius et al., "Mixed precision training", arXiv 1710.03740 (2018), figure 3, which sorts the
activation gradients of a network into those that become zero, subnormal or normal numbers of FP16.
"""

from typing import NamedTuple

import torch


class FloatBands(NamedTuple):
    """Counts, or shares, of the entries of a tensor by what they are after rounding; each one a tensor ().

    `zero` holds the entries that were zero before, too: what underflowed is `zero - (tensor == 0).sum()`.
    `overflow` holds the infinite entries.
    """

    zero: torch.Tensor
    subnormal: torch.Tensor
    normal: torch.Tensor
    overflow: torch.Tensor
    nan: torch.Tensor

    @property
    def shares(self) -> "FloatBands":
        """Each count divided by that of all entries; all 0 if there are none.

        Example:
            >>> FloatBands(*torch.tensor([1, 0, 3, 0, 0])).shares.normal
            tensor(0.7500)
        """
        counts = torch.stack(self)
        return FloatBands(*(counts / counts.sum().clamp(min=1)))
