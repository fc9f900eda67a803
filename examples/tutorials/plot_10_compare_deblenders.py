"""
Compare deblenders
==================

photutils, SEP and the network on the same simulated fields, with the same truth. How to make such a
comparison fair, and how to read it.
"""

# %%
# Six fields as LSST sees them, 40 arcsec wide, half of the sources with a near neighbour. Each
# deblender finds its own sources in the same pixels; a detection is a true source if each is the
# other's nearest, within two pixels or so. photutils and SEP have settings that were tuned on other
# fields.

# sphinx_gallery_thumbnail_number = 3

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from astrodeblend import Deblender
from astrodeblend.score import benchmark_fields

model = Deblender.from_pretrained("survey", device="cpu")
report = benchmark_fields(
    "lsst", 6, models=[model], peers=["photutils", "sep"], bands="gri",
    size=200, density=80, close=0.5, large=0, bright=0, seed=3,
)  # fmt: skip
measured = report.measured
targets = measured.targets()
entries = [e for e in measured.entries if e.positions == "detected" and e.name in targets]

# %%
# The first field: true sources with S/N above 10 in r, and what each has found.

found = {name: at for name, at in measured.pictures.items() if name not in ("image", "truth")}
figure, panels = plt.subplots(1, len(found), figsize=(4 * len(found), 4.2), layout="constrained")
for panel, (name, positions) in zip(panels, found.items(), strict=True):
    panel.imshow(np.moveaxis(measured.pictures["image"], 0, -1), origin="lower")
    panel.plot(*measured.pictures["truth"].T, "o", mfc="none", mec="white", ms=11, label="truth")
    panel.plot(*positions.T, "+", color="C1", ms=7, label="found")
    panel.set(title=name, xticks=[], yticks=[])
panels[0].legend(loc="upper left")

# %%
# How many are found, by signal to noise, and how many of those with a neighbour within 8 pixels.

edges = [5, 10, 20, 50, 1000]
names = ["5 to 10", "10 to 20", "20 to 50", "above 50"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained", sharey=True)
for entry in entries:
    for panel, away in ((left, (0, np.inf)), (right, (0, 8))):
        share = [
            100 * measured.numbers(entry, limits, away=away)["complete"]
            for limits in pairwise(edges)
        ]
        panel.plot(names, share, "o-", label=entry.name)
left.set(title="all", xlabel="signal to noise in r", ylabel="found (%)", ylim=(0, 105))
right.set(title="a neighbour within 8 pixels", xlabel="signal to noise in r")
left.legend()

# %%
# How far fluxes are off, in units of the *noise limit*: the error of fitting the flux of the
# source alone, its shape known. A perfect fit has 0.67 in the median; what is above it is what
# deblending costs. Each is judged by what it has found: who finds more of the close ones has the
# harder ones.

truth = measured.truth
figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
for k, entry in enumerate(entries):
    flux, limit = (values[:, measured.band] for values in (truth.flux, truth.limit))
    found = np.flatnonzero(entry.found & (flux / limit > 10))
    off = np.abs(entry.sources.flux[found, measured.band] - flux[found]) / limit[found]
    close = truth.away[found] < 8
    for chosen, shift, colour in ((~close, -0.15, "lightblue"), (close, 0.15, "orange")):
        axes.boxplot(
            off[chosen], positions=[k + shift], widths=0.25, showfliers=False,
            patch_artist=True, boxprops={"facecolor": colour}, medianprops={"color": "black"},
        )  # fmt: skip
axes.axhline(0.67, color="gray", ls=":")
axes.set_xticks(range(len(entries)), [entry.name for entry in entries])
axes.set(yscale="log", ylabel="|flux error| / noise limit")
axes.set_title("S/N > 10 in r; blue: alone, orange: neighbour within 8 pixels", fontsize="medium")

# %%
# The same numbers, and the time, as the command prints them for more fields.

for name, row in targets.items():
    print(
        f"{name:10} error {row['error_median']:.1f} noise limits, {100 * row['pure']:.0f} % pure,",
        end=" ",
    )
    print(f"{row['seconds']:.2f} s a field")

# %%
# What makes a comparison fair: the same pixels for all; settings tuned on other data than those
# of the score; the kindest choice for whoever leaves one; truth without noise; times from the same
# run. ``astrodeblend benchmark --fields lsst`` does it with more fields, and takes deblenders of
# your own: :doc:`/benchmark`.
