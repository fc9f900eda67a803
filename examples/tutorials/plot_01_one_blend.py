"""
One blend in colour
===================

Two galaxies overlap in a colour picture. We take them apart, look at each alone, measure both,
and keep them in a FITS file.
"""

# %%
# The picture is the Hubble Deep Field that comes with scikit-image: an array of 8-bit red, green
# and blue. A path to a JPEG or PNG would do as well. This is the part around an elliptical galaxy
# and the blue one that touches it.

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import hubble_deep_field

picture = hubble_deep_field()
x, y = 292, 108

figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
axes.imshow(picture)
axes.plot(x, y, "+", color="white", markersize=12)
axes.set(xlim=(x - 40, x + 40), ylim=(y + 40, y - 40), xlabel="x (pixels)", ylabel="y (pixels)")

# %%
# Three lines take the galaxy at the white cross apart from all else around it. The model is
# chosen by the kind of image; the result says which one it was, and what to be careful about.

from astrodeblend import Deblender, decode_flags

deblender = Deblender.from_pretrained(device="cpu")
result = deblender(picture, position=(x, y))
print("model:", result.meta["model"])
print(*decode_flags(result.flags), sep="\n")

# %%
# The blend, the galaxy at the position, everything else, and what is left over the noise of the
# sky. In a picture the brighter galaxy hides the other, so the *maximum* of the two components
# is compared with the data. Look at the last panel first: structure in it is light that went
# wrong.

figure = result.plot()

# %%
# Both components are `~astropy.nddata.NDData` on the grid of the whole picture, with an error
# for every pixel, so they go straight into other code. Here is a cut through both galaxies in
# green light: where they overlap, the components say what no pixel shows.

row = y + 13
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.plot(picture[row, :, 1], color="lightgray", lw=6, label="picture")
for name, colour in (("central", "C1"), ("companion", "C0")):
    component = getattr(result, name)
    value, error = component.data[1, row], component.uncertainty.array[1, row]
    axes.plot(value, color=colour, label=name)
    axes.fill_between(np.arange(len(value)), value - error, value + error, color=colour, alpha=0.3)
axes.set(xlim=(x - 30, x + 30), ylim=(0, None), xlabel="x (pixels)", ylabel=f"green, y = {row}")
axes.legend()

# %%
# The table has a row for each of the two: where it is, how bright in each band, and its shape.

table = result.to_table()
table["segment_flux"].info.format = table["segment_flux_err"].info.format = ".0f"
table["component", "x_centroid", "y_centroid", "segment_flux", "segment_flux_err"].pprint_all()

# %%
# One FITS file keeps it all: components, errors, the picture, the table, and which weights made
# them. DS9 opens it, and so does astropy.

import tempfile
from pathlib import Path

from astropy.nddata import CCDData

path = Path(tempfile.mkdtemp()) / "deblended.fits"
result.write(path)
central = CCDData.read(path, hdu="CENTRAL", hdu_uncertainty="CENTRAL_UNCERT")
print(central.shape, type(central.uncertainty).__name__)
