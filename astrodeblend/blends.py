"""Blends with known truth from a folder of galaxies, which anyone can make again."""

import json
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend.images import write_fits
from astrodeblend.metrics import isophote, moments
from astrodeblend.simulate import (
    Draw,
    Recipe,
    Rendering,
    Simulator,
    find_images,
    get_recipe,
    image_width,
    read_images,
)
from astrodeblend.simulate.pictures import blended_images
from astrodeblend.texture import occluded

__all__ = [
    "BRANCHES",
    "PAPER_BLENDS",
    "BlendSet",
    "draw_blends",
    "flux_ratio",
    "overlap",
    "read_blends",
    "write_survey_blends",
]

#: Blends in the paper's test set; each takes two galaxies that no other blend has.
PAPER_BLENDS = 3200
#: Reiman & Goehre (2019), Table 1, on their own test set.
PUBLISHED = {
    "psnr": {"mean": 34.61, "median": 34.83, "max": 40.45, "min": 21.34, "variance": 4.88},
    "ssim_reiman2019": {
        "mean": 0.928, "median": 0.934, "max": 0.982, "min": 0.576, "variance": 0.001,
    },
}  # fmt: skip
#: Columns of the table, after what is measured and of what.
STATISTICS = ("mean", "error", "median", "max", "min", "variance", "p1")
#: The components of a blend, in their order in every array.
BRANCHES = ("central", "companion")
#: From so many galaxies on they are used again, to make as many blends as the paper has.
_MANY = 40


@dataclass(frozen=True, eq=False)
class BlendSet:
    """Blends that anyone can make again: which galaxies, and how they were perturbed.

    Made by `draw_blends` or `read_blends`; indexed by a slice or an array, it is a part of the same
    blends.
    """

    folder: Path  # of the images
    paths: tuple[Path, ...]  # the images that are used
    # whether each shows one galaxy alone: all but those with 0 in the column ``isolated`` of the
    # folder's ``splits.csv``
    alone: tuple[bool, ...]
    width: int  # in pixels of the grid that all images are put on
    split: str | None  # which part of the folder they are
    recipe: Recipe
    seed: int
    draw: Draw  # the random part; ``central`` and ``companion`` are indices of ``paths``

    def __len__(self):
        return len(self.draw)

    def __getitem__(self, key):
        return replace(self, draw=self.draw[key])

    @property
    def galaxies(self):
        """How many galaxies the blends are of."""
        return len(np.unique([self.draw.central, self.draw.companion]))

    @property
    def uses(self):
        """In how many blends a galaxy is, at least and at most: a tuple of two numbers."""
        times = np.bincount(np.concatenate([self.draw.central, self.draw.companion]))
        times = times[times > 0]
        return int(times.min()), int(times.max())

    @property
    def separation(self):
        """Distance of the two galaxies' centres in stamp pixels, shape (n,)."""
        zoom = 1 if self.draw.zoom is None else self.draw.zoom
        return zoom * np.hypot(*self.draw.shift.T) / self.recipe.factor

    @property
    def sky(self):
        """Level of the sky in the images of a blend, shape (n, bands) or (n, 1)."""
        return self.draw.sky

    @property
    def subfolders(self):
        """The folder's sub-folder that each galaxy's file is in, shape (n, 2); empty if none."""
        parts = [path.relative_to(self.folder).parts for path in self.paths]
        return self._of_galaxies([each[0] if len(each) > 1 else "" for each in parts])

    @property
    def isolated(self):
        """Whether each galaxy's picture shows it alone, as ``alone`` says, shape (n, 2)."""
        return self._of_galaxies(self.alone)

    def _of_galaxies(self, values):
        return np.array(values)[np.stack([self.draw.central, self.draw.companion], axis=1)]

    def __str__(self):
        part = "all images" if self.split is None else f"split {self.split!r}"
        least, most = self.uses
        times = f"{most} times" if least == most else f"{least} to {most} times"
        if most == 1:
            times = "once"
        return (
            f"{len(self)} blends of {self.galaxies} galaxies, each {times}; "
            f"{part} of {self.folder}, recipe {self.recipe.name}, seed {self.seed}"
        )

    def batches(self, size=64, *, progress=False):
        """Yield ``size`` blends at a time: only their images are in memory.

        They are blends and the truth, (n, bands, s, s) and (n, 2, bands, s, s), float32 from 0 to
        1, the central galaxy first.
        """
        with tqdm(total=len(self), unit="blend", desc="blends", disable=not progress) as bar:
            for start in range(0, len(self), size):
                draw = self.draw[start : start + size]
                used, where = np.unique([draw.central, draw.companion], return_inverse=True)
                images = read_images([self.paths[k] for k in used], width=self.width)
                central, companion = where.reshape(2, -1)
                simulator = Simulator(images, self.recipe)
                blend, isolated = simulator(replace(draw, central=central, companion=companion))
                yield blend.numpy(), isolated.numpy()
                bar.update(len(draw))

    def to_table(self):
        """Return a table of the blends: all that `read_blends` takes to make them again.

        It has a row per blend: files of ``central`` and ``companion`` relative to the folder,
        blending ``mode``, and the perturbation as `astrodeblend.simulate.Draw` has it.
        """
        names = np.array([path.relative_to(self.folder).as_posix() for path in self.paths])
        definition = json.loads(json.dumps(asdict(self.recipe)))  # lists for tuples
        meta = {"folder": str(self.folder), "width": self.width, "definition": definition}
        table = QTable(meta=self.meta | meta)
        for name, values in vars(self.draw).items():
            if values is None or name == "further":
                continue
            if name in BRANCHES:
                values = names[values]
            elif name == "mode":
                values = np.array(self.recipe.modes)[values]
            table[name] = values
        return table

    def write(self, path, *, overwrite=False, progress=False):
        """Write the blends to a FITS file, which appears whole or not at all; return the arrays.

        Its extensions are BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; the truth, central
        first), both from 0 to 1, and the table DRAW (see `to_table`).
        """
        blend, isolated = (
            np.concatenate(parts) for parts in zip(*self.batches(progress=progress), strict=True)
        )
        images = {"BLEND": (blend, None), "ISOLATED": (isolated, None)}
        header = {key[:8].upper(): value for key, value in self.meta.items()}
        _write(header, images, "DRAW", self.to_table(), path, overwrite)
        return blend, isolated

    @property
    def meta(self):
        """What stands over tables of these blends: ``recipe``, ``split`` and ``seed``."""
        return {"recipe": self.recipe.name, "split": self.split or "all", "seed": self.seed}


