"""How well a model takes blends with known truth apart: the paper's table, and more."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from astropy.table import QTable
from torch.utils.flop_counter import FlopCounterMode

from astrodeblend import __version__
from astrodeblend.blends import (
    BRANCHES,
    PAPER_BLENDS,
    PUBLISHED,
    STATISTICS,
    flux_ratio,
    overlap,
)
from astrodeblend.calibration import Calibration, Coverage
from astrodeblend.metrics import table_statistics
from astrodeblend.networks import build
from astrodeblend.texture import Texture, frequencies
from astrodeblend.weights import check_model

from . import figures
from .pictures import METRICS
from .report import (
    Report,
    limits_text,
    number_text,
    ratio_of_sums,
    rows_of,
    share_text,
    standard_error,
)

__all__ = ["Examples", "evaluate", "summary_of"]

#: What scores are binned by, in which bins: from the first value up to, not with, the second.
BINS = {
    "separation": ("separation of the centres (stamp pixels)", (0, 8, 12, 16, 20, np.inf)),
    "flux_ratio": (
        "flux ratio, companion to central (magnitudes)",
        (-np.inf, -1, 0, 1, 2, 3, np.inf),
    ),
    "overlap": (
        "overlap: share of own light where the other is brighter",
        (0, 0.01, 0.1, 0.3, 0.6, np.inf),
    ),
}
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
    Report
        Its tables:

        ``table``
            As the paper's Table 1, a row per ``metric`` and what it is ``of``: both components
            together, each branch, the components whose galaxies come from each sub-folder (if
            there are several), those of blends of two pictures that show one galaxy alone (if
            others do not), the blend itself. Columns: their ``number``; ``mean``, the ``error``
            of the mean, ``median``, ``max``, ``min``, ``variance``, and ``p1``, the 1st
            percentile. PSNR is in dB, of images from 0 to 1; ``ssim_reiman2019`` is the lenient
            scale of the paper, ``ssim`` the strict one. The error is by bootstrap over blends
            (both components of a blend go together); that galaxies are part of several blends it
            does not know.
        ``bins``
            A row per ``quantity`` (separation, flux ratio, overlap), bin, ``metric`` and what it
            is ``of`` (both components together, each branch, the blend itself). Columns: the
            bin's limits ``low`` and ``high``, the ``middle`` (median of the quantity in the bin),
            the ``number`` of images, their ``mean`` and its ``error``. Empty bins are left out.
        ``texture``
            A row each for both components together and each branch. Power of output over truth
            in the galaxies' footprints, one value per bin of spatial frequency (their middles
            are ``frequencies`` in the metadata, in cycles per pixel): ``power_ratio`` of the
            sums, ``median_power_ratio`` of the components' own. On the occluded pixels,
            ``occluded_psnr`` (dB) and ``occluded_roughness`` (of output over truth), with their
            errors. `astrodeblend.texture` defines them.
        ``coverage``
            `astrodeblend.calibration.Coverage.rows`: how many truths are within the error bars,
            of pixels in the galaxies' footprints and of fluxes, in the first 1,024 of the blends.
        ``blends``
            `astrodeblend.blends.BlendSet.to_table`, ``separation``, ``flux_ratio``,
            ``overlap_central`` and ``overlap_companion``, and for each metric and branch a
            column such as ``psnr_central``.

        ``measured`` has the scores of every component, shape (blends, 2), by metric (``scores``),
        those of the blend itself (``blend_scores``), and the `Examples` that are drawn:
        ``failures``, the blends with the lowest PSNR (mean of both components), worst first, and
        ``successes``, random ones of those above the median, chosen by the seed of the blends.

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
    properties = {
        "separation": blends.separation,
        "flux_ratio": np.concatenate(ratios),
        "overlap": np.concatenate(overlaps),
    }
    failures = _make_examples(deblender, blends, order[:examples])
    successes = _make_examples(deblender, blends, better[:examples])
    measured = SimpleNamespace(
        blends=blends, scores=scores, blend_scores=blend_scores, properties=properties,
        failures=failures, successes=successes,
    )  # fmt: skip
    texture, coverage = Texture.join(textures), Coverage.join(coverages)
    meta = {"model": card.name, "sha256": card.sha256, "blends": len(blends)} | blends.meta
    waves = {"frequencies": frequencies().tolist(), "unit of frequencies": "cycles per pixel"}
    listed = blends.to_table()
    listed.meta |= {"model": card.name, "sha256": card.sha256}
    for name, values in (properties | scores).items():
        if values.ndim == 1:
            listed[name] = values
        else:
            for k, branch in enumerate(BRANCHES):
                listed[f"{name}_{branch}"] = values[:, k]
    tables = {
        "table": QTable(_scores(measured), meta=dict(meta))["metric", "of", "number", *STATISTICS],
        "bins": QTable(_bins(measured), meta=dict(meta)),
        "texture": QTable(_texture(texture), meta=meta | waves),
        "coverage": QTable(coverage.rows(), meta=meta | {"blends of coverage": len(coverage)}),
        "blends": listed,
    }
    calibrated = {"curve": coverage.curve(), "binned": coverage.binned()}
    numbers = {
        "model": card.name, "sha256": card.sha256, "cost": _cost(deblender, blends.recipe.stamp),
        "blends": len(blends), "galaxies": blends.galaxies, "uses": list(blends.uses),
        "folder": str(blends.folder), **blends.meta,
        "versions": {"astrodeblend": __version__, "torch": torch.__version__},
        "arithmetic": deblender.arithmetic, "published": PUBLISHED,
        "frequencies": waves["frequencies"],
        **{name: rows_of(table) for name, table in tables.items() if name != "blends"},
        "calibration": {"blends": len(coverage), **calibrated},
    }  # fmt: skip
    title = f"{card.name} on {len(blends)} blends, recipe {blends.recipe.name}"
    chance = f"at random from those above the median PSNR (seed {blends.seed})"
    labels = {name: label for name, (label, _) in BINS.items()}
    means = {name: values["mean"] for name, values in PUBLISHED.items()}
    return Report(
        text="\n".join(_lines(numbers, blends, tables)),
        tables=tables,
        numbers=numbers,
        json="scores",
        figures={
            "distributions": lambda: figures.distributions(scores, means, title=title),
            "bins": lambda: figures.bins(tables["bins"], labels, title=title),
            "power": lambda: figures.power(tables["texture"], title=title),
            "calibration": lambda: figures.calibration(**calibrated, title=title),
            "successes": lambda: figures.panels(successes, title=f"{title}: {chance}"),
            "failures": lambda: figures.panels(
                failures, title=f"{title}: lowest PSNR, worst first"
            ),
        },
        card_scores={card.sha256[:8]: _card_scores(blends, scores, deblender.arithmetic)},
        measured=measured,
    )


def _card_scores(blends, scores, arithmetic):
    """Return what the card gets, by recipe and split, or folder where there is none."""
    folder = Path(blends.folder).resolve().name
    found = {"blends": len(blends), "seed": blends.seed, "arithmetic": arithmetic}
    found |= {} if blends.split else {"data": folder}
    for metric, values in scores.items():
        statistics = {**table_statistics(values), "p1": np.percentile(values, 1)}
        found[metric] = {name: round(float(v), 4) for name, v in statistics.items()}
    return {f"{blends.recipe.name} on {blends.split or f'folder {folder}'}": found}


def _parts(measured, metric, *, sources=False):
    """Return scores (blends, 2) of what tables list, NaN for components that are not of it."""
    scores, blends = measured.scores[metric], measured.blends
    parts = {"components": scores}
    for k, branch in enumerate(BRANCHES):
        parts[branch] = np.where(np.arange(2) == k, scores, np.nan)
    if sources:
        folders = blends.subfolders
        names = np.unique(folders)
        for name in names if len(names) > 1 else ():
            parts[name or "(no sub-folder)"] = np.where(folders == name, scores, np.nan)
        both = blends.isolated.all(axis=1)
        if both.any() and not both.all():
            parts["both isolated"] = np.where(both[:, None], scores, np.nan)
    return parts | {"blend itself": measured.blend_scores[metric]}


def _scores(measured):
    """Return rows of all scores."""
    return [
        {"metric": metric, "of": of, **_statistics(values)}
        for metric in measured.scores
        for of, values in _parts(measured, metric, sources=True).items()
    ]


def _bins(measured):
    """Return rows of scores in bins of separation, flux ratio and overlap."""
    rows = []
    for quantity, (_, edges) in BINS.items():
        values = measured.properties[quantity].reshape(len(measured.blends), -1)
        values = np.broadcast_to(values, (len(values), 2))
        for low, high in pairwise(edges):
            inside = (low <= values) & (values < high)
            limits = {"quantity": quantity, "low": float(low), "high": float(high)}
            for metric in measured.scores if inside.any() else ():
                for of, scores in _parts(measured, metric).items():
                    scores = np.where(inside, scores, np.nan)
                    chosen = ~np.isnan(scores)
                    if chosen.any():
                        middle = {"middle": float(np.median(values[chosen]))}
                        found = _statistics(scores)
                        found = {name: found[name] for name in ("number", "mean", "error")}
                        rows.append(limits | {"metric": metric, "of": of} | middle | found)
    return rows


def _texture(texture):
    """Return rows of how rough components are beside the truth."""
    index, rows = np.arange(len(texture)), []
    for of, part in zip(("components", *BRANCHES), (slice(None), 0, 1), strict=True):
        some = texture[:, part]
        row = {"of": of, "power_ratio": some.power_ratio}
        row["median_power_ratio"] = some.median_power_ratio
        for name in ("occluded_psnr", "occluded_roughness"):
            row[name] = getattr(some, name)
            row[f"{name}_error"] = standard_error(
                index, lambda k, name=name, some=some: getattr(some[k.astype(int)], name)
            )
        rows.append(row)
    return rows


def summary_of(evaluations):
    """Compare evaluations of one model on several recipes, a line each.

    Parameters
    ----------
    evaluations : sequence of Report
        One per recipe.

    Returns
    -------
    str
    """
    names = ("PSNR (dB)", "min", "p1", "ssim_reiman2019", "ssim", "PSNR of the blend itself")
    lines = [f"{'recipe':20}{'blends':>8}" + "".join(f"{name:>{len(name) + 4}}" for name in names)]
    for each in evaluations:
        of = each.measured
        score = of.scores["psnr"]
        numbers = [
            (score.mean(), 2), (score.min(), 2), (np.percentile(score, 1), 2),
            (of.scores["ssim_reiman2019"].mean(), 4), (of.scores["ssim"].mean(), 4),
            (of.blend_scores["psnr"].mean(), 2),
        ]  # fmt: skip
        lines.append(
            f"{of.blends.recipe.name:20}{len(of.blends):8}"
            + "".join(
                number_text(value, digits, len(name) + 4)
                for name, (value, digits) in zip(names, numbers, strict=True)
            )
        )
    return "\n".join(lines)


def _lines(numbers, blends, tables):
    """Yield everything in words: what was tried on what, the paper's table, bins, texture."""
    cost = numbers["cost"]
    yield f"model {numbers['model']} (sha256 {numbers['sha256'][:12]})"
    size = f"{cost['parameters'] / 1e6:.2f} million parameters"
    yield f"{size}; {cost['gmac']:.2f} GMAC a stamp, {numbers['arithmetic']}"
    yield str(blends)
    yield f"(the paper: {PAPER_BLENDS} blends of {2 * PAPER_BLENDS} galaxies, each once)"
    yield ", ".join(f"{name} {version}" for name, version in numbers["versions"].items())
    yield from ("", *_score_lines(tables["table"]))
    bins = tables["bins"]
    for quantity, (label, _) in BINS.items():
        yield from ("", f"by {label}", *_bin_lines(bins[bins["quantity"] == quantity]))
    yield from ("", *_texture_lines(tables["texture"]), "")
    number = tables["coverage"].meta["blends of coverage"]
    some = f" of the first {number} blends" * (number < len(blends))
    yield f"truths within the error bars{some} (%)"
    yield f"{'':26}{'number':>8}{'within 68.3 %':>18}{'within 95.4 %':>18}{'which is':>18}"
    for row in tables["coverage"]:
        cells = "".join(share_text(row, f"within_{share}", 18) for share in ("68", "95"))
        interval = f"± {row['interval_95']:.2f} errors".rjust(18)
        yield f"  {row['kind'] + ', ' + row['of']:24}{row['number']:8}{cells}{interval}"
    twice = " (that galaxies are in several of them is not in it)" * (blends.uses[1] > 1)
    yield from ("", f"error, ±: standard error, by bootstrap over the blends{twice}")


