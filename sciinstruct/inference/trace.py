"""What a run records about itself."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """Curves over steps and the gap per noise level; plain numbers, so that a checkpoint and a report can hold them."""

    curves: dict[str, list[float]] = field(default_factory=dict)
    bins: int = 12

    def record(self, **values: float) -> None:
        """Append one value to each curve."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(float(value))

    def window(self, name: str, share: float, offset: float = 0.0) -> Tensor:
        """The values of the last `share` of a curve, ending `offset` (a share too) before its end."""
        values = torch.tensor(self.curves[name], dtype=torch.float64)
        stop = len(values) - int(offset * len(values))
        return values[max(0, stop - max(1, int(share * len(values)))) : stop]
