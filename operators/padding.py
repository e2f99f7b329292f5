"""What lies beyond the edge of an image: extension of one axis, and its exact transpose."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

Boundary = Literal["circular", "reflect", "replicate", "zero", "valid"]


def check_boundary(boundary: str) -> None:
    """Raise ValueError unless `boundary` is one of the five known names."""
    if boundary not in get_args(Boundary):
        raise ValueError(f"boundary must be one of {', '.join(get_args(Boundary))}, got {boundary!r}")


def extend(x: Tensor, dim: int, before: int, after: int, boundary: Boundary) -> Tensor:
    """Lengthen axis `dim` of `x` by `before` and `after` samples, at most as many as it has.

    Parameters
    ----------
    x : Tensor
        Any shape.
    dim : int
        Axis, counted from the end: -1 is the last.
    before, after : int
        Samples added at the start and at the end.
    boundary : str
        ``"circular"`` repeats the signal, ``"reflect"`` mirrors it at the outer side of the edge sample
        (``c b a | a b c``, as ``scipy.ndimage``: a symmetric kernel then keeps the flux), ``"replicate"`` repeats
        the edge sample, ``"zero"`` adds zeros, ``"valid"`` adds nothing.
    """
    n = x.shape[dim]
    if boundary == "valid" or before == after == 0:
        return x
    if boundary == "zero":
        return _zeros(x, dim, before, after)
    if boundary == "circular":
        head, tail = x.narrow(dim, n - before, before), x.narrow(dim, 0, after)
    elif boundary == "reflect":
        head, tail = x.narrow(dim, 0, before).flip(dim), x.narrow(dim, n - after, after).flip(dim)
    else:
        head, tail = _repeat(x.narrow(dim, 0, 1), dim, before), _repeat(x.narrow(dim, n - 1, 1), dim, after)
    return torch.cat([head, x, tail], dim)


def fold(y: Tensor, dim: int, before: int, after: int, boundary: Boundary) -> Tensor:
    """Transpose of `extend` with the same arguments: every added sample goes back to the one it was copied from."""
    if boundary == "valid" or before == after == 0:
        return y
    n = y.shape[dim] - before - after
    head, middle, tail = y.split([before, n, after], dim)
    if boundary == "zero":
        return middle
    if boundary == "circular":
        return middle + _zeros(head, dim, n - before, 0) + _zeros(tail, dim, 0, n - after)
    if boundary == "reflect":
        return middle + _zeros(head.flip(dim), dim, 0, n - before) + _zeros(tail.flip(dim), dim, n - after, 0)
    first, last = head.sum(dim, keepdim=True), tail.sum(dim, keepdim=True)
    return middle + _zeros(first, dim, 0, n - 1) + _zeros(last, dim, n - 1, 0)


def fast_length(n: int) -> int:
    """Smallest length of at least `n` whose only prime factors are 2, 3 and 5: one whose FFT is fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _zeros(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """`x` with zeros on both sides of axis `dim` (negative)."""
    return pad(x, [0, 0] * (-dim - 1) + [before, after])


def _repeat(edge: Tensor, dim: int, times: int) -> Tensor:
    shape = list(edge.shape)
    shape[dim] = times
    return edge.expand(shape)
