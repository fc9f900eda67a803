"""Blends with known truth from a folder of galaxies, which anyone can make again."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend.images import write_fits
from astrodeblend.simulate import Draw, Recipe, Simulator, find_images, get_recipe, read_images

__all__ = ["BRANCHES", "PAPER_BLENDS", "BlendSet", "draw_blends"]

#: Blends in the paper's test set; each takes two galaxies that no other blend has.
PAPER_BLENDS = 3200
#: The components of a blend, in their order in every array.
BRANCHES = ("central", "companion")


@dataclass(frozen=True, eq=False)
class BlendSet:
    """Blends that anyone can make again: which galaxies, and how they were perturbed.

    Made by `draw_blends`.

    Attributes
    ----------
    folder : pathlib.Path
        Where the images are.
    paths : tuple of pathlib.Path
        The images that are used.
    split : str or None
        Which part of the folder they are.
    recipe : Recipe
        What the blends are.
    seed : int
        Where the randomness started from.
    draw : Draw
        The random part; ``central`` and ``companion`` are indices of ``paths``.
    """

    folder: Path
    paths: tuple[Path, ...]
    split: str | None
    recipe: Recipe
    seed: int
    draw: Draw

    def __len__(self):
        return len(self.draw)

    @property
    def uses(self):
        """How many blends a galaxy is part of, at most."""
        both = np.concatenate([self.draw.central, self.draw.companion])
        return int(np.bincount(both).max())

    def __str__(self):
        part = "all images" if self.split is None else f"split {self.split!r}"
        times = "each once" if self.uses == 1 else f"each up to {self.uses} times"
        return (
            f"{len(self)} blends of {len(self.paths)} galaxies, {times}; {part} of {self.folder}, "
            f"recipe {self.recipe.name}, seed {self.seed}"
        )

    def batches(self, size=64, *, progress=False):
        """Make the blends, some at a time.

        Parameters
        ----------
        size : int, optional
            How many at a time.
        progress : bool, optional
            Show progress bars.

        Yields
        ------
        blend, isolated : numpy.ndarray
            Shapes (n, bands, s, s) and (n, 2, bands, s, s), float32 from 0 to 1, central first.
        """
        simulator = Simulator(read_images(self.paths, progress=progress), self.recipe)
        with tqdm(total=len(self), unit="blend", desc="blends", disable=not progress) as bar:
            for start in range(0, len(self), size):
                part = self.draw[start : start + size]
                blend, isolated = simulator(part)
                yield blend.numpy(), isolated.numpy()
                bar.update(len(part))

    def to_table(self):
        """List the blends.

        Returns
        -------
        `~astropy.table.QTable`
            One row per blend: files of ``central`` and ``companion`` relative to the folder,
            blending ``mode``, and the perturbation as `astrodeblend.simulate.Draw` has it.
        """
        names = np.array([path.relative_to(self.folder).as_posix() for path in self.paths])
        table = QTable(meta={**self.meta, "folder": str(self.folder)})
        for name, values in vars(self.draw).items():
            if values is None:
                continue
            if name in BRANCHES:
                values = names[values]
            elif name == "mode":
                values = np.array(self.recipe.modes)[values]
            table[name] = values
        return table

    def write(self, path, *, overwrite=False, progress=False):
        """Make the blends and write them to a FITS file, which appears whole or not at all.

        Its extensions are BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; the truth,
        central first), both from 0 to 1, and the table DRAW (see `to_table`).

        Parameters
        ----------
        path : str or path-like
            Where to.
        overwrite : bool, optional
            Replace a file that is there already.
        progress : bool, optional
            Show progress bars.

        Returns
        -------
        blend, isolated : numpy.ndarray
            What was written.
        """
        blend, isolated = (
            np.concatenate(parts) for parts in zip(*self.batches(progress=progress), strict=True)
        )
        primary = fits.PrimaryHDU()
        for key, value in self.meta.items():
            primary.header[key[:8].upper()] = value
        table = self.to_table()
        table.meta = {"EXTNAME": "DRAW"}
        hdus = [
            primary,
            fits.ImageHDU(blend, name="BLEND"),
            fits.ImageHDU(isolated, name="ISOLATED"),
            fits.table_to_hdu(table),
        ]
        write_fits(hdus, path, overwrite=overwrite)
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
        How many. Default: as many as can be had with each galaxy used once, at most the
        paper's 3,200.
    seed : int, optional
        The same seed, images and number give the same blends.

    Returns
    -------
    BlendSet

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such folder, split or recipe, or fewer than two images.
    """
    recipe = get_recipe(recipe)
    paths = find_images(folder, split=split)
    if len(paths) < 2:
        raise ValueError(f"{str(folder)!r} holds 1 image; a blend takes two galaxies")
    if number is None:
        number = min(PAPER_BLENDS, len(paths) // 2)
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
    draw = recipe.draw(rng, number, len(used))
    return BlendSet(
        folder=Path(folder),
        paths=tuple(paths[k] for k in used),
        split=split,
        recipe=recipe,
        seed=seed,
        draw=replace(draw, central=central, companion=companion),
    )
