"""An evaluation as text, and what its tables are made of."""

import numpy as np

from astrodeblend.blends import PAPER_BLENDS

__all__ = ["BINS", "PUBLISHED", "STATISTICS", "summary_of", "text_of"]

#: Reiman & Goehre (2019), Table 1, on their own test set.
PUBLISHED = {
    "psnr": {"mean": 34.61, "median": 34.83, "max": 40.45, "min": 21.34, "variance": 4.88},
    "ssim_reiman2019": {
        "mean": 0.928, "median": 0.934, "max": 0.982, "min": 0.576, "variance": 0.001,
    },
}  # fmt: skip
#: Columns of the table, after what is measured and of what.
STATISTICS = ("mean", "error", "median", "max", "min", "variance", "p1")
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


def text_of(evaluation):
    """Lay out an evaluation: what was tried on what, the paper's table, bins, texture.

    Parameters
    ----------
    evaluation : astrodeblend.evaluate.Evaluation
        What to show.

    Returns
    -------
    str
    """
    cost = evaluation.cost
    bins = evaluation.to_bin_table()
    size = f"{cost['parameters'] / 1e6:.2f} million parameters"
    lines = [
        f"model {evaluation.model} (sha256 {evaluation.sha256[:12]})",
        f"{size}; {cost['gmac']:.2f} GMAC a stamp, {evaluation.arithmetic}",
        str(evaluation.blends),
        f"(the paper: {PAPER_BLENDS} blends of {2 * PAPER_BLENDS} galaxies, each once)",
        ", ".join(f"{name} {version}" for name, version in evaluation.versions.items()),
        "",
        *_score_lines(evaluation.to_table()),
    ]
    for quantity, (label, _) in BINS.items():
        lines += ["", f"by {label}", *_bin_lines(bins[bins["quantity"] == quantity])]
    lines += ["", *_texture_lines(evaluation.to_texture_table())]
    lines += ["", *_coverage_lines(evaluation)]
    lines += ["", "error, ±: standard error, by bootstrap over the blends"]
    if evaluation.blends.uses[1] > 1:
        lines[-1] += " (that galaxies are in several of them is not in it)"
    return "\n".join(lines)


def summary_of(evaluations):
    """Compare evaluations of one model on several recipes, a line each.

    Parameters
    ----------
    evaluations : sequence of Evaluation
        One per recipe.

    Returns
    -------
    str
    """
    names = ("PSNR (dB)", "min", "p1", "ssim_reiman2019", "ssim", "PSNR of the blend itself")
    lines = [f"{'recipe':20}{'blends':>8}" + "".join(f"{name:>{len(name) + 4}}" for name in names)]
    for each in evaluations:
        score = each.scores["psnr"]
        numbers = [
            (score.mean(), 2), (score.min(), 2), (np.percentile(score, 1), 2),
            (each.scores["ssim_reiman2019"].mean(), 4), (each.scores["ssim"].mean(), 4),
            (each.blend_scores["psnr"].mean(), 2),
        ]  # fmt: skip
        lines.append(
            f"{each.blends.recipe.name:20}{len(each.blends):8}"
            + "".join(
                _number(value, digits, len(name) + 4)
                for name, (value, digits) in zip(names, numbers, strict=True)
            )
        )
    return "\n".join(lines)


def _score_lines(table):
    """Lay out the paper's Table 1, a metric below the other."""
    yield f"{'':26}{'number':>8}" + "".join(f"{name:>10}" for name in STATISTICS)
    for metric in dict.fromkeys(table["metric"]):
        digits = 2 if metric == "psnr" else 4
        yield metric + (" (dB)" if metric == "psnr" else "")
        rows = {
            row["of"]: dict(zip(table.colnames, row, strict=True))
            for row in table[table["metric"] == metric]
        }
        if metric in PUBLISHED:
            rows["Reiman & Goehre 2019"] = {"number": 2 * PAPER_BLENDS, **PUBLISHED[metric]}
        for of, row in rows.items():
            numbers = [_number(row.get(name, np.nan), digits, 10) for name in STATISTICS]
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
        text = f"{low:g} to {high:g}"
        if np.isinf(low) or np.isinf(high):
            text = f"below {high:g}" if np.isinf(low) else f"from {low:g}"
        numbers = ""
        for metric, of, digits in shown:
            each = row.get((metric, of), {"mean": np.nan, "error": np.nan})
            numbers += _with_error(each["mean"], each["error"], digits, 18)
        yield f"  {text:14}{row['psnr', 'components']['number']:8}{numbers}"


def _texture_lines(table):
    yield "power of output over truth in the footprints, by spatial frequency (cycles per pixel)"
    yield f"{'':26}" + "".join(f"{k:8.3f}" for k in table.meta["frequencies"])
    for name, text in (("power_ratio", ""), ("median_power_ratio", ", median")):
        for row in table:
            yield f"  {row['of'] + text:24}" + "".join(_number(v, 3, 8) for v in row[name])
    yield f"{'occluded pixels':26}{'PSNR (dB)':>18}{'roughness of output over truth':>34}"
    for row in table:
        psnr, roughness = (
            _with_error(row[name], row[f"{name}_error"], digits, width)
            for name, digits, width in (("occluded_psnr", 2, 18), ("occluded_roughness", 3, 34))
        )
        yield f"  {row['of']:24}{psnr}{roughness}"


def _coverage_lines(evaluation):
    number = len(evaluation.coverage)
    blends = f" of the first {number} blends" * (number < len(evaluation.blends))
    yield f"truths within the error bars{blends} (%)"
    yield f"{'':26}{'number':>8}{'within 68.3 %':>18}{'within 95.4 %':>18}{'which is':>18}"
    for row in evaluation.to_coverage_table():
        cells = "".join(
            _with_error(100 * row[f"within_{share}"], 100 * row[f"within_{share}_error"], 1, 18)
            for share in ("68", "95")
        )
        interval = f"± {row['interval_95']:.2f} errors".rjust(18)
        yield f"  {row['kind'] + ', ' + row['of']:24}{row['number']:8}{cells}{interval}"


def _number(value, digits, width):
    text = "-" if np.isnan(value) else f"{value:.{digits}f}"
    return text.rjust(width)


def _with_error(value, error, digits, width):
    if np.isnan(error):
        return _number(value, digits, width)
    return f"{value:.{digits}f} ± {error:.{digits}f}".rjust(width)
