"""
A FITS image with a WCS
=======================

A survey image: linear flux with a unit, a WCS and the noise of every pixel. We ask for the galaxy
at a place on the sky, and go on in astropy.
"""

# %%
# First a file to work on: two galaxies as Hyper Suprime-Cam sees them in i, simulated, so that we
# know the truth. Your own file needs nothing of this; noise in an extension called ERR, VAR or
# WEIGHT is found by name.

# sphinx_gallery_thumbnail_number = 2

import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from astrodeblend.simulate import simulate_blends

blend = simulate_blends(
    "hsc", 1, bands="i", magnitudes=(21, 22), contrast=0.7, separations=(1.7, 1.8), stamp=96, rng=3
)
wcs = WCS(naxis=2)
wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
wcs.wcs.crval, wcs.wcs.crpix = (150.1, 2.2), (48.5, 48.5)
wcs.wcs.cdelt = -0.168 / 3600, 0.168 / 3600
header = wcs.to_header()
header["BUNIT"], header["FILTER"] = "nJy", "i"
hdus = [
    fits.PrimaryHDU(),
    fits.ImageHDU(blend.blend[0, 0], header, name="SCI"),
    fits.ImageHDU(np.sqrt(blend.variance[0, 0]), header, name="ERR"),
]
folder = Path(tempfile.mkdtemp())
fits.HDUList(hdus).writeto(folder / "i.fits")

# %%
# A place on the sky: that of the first galaxy.

x, y = blend.position[0, 0]
position = wcs.pixel_to_world(x, y)
print(position.to_string("hmsdms"))

# %%
# The call is the same as for a picture. The sentences say what was decided about the file.

from astrodeblend import Deblender

deblender = Deblender.from_pretrained(device="cpu")
result = deblender(folder / "i.fits", position)
print(*result.meta["words"], sep="\n")

# %%
# The axes are those of the sky. Flux adds, so what is left is the image less the sum of both
# components: noise, where all went well.

figure = result.plot()

# %%
# Fluxes are in the unit of the file, each with its error; here as AB magnitudes beside the truth.

import astropy.units as u

row = result.to_table()[0]
magnitude = row["segment_flux"].to(u.ABmag)
error = 1.0857 * (row["segment_flux_err"] / row["segment_flux"]).to_value("")
true = (blend.flux[0, 0, 0] * u.nJy).to(u.ABmag)
print(f"found {magnitude:.3f} ± {error:.3f}, truly {true:.3f}")

# %%
# The components are on the grid of the image, with its WCS, so other images of the same sky fit
# on them: here contours of the galaxy alone over the image.

import matplotlib.pyplot as plt
from astropy.nddata import CCDData

result.write(folder / "galaxy.fits")
alone = CCDData.read(folder / "galaxy.fits", hdu="CENTRAL", hdu_uncertainty="CENTRAL_UNCERT")

noise = blend.noise[0, 0]
figure = plt.figure(figsize=(5.5, 5))
figure.subplots_adjust(left=0.25)
axes = figure.add_subplot(projection=alone.wcs)
axes.imshow(np.arcsinh(blend.blend[0, 0] / noise), cmap="gray_r", origin="lower")
axes.contour(alone.data, levels=noise * np.array([1, 3, 10, 30, 100]), colors="C1")
axes.axis((x - 25, x + 25, y - 25, y + 25))
axes.coords[0].set_ticks(number=3)
axes.set_xlabel("right ascension")
axes.set_ylabel("declination")
