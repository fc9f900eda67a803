"""
From a scene to a catalogue
===========================

A whole image: all sources are found, taken apart from each other, and measured. One call, a
catalogue with a row for each, and a figure that shows what is left.
"""

# %%
# The image is simulated, three bands of Hyper Suprime-Cam, so that the catalogue can be compared
# with the truth.

import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend import Deblender
from astrodeblend.simulate import simulate_fields

plain = {"large": 0, "bright": 0, "gaps": 0, "edges": 0, "correlated": 0, "residual": 0}
field = simulate_fields("hsc", 1, seed=12, size=200, bands="gri", density=90, **plain)
noise = StdDevUncertainty(np.sqrt(field.variance[0]))
image = NDData(field.image[0], uncertainty=noise, unit="nJy")

scene = Deblender.from_pretrained(device="cpu").deblend_scene(image)
scene

# %%
# An ellipse in colour is a source whose light touches that of others, a white dotted one is
# isolated. Below, each blended source stands alone. What is left is the image less all components,
# over the noise: a hole or a spot there is a source that was missed, or cut wrongly.

figure = scene.plot(bands="gri", labels=True, stretch=5)

# %%
# The catalogue is an astropy table with units. It has flux and error in every band, shape, and
# how much each source is blended.

catalog = scene.catalog
for name in ("segment_flux", "segment_flux_err"):
    catalog[name].info.format = ".0f"
catalog["blendedness"].info.format = ".2f"
shown = "label", "x_centroid", "y_centroid", "segment_flux", "segment_flux_err", "blendedness"
catalog[shown][:8].pprint_all()

# %%
# Columns are numpy arrays: cuts are one line. Here: what is well measured in r, and not flagged.

strength = (catalog["segment_flux"] / catalog["segment_flux_err"])[:, 1]
good = (strength > 5) & (catalog["flags"] == 0)
print(f"{len(catalog)} sources, {good.sum()} with S/N > 5 in r and no flag")

# %%
# Beside the truth: every true source takes the nearest detection within two pixels.

from scipy.spatial import cKDTree

true = field.position[0][field.inside[0]]
flux, snr = field.flux[0][field.inside[0], 1], field.snr[0][field.inside[0], 1]
found = np.transpose([catalog["x_centroid"], catalog["y_centroid"]])
apart, match = cKDTree(found).query(true)
seen = apart < 2
close = cKDTree(true).query(true, k=2)[0][:, 1] < 8  # the nearest other source
print(f"of {(snr > 10).sum()} sources with S/N > 10 in r, {(seen & (snr > 10)).sum()} were found")

# %%
# Fluxes with their errors; open circles have another source within 8 pixels.

import matplotlib.pyplot as plt

told, error = (catalog[c][match, 1].value for c in ("segment_flux", "segment_flux_err"))
figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
for chosen, face, label in ((close, "white", "neighbour within 8 pixels"), (~close, "C0", "alone")):
    k = chosen & seen
    axes.errorbar(flux[k], told[k], error[k], fmt="o", color="C0", mfc=face, label=label)
axes.plot(flux[~seen], flux[~seen], "x", color="C3", label="not found")
axes.axline((100, 100), (1000, 1000), color="gray", zorder=0)
axes.set(xscale="log", yscale="log", xlabel="true flux in r (nJy)", ylabel="flux found (nJy)")
axes.legend()

# %%
# It is kept as one FITS file, or as a table alone. On the command line the whole page is
# ``astrodeblend deblend g.fits r.fits i.fits --scene --plot -o scene.fits``.

import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())
scene.write(folder / "scene.fits")
scene.catalog.write(folder / "catalog.ecsv")
print(*(f"{path.name}: {path.stat().st_size // 1000} kB" for path in folder.iterdir()), sep="\n")
