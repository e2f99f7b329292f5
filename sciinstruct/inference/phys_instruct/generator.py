"""The few-step generator: one denoising network called at a handful of falling noise levels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]


class Generated(NamedTuple):
    """Fields and how they came about."""

    x: Tensor  # (B, *event), output of the last call
    prefixes: tuple[Tensor, ...]  # outputs of the calls 1, ..., k: what generators with fewer calls give
    calls: int  # of the network


def generate(
    network: Network,
    k: int,
    z: Tensor,
    noise: Tensor | None,
    levels: Sequence[float],
    *,
    last_call_only: bool = False,
    early: Network | None = None,
) -> Generated:
    r"""Generate fields in `k` calls of one network.

    :math:`x_1 = G(s_1 z, s_1)` and :math:`x_{j+1} = G(x_j + s_{j+1} \epsilon_j, s_{j+1})`.
    The levels of fewer calls are the first of those of more: one network serves every k up to ``len(levels)``.

    Parameters
    ----------
    network : callable
        ``network(x, sigma) -> Tensor``, prediction of the clean field; sigma of shape (B,).
    k : int
        Calls.
    z : Tensor, shape (B, *event)
        Standard normal latents.
    noise : Tensor, shape (at least k - 1, B or 1, *event), or None
        Standard normal noise between the calls. One row for the whole batch makes z -> x a fixed map; None will do for
        a single call.
    levels : sequence of float
        Noise levels, falling, in units of the fields.
    last_call_only : bool
        Cut the graph before every call, so that the gradient of every prefix goes through its last call alone.
    early : callable, optional
        Stands in for `network` in all calls but the last: the same in coarser arithmetic, whose rounding the last call
        removes. Prefixes are then not what fewer calls would give.

    Raises
    ------
    ValueError
        If there are fewer than `k` levels or `k` - 1 noises, or shapes disagree.
    """
    _check(k, z, noise, levels)
    x, prefixes = levels[0] * z, []
    for j in range(k):
        call = network if early is None or j == k - 1 else early
        x = call(x.detach() if last_call_only else x, z.new_full((len(z),), levels[j]))
        prefixes.append(x)
        if noise is not None and j < k - 1:
            x = x + levels[j + 1] * noise[j]
    return Generated(prefixes[-1], tuple(prefixes), k)


def _check(k: int, z: Tensor, noise: Tensor | None, levels: Sequence[float]) -> None:
    if not 1 <= k <= len(levels):
        raise ValueError(f"k must be between 1 and {len(levels)}, the number of levels, got {k}")
    if noise is None and k > 1:
        raise ValueError(f"{k} calls need {k - 1} noises between them, got none; draw_latents gives both")
    if noise is None:
        return
    fits = noise.ndim == z.ndim + 1 and noise.shape[2:] == z.shape[1:] and noise.shape[1] in (1, len(z))
    if not fits or len(noise) < k - 1:
        event = ", ".join(map(str, z.shape[1:]))
        raise ValueError(
            f"noise must have shape (at least {k - 1}, {len(z)} or 1, {event}) for {k} calls, got {tuple(noise.shape)}"
        )


class Latents(NamedTuple):
    """What a generator turns into fields."""

    z: Tensor  # (n, *event)
    noise: Tensor  # (k - 1, n, *event)


def draw_latents(
    n: int,
    k: int,
    event_shape: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Latents:
    """Draw latents of `n` fields for up to `k` calls; with one seed, those of fewer calls are the first of these."""
    draws = [torch.randn(n, *event_shape, generator=generator, device=device) for _ in range(k)]
    return Latents(draws[0], torch.stack(draws[1:]) if k > 1 else draws[0].new_empty(0, *draws[0].shape))
