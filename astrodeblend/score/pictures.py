"""Blends of colour pictures, as the benchmark scores them."""

import numpy as np
from astropy.table import QTable

from astrodeblend.metrics import bootstrap_error, flux_error, psnr, ssim, ssim_reiman2019
from astrodeblend.weights import check_model

from . import figures
from .methods import Batch
from .report import rows_of, table_lines

__all__ = ["METRICS", "Pictures"]

#: What is measured, in the order of the paper's Table 1.
METRICS = {"psnr": psnr, "ssim_reiman2019": ssim_reiman2019, "ssim": ssim}
_BATCH = 32  # stamps at once, also while a model is timed
_NOTES = """\
PSNR of images from 0 to 1, both components together. Of a peer, the pair of sources that scores \
highest is taken, in the better order, and its other sources are dropped or added to the nearer \
of the pair, whichever scores higher. Models are scored as they come.
±: standard error of the mean, by bootstrap over blends.
By position: mean PSNR without that look at the truth; a galaxy gets the source at its position.
Flux error: median of |found / true - 1| in the true galaxy's footprint.
Failures: blends in which a peer found fewer than two sources, or stopped with an error. The \
blend is then taken for both galaxies, or the one source and the sky, whichever scores higher.
""".splitlines()
# What the table shows of a column: heading (two lines) and digits.
_SHOWN = {
    "blends": ("", "blends", 0),
    "psnr_mean": ("PSNR dB", "mean", 2),
    "psnr_error": ("", "±", 2),
    "psnr_median": ("", "median", 2),
    "psnr_p1": ("", "1 %", 2),
    "psnr_min": ("", "min", 2),
    "psnr_by_position": ("by posi-", "tion", 2),
    "psnr_same_blends": ("same", "blends", 2),
    "psnr_same_error": ("", "±", 2),
    "ssim": ("", "ssim", 3),
    "ssim_reiman2019": ("ssim_rei-", "man2019", 3),
    "flux_error": ("flux", "error", 3),
    "failures": ("fail-", "ures", 0),
    "milliseconds": ("ms per", "blend", 1),
}


class Pictures:
    """Blends of colour pictures, and how they are scored."""

    limits, best, quality = (0, 1), "psnr_mean", {"ylabel": "mean PSNR (dB)"}
    given, grid = "given", "grid"  # attributes of methods
    notes, truth = _NOTES, None

    def __init__(self, blends):
        self.blends = blends
        self.meta = {"blends": len(blends), "folder": str(blends.folder), **blends.meta}

    check = staticmethod(check_model)

    def batches(self, *, progress=False):
        """Yield each `Batch`."""
        start, positions = 0, true_positions(self.blends)
        for blend, isolated in self.blends.batches(_BATCH, progress=progress):
            yield Batch(blend, isolated, positions[start : start + len(blend)])
            start += len(blend)

    @staticmethod
    def scores(batch, images, placed, std, method):
        """Return what `Entry` says, of components as they are scored, and by position."""
        scores = {name: metric(images, batch.isolated) for name, metric in METRICS.items()}
        scores["flux_error"] = flux_error(images, batch.isolated)
        return scores | {"by_position": psnr(placed, batch.isolated)}

    @staticmethod
    def tuned(entry):
        """Return what settings are compared by."""
        row = _summary(entry)
        return {name: row[name] for name in ("psnr_mean", "psnr_by_position")}

    @staticmethod
    def value(entry, number):
        """Return what is drawn against time, of the first blends."""
        return entry.scores["psnr"][:number].mean()

    def tables(self, entries, same, meta):
        """Return the table that `benchmark` describes, its lines, and numbers for JSON."""
        table = QTable([_summary(entry, same) for entry in entries], meta=meta)
        deblenders = [
            row | {"kind": entry.kind, "given": entry.given, "settings": entry.settings,
                   "reasons of failures": entry.failures}
            for row, entry in zip(rows_of(table), entries, strict=True)
        ]  # fmt: skip
        lines = [f"{self.blends}", "", *table_lines(table, ("deblender", "version"), _SHOWN)]
        return {"benchmark": table}, (lines, []), {"deblenders": deblenders}

    def pictures(self, first, drawn):
        """Return the first blends, and what was made of them."""
        made = dict(list(drawn.items())[1:])
        number = len(next(iter(drawn.values())))
        return {"truth": first.isolated[:number], "blend": first.blend[:number]} | made

    def labels(self, entries, pictures):
        """Return the PSNR to write on components."""
        made, truth = pictures.keys() - {"truth", "blend"}, pictures["truth"]
        return {n: figures.psnr_texts(pictures[n], truth[: len(pictures[n])]) for n in made}

    def card_scores(self, table, meta):
        """Return nothing: `evaluate` has what stands on a card."""
        return {}


def _summary(entry, same=None):
    """Return a deblender's row of the table."""
    score = entry.scores["psnr"]
    row = {
        "deblender": entry.name,
        "version": entry.version,
        "blends": len(entry),
        "psnr_mean": score.mean(),
        "psnr_error": bootstrap_error(score, rng=0),
        "psnr_median": np.median(score),
        "psnr_p1": np.percentile(score, 1),
        "psnr_min": score.min(),
        "psnr_by_position": entry.scores["by_position"].mean(),
    }
    if same is not None:
        row["psnr_same_blends"] = score[:same].mean()
        row["psnr_same_error"] = bootstrap_error(score[:same], rng=0)
    return row | {
        "ssim": entry.scores["ssim"].mean(),
        "ssim_reiman2019": entry.scores["ssim_reiman2019"].mean(),
        "flux_error": np.nanmedian(np.abs(entry.scores["flux_error"])),
        "failures": entry.failed,
        "milliseconds": entry.milliseconds,
    }


def true_positions(blends):
    """Return where the two galaxies of each blend are, (n, 2, 2): x and y in stamp pixels."""
    recipe, draw = blends.recipe, blends.draw
    middle = np.array([(recipe.crop - 1) / 2] * 2 + [1])
    # where a pixel comes from, inverted: where the middle of a galaxy's image goes to
    moved = [np.linalg.inv(matrix) @ middle for matrix in draw.matrices(recipe.crop)]
    return (np.stack(moved, axis=1)[..., :2] - recipe.factor // 2) / recipe.factor
