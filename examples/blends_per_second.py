"""Measure how many blends the simulator makes in a second, on this machine.

    python examples/blends_per_second.py [--device cuda] [--batch 64]

The galaxies are noise: how long a blend takes does not depend on what is in it.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from astrodeblend.simulate import RECIPES, Simulator


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, default=64, help="blends at a time")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    galaxies = rng.integers(256, size=(256, 424, 424, 3), dtype=np.uint8)
    galaxies = np.moveaxis(galaxies, -1, 1)  # as read_images has them in memory

    print(f"torch {torch.__version__} on {options.device}, {torch.get_num_threads()} threads")
    for name, recipe in RECIPES.items():
        simulator = Simulator(galaxies, recipe, device=options.device)
        rates = []
        for _ in range(6):
            began = time.perf_counter()
            for _ in range(4):
                blend, _ = simulator(recipe.draw(rng, options.batch, len(galaxies)))
            blend.sum().item()  # waits for a GPU to finish
            rates.append(4 * options.batch / (time.perf_counter() - began))
        print(f"{name:12} {statistics.median(rates[1:]):8.0f} blends/s")


if __name__ == "__main__":
    main()
