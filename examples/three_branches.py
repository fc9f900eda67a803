"""Compare two ways to deblend three galaxies: a third branch, and two branches with recentring.

Gives a trained network a third branch, trains it on blends of three (the central galaxy, then
the others by their distance from it), and compares it with `Deblender.deblend_scene`, which
knows two branches and brings one galaxy after the other to the middle, on the same blends.

    python examples/three_branches.py FOLDER [--split test --train-split train --steps 1200]
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from astrodeblend import Deblender
from astrodeblend.files import atomic_path
from astrodeblend.metrics import flux_error, isophote
from astrodeblend.networks import build
from astrodeblend.simulate import Simulator, find_images, get_recipe, read_images
from astrodeblend.training.losses import pixel_loss, std_loss
from astrodeblend.weights import load_model

RECIPE = replace(get_recipe("reiman2019"), symmetries=True)
MARGIN = 30  # pixels around the stamp, for deblend_scene to see what sticks out of it


def triples(simulator, number, rng):
    """Blends of three by maximum: blend, isolated by distance, positions from the middle."""
    first, second = (simulator.recipe.draw(rng, number, simulator.number) for _ in range(2))
    second = replace(second, central=first.central, symmetry=first.symmetry)
    nearer = np.hypot(*first.shift.T) <= np.hypot(*second.shift.T)
    isolated, shifts = [], []
    for draw in (first, second):
        _, pair = simulator(draw)
        isolated.append(pair)
        # The recipe shifts first and turns the whole stamp afterwards.
        matrix = draw.matrices(simulator.size)[0][:, :2, :2]
        shifts.append(np.einsum("nji,nj->ni", matrix, draw.shift) / simulator.recipe.factor)
    order = torch.as_tensor(np.where(nearer, 0, 1))
    companions = torch.stack([pair[:, 1] for pair in isolated], dim=1)
    rows = torch.arange(number)
    isolated = torch.stack(
        [isolated[0][:, 0], companions[rows, order], companions[rows, 1 - order]], dim=1
    )
    shifts = np.stack(shifts, axis=1)
    places = np.zeros((number, 3, 2))
    places[:, 1] = shifts[rows, order]
    places[:, 2] = shifts[rows, 1 - order]
    return isolated.amax(dim=1), isolated, places


def third_branch(model):
    """Build a network with three branches; the third starts as a copy of the second."""
    parent, card = load_model(model)
    network = build(**{**card.network, "branches": 3})
    weights = parent.state_dict()
    for name, target in network.state_dict().items():
        if weights[name].shape != target.shape:
            half = len(weights[name]) // 2
            weights[name] = torch.cat([weights[name], weights[name][half:]])
    known = network.state_dict().keys()
    network.load_state_dict({name: weights[name] for name in known})
    return network.to(memory_format=torch.channels_last)


def learn(network, simulator, options):
    """Train on blends of three, the learning rate falling to zero; return the average network."""
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True)
    bar = tqdm(range(options.steps), "training", unit="step")
    for step in bar:
        rise, fall = min(1, (step + 1) / 100), 1 - step / options.steps
        optimizer.param_groups[0]["lr"] = options.learning_rate * rise * fall
        blend, isolated, _ = triples(simulator, options.batch, np.random.default_rng([1, step]))
        components, std = network(blend.contiguous(memory_format=torch.channels_last))
        pixel = pixel_loss(components, isolated, kind="log_mse")
        loss = pixel + 0.1 * std_loss(components, std, isolated)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(network)
        bar.set_postfix(pixel=f"{pixel.item():.3f}", refresh=False)
        if options.out and (step + 1) % 100 == 0:
            save(average.module, options.out)
    return average.module.eval()


def save(network, path):
    """Write the weights."""
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    with atomic_path(Path(path), overwrite=True) as temporary:
        save_file(weights, temporary)


def recentred(deblender, canvas, places):
    """Every galaxy by deblend_scene with its position given, on the grid of the stamp."""
    middle = (canvas.shape[-1] - 1) / 2
    scene = deblender.deblend_scene(
        canvas, positions=places + middle, light="network", kind="picture"
    )
    inner = slice(MARGIN, -MARGIN)
    return np.stack([scene.component(k).data[:, inner, inner] for k in (1, 2, 3)])


def scores(light, truth):
    """Error in decibels and of flux, over each true galaxy's footprint: (n, 3) each."""
    footprint = isophote(truth)
    square = np.square(light - truth).sum(axis=2) * footprint
    count = light.shape[2] * footprint.sum(axis=(-2, -1))
    error = 10 * np.log10(count / np.maximum(square.sum(axis=(-2, -1)), 1e-12))
    flux = np.abs(flux_error(light, truth, footprint=footprint))
    return error, flux


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", help="isolated galaxies, and splits.csv if splits are named")
parser.add_argument("--split", help="part of the folder to score on, such as test")
parser.add_argument("--train-split", help="part to learn from, such as train")
parser.add_argument("--galaxies", type=int, default=3000, help="at most so many to learn from")
parser.add_argument("--steps", type=int, default=1200)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--learning-rate", type=float, default=3e-4)
parser.add_argument("--blends", type=int, default=200, help="how many to score on")
parser.add_argument("--model", default="galaxyzoo")
parser.add_argument("--out", help="file for the weights with three branches")
parser.add_argument("--weights", help="such a file, instead of training")
options = parser.parse_args()

