"""Follow an image through every module of the package, from its values to a catalogue.

    python examples/from_image_to_catalogue.py

Takes each step of `Deblender.deblend_scene` by itself; the documentation's page of the same name
shows what each one prints.
"""

# ---- image
import numpy as np
from scipy.ndimage import gaussian_filter

from astrodeblend import Deblender
from astrodeblend.detect import find_sources, stamp_widths
from astrodeblend.images import read_image
from astrodeblend.scaling import scaling_of
from astrodeblend.sky import estimate_sky
from astrodeblend.stamps import cut_stamp

y, x = np.mgrid[:120, :160]
values = np.random.default_rng(1).normal(5, 1, x.shape)
for x0, y0, flux, radius in ((60, 50, 3000, 4), (72, 56, 1500, 3), (120, 80, 800, 3)):
    profile = gaussian_filter(np.exp(-np.hypot(x - x0, y - y0) / radius), 1.7)  # a PSF of 4 pixels
    values += flux * profile / profile.sum()
values[:, :20] = 0  # never observed

# ---- read
image = read_image(values)
print(image.data.shape, image.meta["astrodeblend"]["kind"])
print(*image.meta["astrodeblend"]["read"], sep="\n")

# ---- sky
sky = estimate_sky(image)
print(*sky.words, sep="\n")
print(f"level {sky.level.item():.3f}, noise {sky.noise.item():.3f}, from the {sky.noise_from}")

# ---- field
scene = Deblender.from_pretrained().deblend_scene(values)
print(scene.meta["network"])
for name in ("x_centroid", "y_centroid", "petrosian_radius", "probability"):
    scene.sources[name].info.format = ".2f"
columns = "label", "x_centroid", "y_centroid", "probability", "petrosian_radius", "n_blended"
print(scene.sources[columns])

# ---- light
for component in scene.light.components:
    print(component.box, component.footprint.sum(), component.seen.sum().round(), component.flags)

# ---- catalogue
print(scene)
columns = "label", "x_centroid", "y_centroid", "segment_flux", "segment_flux_err", "flag_names"
print(scene.catalog[columns])
print(scene.with_light("apportioned").catalog["label", "segment_flux", "segment_flux_err"])
left = scene.residual.data[~sky.hidden[0]]
print(f"what is left: {left.mean():.2f} ± {left.std():.2f}")

# ---- one
result = Deblender.from_pretrained()(values, position=(60, 50))
print(result.to_table()["component", "x_centroid", "y_centroid", "segment_flux"])
names = scene.catalog.colnames
print(result.to_table().colnames == [*names[:1], "component", *names[1:]])

# ---- sources
picture = 255 * np.arcsinh((values[:, 20:] - 5) / 3).clip(0, 4) / 4
picture = read_image(np.stack([picture] * 3, axis=-1).astype(np.uint8))
dark = estimate_sky(picture)
sources, segments = find_sources(picture, dark)
for name in ("x_centroid", "y_centroid", "petrosian_radius"):
    sources[name].info.format = ".2f"
print(sources["label", "x_centroid", "y_centroid", "petrosian_radius", "parent", "n_blended"])

# ---- stamps
deblender = Deblender.from_pretrained("crowded")
rule, scaling, shape = deblender.card.size_rule, scaling_of(picture), picture.data.shape[1:]
print(rule)
stamps = []
for row, width in zip(sources, stamp_widths(sources, rule, shape), strict=True):
    place = row["x_centroid"], row["y_centroid"]
    *middle, width = scaling.on_grid(*place, width, rule["pixels"], shape)
    stamps.append(cut_stamp(picture, dark, scaling, middle, width=width, pixels=rule["pixels"]))
    print(np.round(middle, 1), round(width, 1), stamps[-1].blend.shape, repr(stamps[-1].flags))

# ---- network
places = np.stack([sources["x_centroid"], sources["y_centroid"]], axis=-1)
marks = stamps[1].places(places[[1, 2]])  # of the source itself, and of the one that touches it
central, rest = deblender.deblend_arrays(stamps[1].blend[None], positions=marks[None])[0]
print(marks.round(1).tolist())
print(f"central {central.mean():.4f}, all else {rest.mean():.4f} of white")
