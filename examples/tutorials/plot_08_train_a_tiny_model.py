"""
Train a tiny model
==================

Training in small: some galaxies, a recipe for blends, a small network, a minute. The model is of no
use, and the steps are those of a real one.
"""

# %%
# What it takes are pictures of isolated galaxies. Here they are cut out of the Hubble Deep Field;
# any folder of pictures does. What cuts them is an example beside this one.

# sphinx_gallery_thumbnail_number = 3

import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import hubble_deep_field

sys.path += ["..", "examples"]  # from here, and from the top of the repository
from isolated_galaxies import find_galaxies

folder = Path(tempfile.mkdtemp())
pictures, _ = find_galaxies(hubble_deep_field()[:560])
galaxies = np.moveaxis(pictures, -1, 1)
seen, unseen = galaxies[4:], galaxies[:4]

figure, panels = plt.subplots(1, 6, figsize=(11, 2), layout="constrained")
for panel, galaxy in zip(panels, galaxies, strict=False):
    panel.imshow(np.moveaxis(galaxy[:, 92:332, 92:332], 0, -1))
    panel.set_axis_off()
print(f"{len(galaxies)} galaxies, {len(unseen)} of them kept to judge by")

# %%
# A recipe turns them into blends with known truth. A configuration holds every choice of a run;
# what is not said keeps its default.

from astrodeblend.training import TrainingConfig, train

config = TrainingConfig(
    network={"kind": "unet", "widths": (8, 16, 32), "blocks": (1, 1, 1), "marks": True},
    recipe="reiman2019",
    steps=140,
    batch=8,
    warmup=10,
    learning_rate=3e-3,
    decay=0.5,
    average=0.9,
    log_every=5,
    validate_every=20,
    validation_blends=16,
    familiarity_blends=0,
)
path = train(config, seen, folder / "run", validation=unseen, progress=False)
print(*sorted(file.name for file in (folder / "run").iterdir() if file.is_file()), sep="\n")

# %%
# The log has the loss, and the PSNR of blends of galaxies that are kept back. When that no longer
# rises, more of the same brings nothing.

from astropy.table import Table

log = Table.read(folder / "run" / "log.csv")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(log["step"], log["pixel"])
left.set(xlabel="update", ylabel="loss (log of mean squared error)")
judged = log[~np.isnan(np.ma.filled(log["validation_psnr"].astype(float), np.nan))]
right.plot(judged["step"], judged["validation_psnr"], "o-")
right.set(xlabel="update", ylabel="PSNR of unseen blends (dB)")

# %%
# The file loads like any model. Beside the one in the package, on 16 blends of unseen galaxies;
# drawn is the one that the tiny model does best.

from astrodeblend import Deblender
from astrodeblend.metrics import psnr
from astrodeblend.simulate import Simulator, get_recipe

draw = get_recipe("reiman2019").draw(np.random.default_rng(2), 16, len(unseen))
blend, isolated = (array.numpy() for array in Simulator(unseen, "reiman2019")(draw))
rows = {"truth": isolated, "tiny": None, "galaxyzoo": None}
for deblender in (Deblender.load(path), Deblender.from_pretrained("galaxyzoo")):
    name = "galaxyzoo" if deblender.card.name == "galaxyzoo" else "tiny"
    rows[name] = deblender.deblend_arrays(blend)
    print(f"{name}: {psnr(rows[name], isolated).mean():.1f} dB")
best = psnr(rows["tiny"], isolated).mean(axis=1).argmax()
print(f"the blend itself: {psnr(np.stack([blend] * 2, axis=1), isolated).mean():.1f} dB")

figure, panels = plt.subplots(3, 3, figsize=(6.5, 6.5), layout="constrained")
for line, (name, components) in zip(panels, rows.items(), strict=True):
    for panel, image in zip(line, (blend[best], *components[best]), strict=True):
        panel.imshow(np.moveaxis(image, 0, -1).clip(0, 1))
        panel.set(xticks=[], yticks=[])
    line[0].set_ylabel(name)
for panel, name in zip(panels[0], ("blend", "central", "companion"), strict=True):
    panel.set_title(name)

# %%
# A model to use takes thousands of galaxies and tens of thousands of updates: :doc:`/training`.
# On the command line this page is ``python examples/isolated_galaxies.py hubble galaxies`` and
# ``astrodeblend train --images galaxies --out run``.
