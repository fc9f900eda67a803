"""Cut isolated galaxies out of a colour picture, in the format of Galaxy Zoo, to make blends of.

    python examples/isolated_galaxies.py hubble hubble-galaxies --plot hubble-galaxies.png
    astrodeblend evaluate --images hubble-galaxies -n 300

The picture is a JPEG or PNG file, or "hubble", the Hubble Deep Field that comes with scikit-image.
Each galaxy becomes a picture 424 pixels wide, its middle 240 pixels 5.8 Petrosian radii; other
sources are replaced by sky. The folder, which is a new one, gets the pictures (PNG) and the table
galaxies.ecsv.
"""

import argparse
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.nddata import NDData
from astropy.stats import mad_std
from astropy.table import QTable
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.data import hubble_deep_field
from skimage.measure import regionprops
from tqdm import tqdm

from astrodeblend.detect import find_sources, stamp_widths
from astrodeblend.flags import Flag
from astrodeblend.images import read_image
from astrodeblend.scaling import scaling_of
from astrodeblend.sky import estimate_sky
from astrodeblend.stamps import cut_stamp

# A picture of Galaxy Zoo, and the middle of it, which is the stamp of the models.
_PIXELS, _STAMP = 424, 240
_SIZE_RULE = {"petrosian_radii": 5.8, "pixels": 80}
# What is looked at: resolved, bright, away from the edge, sizes in pixels of the picture.
_LARGE = 5.0  # Petrosian radius in the picture's own stretch
_RADIUS = 2.8  # Petrosian radius of the light, as stamps are measured
_SIGNAL = 100.0  # signal to noise
_EDGE = 3.0  # distance in Petrosian radii
# What is isolated and one galaxy: distances in Petrosian radii of the light.
_BESIDE = 0.5  # light of all that touches it, in parts of its own
_NEAREST = 1.35  # pixel of another source
_LOST = 1.7  # pixel that is another source's on the opposite side, too
_SOLID = 0.8  # part of the convex hull of its outline; spikes of a star have less
_ASYMMETRY = 0.195  # of the picture within 1.5 radii
_BLOB = 0.6  # brightest asymmetric part beyond 0.8 radii, in parts of the peak
_PUT = 0.2  # brightest part of what was put in place of others, in parts of the peak
_SPECK = 4.0  # signal to noise of what is in one band alone, and hidden
_TRIES = 64  # pieces of sky of which that which fits best is taken


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", help='a JPEG or PNG file, or "hubble"')
    parser.add_argument("folder", type=Path, help="where to; made, and may not be there")
    parser.add_argument("--number", type=int, help="those that are enlarged least; default: all")
    parser.add_argument("--plot", help="PNG of all side by side; not inside the folder")
    given = parser.parse_args()
    if given.folder.exists():
        parser.error(f"folder {str(given.folder)!r} exists; choose another name")
    if given.plot and given.folder.resolve() in Path(given.plot).resolve().parents:
        parser.error(f"--plot {given.plot!r} is inside the folder, where it would be a galaxy")
    given.folder.mkdir()  # or refused before the work
    image = hubble_deep_field() if given.image == "hubble" else given.image
    pictures, table = find_galaxies(image, number=given.number)
    for name, pixels in zip(table["file"], pictures, strict=True):
        Image.fromarray(pixels).save(given.folder / name)
    table.write(given.folder / "galaxies.ecsv")
    if given.plot:
        sheet(pictures).save(given.plot)
    table.pprint_all()
    print(f"wrote galaxies.ecsv and {len(table)} PNG to {given.folder}")


