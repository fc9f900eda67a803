"""How well a model takes blends with known truth apart: the paper's table, and more."""

import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from astropy.table import QTable
from torch.utils.flop_counter import FlopCounterMode

from astrodeblend import __version__, figures
from astrodeblend.blends import BRANCHES, BlendSet, flux_ratio, overlap
from astrodeblend.calibration import Calibration, Coverage
from astrodeblend.files import atomic_paths, plain
from astrodeblend.metrics import bootstrap_error, psnr, ssim, ssim_reiman2019, table_statistics
from astrodeblend.networks import build
from astrodeblend.report import BINS, PUBLISHED, STATISTICS, text_of
from astrodeblend.texture import Texture, frequencies
from astrodeblend.weights import check_model

__all__ = ["Evaluation", "Examples", "evaluate"]

#: What is measured, in the order of the paper's Table 1.
METRICS = {"psnr": psnr, "ssim_reiman2019": ssim_reiman2019, "ssim": ssim}
#: Files that `Evaluation.write` writes.
FILES = (
    "table.ecsv",
    "bins.ecsv",
    "texture.ecsv",
    "coverage.ecsv",
    "blends.ecsv",
    "scores.json",
    "distributions.png",
    "bins.png",
    "power.png",
    "calibration.png",
    "successes.png",
    "failures.png",
)
_RESAMPLES = 200  # of the bootstrap: errors to 5 %
_COVERED = 1024  # blends whose error bars are tried: shares of truths to one or two per cent


