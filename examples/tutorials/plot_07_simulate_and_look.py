"""
Simulate and look
=================

Blends with known truth, to learn from, to judge by, or to plan with: pairs of galaxies as a survey
sees them, whole fields, and colour pictures put on top of each other.
"""

# %%
# Pairs as LSST sees them in ten years, in nJy, drawn by GalSim. The blend is the sum of the
# sources, each through the PSF of the band, and noise.

# sphinx_gallery_thumbnail_number = 4

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import QTable

from astrodeblend.simulate import SURVEYS, simulate_blends

blends = simulate_blends("lsst", 6, bands="gri", stamp=48, rng=4)
print(blends)


def in_colour(flux, noise):
    """Show i, r and g as red, green and blue, after Lupton et al. (2004, PASP 116, 133)."""
    light = (flux / noise[:, None, None])[::-1]
    mean = light.mean(axis=0).clip(1e-3)
    return np.moveaxis(light * np.arcsinh(mean / 2) / (5 * mean), 0, -1).clip(0, 1)


figure, panels = plt.subplots(3, 6, figsize=(11, 5.6), layout="constrained")
for column, blend, isolated in zip(panels.T, blends.blend, blends.isolated, strict=True):
    for panel, image in zip(column, (blend, *isolated), strict=True):
        panel.imshow(in_colour(image, blends.noise[0]), origin="lower")
        panel.set(xticks=[], yticks=[])
for panel, name in zip(panels[:, 0], ("blend", "first source", "second"), strict=True):
    panel.set_ylabel(name)

# %%
# The truth of each source: what it is, where, how bright.

truth = QTable(blends.truth())
for name in ("redshift", "magnitude", "x", "y"):
    truth[name].info.format = ".2f"
truth["blend", "source", "kind", "redshift", "magnitude", "x", "y"][:6].pprint_all()

# %%
# The same two pairs as four surveys see them, 12 arcsec of sky each: depth and PSF decide what is
# a blend.

print(SURVEYS["hsc"])
figure, panels = plt.subplots(2, 4, figsize=(11, 5.8), layout="constrained")
for column, name in zip(panels.T, ("lsst", "hsc", "des", "sdss"), strict=True):
    survey = SURVEYS[name]
    width = round(12 / survey.pixel_scale)  # 12 arcsec
    blends = simulate_blends(
        survey, 2, bands="gri", stamp=width, magnitudes=(19, 21), separations=(1.5, 3), rng=7
    )
    for panel, blend in zip(column, blends.blend, strict=True):
        panel.imshow(in_colour(blend, blends.noise[0]), origin="lower")
        panel.set(xticks=[], yticks=[])
    column[0].set_title(f"{name}, {width} pixels")

# %%
# A whole field: any number of sources, here with a large galaxy, and if you like with gaps, edges,
# a bright star and correlated noise. ``light.alone`` is each source by itself.

from astrodeblend.simulate import simulate_fields

plain = {"bright": 0, "gaps": 0, "edges": 0, "correlated": 0, "residual": 0}
field = simulate_fields("hsc", 1, seed=8, size=320, bands="gri", large=1, **plain)
source = np.argmax(np.where(field.inside[0], field.size[0], 0))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
left.imshow(in_colour(field.image[0], field.noise[0]), origin="lower")
left.scatter(*field.position[0][field.inside[0]].T, s=60, facecolors="none", edgecolors="white")
left.set_title(f"{field.inside[0].sum()} sources")
right.imshow(in_colour(field.light.alone(0)[source], field.noise[0]), origin="lower")
right.set_title("the largest one alone")
for panel in (left, right):
    panel.set(xticks=[], yticks=[])

# %%
# Colour pictures saturate, so there light need not add. A blending mode says what happens where two
# pictures overlap: the brighter pixel (``max``), the sum, or the sum where the front is diffuse
# (``max_sum``).

from skimage.data import hubble_deep_field

from astrodeblend.simulate import BLENDING_MODES, blend_images

picture = np.moveaxis(hubble_deep_field(), -1, 0) / 255
central, companion = picture[:, 433:513, 687:767], picture[:, 351:431, 73:153]
figure, panels = plt.subplots(1, 5, figsize=(11, 2.4), layout="constrained")
shown = {"first": central, "second": companion}
shown |= {mode: blend_images(central, companion, mode=mode) for mode in BLENDING_MODES}
for panel, (name, image) in zip(panels, shown.items(), strict=True):
    panel.imshow(np.moveaxis(image, 0, -1))
    panel.set(xticks=[], yticks=[], title=name)
