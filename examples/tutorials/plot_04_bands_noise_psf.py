"""
Several bands, with noise and PSF
=================================

Each band of a survey has its own depth and its own PSF. How to hand over what is known of them, and
what it brings.
"""

# %%
# Five bands of LSST. To see the difference between bands, here is the same pair of sources in
# each, in units of that band's noise.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np

from astrodeblend.simulate import simulate_fields

bands = "grizy"
plain = {"large": 0, "bright": 0, "gaps": 0, "edges": 0, "correlated": 0, "residual": 0}
field = simulate_fields("lsst", 1, seed=10, size=240, bands=bands, density=90, **plain)
figure, panels = plt.subplots(1, 5, figsize=(12, 2.8), layout="constrained")
for k, panel in enumerate(panels):
    panel.imshow(np.arcsinh(field.image[0, k] / field.noise[0, k] / 2), cmap="gray", vmin=-1)
    panel.set_title(f"{bands[k]}, PSF {field.psf[0, k]:.1f} pixels")
    panel.set_axis_off()

# %%
# A file for each band, the noise in a second extension, as surveys deliver them. ``read_image``
# puts them into one image. Bands are in any order; ``psf`` takes widths, images of PSFs, or
# models, one for each band or one for all; ``mask``, ``weight`` and ``uncertainty`` work alike.

import tempfile
from pathlib import Path

from astropy.io import fits

from astrodeblend.images import read_image

folder = Path(tempfile.mkdtemp())
for k, band in enumerate(bands):
    header = fits.Header({"BUNIT": "nJy", "FILTER": band})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(field.image[0, k], header, name="SCI")]
    hdus.append(fits.ImageHDU(field.variance[0, k], name="VAR"))
    fits.HDUList(hdus).writeto(folder / f"{band}.fits")
paths = [folder / f"{band}.fits" for band in bands]
image = read_image(paths, psf=list(field.psf[0]))
print(*image.meta["astrodeblend"]["read"], sep="\n")

# %%
# All five bands at once: the sources are found in all bands together, and each has a flux in
# every band, through that band's own PSF.

from astrodeblend import Deblender

deblender = Deblender.from_pretrained(device="cpu")
scene = deblender.deblend_scene(image)
bright = scene.catalog["label"][np.argsort(-scene.catalog["segment_flux"][:, 1])[:8]]
figure = scene.plot(sources=sorted(bright.tolist()), stretch=5)

# %%
# Colours need all bands to agree on which light is whose. These are the colours of the sources
# with S/N above 20 in g, r and i, found and true.

from scipy.spatial import cKDTree

true, flux, snr = (values[0][field.inside[0]] for values in (field.position, field.flux, field.snr))


def matched(catalog):
    """Return the nearest row of every true source, and whether it is within two pixels."""
    apart, row = cKDTree(np.transpose([catalog["x_centroid"], catalog["y_centroid"]])).query(true)
    return row, apart < 2


row, seen = matched(scene.catalog)
told = scene.catalog["segment_flux"].value[row]
k = seen & (snr[:, :3] > 20).all(axis=1)
figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
for one, two, marker in ((0, 1, "o"), (1, 2, "s")):
    name = f"{bands[one]} − {bands[two]}"
    colour = [-2.5 * np.log10(f[k, one] / f[k, two]) for f in (flux, told)]
    axes.plot(*colour, marker, label=name)
axes.axline((0, 0), slope=1, color="gray", zorder=0)
axes.set(xlabel="true colour (mag)", ylabel="colour found (mag)")
axes.legend()

# %%
# What does it bring? The same sources in r, from one band or five, with and without being told
# noise and PSF: which part of those with S/N above 5 is found, and how far their flux is off, in
# the median. It is one field with some dozen sources: a difference of a few per cent is chance.

r = 1
worth = snr[:, r] > 5
bare = read_image(field.image[0])
alone = read_image(field.image[0, r], uncertainty=np.sqrt(field.variance[0, r]))
for name, seen_as, column in (
    ("r alone, its noise", alone, None),
    ("five bands, nothing known", bare, r),
    ("five bands, noise", read_image(paths), r),
    ("five bands, noise and PSF", image, r),
):
    catalog = deblender.deblend_scene(seen_as).catalog
    row, seen = matched(catalog)
    told = np.asarray(catalog["segment_flux"])[row]
    off = np.abs((told if column is None else told[:, column]) / flux[:, r] - 1)
    share, typical = 100 * seen[worth].mean(), 100 * np.median(off[worth & seen])
    print(f"{name:26} {share:3.0f} % found, off by {typical:.1f} %")

# %%
# Without an uncertainty the noise is estimated from the sky of the image, which is nearly as
# good where there is enough of it; ``scene.meta["noise_from"]`` says which it was.

print(scene.meta["noise_from"], "and", deblender.deblend_scene(bare).meta["noise_from"])