def _score_lines(table):
    """Lay out the paper's Table 1, a metric below the other."""
    yield f"{'':26}{'number':>8}" + "".join(f"{name:>10}" for name in STATISTICS)
    for metric in dict.fromkeys(table["metric"]):
        digits = 2 if metric == "psnr" else 4
        yield metric + (" (dB)" if metric == "psnr" else "")
        rows = {row["of"]: row for row in rows_of(table[table["metric"] == metric])}
        if metric in PUBLISHED:
            rows["Reiman & Goehre 2019"] = {"number": 2 * PAPER_BLENDS, **PUBLISHED[metric]}
        for of, row in rows.items():
            numbers = [number_text(row.get(name, np.nan), digits, 10) for name in STATISTICS]
            yield f"  {of:24}{row['number']:8}{''.join(numbers)}"


def _bin_lines(bins):
    """Lay out the bins of one quantity, a line each."""
    shown = [
        ("psnr", "components", 2), ("psnr", "central", 2), ("psnr", "companion", 2),
        ("psnr", "blend itself", 2), ("ssim_reiman2019", "components", 4),
        ("ssim", "components", 4),
    ]  # fmt: skip
    rows = {}
    for row in bins:
        rows.setdefault((row["low"], row["high"]), {})[row["metric"], row["of"]] = row
    yield f"{'':16}{'number':>8}" + "".join(f"{metric:>18}" for metric, _, _ in shown)
    yield f"{'':24}" + "".join(f"{of:>18}" for _, of, _ in shown)
    for (low, high), row in rows.items():
        numbers = ""
        for metric, of, digits in shown:
            each = row.get((metric, of), {"mean": np.nan, "error": np.nan})
            numbers += number_text(each["mean"], digits, 18, each["error"])
        yield f"  {limits_text(low, high):14}{row['psnr', 'components']['number']:8}{numbers}"


def _texture_lines(table):
    yield "power of output over truth in the footprints, by spatial frequency (cycles per pixel)"
    yield f"{'':26}" + "".join(f"{k:8.3f}" for k in table.meta["frequencies"])
    for name, text in (("power_ratio", ""), ("median_power_ratio", ", median")):
        for row in table:
            yield f"  {row['of'] + text:24}" + "".join(number_text(v, 3, 8) for v in row[name])
    yield f"{'occluded pixels':26}{'PSNR (dB)':>18}{'roughness of output over truth':>34}"
    for row in table:
        psnr, roughness = (
            number_text(row[name], digits, width, row[f"{name}_error"])
            for name, digits, width in (("occluded_psnr", 2, 18), ("occluded_roughness", 3, 34))
        )
        yield f"  {row['of']:24}{psnr}{roughness}"


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
    return standard_error(rows, ratio_of_sums)


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
