"""Measure what it brings to tell a network where the sources are, of several models.

Prints the error of the target's flux and its PSNR by the number of sources, with the marks of the
others and without, and the PSNR on blends of two. The target is within half a pixel of the middle.

    python examples/compare_marks.py GALAXIES galaxyzoo runs/mine/model.safetensors --split val
    python examples/compare_marks.py others.npz survey runs/mine/model.safetensors
"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from astrodeblend.simulate import (
    Morphologies,
    Simulator,
    SurveyStream,
    find_images,
    get_recipe,
    read_images,
)
from astrodeblend.weights import find_model, load_model

SOURCES = (1, 2, 3, 4, 6, 8)


def pictures(images, count, blends, rng):
    """Blends of some galaxies, any of those near the middle the target; positions scattered."""
    recipe = replace(get_recipe("crowded_max"), companions=(*(count - 1) * (0.0,), 1.0, 0.0))
    recipe = replace(recipe, rendering=None)
    simulator = Simulator(images, recipe)
    draw = recipe.draw(rng, blends, len(images))
    positions, present = recipe.positions(draw, simulator.size)
    near = present & (np.abs(positions - 39.5) < 24).all(axis=2)
    target = (rng.random(near.shape) * near).argmax(axis=1)
    off = 39.5 + rng.uniform(-0.5, 0.5, (blends, 2))
    origin = recipe.factor * (off - positions[np.arange(blends), target])
    draw = replace(draw, target=target, origin=origin)
    return *simulator(draw), *recipe.positions(draw, simulator.size)


def fluxes(galaxies, count, blends, seed):
    """Blends of some sources as LSST sees them in g, r, i, any of them the target."""
    stream = SurveyStream(
        ["lsst"], galaxies, batch=blends, seed=seed, sources=count, bands="gri", chain=0.5,
        separations=(0.5, 4.0), magnitudes=(-7.0, -2.0),
    )  # fmt: skip
    draw = stream.draw(0)
    rng = np.random.default_rng(seed)
    off = 31.5 + rng.uniform(-0.5, 0.5, (blends, 2))
    draw = draw.aimed(rng.integers(count, size=blends), off, 64)
    blend, isolated, noise = stream.render(draw)
    isolated = torch.stack([isolated[:, 0], isolated[:, 1:].sum(dim=1)], dim=1)
    blend, isolated = blend / noise[..., None, None], isolated / noise[:, None, :, None, None]
    return blend, isolated, draw.position, draw.present


def ask(network, blend, positions, present):
    """Return the light of the target and the rest."""
    parts = zip(*(each.split(16) for each in (blend, positions, present)), strict=True)
    with torch.inference_mode():
        return torch.cat([network(*part)[0] for part in parts])


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("galaxies", help="folder, or an .npz file for surveys")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--split", help="part of the folder, by splits.csv")
    parser.add_argument("--blends", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=300, help="blends of two, reiman2019")
    options = parser.parse_args()
    linear = options.galaxies.endswith(".npz")
    if linear:
        galaxies = Morphologies.read(options.galaxies)
    else:
        galaxies = read_images(find_images(options.galaxies, split=options.split))
    networks = {name: load_model(find_model(name))[0] for name in options.models}
    print("Target: mean, median and 90 % of |dF/F|, and PSNR")
    for count in SOURCES:
        rng = np.random.default_rng(count)
        make = fluxes if linear else pictures
        batch = make(galaxies, count, options.blends, count if linear else rng)
        blend, isolated, positions, present = batch
        positions = positions + 0.3 * rng.standard_normal(positions.shape)
        positions, present = torch.as_tensor(positions).float(), torch.as_tensor(present)
        truth = isolated[:, 0]
        # Above the sky; of pictures, of the light within the brighter parts of the galaxy.
        inside = truth > 0.05 * truth.amax(dim=(2, 3), keepdim=True)
        for name, network in networks.items():
            for marks in (False, True)[: 1 + getattr(network.config, "marks", False)]:
                shown = present.clone()
                shown[:, 1:] &= marks
                light = ask(network, blend, positions, shown)[:, 0]
                sums = [(each * inside).sum(dim=(1, 2, 3)) for each in (light, truth)]
                error = ((sums[0] - sums[1]) / sums[1]).abs()
                squared = (light - truth).square().mean(dim=(1, 2, 3))
                peak = truth.amax(dim=(1, 2, 3)).square() if linear else 1
                psnr = float(10 * (peak / squared.clamp(min=1e-9)).log10().mean())
                numbers = [float(error.mean()), *(float(error.quantile(q)) for q in (0.5, 0.9))]
                values = " ".join(f"{value:6.3f}" for value in numbers)
                words = f"{count} sources, marks: {'yes' if marks else 'no ':4s}"
                print(f"{words} {values} {psnr:6.2f}  {name}", flush=True)
    number = options.pairs
    if linear or not number:
        return
    recipe = get_recipe("reiman2019")
    blend, isolated = Simulator(galaxies, recipe)(
        recipe.draw(np.random.default_rng(0), number, len(galaxies))
    )
    middle = torch.full((number, 1, 2), 39.5)
    for name, network in networks.items():
        light = ask(network, blend, middle, torch.ones(number, 1, dtype=torch.bool))
        squared = (light - isolated).square().mean(dim=(2, 3, 4)).clamp(min=1e-9)
        print(f"{number} blends of two: {float(-10 * squared.log10().mean()):.2f} dB  {name}")


if __name__ == "__main__":
    main()