def draw_blends(folder, *, split=None, recipe="reiman2019", number=None, seed=1):
    """Choose galaxies and perturbations for blends with known truth.

    Galaxies are shuffled and paired, so that each is part of one blend only as long as there
    are enough of them, and all are used as often as one another (but for one) otherwise.

    Parameters
    ----------
    folder : str or path-like
        Images of isolated galaxies, as `astrodeblend.simulate.find_images` takes them.
    split : str, optional
        Which part of them, by the table ``splits.csv`` in the folder. Default: all.
    recipe : str or Recipe, optional
        What blends.
    number : int, optional
        How many. Default: the paper's 3,200; of fewer than 40 galaxies as many as can be had
        with each used once.
    seed : int, optional
        The same seed, images and number give the same blends.

    Returns
    -------
    BlendSet
    """
    recipe = get_recipe(recipe)
    if recipe.companions != (0.0, 1.0):
        raise ValueError(
            f"recipe={recipe.name!r} is to learn from: its blends are of more than two galaxies; "
            "choose another one"
        )
    paths = find_images(folder, split=split)
    if len(paths) < 2:
        raise ValueError(f"{str(folder)!r} holds 1 image; a blend takes two galaxies")
    if number is None:
        number = PAPER_BLENDS if len(paths) >= _MANY else len(paths) // 2
    if number < 1:
        raise ValueError(f"number={number}: give at least 1 blend")
    rng = np.random.default_rng(seed)
    pairs = []
    while sum(map(len, pairs)) < number:
        order = rng.permutation(len(paths))[: len(paths) // 2 * 2]
        pairs.append(order.reshape(-1, 2))
    pairs = np.concatenate(pairs)[:number]
    used, pairs = np.unique(pairs, return_inverse=True)  # images that no blend needs stay unread
    central, companion = pairs.reshape(-1, 2).T
    paths = tuple(paths[k] for k in used)
    draw = recipe.draw(rng, number, len(used))
    width, alone = max(map(image_width, paths)), _alone(paths, folder)
    draw = replace(draw, central=central, companion=companion)
    return BlendSet(Path(folder), paths, alone, width, split, recipe, seed, draw)


def read_blends(path, folder):
    """Read a list of blends, to make the very same again.

    Parameters
    ----------
    path : str or path-like
        ECSV file with what `BlendSet.to_table` gives, such as the ``blends.ecsv`` that
        ``astrodeblend evaluate`` writes. Further columns are ignored; rows may be left out.
    folder : str or path-like
        Where the images are.

    Returns
    -------
    BlendSet
    """
    path, folder = Path(path), Path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"the list of blends {str(path)!r} does not exist")
    try:
        table = QTable.read(path, format="ascii.ecsv")
        if not len(table):
            raise ValueError("it has no rows")
        definition = dict(table.meta["definition"])
        if definition["rendering"] is not None:
            definition["rendering"] = Rendering(**_tuples(definition["rendering"]))
        recipe = Recipe(**_tuples(definition))
        # of the fields of a draw only those of re-rendering may be missing
        names = [f.name for f in fields(Draw) if f.name in table.colnames or f.default is MISSING]
        columns = {name: np.array(table[name]) for name in names}
        columns["mode"] = np.array([recipe.modes.index(mode) for mode in columns["mode"]])
        split = None if table.meta["split"] == "all" else table.meta["split"]
        seed, width = int(table.meta["seed"]), int(table.meta["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a list of blends ({error}); give a blends.ecsv that "
            "'astrodeblend evaluate --out' has written"
        ) from error
    names, where = np.unique([columns[name] for name in BRANCHES], return_inverse=True)
    paths = tuple(folder / name for name in names)
    missing = [each for each in paths if not each.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(paths)} images in {str(path)!r} are not in "
            f"{str(folder)!r}, such as {str(missing[0])!r}; give the folder it was made from"
        )
    columns |= dict(zip(BRANCHES, where.reshape(2, -1), strict=True))
    return BlendSet(
        folder, paths, _alone(paths, folder), width, split, recipe, seed, Draw(**columns)
    )


