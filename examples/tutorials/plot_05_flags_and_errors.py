"""
Reading flags and errors
========================

Every source has flags, which say what to be careful about, and every flux has an error. What they
mean, how to use them, and a check of the errors against the truth.
"""

# %%
# A field with all that goes wrong in real data: columns without data, a saturated star with
# its spikes, and the edge of the image.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend import Deblender, Flag, decode_flags
from astrodeblend.simulate import simulate_fields

field = simulate_fields("lsst", 1, seed=38, size=256, bands="gri", bright=1, gaps=1, correlated=0)
image = NDData(
    field.image[0],
    mask=field.mask[0],
    uncertainty=StdDevUncertainty(np.sqrt(field.variance[0])),
    unit="nJy",
)
deblender = Deblender.from_pretrained(device="cpu")
scene = deblender.deblend_scene(image)
figure, axes = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
scene.plot(bands="gri", stretch=5, axes={"image": axes[0], "residual": axes[1]})

# %%
# ``flags`` is a sum of bits, ``flag_names`` the same as text, `~astrodeblend.decode_flags` puts
# it in words. Here is how often each is set.

flags = scene.catalog["flags"]
for flag in Flag:
    if number := np.count_nonzero(flags & flag):
        print(f"{flag.name}, {number} of {len(flags)}", *decode_flags(flag), sep="\n    ")

# %%
# A flag is no verdict. Decide by what you measure: for total fluxes leave out what has lost light,
# for a count of galaxies keep it. ``MASKED`` only means that pixels without data are near; which
# share of a source's light they have, the column ``masked_fraction`` estimates in each band.

lost = Flag.EDGE | Flag.SATURATED | Flag.FLUX_NOT_CONSERVED | Flag.EMPTY
sure = (flags & lost == 0) & (scene.catalog["masked_fraction"] < 0.02).all(axis=1)
print(f"{sure.sum()} of {len(flags)} sources are good for total fluxes")

figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
scene.plot(bands="gri", stretch=5, sources=[], axes={"image": axes})
x, y = (np.asarray(scene.catalog[name]) for name in ("x_centroid", "y_centroid"))
for chosen, colour, label in ((sure, "lime", "kept"), (~sure, "red", "left out")):
    axes.plot(x[chosen], y[chosen], "o", ms=12, mfc="none", color=colour, label=label)
axes.legend(loc="upper left")

# %%
# An error bar is to hold the truth for 68.3 % of the sources. It has two parts: the noise of the
# image, and how sure the network is whose light it is. We take a few plain fields apart, and match
# their sources with S/N above 5 to the truth.

from scipy.spatial import cKDTree

plain = {"large": 0, "bright": 0, "gaps": 0, "edges": 0, "correlated": 0, "residual": 0}
fields = simulate_fields("hsc", 3, seed=1, size=256, bands="gri", density=90, **plain)
rows = []
for k in range(len(fields)):
    noise = StdDevUncertainty(np.sqrt(fields.variance[k]))
    catalog = deblender.deblend_scene(NDData(fields.image[k], uncertainty=noise)).catalog
    worth = fields.inside[k] & (fields.snr[k][:, 1] > 5)
    found = np.transpose([catalog["x_centroid"], catalog["y_centroid"]])
    apart, row = cKDTree(found).query(fields.position[k][worth])
    told, error = (np.asarray(catalog[c])[row, 1] for c in ("segment_flux", "segment_flux_err"))
    blended = catalog["n_blended"][row] > 1
    rows.append(np.array([fields.flux[k][worth, 1], told, error, blended])[:, apart < 2])
true, told, error, blended = np.concatenate(rows, axis=1)

# %%
# Where the errors are right, the histogram on the left has the width of the Gaussian. Where another
# galaxy is near, errors should be larger.

off = (told - true) / error
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
bins = np.linspace(-4, 4, 33)
left.hist(off.clip(-4, 4), bins, density=True, color="lightgray", label="found")
left.plot(bins, np.exp(-(bins**2) / 2) / np.sqrt(2 * np.pi), "k", label="Gaussian of width 1")
left.set(xlabel="(flux found − true flux) / error", ylabel="share")
left.set_title("what is beyond 4 errors is in the outermost bins", fontsize="small")
left.legend()
parts = [(error / told)[blended == k] for k in (0, 1)]
right.hist(parts, np.linspace(0, 1, 21), stacked=True, label=["alone", "blended"])
right.set(xlabel="error / flux", ylabel="sources")
right.legend()
for number, share in ((1, 68), (2, 95)):
    within = 100 * np.mean(np.abs(off) < number)
    print(f"within {number} × the error: {within:.0f} % ({share} would be right)")

# %%
# Errors of deblending have long tails: the model's card says how many errors hold 95.4 %.

print(scene.meta["calibration"]["interval_95"])
