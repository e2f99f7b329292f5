"""Training in two processes through accelerate, launched as a user would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sciinstruct.diffusion.training import CHECKPOINT
from sciinstruct.priors import load

SCRIPT = """
import sys, torch
from sciinstruct.diffusion import PriorTraining, UNetConfig
from sciinstruct.priors import train_prior
torch.set_num_threads(1)
images = 5 + 2 * torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
steps, folder = int(sys.argv[1]), sys.argv[2]
def watch(step, info):
    if step + 1 == steps:
        raise KeyboardInterrupt
prior = train_prior(
    images,
    PriorTraining(steps=6, batch=4, warmup=2, checkpoint_every=2, precision="float32"),
    folder,
    network=UNetConfig(channels=16, multipliers=(1, 2), embedding=32),
    callback=watch,
)
torch.save(prior.denoiser.state_dict(), f"{folder}/rank{torch.distributed.get_rank()}.pt")
"""


def _launch(folder, stop_at=99):
    (folder.parent / "script.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, "script.py", str(stop_at), str(folder)],
        cwd=folder.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_agree_and_resume(tmp_path):
    pytest.importorskip("accelerate")
    done = _launch(tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-2000:]
    assert _launch(tmp_path / "parts", stop_at=4).returncode != 0
    assert (tmp_path / "parts" / CHECKPOINT).is_file()
    assert _launch(tmp_path / "parts").returncode == 0
    assert load(tmp_path / "whole").card.weights_sha256 == load(tmp_path / "parts").card.weights_sha256
    one, two = (torch.load(tmp_path / "whole" / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert all((one[k] - two[k]).abs().max() <= 2**-11 * two[k].abs().max() for k in one)  # rank 0's are float16