def _alone(paths, folder):
    blended = blended_images(folder)
    return tuple(path not in blended for path in paths)


def flux_ratio(isolated, *, fraction=0.1):
    r"""How much fainter the companion is than the central galaxy, in magnitudes.

    :math:`-2.5 \log_{10}(F_\mathrm{companion} / F_\mathrm{central})`, positive where the
    companion is the fainter one. A galaxy's F is the sum of its image over bands and pixels
    in its own footprint, `astrodeblend.metrics.isophote`. Values of pictures are not
    proportional to flux, so neither are these quite magnitudes.

    Parameters
    ----------
    isolated : array_like
        The truth, shape (..., 2, bands, y, x), central first, sky near zero.
    fraction : float, optional
        Down to which fraction of its peak a galaxy's footprint goes.

    Returns
    -------
    numpy.ndarray
        Shape (...); NaN where either has no light.
    """
    isolated = _pairs(isolated)
    flux = moments(isolated, isophote(isolated, fraction=fraction)).flux
    flux = np.where(flux > 0, flux, np.nan)
    return -2.5 * np.log10(flux[..., 1] / flux[..., 0])


def overlap(isolated, *, fraction=0.1):
    """Share of each galaxy's light that lies where the other one is brighter.

    Flux on the pixels that are `astrodeblend.texture.occluded` over flux in the galaxy's own
    footprint, `astrodeblend.metrics.isophote`, both the sum over bands. So 0 is a galaxy that
    outshines the other wherever it is, and 1 one that the other outshines everywhere. In mode
    ``max`` it is the share of the galaxy that the blend does not show.

    Parameters
    ----------
    isolated : array_like
        The truth, shape (..., 2, bands, y, x), central first, sky near zero.
    fraction : float, optional
        Down to which fraction of its peak a galaxy's footprint goes.

    Returns
    -------
    numpy.ndarray
        Shape (..., 2); NaN for a galaxy that has no light.
    """
    isolated = _pairs(isolated)
    hidden = moments(isolated, occluded(isolated, fraction=fraction)).flux
    flux = moments(isolated, isophote(isolated, fraction=fraction)).flux
    return hidden / np.where(flux > 0, flux, np.nan)


def write_survey_blends(blends, path, *, overwrite=False):
    """Write `~astrodeblend.simulate.SurveyBlends` to a FITS file, whole or not at all.

    Its extensions are BLEND (n, bands, y, x), ISOLATED (n, sources, bands, y, x; the truth, without
    noise) and VARIANCE (n, bands, y, x), in nJy, NOISE (n, bands), the standard deviation of the
    sky, and the table TRUTH: a row per source, with the columns of
    `astrodeblend.simulate.SurveyBlends.truth`.
    """
    units = {"magnitude": u.mag, "flux": u.nJy}  # AB; FITS knows no such unit
    units |= dict.fromkeys(("x", "y", "x_centroid", "y_centroid"), u.pix)
    table = QTable()
    for name, values in blends.truth().items():
        table[name] = u.Quantity(values, units[name]) if name in units else values
    images = {
        "BLEND": (blends.blend, "nJy"),
        "ISOLATED": (blends.isolated, "nJy"),
        "VARIANCE": (blends.variance, "nJy2"),
        "NOISE": (blends.noise, "nJy"),
    }
    bands = ",".join(band.name for band in blends.survey.bands)
    header = {"SURVEY": blends.survey.name, "BANDS": bands, "PIXSCALE": blends.survey.pixel_scale}
    _write(header, images, "TRUTH", table, path, overwrite)


def _write(header, images, name, table, path, overwrite):
    """Write images by their names, each with a unit or None, and a table."""
    table.meta = {"EXTNAME": name}
    hdus = [fits.PrimaryHDU(header=fits.Header(header))]
    for each, (data, unit) in images.items():
        hdus.append(fits.ImageHDU(data, fits.Header({"BUNIT": unit} if unit else {}), each))
    write_fits([*hdus, fits.table_to_hdu(table)], path, overwrite=overwrite)


def _pairs(isolated):
    isolated = np.asarray(isolated, dtype=float)
    if isolated.ndim < 4 or isolated.shape[-4] != 2:
        raise ValueError(f"isolated has shape {isolated.shape}; give (..., 2, bands, y, x)")
    return isolated


def _tuples(values):
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
