"""The demonstration: real blends of a picture, taken apart."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import NDData
from astropy.table import Column, QTable, vstack
from scipy import ndimage

from astrodeblend.detect import find_sources
from astrodeblend.files import atomic_paths
from astrodeblend.images import image_to_hdus, read_image, write_fits
from astrodeblend.plot import panels
from astrodeblend.results import provenance
from astrodeblend.scaling import Picture
from astrodeblend.sky import estimate_sky

__all__ = ["FILES", "run_demo", "select_blends"]

#: What `run_demo` writes.
FILES = {
    "panels.png": "each blend, its two galaxies, and what is left",
    "stamps.fits": "blends and galaxies, as FITS",
    "catalogue.ecsv": "the table, with fluxes and shapes",
}


def run_demo(deblender, image, folder, *, number=6, overwrite=False, say=lambda text: None):
    """Find the clearest blends of a picture, take them apart and write down what came out.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    image : path or array
        A colour picture.
    folder : str or path-like
        Where to write ``panels.png``, ``stamps.fits`` and ``catalogue.ecsv``; made if its
        parent exists.
    number : int, optional
        How many blends at most.
    overwrite : bool, optional
        Replace files that are there already.
    say : callable, optional
        Is given lines of text on what goes on.

    Returns
    -------
    list of Deblended
        The results, the clearest blend first.

    Raises
    ------
    ValueError
        If there is no blend of two galaxies in the picture.
    FileExistsError, FileNotFoundError, PermissionError
        If a file exists, the folder's parent does not, or nothing can be written there.
    """
    image = read_image(image)
    _, height, width = image.data.shape
    say(f"looking for sources on {width} x {height} pixels")
    sky = estimate_sky(image)
    shown = NDData(image.data, mask=image.mask)  # clear is what is so to the eye: no stretch undone
    sources, segmentation = find_sources(shown, sky, contrast=Picture.division["contrast"])
    blends = select_blends(image, sky, sources, segmentation, **deblender.card.size_rule)
    if not len(blends):
        raise ValueError(f"image has {len(sources)} sources, but no blend of two galaxies")
    say(f"found {len(sources)} sources, and {len(blends)} places where two overlap")
    blends = blends[:number]
    say(f"taking the {len(blends)} clearest blends apart")
    results = [deblender(image, position=(row["x_centroid"], row["y_centroid"])) for row in blends]

    folder, catalogue = Path(folder), _catalogue(results)
    with atomic_paths(folder, FILES, overwrite=overwrite) as (drawing, stamps, table):
        panels(results).savefig(drawing)
        write_fits(_stamps(results), stamps)
        catalogue.write(table, format="ascii.ecsv")
    say("\n".join(_short(catalogue).pformat(max_lines=-1, max_width=-1)))
    for name, content in FILES.items():
        say(f"{folder / name}: {content}")
    return results


def select_blends(image, sky, sources, segmentation, *, petrosian_radii=5.8, pixels=80):
    """Pick the clearest blends of two galaxies, the clearest first.

    A blend is clear when two galaxies of like brightness, neither faint nor tiny, touch, a
    dip of light or a change of colour between them, each around a peak of its own, with little
    light of others in the stamp. The companion is the brightest of those that lie where the
    recipe ``reiman2019`` puts it: no further than 16.7 pixels of the stamp along either axis,
    no nearer than 3.3 along both.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        Data of shape (bands, y, x).
    sky : `astrodeblend.sky.Sky`
        Of the image.
    sources, segmentation : `~astropy.table.QTable`, `~numpy.ndarray`
        As `astrodeblend.detect.find_sources` gives them for the picture as it is shown.
    petrosian_radii, pixels : float, int, optional
        Width of a stamp in Petrosian radii of its central galaxy, and in its own pixels.

    Returns
    -------
    `~astropy.table.QTable`
        One row per blend, no source in two of them: ``central`` and ``companion`` (labels;
        the central is the brighter), ``x_centroid`` and ``y_centroid`` of the central,
        ``separation`` in pixels of the image, ``flux_ratio`` (companion to central),
        ``clarity`` (0 to 1).
    """
    bands = np.where(sky.hidden, 0, (image.data - sky.level) / sky.noise)
    labels = np.asarray(sources["label"])
    light = ndimage.gaussian_filter(bands.sum(axis=0), 1.0)
    peaks = np.reshape(ndimage.maximum_position(light, segmentation, labels), (-1, 2))
    colour = np.stack([ndimage.sum_labels(band, segmentation, labels) for band in bands], -1)
    flux = colour.sum(axis=-1)
    colour /= np.where(flux > 0, flux, 1)[:, None]
    radius = sources["petrosian_radius"].value
    place = np.stack([sources["x_centroid"], sources["y_centroid"]], axis=-1)
    # a part of a spiral has its peak aside
    lopsided = np.hypot(*(peaks[:, ::-1] - place).T) / radius

    blends = []
    for a in range(len(sources)):
        half = petrosian_radii * radius[a] / 2
        low, high = place[a] - half, place[a] + half
        if (low < 0).any() or (high > np.array(light.shape[::-1]) - 1).any():
            continue
        offset = np.abs(place - place[a])
        reach = offset.max(axis=-1) * pixels / (2 * half)
        near = (reach > 3.3) & (reach < 16.7) & (flux < flux[a])
        near &= sources["parent"] == sources["parent"][a]
        if not near.any():
            continue
        b = np.flatnonzero(near)[np.argmax(flux[near])]
        stamp = tuple(slice(int(lo), int(hi) + 1) for lo, hi in zip(low, high, strict=True))[::-1]
        segments = segmentation[stamp]
        own, other = segments == labels[a], segments == labels[b]
        if not (ndimage.binary_dilation(own, np.ones((3, 3))) & other).any():
            continue
        along = ndimage.map_coordinates(light, np.linspace(peaks[a], peaks[b], 50).T, order=1)
        saddle = along.min() / max(min(along[0], along[-1]), 1e-9)
        unlike = 1 - saddle + 1.5 * np.abs(colour[a] - colour[b]).sum()
        third = light[stamp][(segments > 0) & ~own & ~other].sum() / (flux[a] + flux[b])
        ratio = flux[b] / flux[a]
        clarity = (
            _ramp(unlike, 0.15, 0.5)
            * _ramp(saddle, 0, 0.2)
            * _ramp(max(lopsided[a], lopsided[b]), 0.5, 0)
            * np.sqrt(_ramp(ratio, 0.05, 0.5))
            * _ramp(np.log(max(sources["signal_to_noise"][b], 1)), np.log(60), np.log(400))
            * _ramp(radius[b], 4, 10)
            * np.exp(-max(third, 0))
        )
        if clarity > 0:
            apart = np.hypot(*offset[b])
            blends.append((labels[a], labels[b], *place[a], apart, ratio, clarity))

    blends.sort(key=lambda blend: -blend[-1])
    taken, clearest = set(), []
    for blend in blends:
        if taken.isdisjoint(blend[:2]):
            taken.update(blend[:2])
            clearest.append(blend)
    names = ["central", "companion", "x_centroid", "y_centroid"]
    names += ["separation", "flux_ratio", "clarity"]
    return QTable(rows=clearest or None, names=names, dtype=[int, int] + 5 * [float])


def _ramp(value, low, high):
    """Rise from 0 at ``low`` to 1 at ``high``, level outside."""
    return np.clip((value - low) / (high - low), 0, 1)


def _catalogue(results):
    """Stack the tables of all blends, which they number from 1."""
    tables = []
    for number, result in enumerate(results, start=1):
        table = result.to_table()
        table.add_column(Column([number] * len(table), name="blend"), index=0)
        table.meta = {}
        tables.append(table)
    catalogue = vstack(tables)
    catalogue.meta = {name: results[0].meta[name] for name in ("version", "model", "sha256")}
    return catalogue


def _short(catalogue):
    """Return what of the catalogue fits on a screen, with the light of all bands together."""
    short = catalogue["blend", "component", "x_centroid", "y_centroid", "ellipticity"]
    short["flux"] = catalogue["segment_flux"].sum(axis=1)
    for name, digits in (("x_centroid", 1), ("y_centroid", 1), ("ellipticity", 2), ("flux", 0)):
        short[name].info.format = f".{digits}f"
    return short


def _cut(image, result):
    """Return the part of an image that the stamp covers."""
    box = (slice(None), *(slice(*ends) for ends in result.meta["stamp_box"]))
    part = box[-image.data.ndim :]
    uncertainty = image.uncertainty
    return NDData(
        image.data[part],
        unit=image.unit,
        mask=None if image.mask is None else image.mask[part],
        uncertainty=None if uncertainty is None else uncertainty[part],
        wcs=None if image.wcs is None else image.wcs.slice(box[1:]),
        meta=dict(image.meta),
    )


def _stamps(results):
    """Return extensions BLEND1, CENTRAL1, COMPANION1, BLEND2 and so on."""
    hdus = [fits.PrimaryHDU(header=provenance(results[0].image, results[0].meta))]
    for number, result in enumerate(results, start=1):
        for name in ("image", "central", "companion"):
            extension = f"{'blend' if name == 'image' else name}{number}".upper()
            hdus += image_to_hdus(_cut(getattr(result, name), result), extension)
    return hdus
