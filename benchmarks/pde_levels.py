"""What a student's later calls are for: one network at other noise levels, and in coarser arithmetic.

Run ``python -m benchmarks.pde_levels --student burgers-32`` from the root of a checkout (a minute or two); it prints
own-scale PDE error, sliced Wasserstein distance and amplitude for 1, 2 and 4 calls. The network was trained at the
first set of levels; the others show which way errors go, not how well a network trained there would do.
"""

import argparse
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciinstruct.inference.phys_instruct import Student, draw_latents, generate, load_student
from sciinstruct.inference.phys_instruct.selection import Examiner
from sciinstruct.inference.phys_instruct.teacher import copy_of
from sciinstruct.jobs.pde_training import held_out_fields

FIELDS, CALLS, SEED = 256, (1, 2, 4), 5
LEVELS = ((2.5, 0.8, 0.2, 0.04), (2.5, 0.3, 0.1, 0.03), (2.5, 0.15, 0.07, 0.03))
Network = Callable[[Tensor, Tensor], Tensor]


def row(name: str, student: Student, levels: Sequence[float], last: Network, early: Network) -> None:
    """One line: error / distance / amplitude of each number of calls."""
    truth = held_out_fields(student.network.card, 1024)
    examiner = Examiner(student.network, student.equation, truth, tuple(levels), FIELDS, SEED)
    rng = torch.Generator().manual_seed(SEED)
    z, noise = draw_latents(FIELDS, max(CALLS), student.event_shape, rng)
    with torch.no_grad():
        sets = [generate(last, k, z, noise, levels, early=early).x for k in CALLS]
    found = examiner.judge(sets, 0)
    cells = (f"{e:.3f} / {d:.3f} / {a:.2f}" for e, d, a in zip(*found[1:]))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", required=True, help="a packaged student or a folder")
    student = load_student(parser.parse_args().student)
    torch.set_num_threads(1)
    exact = student.network.denoise
    coarse = copy_of(student.network, torch.device("cpu"), "bfloat16", trainable=False).denoise
    print("| levels, arithmetic | " + " | ".join(f"k = {k}" for k in CALLS) + " |\n|---|---|---|---|")
    for levels in (student.levels, *LEVELS):
        row(f"{levels}, float32", student, levels, exact, exact)
    row("its own, last call in float32", student, student.levels, exact, coarse)
    row("its own, bfloat16", student, student.levels, coarse, coarse)


if __name__ == "__main__":
    main()