def sheet(pictures, *, side=106, across=12):
    """Draw pictures side by side, so many pixels wide each, numbered as their files are."""
    across = min(across, len(pictures))
    whole = Image.new("RGB", (across * side, -(-len(pictures) // across) * side))
    for k, pixels in enumerate(pictures):
        small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
        ImageDraw.Draw(small).text((3, 1), str(k + 1), fill="white")
        whole.paste(small, (k % across * side, k // across * side))
    return whole


def find_galaxies(image, *, number=None, rng=1):
    """Cut the isolated galaxies out of a colour picture.

    Galaxies are isolated if nearly nothing touches their light, no other source is near, and
    their light is much the same on opposite sides, as that of two galaxies on one another is
    not. Each comes to the middle of a picture of 424 x 424 pixels, of which the middle 240 are
    5.8 of its Petrosian radii wide, as a `astrodeblend.Deblender` measures it: that is the stamp
    that the models of Galaxy Zoo take. What other sources are there is replaced: by what is on
    the opposite side of the galaxy, or farther out by pieces of the picture's own sky, so that
    noise stays what it is.

    Parameters
    ----------
    image : path or array
        A colour picture, anything that `astrodeblend.images.read_image` takes.
    number : int, optional
        How many galaxies at most, those first that are enlarged least; by default all.
    rng : int or `numpy.random.Generator`, optional
        Where the randomness comes from: which pieces of sky are taken.

    Returns
    -------
    pictures : `~numpy.ndarray`
        uint8, shape (n, 424, 424, 3): as Galaxy Zoo has them.
    table : `~astropy.table.QTable`
        One row per galaxy: its ``file``, ``x_centroid`` and ``y_centroid`` in the picture it
        comes from, its ``petrosian_radius`` there, ``enlargement`` (pixels here for each pixel
        there), ``signal_to_noise`` and ``asymmetry``.
    """
    if number is not None and number < 1:
        raise ValueError(f"number={number}: give at least 1")
    image = read_image(image)
    if image.meta["astrodeblend"]["kind"] != "picture" or len(image.data) != 3:
        raise ValueError(
            f"image has {len(image.data)} bands and is {image.meta['astrodeblend']['kind']}; "
            "galaxies are cut out of colour pictures: JPEG, PNG, or arrays (y, x, 3) of uint8"
        )
    field = _Field(image)
    rng = np.random.default_rng(rng)
    found = []
    for row in tqdm(field.candidates, "looking at galaxies", disable=None):
        cut = field.cut(row, rng)
        if cut is not None:
            found.append(cut)
    if not found:
        raise ValueError(
            f"image has {len(field.sources)} sources, but no galaxy that is isolated, bright "
            "and well resolved"
        )
    found.sort(key=lambda cut: cut[1]["enlargement"])
    found = found[:number]
    table = QTable([values for _, values in found])
    table["petrosian_radius"] <<= u.pix
    digits = len(str(len(table)))
    names = [f"galaxy{k:0{digits}}.png" for k in range(1, len(table) + 1)]
    table.add_column(names, name="file", index=0)
    for name in table.colnames[1:]:
        table[name].info.format = ".4f"
    return np.stack([pixels for pixels, _ in found]), table


class _Field:
    """A picture with its sources, and whose light each pixel has.

    Parameters
    ----------
    image : `~astropy.nddata.NDData`
        A colour picture, as `astrodeblend.images.read_image` gives it.
    """

    def __init__(self, image):
        self.image = image
        self.full_scale = image.meta["astrodeblend"]["full_scale"]
        sky = estimate_sky(image)
        hidden, self.data = sky.hidden, np.where(sky.hidden, 0, image.data).astype(float)
        self.level, self.noise = (
            np.broadcast_to(values, self.data.shape) for values in (sky.level, sky.noise)
        )
        self.sources, self.segmentation = find_sources(image, sky)
        #: Label of the source whose light a pixel has, 0 for the sky, -1 for specks too faint.
        self.owner = self._owners()
        self.owner[hidden.any(axis=0)] = -1
        self.sky = np.argwhere(self.owner == 0)

    def _owners(self):
        """Give sources the light beyond their segments: the larger they are, the farther out."""
        labels = np.asarray(self.sources["label"])
        size = np.zeros(labels.max(initial=0) + 1)
        size[labels] = np.sqrt(self.sources["segment_area"].value / np.pi)
        distance, nearest = ndimage.distance_transform_edt(
            self.segmentation == 0, return_indices=True
        )
        nearest = self.segmentation[tuple(nearest)]
        reach = 2 + 0.3 * size + size**2 / 80
        owner = np.where(distance <= reach[nearest], nearest, 0)
        # what is bright in one band alone may have been missed in their sum
        smooth = ndimage.gaussian_filter((self.data - self.level) / self.noise, (0, 1, 1))
        spread = mad_std(smooth[:, self.segmentation == 0], axis=1)[:, None, None]
        parts, number = ndimage.label((smooth > _SPECK * spread).any(axis=0))
        missed = ndimage.maximum(self.segmentation, parts, np.arange(number + 1)) == 0
        missed[0] = False
        specks = ndimage.binary_dilation(missed[parts], iterations=2)
        owner[(self.segmentation == 0) & specks] = -1
        return owner

    @cached_property
    def candidates(self):
        """Rows of sources that are worth a closer look, the largest first."""
        sources = self.sources
        radius = sources["petrosian_radius"].value
        light = ((self.data - self.level) / self.noise).sum(axis=0)
        light = ndimage.sum_labels(light, self.segmentation, sources["label"])
        parents = np.asarray(sources["parent"])
        group = np.bincount(parents, weights=light)[parents]
        solid = {part.label: part.solidity for part in regionprops(self.segmentation)}
        good = (
            (radius > _LARGE)
            & sources["petrosian_found"]
            & (sources["signal_to_noise"] > _SIGNAL)
            & (group - light < _BESIDE * light)
            & (np.array([solid[label] for label in sources["label"]]) > _SOLID)
        )
        rows = np.flatnonzero(good)
        return rows[np.argsort(-radius[rows], kind="stable")]

    def cut(self, row, rng):
        """Return the picture (424, 424, 3) of a galaxy and what is known of it, or None."""
        source = self.sources[row]
        x, y = float(source["x_centroid"]), float(source["y_centroid"])
        # as far as the picture may need, and as a size is measured on
        half = int(max(128, 5.5 * source["petrosian_radius"].value)) + 4
        start = round(y) - half, round(x) - half
        alone, hidden, lost, asymmetric = self._alone(source, start, 2 * half + 1, rng)
        place = (x - start[1], y - start[0])
        cutout = NDData(alone, meta=self.image.meta)
        sky = estimate_sky(cutout)
        found, _ = find_sources(cutout, sky, positions=[place], rest=True)
        width = stamp_widths(found, _SIZE_RULE, alone.shape[1:])[0]
        radius = width / _SIZE_RULE["petrosian_radii"]
        rows, columns = np.indices(hidden.shape)
        distance = np.hypot(columns - place[0], rows - place[1]) / radius
        edge = min(x, y, self.data.shape[2] - 1 - x, self.data.shape[1] - 1 - y) / radius
        if (
            found["flags"][0] & Flag.UNCERTAIN_SIZE
            or radius < _RADIUS
            or edge < _EDGE
            or distance[hidden].min(initial=np.inf) < _NEAREST
            or distance[lost].min(initial=np.inf) < _LOST
        ):
            return None
        light = alone - sky.level
        inside = distance < 1.5
        # noise differs on opposite sides, too: by so much in the mean
        expected = 2 / np.sqrt(np.pi) * sky.noise.sum() * inside.sum()
        asymmetry = np.abs(asymmetric[:, inside]).sum() - expected
        asymmetry /= 2 * light[:, inside].sum()
        smooth = ndimage.gaussian_filter(light.sum(axis=0), 1)
        peak, put = smooth[inside].max(), smooth[hidden & (distance < 3)].max(initial=0)
        smooth = ndimage.gaussian_filter(asymmetric.sum(axis=0), 1)
        blob = smooth[(distance > 0.8) & (distance < 2.5)].max()
        if asymmetry > _ASYMMETRY or blob > _BLOB * peak or put > _PUT * peak:
            return None
        width = width * _PIXELS / _STAMP
        black = replace(sky, level=np.zeros_like(sky.level))
        stamp = cut_stamp(cutout, black, scaling_of(cutout), place, width=width, pixels=_PIXELS)
        pixels = np.moveaxis(255 * stamp.blend, 0, -1)
        return pixels.clip(0, 255).round().astype(np.uint8), {
            "x_centroid": x,
            "y_centroid": y,
            "petrosian_radius": radius,
            "enlargement": _PIXELS / width,
            "signal_to_noise": float(source["signal_to_noise"]),
            "asymmetry": asymmetry,
        }

    def _alone(self, source, start, side, rng):
        """Cut a square around a galaxy without what belongs to others.

        Parameters
        ----------
        source : row of `sources`
        start : tuple of int
            First row and column, which may lie outside the picture.
        side : int
            Width in pixels.
        rng : `numpy.random.Generator`

        Returns
        -------
        alone : `~numpy.ndarray`, shape (bands, side, side)
        hidden, lost : `~numpy.ndarray` of bool, shape (side, side)
            Where it was replaced; and where by sky, not by the opposite side.
        asymmetric : `~numpy.ndarray`, shape (bands, side, side)
            What there is more of than on the opposite side; zero where that is unknown.
        """
        axes = [first + np.arange(side) for first in start]
        outside = [(at < 0) | (at >= n) for at, n in zip(axes, self.owner.shape, strict=True)]
        box = np.ix_(*(at.clip(0, n - 1) for at, n in zip(axes, self.owner.shape, strict=True)))
        owner = np.where(outside[0][:, None] | outside[1], -1, self.owner[box])
        data, level = self.data[:, *box], self.level[:, *box]
        own = owner == source["label"]
        hidden = (owner != 0) & ~own

        # the opposite side, about the brightest pixel close to the middle
        grid = np.indices(own.shape)
        radius = source["petrosian_radius"].value
        middle = np.array([source["y_centroid"], source["x_centroid"]]) - start
        distance = np.hypot(*(grid - middle[:, None, None]))
        smooth = ndimage.gaussian_filter(data.sum(axis=0), 1)
        close = own & (distance < max(2, radius / 4))
        peak = np.unravel_index(np.argmax(np.where(close, smooth, -np.inf)), own.shape)
        opposite = 2 * np.reshape(peak, (2, 1, 1)) - grid
        there = ((opposite >= 0) & (opposite < side)).all(axis=0)
        opposite = tuple(opposite.clip(0, side - 1))
        there &= ~hidden[opposite]

        mirrored = hidden & there & (distance < 3 * radius)
        alone = np.where(mirrored, data[:, *opposite], data)
        known = ~hidden | mirrored
        glow = self._glow(alone - level, known) * (distance < 1.2 * radius)
        self._fill(alone, ~known, level + glow, rng)
        alone = alone.clip(0, self.full_scale)
        return alone, hidden, ~known, np.where(there, alone - alone[:, *opposite], 0)

    @staticmethod
    def _glow(light, known, width=5.0):
        """Carry the light of known pixels smoothly on to the others."""
        weight = ndimage.gaussian_filter(known.astype(float), width)
        return ndimage.gaussian_filter(light * known, (0, width, width)) / (weight + 1e-3)

    def _fill(self, data, missing, level, rng):
        """Put pieces of sky, as they are elsewhere in the picture, in the place of pixels."""
        parts, _ = ndimage.label(missing)
        for k, box in enumerate(ndimage.find_objects(parts), start=1):
            pixels = np.argwhere(parts[box] == k) + [part.start for part in box]
            while len(pixels):
                there, place = self._piece_of_sky(pixels, rng)
                to, of = tuple(pixels[there].T), tuple(place[there].T)
                data[:, *to] = level[:, *to] + self.data[:, *of] - self.level[:, *of]
                pixels = pixels[~there]

    def _piece_of_sky(self, pixels, rng):
        """Look for sky of a shape; return which of its pixels (n, 2) found sky, and where."""
        best = np.zeros(len(pixels), dtype=bool), pixels
        for _ in range(_TRIES):
            anchor = pixels[rng.integers(len(pixels))]
            place = pixels - anchor + self.sky[rng.integers(len(self.sky))]
            inside = ((place >= 0) & (place < self.owner.shape)).all(axis=1)
            there = np.zeros(len(pixels), dtype=bool)
            there[inside] = self.owner[tuple(place[inside].T)] == 0
            if there.sum() > best[0].sum():
                best = there, place
            if there.all():
                break
        return best


if __name__ == "__main__":
    main()
