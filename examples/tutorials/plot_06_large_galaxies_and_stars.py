"""
Large galaxies and stars
========================

Most galaxies are a few times as wide as the PSF. Two kinds of source are not so: a nearby galaxy of
hundreds of pixels, and a star so bright that it saturates. What comes out, and how to see when
it went wrong.
"""

# %%
# A field of HSC with a large galaxy among the usual small ones.

# sphinx_gallery_thumbnail_number = 2

import matplotlib.pyplot as plt
import numpy as np
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend import Deblender, decode_flags
from astrodeblend.simulate import simulate_fields

plain = {"gaps": 0, "edges": 0, "correlated": 0, "residual": 0}


def as_image(field):
    """Return the first field as an image with its noise and mask."""
    noise = StdDevUncertainty(np.sqrt(field.variance[0]))
    return NDData(field.image[0], mask=field.mask[0], uncertainty=noise, unit="nJy")


field = simulate_fields("hsc", 1, seed=50, size=320, bands="gri", large=1, bright=0, **plain)
deblender = Deblender.from_pretrained(device="cpu")
scene = deblender.deblend_scene(as_image(field))
figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
scene.plot(bands="gri", stretch=5, axes=axes)

# %%
# Is it one source or many? Knots of star formation are part of the galaxy, and should not be
# sources of their own. The large galaxy alone, and its flux beside the truth.

largest = np.argmax(np.where(field.inside[0], field.size[0], 0))
x, y = field.position[0, largest]
apart = np.hypot(scene.catalog["x_centroid"].value - x, scene.catalog["y_centroid"].value - y)
row = scene.catalog[np.argmin(apart)]
print(
    f"half-light radius {field.size[0, largest]:.0f} pixels; flags: {row['flag_names'] or 'none'}"
)
print(f"flux in r {row['segment_flux'][1]:.0f}, truly {field.flux[0, largest, 1]:.0f} nJy")
pieces = np.count_nonzero(apart < field.size[0, largest])
print(f"{pieces} sources were found within that radius")

figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
truth = field.light.alone(0)[largest]
alone = scene.component(row["label"]).data
for panel, light, name in zip(
    axes, (field.image[0], alone, truth), ("image, r", "its component", "truth"), strict=True
):
    shown = np.arcsinh(light[1] / field.noise[0, 1])
    panel.imshow(shown, cmap="gray", origin="lower", vmin=0, vmax=7)
    panel.set_title(name)
    panel.set_axis_off()

# %%
# If you know the galaxy, say where it is: positions take the place of detection.

given = field.position[0][field.inside[0] & (field.snr[0][:, 1] > 5)]
told = deblender.deblend_scene(as_image(field), positions=given)
k = np.argmin(np.hypot(*(given - (x, y)).T))
print(f"flux in r with positions given: {told.catalog['segment_flux'][k, 1]:.0f}")

# %%
# A bright star: its core is saturated, and has spikes and a halo. A network for galaxies can leave
# its light behind, or make sources of its spikes. Flags and residual tell.

field = simulate_fields("hsc", 1, seed=28, size=256, bands="gri", large=0, bright=1, **plain)
scene = deblender.deblend_scene(as_image(field))
figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
scene.plot(bands="gri", stretch=5, axes=axes)

catalog = scene.catalog
brightest = np.argmax(np.where(field.inside[0], field.flux[0, :, 1], 0))
x, y = field.position[0, brightest]
apart = np.hypot(catalog["x_centroid"].value - x, catalog["y_centroid"].value - y)
for row in catalog[np.argsort(apart)[:3]]:
    print(f"source {row['label']}:", "; ".join(decode_flags(row["flags"])) or "no flag")

# %%
# What you can do: mask the star. Masked pixels are no data; what is around them is measured as
# usual, and has the flag ``MASKED`` if it lost pixels. Here all pixels are masked that are bright
# and connected to the star, and some around them.

from scipy import ndimage

light = (field.image[0] / field.noise[0][:, None, None]).sum(axis=0)
regions, _ = ndimage.label(ndimage.gaussian_filter(light, 2) > 2)
star = ndimage.binary_dilation(regions == regions[round(y), round(x)], iterations=4)
image = as_image(field)
image.mask = image.mask | star
masked = deblender.deblend_scene(image)
figure, axes = plt.subplots(1, 3, figsize=(14, 4.5), layout="constrained")
masked.plot(bands="gri", stretch=5, axes=axes)
print(f"{len(scene.catalog)} sources with the star, {len(masked.catalog)} without")