@dataclass(frozen=True, eq=False)
class Examples:
    """Blends to look at.

    Attributes
    ----------
    index : numpy.ndarray of int
        Which of the blends, counted from 0, shape (n,).
    blend : numpy.ndarray
        Shape (n, bands, y, x).
    isolated, components : numpy.ndarray
        The truth and what the model made of it, shape (n, 2, bands, y, x), central first.
    """

    index: np.ndarray
    blend: np.ndarray
    isolated: np.ndarray
    components: np.ndarray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """How well a model took blends apart.

    Made by `evaluate`; `str` gives the tables as text.

    Attributes
    ----------
    model, sha256 : str
        The model's name and the hash of its weights.
    cost : dict
        Of one stamp: ``gmac``, 10^9 multiply-accumulates, and ``parameters`` of the network.
    versions : dict of str
        Of ``astrodeblend`` and ``torch``.
    arithmetic : str
        Of the network.
    blends : BlendSet
        What it was tried on.
    scores : dict of str to numpy.ndarray
        For each metric the score of every component, shape (blends, 2), central first.
    blend_scores : dict of str to numpy.ndarray
        The same for the blend itself, taken for the galaxy: what doing nothing scores.
    properties : dict of str to numpy.ndarray
        What scores are binned by: ``separation`` of the blends, and what
        `astrodeblend.blends.flux_ratio` and `astrodeblend.blends.overlap` say of the truth;
        shape (blends,), or (blends, 2) for a property of the component.
    texture : astrodeblend.texture.Texture
        Of the components, shape (blends, 2).
    coverage : astrodeblend.calibration.Coverage
        Of the error bars of the first 1,024 of the blends, which come in random order.
    failures : Examples
        The blends with the lowest PSNR (mean of both components), worst first.
    successes : Examples
        Random ones of those above the median, chosen by the seed of the blends.
    """

    model: str
    sha256: str
    cost: dict[str, float]
    versions: dict[str, str]
    arithmetic: str
    blends: BlendSet
    scores: dict[str, np.ndarray]
    blend_scores: dict[str, np.ndarray]
    properties: dict[str, np.ndarray]
    texture: Texture
    coverage: Coverage
    failures: Examples
    successes: Examples

    def to_table(self):
        """Summarise the scores as the paper's Table 1 does.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``metric`` and what it is ``of``: both components together, each branch,
            the components whose galaxies come from each sub-folder (if there are several), those
            of blends of two pictures that show one galaxy alone (if others do not),
            the blend itself. Columns: their ``number``; ``mean``, the ``error`` of the mean,
            ``median``, ``max``, ``min``, ``variance``, and ``p1``, the 1st percentile. PSNR is
            in dB, of images from 0 to 1; ``ssim_reiman2019`` is the lenient scale of the paper,
            ``ssim`` the strict one. The error is by bootstrap over blends (both components of a
            blend go together); that galaxies are part of several blends it does not know.
        """
        rows = [
            {"metric": metric, "of": of, **_statistics(values)}
            for metric in self.scores
            for of, values in self._parts(metric, sources=True).items()
        ]
        return QTable(rows, meta=self._meta())["metric", "of", "number", *STATISTICS]

    def to_bin_table(self):
        """Average the scores in bins of separation, flux ratio and overlap.

        Returns
        -------
        `~astropy.table.QTable`
            A row per ``quantity``, bin, ``metric`` and what it is ``of`` (both components
            together, each branch, the blend itself). Columns: the bin's limits ``low`` and
            ``high``, the ``middle`` (median of the quantity in the bin), the ``number`` of
            images, their ``mean`` and its ``error`` (as in `to_table`). Empty bins are left
            out.
        """
        rows = []
        for quantity, (_, edges) in BINS.items():
            values = self.properties[quantity].reshape(len(self.blends), -1)
            values = np.broadcast_to(values, (len(values), 2))
            for low, high in pairwise(edges):
                inside = (low <= values) & (values < high)
                limits = {"quantity": quantity, "low": float(low), "high": float(high)}
                for metric in self.scores if inside.any() else ():
                    for of, scores in self._parts(metric).items():
                        scores = np.where(inside, scores, np.nan)
                        chosen = ~np.isnan(scores)
                        if chosen.any():
                            middle = {"middle": float(np.median(values[chosen]))}
                            found = _statistics(scores)
                            found = {name: found[name] for name in ("number", "mean", "error")}
                            rows.append(limits | {"metric": metric, "of": of} | middle | found)
        return QTable(rows, meta=self._meta())

    def to_texture_table(self):
        """Say how rough components are beside the truth.

        Returns
        -------
        `~astropy.table.QTable`
            A row each for both components together and each branch. Power of output over truth
            in the galaxies' footprints, one value per bin of spatial frequency (their middles
            are ``frequencies`` in the metadata, in cycles per pixel): ``power_ratio`` of the
            sums, ``median_power_ratio`` of the components' own. On the occluded pixels,
            ``occluded_psnr`` (dB) and ``occluded_roughness`` (of output over truth), with their
            errors as in `to_table`. `astrodeblend.texture` defines them.
        """
        number = len(self.blends)
        rows = []
        for of, part in zip(("components", *BRANCHES), (slice(None), 0, 1), strict=True):
            texture = self.texture[:, part]
            row = {"of": of, "power_ratio": texture.power_ratio}
            row["median_power_ratio"] = texture.median_power_ratio
            for name in ("occluded_psnr", "occluded_roughness"):
                row[name] = getattr(texture, name)
                row[f"{name}_error"] = np.nan
                if number > 1:
                    row[f"{name}_error"] = bootstrap_error(
                        np.arange(number),
                        lambda k, name=name, texture=texture: getattr(texture[k.astype(int)], name),
                        resamples=_RESAMPLES,
                        rng=0,
                    )
            rows.append(row)
        meta = {"frequencies": frequencies().tolist(), "unit of frequencies": "cycles per pixel"}
        return QTable(rows, meta=self._meta() | meta)

    def to_coverage_table(self):
        """Say how many truths are within the error bars.

        Returns
        -------
        `~astropy.table.QTable`
            `astrodeblend.calibration.Coverage.rows`: of pixels in the galaxies' footprints and
            of fluxes.
        """
        meta = {"blends of coverage": len(self.coverage)}
        return QTable(self.coverage.rows(), meta=self._meta() | meta)

    def to_blend_table(self):
        """List every blend with its properties and scores.

        Returns
        -------
        `~astropy.table.QTable`
            `astrodeblend.blends.BlendSet.to_table`, ``separation``, ``flux_ratio``,
            ``overlap_central`` and ``overlap_companion``, and for each metric and branch a
            column such as ``psnr_central``.
        """
        table = self.blends.to_table()
        table.meta |= {"model": self.model, "sha256": self.sha256}
        for name, values in (self.properties | self.scores).items():
            if values.ndim == 1:
                table[name] = values
            else:
                for k, branch in enumerate(BRANCHES):
                    table[f"{name}_{branch}"] = values[:, k]
        return table

    def to_dict(self):
        """Return everything that `str` shows, for JSON: numbers that are not finite are None."""
        tables = {
            "table": self.to_table(),
            "bins": self.to_bin_table(),
            "texture": self.to_texture_table(),
            "coverage": self.to_coverage_table(),
        }
        content = {
            "model": self.model,
            "sha256": self.sha256,
            "cost": self.cost,
            "blends": len(self.blends),
            "galaxies": self.blends.galaxies,
            "uses": list(self.blends.uses),
            "folder": str(self.blends.folder),
            **self.blends.meta,
            "versions": self.versions,
            "arithmetic": self.arithmetic,
            "published": PUBLISHED,
            "frequencies": tables["texture"].meta["frequencies"],
        }
        for name, table in tables.items():
            content[name] = [dict(zip(table.colnames, row, strict=True)) for row in table]
        calibration = {"curve": self.coverage.curve(), "binned": self.coverage.binned()}
        content["calibration"] = {"blends": len(self.coverage), **calibration}
        return plain(content)

    def on_card(self, card):
        """Return a card with these scores added.

        Parameters
        ----------
        card : astrodeblend.weights.Card
            Of the model; scores of the same recipe and split, or folder where there is none,
            are replaced.

        Returns
        -------
        astrodeblend.weights.Card
        """
        folder = Path(self.blends.folder).resolve().name
        scores = {"blends": len(self.blends), "seed": self.blends.seed}
        scores |= {"arithmetic": self.arithmetic} | ({} if self.blends.split else {"data": folder})
        for metric, values in self.scores.items():
            statistics = {**table_statistics(values), "p1": np.percentile(values, 1)}
            scores[metric] = {name: round(float(v), 4) for name, v in statistics.items()}
        name = f"{self.blends.recipe.name} on {self.blends.split or f'folder {folder}'}"
        return replace(card, scores={**card.scores, name: scores})

    def write(self, folder, *, overwrite=False):
        """Write tables, list of blends, and figures to a folder: all of the files, or none.

        Parameters
        ----------
        folder : str or path-like
            Where to; it is made if its parent exists. The files are ``table.ecsv``,
            ``bins.ecsv``, ``texture.ecsv``, ``coverage.ecsv`` and ``blends.ecsv`` (see the
            methods that make tables), ``scores.json`` (`to_dict`), and the figures
            ``distributions.png``, ``bins.png``, ``power.png``, ``calibration.png``,
            ``successes.png`` and ``failures.png``.
        overwrite : bool, optional
            Replace files that are there already.

        Raises
        ------
        FileExistsError, FileNotFoundError, PermissionError
            If a file exists, the folder's parent does not, or nothing can be written there.
        """
        with atomic_paths(folder, FILES, overwrite=overwrite) as places:
            for content, place in zip(self._contents(), places, strict=True):
                _save(content, place)

    def _contents(self):
        """Return what goes into the files, in their order."""
        title = f"{self.model} on {len(self.blends)} blends, recipe {self.blends.recipe.name}"
        chance = f"at random from those above the median PSNR (seed {self.blends.seed})"
        bins, texture = self.to_bin_table(), self.to_texture_table()
        labels = {name: label for name, (label, _) in BINS.items()}
        means = {name: values["mean"] for name, values in PUBLISHED.items()}
        return (
            self.to_table(),
            bins,
            texture,
            self.to_coverage_table(),
            self.to_blend_table(),
            self.to_dict(),
            figures.distributions(self.scores, means, title=title),
            figures.bins(bins, labels, title=title),
            figures.power(texture, title=title),
            figures.calibration(self.coverage.curve(), self.coverage.binned(), title=title),
            figures.panels(self.successes, title=f"{title}: {chance}"),
            figures.panels(self.failures, title=f"{title}: lowest PSNR, worst first"),
        )

    def __str__(self):
        return text_of(self)

    def _meta(self):
        meta = {"model": self.model, "sha256": self.sha256, "blends": len(self.blends)}
        return meta | self.blends.meta

    def _parts(self, metric, *, sources=False):
        """Return scores (blends, 2) of what tables list, NaN for components that are not of it."""
        scores = self.scores[metric]
        parts = {"components": scores}
        for k, branch in enumerate(BRANCHES):
            parts[branch] = np.where(np.arange(2) == k, scores, np.nan)
        if sources:
            folders = self.blends.subfolders
            names = np.unique(folders)
            for name in names if len(names) > 1 else ():
                parts[name or "(no sub-folder)"] = np.where(folders == name, scores, np.nan)
            both = self.blends.isolated.all(axis=1)
            if both.any() and not both.all():
                parts["both isolated"] = np.where(both[:, None], scores, np.nan)
        return parts | {"blend itself": self.blend_scores[metric]}