network = third_branch(options.model)
if options.weights:
    from safetensors.torch import load_file

    network.load_state_dict(load_file(options.weights))
    network.eval()
else:
    paths = find_images(options.folder, split=options.train_split)[: options.galaxies]
    began = time.monotonic()
    network = learn(network, Simulator(read_images(paths, progress=True), RECIPE), options)
    if options.out:
        save(network, options.out)
    print(f"trained for {(time.monotonic() - began) / 3600:.2f} hours")

# The same stamps with what is around them.
images = read_images(find_images(options.folder, split=options.split)[:1100])
simulator = Simulator(images, replace(RECIPE, crop=RECIPE.crop + 2 * MARGIN * RECIPE.factor))
canvas, truth, places = triples(simulator, 2 * options.blends, np.random.default_rng(0))
# Two companions in one place are one galaxy to everybody.
apart = np.hypot(*(places[:, 1] - places[:, 2]).T) > 3
canvas, truth, places = (part[apart][: options.blends] for part in (canvas, truth, places))
inner = (..., slice(MARGIN, -MARGIN), slice(MARGIN, -MARGIN))
truth = truth[inner].numpy()
sky = np.median(truth, axis=(-2, -1), keepdims=True)
with torch.inference_mode():
    three = torch.cat([network(part)[0] for part in canvas[inner].split(16)]).numpy()
deblender = Deblender.from_pretrained(options.model)
bar = tqdm(zip(canvas.numpy(), places, strict=True), "recentring", len(canvas), unit="blend")
two = np.stack([recentred(deblender, *blend) for blend in bar])
answers = {
    "the blend itself": np.broadcast_to(canvas[inner].numpy()[:, None], truth.shape) - sky,
    "three branches": three - sky,
    "two branches, recentred": two,
}
table = {}
for name, light in answers.items():
    error, flux = scores(light, truth - sky)
    for k, which in enumerate(("central", "nearer companion", "farther companion")):
        values = {
            "footprint PSNR": float(error[:, k].mean()),
            "median |dF/F|": float(np.median(flux[:, k])),
            "90th percentile": float(np.percentile(flux[:, k], 90)),
        }
        table[f"{name}, {which}"] = values
        words = ", ".join(f"{key} {value:.3f}" for key, value in values.items())
        print(f"{name:24} {which:18} {words}")
if options.out:
    with atomic_path(Path(options.out).with_suffix(".json"), overwrite=True) as temporary:
        temporary.write_text(json.dumps(table, indent=2) + "\n")
