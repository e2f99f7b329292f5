"""Fixed tables in the precision and on the device of the tensors they meet."""

import torch
from torch import Tensor

_COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


class Tables:
    """Named constant tensors, kept in float64 (complex128, integer) and handed out as the caller computes.

    Phases of long baselines need float64 tables even where images are float32; a module's ``.float()`` must not spoil
    them. Each (dtype, device) pair is converted once and kept.

    Parameters
    ----------
    **tensors : Tensor
        The tables.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._exact = {name: value.detach().cpu() for name, value in tensors.items()}
        self._working: dict[tuple[str, torch.dtype, str], Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        """Return the exact table on the CPU."""
        return self._exact[name]

    def like(self, name: str, x: Tensor) -> Tensor:
        """Table `name` on the device and in the precision of `x`; integers and booleans keep their type."""
        real = x.real.dtype if x.is_complex() else x.dtype
        key = (name, real, str(x.device))
        if key not in self._working:
            table = self._exact[name]
            if table.is_complex():
                table = table.to(_COMPLEX[real])
            elif table.is_floating_point():
                table = table.to(real)
            self._working[key] = table.to(x.device)
        return self._working[key]