def evaluate(deblender, blends, *, examples=24, progress=False):
    """Take blends with known truth apart and score the components.

    Parameters
    ----------
    deblender : Deblender
        With a model for colour pictures.
    blends : BlendSet
        What to try it on.
    examples : int, optional
        How many failures and successes to keep the images of; no others stay in memory.
    progress : bool, optional
        Show progress bars.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If the model is not one for colour pictures, or ``examples`` is not positive.
    """
    card = deblender.card
    check_model(card)
    if examples < 1:
        raise ValueError(f"examples={examples}: give at least 1")
    scores, blend_scores = ({name: [] for name in METRICS} for _ in range(2))
    ratios, overlaps, textures, coverages = [], [], [], []
    calibration = Calibration(**card.calibration)
    start = 0
    for blend, isolated in blends.batches(progress=progress):
        if start < _COVERED:
            components, std = deblender.deblend_arrays(blend, std="calibrated")
            few = slice(_COVERED - start)
            arrays = (each[few] for each in (components, std, isolated))
            sky = blends.sky[start : start + len(blend)][few]
            coverages.append(Coverage.of(*arrays, calibration, sky=sky))
        else:
            components = deblender.deblend_arrays(blend)
        nothing_done = np.broadcast_to(blend[:, None], isolated.shape)
        for name, metric in METRICS.items():
            scores[name].append(metric(components, isolated))
            blend_scores[name].append(metric(nothing_done, isolated))
        sky = blends.sky[start : start + len(blend), None, :, None, None]
        start += len(blend)
        ratios.append(flux_ratio(isolated - sky))
        overlaps.append(overlap(isolated - sky))
        textures.append(Texture.of(components - sky, isolated - sky))
    scores, blend_scores = (
        {name: np.concatenate(parts) for name, parts in each.items()}
        for each in (scores, blend_scores)
    )
    order = scores["psnr"].mean(axis=1).argsort(kind="stable")
    better = np.random.default_rng(blends.seed).permutation(order[len(order) // 2 :])
    return Evaluation(
        model=card.name,
        sha256=card.sha256,
        cost=_cost(deblender, blends.recipe.stamp),
        versions={"astrodeblend": __version__, "torch": torch.__version__},
        arithmetic=deblender.arithmetic,
        blends=blends,
        scores=scores,
        blend_scores=blend_scores,
        properties={
            "separation": blends.separation,
            "flux_ratio": np.concatenate(ratios),
            "overlap": np.concatenate(overlaps),
        },
        texture=Texture.join(textures),
        coverage=Coverage.join(coverages),
        failures=_make_examples(deblender, blends, order[:examples]),
        successes=_make_examples(deblender, blends, better[:examples]),
    )


def _statistics(scores):
    """Summarise scores (blends, 2); those that are NaN do not count."""
    values = scores[~np.isnan(scores)]
    return {
        "number": len(values),
        **table_statistics(values),
        "error": _error_of_mean(scores),
        "p1": float(np.percentile(values, 1)),
    }


def _error_of_mean(scores):
    """Bootstrap over blends: resample rows of (sum, number), whose components go together."""
    rows = np.stack([np.nansum(scores, axis=1), (~np.isnan(scores)).sum(axis=1)], axis=1)
    rows = rows[rows[:, 1] > 0]
    if len(rows) < 2:
        return np.nan
    return bootstrap_error(rows, _ratio_of_means, resamples=_RESAMPLES, rng=0)


def _ratio_of_means(rows):
    total, number = rows.sum(axis=0)
    return total / number


def _cost(deblender, size):
    """Count what the network does for one stamp; it is run once."""
    card = deblender.card
    stamp = np.zeros((1, len(card.bands), size, size), np.float32)
    with FlopCounterMode(display=False) as counter:
        deblender.deblend_arrays(stamp)
    with torch.device("meta"):  # shapes without memory
        parameters = sum(p.numel() for p in build(**card.network).parameters())
    # A multiply-accumulate counts as two operations.
    return {"gmac": counter.get_total_flops() / 2e9, "parameters": parameters}


def _make_examples(deblender, blends, index):
    """Make some of the blends again, and take them apart again."""
    blend, isolated = map(np.concatenate, zip(*blends[index].batches(), strict=True))
    return Examples(index, blend, isolated, np.asarray(deblender.deblend_arrays(blend)))


def _save(content, path):
    if isinstance(content, QTable):
        content.write(path, format="ascii.ecsv")
    elif isinstance(content, dict):
        path.write_text(json.dumps(content, indent=1) + "\n")
    else:
        content.savefig(path)
