"""How well a model takes blends with known truth apart: the paper's table."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.table import QTable

from astrodeblend.blends import BRANCHES, PAPER_BLENDS, BlendSet
from astrodeblend.files import atomic_path
from astrodeblend.metrics import psnr, ssim, ssim_reiman2019, table_statistics

__all__ = ["Evaluation", "evaluate"]

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
        table = QTable(rows, meta=meta | self.blends.meta)
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
