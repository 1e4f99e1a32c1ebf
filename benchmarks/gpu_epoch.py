"""Seconds an epoch on a GPU, at the tournament's size: 3 million rows of 2,400 features.

    python -m benchmarks.gpu_epoch [--rows 3000000] [--features 2400] [--rounds 5] [--full]

The network is the write-up's (256 ReLU units, shuffled batches of 2048, Adam, exact float32), alone and as four
members in one pass, with the int8 matrix on the GPU and streamed to it. These are the loop's own parts without
checkpoints and examinations; one round is one epoch of each side, after one to warm up. Without a CUDA device it
says so and ends. `--device cpu --rows 20000 --features 50` tries the script itself on a processor.

Aim, on paper for an H100: 7.4 TFLOP an epoch and member, 0.15 s; 1,465 steps cost about half a second in launches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.claims import claim
from eraflow.batches import Batches, Way
from eraflow.gauge import Gauge
from eraflow.members import Members
from eraflow.models import ModelConfig
from eraflow.optimization import mse, optimizer_for
from eraflow.progress import silent
from eraflow.rows import Plan, Rows
from eraflow.speed import flop_a_row, flop_a_second
from eraflow.training import TrainingConfig, initial

PAPER_FLOP_A_SECOND = 7.4e12 / 0.15
WRITE_UP = ModelConfig(hidden=(256,), input="unit")
SIDES: list[tuple[int, Way]] = [(1, "resident"), (1, "streamed"), (4, "resident"), (4, "streamed")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--rows", type=int, default=3_000_000, help="default: 3,000,000")
    parser.add_argument("--features", type=int, default=2400, help="default: 2,400")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--full", action="store_true", help="the same: this benchmark has one size")
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("not run: no CUDA device")
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    print(f"{name}, torch {torch.__version__}, {given.rows:,} rows of {given.features} features")
    rows = made_up(given.rows, given.features, device)
    training = TrainingConfig(epochs=given.rounds + 1, batch_size=2048, shuffle=True, device=given.device)
    measure(rows, training, device, name)


def measure(rows: Rows, training: TrainingConfig, device: torch.device, name: str) -> None:
    sides = {(members, way): epochs(rows, members, way, training, device) for members, way in SIDES}
    rounds = [{side: next(seconds) for side, seconds in sides.items()} for _ in range(training.epochs or 0)]
    own_speed = flop_a_second(device)
    for members, way in SIDES:
        found_s = [each[members, way] for each in rounds[1:]]
        middle_s, flop = statistics.median(found_s), len(rows) * flop_a_row(WRITE_UP, rows.n_features, members)
        note = (
            f"{flop / PAPER_FLOP_A_SECOND / middle_s:.0%} of the paper limit of an H100,"
            f" {flop / own_speed / middle_s:.0%} of this device's products; {name}"
        )
        claim(f"epoch on {device.type}, K = {members}, {way}", middle_s, each=found_s, unit=" s", note=note)


def epochs(rows: Rows, members: int, way: Way, training: TrainingConfig, device: torch.device) -> Iterator[float]:
    """Train, and yield the seconds that each epoch took, to the end of its last step on the device."""
    plan, started = Plan(rows, training, None), time.perf_counter()
    batches = Batches(rows, plan.largest, device, way)
    if way == "resident":
        wait(device)
        print(f"  uploaded for K = {members} in {time.perf_counter() - started:.2f} s", flush=True)
    nets = [initial(WRITE_UP, rows.n_features, seed).to(device) for seed in range(members)]
    trained = Members(nets, plan.largest, [])
    optimizer = optimizer_for(training, trained.matrices, trained.vectors)
    gauge = Gauge(silent, "bench", steps=plan.steps, seconds=0.0, device=device)
    started = time.perf_counter()
    for step, sizes, code_BF, target_B in batches.of((step, *plan.batch(step)) for step in range(plan.steps)):
        loss_K, slope_BK = mse(trained.forward(code_BF), target_B, sizes)
        trained.backward(slope_BK)
        optimizer.step()
        gauge.add(step, loss_K, len(target_B))
        if plan.ends_epoch(step):
            gauge.entries(step, training.learning_rate, [])  # reads the losses
            wait(device)
            yield time.perf_counter() - started
            started = time.perf_counter()


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def made_up(count: int, features: int, device: torch.device) -> Rows:
    """Random codes and targets, made on the device because a processor would take a minute for 7 GB."""
    chance, code_NF = torch.Generator(device).manual_seed(0), np.empty((count, features), np.int8)
    for part_NF in torch.split(torch.from_numpy(code_NF), 1 << 16):
        part_NF.copy_(torch.randint(-2, 3, part_NF.shape, dtype=torch.int8, device=device, generator=chance))
    target_N = torch.rand(count, device=device, generator=chance).cpu().numpy()
    return Rows.of(code_NF, target_N, np.arange(count, dtype=np.int32) // 5000)


if __name__ == "__main__":
    main()
