"""
A ring's geometry from visibility amplitudes
============================================

Six numbers of a blurred ring, from amplitudes alone: a posterior with two modes that mirror each other. An implicit
sampler learns both and draws from them in one pass; NUTS does not leave the mode it starts in.

Run it on a file of the Event Horizon Telescope's release with ``--file``. Without one it observes a simulated ring.
"""

# %%
# The measurement
# ---------------
# Amplitudes are averaged over scans; their errors hold the thermal noise, the stations' gain errors, and a tenth of the
# amplitude for what so plain a model cannot show.

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from sciinstruct.calibration.chains import chain_numbers
from sciinstruct.calibration.sampler_quality import sampler_quality
from sciinstruct.implicit import ImplicitSampler, RingTarget, run_nuts
from sciinstruct.jobs.demo import simulated_twin
from sciinstruct.operators.interferometry import Observation

parser = argparse.ArgumentParser()
parser.add_argument("--file", type=Path, help="UVFITS file of the EHT release 2019-D01-01")
parser.add_argument("--out", type=Path, default=Path("ring-posterior"))
arguments = parser.parse_args()
torch.set_num_threads(1)  # networks this small gain nothing from more

if arguments.file is None:
    print("no --file: simulating. The real files: github.com/eventhorizontelescope/2019-D01-01, folder uvfits/")
    observation, _ = simulated_twin(32, 128.0, torch.Generator().manual_seed(2))
else:
    observation = Observation.from_uvfits(arguments.file)
target = RingTarget(observation, name="ring, amplitudes")

# %%
# Training
# --------
# The pilot finds both modes; the networks then learn to draw. The target's coordinates have the prior N(0, 1), so the
# pilot starts from it.

sampler = ImplicitSampler(steps=300, score_steps=3, particles=1024, start_scale=1.0).train(target, generator=0)
print(f"trained in {sampler.diagnostics['seconds'] + sampler.diagnostics['pilot_seconds']:.0f} s")
draws = target.constrain(sampler.sample(20_000, 1))
for name, column in zip(target.names, draws.T):
    print(f"{name:>9}: {column.mean():8.3f} +- {column.std():.3f}")

# %%
# What NUTS does
# --------------
# Two chains, one from each side. Neither crosses, and R-hat says so: they are no reference for both modes together.
# Amplitudes do not change when the ring is turned by 180 degrees, so one mode and its mirror image are.

begin = sampler.sample(2, 2).double()
begin[1] = target.mirrored(begin[:1])[0]
chains = run_nuts(target, chains=2, warmup=80, draws=150, start=begin, generator=0)
print(f"NUTS: R-hat {chain_numbers(chains.x).rhat:.2f}, {chains.divergences} divergences, {chains.seconds:.0f} s")
one = torch.cat([chains.x[0], target.mirrored(chains.x[1])])[::2]  # both chains brought to one side
gold = torch.cat([one[::2], target.mirrored(one[1::2])])

# %%
# How good are the draws?
# -----------------------
# The report measures them against those draws; red lines mean what they say.

quality = sampler_quality(sampler, target, gold=gold, chains=chains)
for verdict in quality.verdicts:
    print(f"{verdict.status:>4}  {verdict.check}: {verdict.meaning}")
print(f"report: {quality.save(arguments.out).html}")

# %%
# The asymmetry points to one side or the opposite one, equally probable; the diameter is known all the same.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
reference = target.constrain(gold)
left.plot(draws[:3000, 5], draws[:3000, 4], ".", markersize=2)
left.plot(reference[:, 5], reference[:, 4], ".", markersize=2)
left.set(xlabel="asymmetry East", ylabel="asymmetry North", aspect="equal")
right.plot(draws[:3000, 1], draws[:3000, 2], ".", markersize=2, label="sampler")
right.plot(reference[:, 1], reference[:, 2], ".", markersize=2, label="NUTS and its mirror image")
right.legend(markerscale=4)
right.set(xlabel="diameter (µas)", ylabel="width (µas)")
plt.show()
