"""Blends with known truth from a folder of galaxies, and how well a model takes them apart."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import QTable
from tqdm import tqdm

from astrodeblend.files import atomic_path
from astrodeblend.images import write_fits
from astrodeblend.metrics import psnr, ssim, ssim_reiman2019, table_statistics
from astrodeblend.simulate import Draw, Recipe, Simulator, find_images, get_recipe, read_images

__all__ = ["BlendSet", "Evaluation", "draw_blends", "evaluate"]

#: Blends in the paper's test set; each takes two galaxies that no other blend has.
PAPER_BLENDS = 3200
#: What is measured, in the order of the paper's Table 1.
METRICS = {"psnr": psnr, "ssim_reiman2019": ssim_reiman2019, "ssim": ssim}
#: Reiman & Goehre (2019), Table 1, on their own test set.
PUBLISHED = {
    "psnr": {"mean": 34.61, "median": 34.83, "max": 40.45, "min": 21.34, "variance": 4.88},
    "ssim_reiman2019": {
        "mean": 0.928, "median": 0.934, "max": 0.982, "min": 0.576, "variance": 0.001,
    },
}  # fmt: skip
#: Files that `Evaluation.write` writes.
FILES = ("table.ecsv", "blends.ecsv")
STATISTICS = ("mean", "median", "max", "min", "variance")
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
        table = QTable(meta={**self._meta(), "folder": str(self.folder)})
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
        for key, value in self._meta().items():
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

    def _meta(self):
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a model took blends apart.

    Made by `evaluate`; `str` gives the paper's Table 1 as text.

    Attributes
    ----------
    model, sha256 : str
        The model's name and the hash of its weights.
    blends : BlendSet
        What it was tried on.
    scores : dict of str to numpy.ndarray
        For each metric the score of every component, shape (blends, 2), central first.
    blend_scores : dict of str to numpy.ndarray
        The same for the blend itself, taken for the galaxy: what doing nothing scores.
    """

    model: str
    sha256: str
    blends: BlendSet
    scores: dict[str, np.ndarray]
    blend_scores: dict[str, np.ndarray]

    def to_table(self):
        """Summarise the scores as the paper's Table 1 does.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``metric`` and what it is ``of`` (both components together, each branch,
            the blend itself), with ``mean``, ``median``, ``max``, ``min`` and ``variance``.
            PSNR is in dB, of images from 0 to 1; ``ssim_reiman2019`` is the lenient scale of
            the paper, ``ssim`` the strict one.
        """
        rows = []
        for metric, scores in self.scores.items():
            parts = {"components": scores}
            parts |= {name: scores[:, k] for k, name in enumerate(BRANCHES)}
            parts["blend itself"] = self.blend_scores[metric]
            rows += [
                {"metric": metric, "of": of, **table_statistics(values)}
                for of, values in parts.items()
            ]
        meta = {"model": self.model, "sha256": self.sha256, "blends": len(self.blends)}
        table = QTable(rows, meta=meta | self.blends._meta())
        return table[["metric", "of", *STATISTICS]]

    def to_blend_table(self):
        """List every blend with its scores.

        Returns
        -------
        `~astropy.table.QTable`
            `BlendSet.to_table`, and for each metric and branch a column such as
            ``psnr_central``.
        """
        table = self.blends.to_table()
        table.meta |= {"model": self.model, "sha256": self.sha256}
        for metric, scores in self.scores.items():
            for k, name in enumerate(BRANCHES):
                table[f"{metric}_{name}"] = scores[:, k]
        return table

    def on_card(self, card):
        """Return a card with these scores added.

        Parameters
        ----------
        card : astrodeblend.weights.Card
            Of the model; scores of the same recipe and split are replaced.

        Returns
        -------
        astrodeblend.weights.Card
        """
        scores = {"blends": len(self.blends), "seed": self.blends.seed}
        for metric, values in self.scores.items():
            statistics = table_statistics(values)
            scores[metric] = {name: round(float(v), 4) for name, v in statistics.items()}
        name = f"{self.blends.recipe.name} on {self.blends.split or 'all'}"
        return replace(card, scores={**card.scores, name: scores})

    def write(self, folder, *, overwrite=False):
        """Write the summary and the list of blends with their scores, both ECSV.

        Parameters
        ----------
        folder : str or path-like
            Where to; ``table.ecsv`` and ``blends.ecsv``. It is made if its parent exists.
        overwrite : bool, optional
            Replace files that are there already.
        """
        folder = Path(folder)
        folder.mkdir(exist_ok=True)
        with (
            atomic_path(folder / FILES[0], overwrite=overwrite) as summary,
            atomic_path(folder / FILES[1], overwrite=overwrite) as blends,
        ):
            self.to_table().write(summary, format="ascii.ecsv")
            self.to_blend_table().write(blends, format="ascii.ecsv")

    def __str__(self):
        lines = [
            f"model {self.model} (sha256 {self.sha256[:12]})",
            str(self.blends),
            f"(the paper: {PAPER_BLENDS} blends of {2 * PAPER_BLENDS} galaxies, each once)",
            "",
            f"{'':26}" + "".join(f"{name:>10}" for name in STATISTICS),
        ]
        for metric in self.scores:
            digits = 2 if metric == "psnr" else 4
            lines.append(metric + (" (dB)" if metric == "psnr" else ""))
            rows = {row["of"]: row for row in self.to_table() if row["metric"] == metric}
            if metric in PUBLISHED:
                rows["Reiman & Goehre 2019"] = PUBLISHED[metric]
            for of, row in rows.items():
                numbers = "".join(f"{row[name]:10.{digits}f}" for name in STATISTICS)
                lines.append(f"  {of:24}{numbers}")
        return "\n".join(lines)


def evaluate(deblender, blends, *, progress=False):
    """Take blends with known truth apart and score the components.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    blends : BlendSet
        What to try it on.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If the model is not one for colour pictures.
    """
    card = deblender.card
    if card.scaling != "picture" or len(card.bands) != 3:
        raise ValueError(
            f"model {card.name!r} works on {', '.join(card.bands)} ({card.scaling}); these blends "
            "are colour pictures, choose a model for R, G, B"
        )
    scores, blend_scores = ({name: [] for name in METRICS} for _ in range(2))
    for blend, isolated in blends.batches(progress=progress):
        components = np.asarray(deblender.deblend_arrays(blend))
        nothing_done = np.broadcast_to(blend[:, None], isolated.shape)
        for name, metric in METRICS.items():
            scores[name].append(metric(components, isolated))
            blend_scores[name].append(metric(nothing_done, isolated))
    return Evaluation(
        model=card.name,
        sha256=card.sha256,
        blends=blends,
        scores={name: np.concatenate(parts) for name, parts in scores.items()},
        blend_scores={name: np.concatenate(parts) for name, parts in blend_scores.items()},
    )
