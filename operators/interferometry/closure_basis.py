"""Which closure combinations one scan offers: integer rows over its baselines, chosen rank-complete.

Station gains add ``theta_a - theta_b`` to a phase and ``m_a + m_b`` to a log-amplitude; a closure is a combination of
baselines that such terms leave unchanged.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pairs = list[tuple[int, int]]


def incidence(pairs: Pairs, kind: str) -> Array:
    """Response of every baseline to every station's gain, (baselines, stations).

    Parameters
    ----------
    pairs : list of (int, int)
        First and second station of each baseline.
    kind : {'phase', 'amplitude'}
        +1, -1 for phases; +1, +1 for log-amplitudes.
    """
    stations = sorted({s for pair in pairs for s in pair})
    matrix = np.zeros((len(pairs), len(stations)))
    for row, (a, b) in enumerate(pairs):
        matrix[row, stations.index(a)] += 1
        matrix[row, stations.index(b)] += -1 if kind == "phase" else 1
    return matrix


def rank_of_closures(pairs: Pairs, kind: str) -> int:
    """Number of independent closures: baselines minus the rank of the gains' incidence matrix."""
    return len(pairs) - int(np.linalg.matrix_rank(incidence(pairs, kind)))


def _edges(pairs: Pairs) -> dict[tuple[int, int], tuple[int, int]]:
    """Baseline of stations (a, b), in both directions: its row and sign."""
    forward = {pair: (row, 1) for row, pair in enumerate(pairs)}
    return forward | {(b, a): (row, -1) for (a, b), (row, _) in forward.items()}


def _walk(edges: dict[tuple[int, int], tuple[int, int]], path: tuple[int, ...], n: int) -> Array:
    """Signed row of the closed path through the stations of `path`."""
    row = np.zeros(n)
    for step in zip(path, (*path[1:], path[0])):
        index, sign = edges[step]
        row[index] += sign
    return row


def triangles(pairs: Pairs) -> list[Array]:
    """Signed rows of all closed triangles of stations."""
    edges = _edges(pairs)
    stations = sorted({s for pair in pairs for s in pair})
    closed = (t for t in combinations(stations, 3) if all(e in edges for e in combinations(t, 2)))
    return [_walk(edges, t, len(pairs)) for t in closed]


def _tree_paths(pairs: Pairs) -> dict[int, tuple[int, ...]]:
    """Path from its root to every station, in a breadth-first forest of the baselines."""
    neighbours: dict[int, list[int]] = {}
    for a, b in pairs:
        neighbours.setdefault(a, []).append(b)
        neighbours.setdefault(b, []).append(a)
    paths: dict[int, tuple[int, ...]] = {}
    for root in sorted(neighbours):
        queue = [] if root in paths else [root]
        paths.setdefault(root, (root,))
        for station in queue:
            for other in neighbours[station]:
                if other not in paths:
                    paths[other] = (*paths[station], other)
                    queue.append(other)
    return paths


def loops(pairs: Pairs) -> Iterator[Array]:
    """Signed rows of one closed path per baseline outside a spanning forest: complete where triangles are not."""
    edges, paths = _edges(pairs), _tree_paths(pairs)
    for a, b in pairs:
        out, back = paths[a], paths[b]
        if out == (*back, a) or back == (*out, b):
            continue  # a baseline of the forest itself
        shared = sum(1 for s, t in zip(out, back) if s == t)
        yield _walk(edges, (*out[shared - 1 :], *reversed(back[shared:])), len(pairs))


def quadrangles(pairs: Pairs) -> list[Array]:
    """Rows +1, +1, -1, -1 of all log closure amplitudes of four stations."""
    edges = _edges(pairs)
    rows = []
    for a, b, c, d in combinations(sorted({s for pair in pairs for s in pair}), 4):
        matchings = (((a, b), (c, d)), ((a, c), (b, d)), ((a, d), (b, c)))
        seen = [m for m in matchings if m[0] in edges and m[1] in edges]
        for plus, minus in combinations(seen, 2):
            row = np.zeros(len(pairs))
            row[[edges[e][0] for e in plus]] = 1
            row[[edges[e][0] for e in minus]] = -1
            rows.append(row)
    return rows


def _independent(candidates: list[Array], rank: int, n: int) -> list[Array]:
    """First `rank` linearly independent rows, in the order given (fewer where there are not so many)."""
    chosen: list[Array] = []
    basis = np.zeros((rank, n))
    for row in candidates:
        if len(chosen) == rank:
            break
        known = basis[: len(chosen)]
        rest = row - known.T @ (known @ row)
        length = np.linalg.norm(rest)
        if length > 1e-6:
            basis[len(chosen)] = rest / length
            chosen.append(row)
    return chosen


def phase_rows(pairs: Pairs, variance: Array) -> Array:
    """Rank-complete closure phases of one scan, (n, baselines), the least noisy triangles first.

    Triangles are sorted by the sum of `variance` (of the baseline phases) and taken while they raise the rank; where
    the baselines have longer loops without chords, those follow.
    """
    rank = rank_of_closures(pairs, "phase")
    sort = sorted(triangles(pairs), key=lambda row: float(np.abs(row) @ variance))
    chosen = _independent(sort, rank, len(pairs))
    if len(chosen) < rank:
        chosen = _independent([*sort, *loops(pairs)], rank, len(pairs))
    return np.array(chosen).reshape(rank, len(pairs))


def amplitude_rows(pairs: Pairs, variance: Array) -> Array:
    """Rank-complete log closure amplitudes of one scan, (n, baselines), the least noisy quadrangles first.

    Where quadrangles do not span all gain-free combinations, an orthonormal basis of the rest follows.
    """
    rank = rank_of_closures(pairs, "amplitude")
    sort = sorted(quadrangles(pairs), key=lambda row: float(np.abs(row) @ variance))
    chosen = _independent(sort, rank, len(pairs))
    if len(chosen) < rank:
        left = np.linalg.svd(incidence(pairs, "amplitude"))[0]
        chosen = _independent([*sort, *left[:, -rank:].T], rank, len(pairs))
    return np.array(chosen).reshape(rank, len(pairs))
