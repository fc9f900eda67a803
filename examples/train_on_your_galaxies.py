"""Train a model on galaxies of your own, and see what it has learned.

    python examples/train_on_your_galaxies.py [FOLDER] [--steps N]

Without a folder of pictures it draws galaxies itself, so that it runs anywhere. A small network
and a few hundred steps show the way; a model to use takes the defaults of TrainingConfig.
"""

import argparse

import numpy as np
import torch

from astrodeblend.metrics import psnr
from astrodeblend.simulate import Simulator, find_images, get_recipe, read_images
from astrodeblend.training import TrainingConfig, train
from astrodeblend.weights import load_model


def draw_galaxies(number, *, rng, width=424):
    """Draw exponential discs with bulges, (n, 3, y, x) uint8, each in the middle of its picture."""
    y, x = np.indices((width, width)) - (width - 1) / 2
    galaxies = np.empty((number, 3, width, width), np.uint8)
    for galaxy in galaxies:
        angle, axis_ratio = rng.uniform(0, np.pi), rng.uniform(0.3, 1)
        along = x * np.cos(angle) + y * np.sin(angle)
        across = y * np.cos(angle) - x * np.sin(angle)
        disc = np.exp(-np.hypot(along, across / axis_ratio) / rng.uniform(12, 25))
        bulge = np.exp(-np.hypot(x, y) / rng.uniform(4, 8))
        colours = rng.uniform(0.2, 0.9, (3, 1, 1)), np.array([0.6, 0.5, 0.35])[:, None, None]
        light = colours[0] * disc + colours[1] * bulge
        light += 0.01 * rng.standard_normal(light.shape)
        galaxy[:] = (255 * np.clip(light, 0, 1)).round()
    return galaxies


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="square JPEGs or PNGs of isolated galaxies")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", default="train-example")
    options = parser.parse_args()
    rng = np.random.default_rng(1)

    if options.folder:
        galaxies = read_images(find_images(options.folder), progress=True)
    else:
        galaxies = draw_galaxies(64, rng=rng)
    unseen, seen = galaxies[: len(galaxies) // 4], galaxies[len(galaxies) // 4 :]

    config = TrainingConfig(
        network={"kind": "unet", "widths": (16, 32, 64), "blocks": (1, 1, 1)},
        recipe="reiman2019",
        steps=options.steps,
        warmup=options.steps // 10,
        validate_every=max(1, options.steps // 3),
        validation_blends=64,
    )
    path = train(config, seen, options.out, validation=unseen)
    if path is None:
        return  # Ctrl-C: the state is saved, train(..., resume=True) goes on

    network, card = load_model(path)
    simulator = Simulator(unseen, "reiman2019")
    blend, isolated = simulator(get_recipe("reiman2019").draw(rng, 64, len(unseen)))
    with torch.inference_mode():
        components, _ = network(blend)
    untouched = psnr(blend[:, None].expand_as(isolated), isolated).mean()
    deblended = psnr(components, isolated).mean()
    print(f"{card.name}: the blend itself is {untouched:.1f} dB from the truth, ", end="")
    print(f"the components are {deblended:.1f} dB")


if __name__ == "__main__":
    main()
