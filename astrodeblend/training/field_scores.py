"""Completeness, purity and flux errors of networks for fields, on simulated fields."""

from itertools import pairwise

import numpy as np
import torch

from ..networks import UNCALIBRATED, find_centres, least_probability
from .field_losses import FAINT, match, shown, snr

__all__ = ["calibrate", "fitted", "judged", "score_fields", "table"]

#: Edges of bins of signal to noise.
EDGES = (5, 10, 20, 100, np.inf)
#: Uncalibrated probability above which detections enter the calibration.
_DOUBTFUL = 0.03
#: Pixels: largest distance of the neighbour in close pairs.
CLOSE = 8.0


@torch.no_grad()
def _detections(network, fields, autocast, least=0.02):
    """Return the detections of each field, their matches (-1: none), and which are true."""
    blend, psf = shown(fields)
    with autocast():
        maps = network.find(blend, psf=psf)
    return [
        (at, chance, size, *judged(fields, k, at))
        for k, (at, chance, size) in enumerate(
            find_centres(*maps, network.calibration, least=least)
        )
    ]


def judged(fields, k, at):
    """Judge detections in a field.

    Parameters
    ----------
    fields : astrodeblend.simulate.Fields
        Fields with known truth.
    k : int
        Index of the field.
    at : torch.Tensor
        Shape (m, 2): positions of the detections.

    Returns
    -------
    which, true, counts : torch.Tensor
        Shape (m,): indices of sources, -1 for none; whether they are strong enough; whether the
        detection counts: those of faint sources, or without data, are neither true nor false.
    """
    which, ignored = match(fields, k, at), fields.mask[k].all(dim=0)
    column, row = (
        at[:, axis].round().long().clamp(0, side - 1)
        for axis, side in enumerate(ignored.shape[::-1])
    )
    true = (which >= 0) & (snr(fields) > FAINT)[k, which]
    return which, true, ~ignored[row, column] & (true | (which < 0))


def calibrate(network, batches, autocast):
    """Calibrate the probabilities of the heat map, by logistic regression of detections.

    Parameters
    ----------
    network : FieldNet
        The network; its ``calibration`` is set.
    batches : iterable of astrodeblend.simulate.Fields
        Fields like those of training.
    autocast : callable
        As in `field_losses`.
    """
    network.calibration.copy_(torch.tensor(UNCALIBRATED))
    heat, true = [], []
    for fields in batches:
        for _, chance, _, _, right, counts in _detections(network, fields, autocast, _DOUBTFUL):
            heat.append(chance[counts].double().logit().cpu())
            true.append(right[counts].double().cpu())
    network.calibration.copy_(fitted(torch.cat(heat), torch.cat(true)))


def fitted(heat, true):
    """Fit the two numbers of a calibration, by logistic regression.

    Parameters
    ----------
    heat, true : torch.Tensor
        Shape (m,): heat of detections, and 1 for sources, 0 for others.

    Returns
    -------
    torch.Tensor
        Shape (2,), as `astrodeblend.networks.centre_probability` takes it; that of no calibration
        for fewer than 20 sources or others.
    """
    fit = torch.tensor(UNCALIBRATED).double()
    if true.sum() < 20 or (1 - true).sum() < 20:
        return fit
    design = torch.stack([heat, torch.ones_like(heat)], dim=1)
    for _ in range(50):  # Newton's method
        chance = (design @ fit).sigmoid()
        weight = chance * (1 - chance)
        hessian = design.T @ (weight[:, None] * design) + 1e-3 * torch.eye(2)
        fit = fit + torch.linalg.solve(hessian, design.T @ (true - chance)).clamp(-1, 1)
    return fit


@torch.no_grad()
def score_fields(network, batches, autocast, *, purity=0.98, band=None):
    """Find and split the sources of fields, and compare with the truth.

    Parameters
    ----------
    network : FieldNet
        The network.
    batches : iterable of astrodeblend.simulate.Fields
        Fields with known truth.
    autocast : callable
        As in `field_losses`.
    purity : float, optional
        Expected share of true sources among those found, as in `least_probability`.
    band : int, optional
        Band in which signal to noise and flux are measured. Default: the middle one.

    Returns
    -------
    dict
        Numbers of true and of detected sources, errors of flux over the noise limit, by signal to
        noise and distance of the nearest neighbour.
    """
    columns, false, counted = [], 0, 0
    for fields in batches:
        b = fields.image.shape[1] // 2 if band is None else band
        found = _detections(network, fields, autocast)
        kept = [f[1] >= least_probability(f[1], purity) for f in found]
        told, given = [], []
        for k, (mask, (at, _, size, _, true, counts)) in enumerate(zip(kept, found, strict=True)):
            told.append((at[mask], size[mask], match(fields, k, at[mask])))
            false += int((counts & ~true)[mask].sum())
            counted += int(counts[mask].sum())
            which = (fields.inside & (snr(fields) > FAINT))[k].nonzero()[:, 0]
            given.append((fields.position[k, which], fields.size[k, which], which))
        flux, known = (_fluxes(network, fields, each, b, autocast) for each in (told, given))
        away = torch.cdist(fields.position, fields.position)
        away = away.masked_fill(~(fields.present & (snr(fields) > FAINT))[:, None], torch.inf)
        away.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        x, y = fields.position.round().long().unbind(dim=2)
        height, width = fields.image.shape[2:]
        field = torch.arange(len(x), device=x.device)[:, None]
        bad = (fields.saturated | fields.mask).any(dim=1)
        bad = bad[field, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        limit, true = fields.limit[..., b], fields.flux[..., b]
        use = fields.inside & ~bad & limit.isfinite()
        values = (true / limit, away.amin(dim=2), (flux - true) / limit, (known - true) / limit)
        columns.append(torch.stack([each[use] for each in values]).double().cpu())
    strength, away, error, given = torch.cat(columns, dim=1).numpy()
    found, close = np.isfinite(error), away <= CLOSE
    error, given = np.abs(error), np.abs(given)
    classes = {}
    for low, high in pairwise(EDGES):
        for name, near in (("alone", ~close), ("close", close)):
            of = (strength >= low) & (strength < high) & near
            classes[f"{low}-{high} {name}"] = {
                "sources": int(of.sum()),
                "complete": _mean(found[of]),
                "error_median": _quantile(error[of & found], 0.5),
                "error_90": _quantile(error[of & found], 0.9),
                "given_median": _quantile(given[of], 0.5),
                "given_90": _quantile(given[of], 0.9),
            }
    bright = strength > 20
    return {
        "purity": 1 - false / counted if counted else None,
        "complete_10": _mean(found[strength > 10]),
        "complete_10_close": _mean(found[(strength > 10) & close]),
        "error_20_median": _quantile(error[bright & found], 0.5),
        "error_20_90": _quantile(error[bright & found], 0.9),
        "given_20_median": _quantile(given[bright], 0.5),
        "given_20_90": _quantile(given[bright], 0.9),
        "classes": classes,
    }


def _fluxes(network, fields, told, band, autocast):
    """Return the fluxes (n, s) of sources at given positions; NaN for all others.

    ``told`` holds positions, sizes, and indices of sources (-1 for none), for each field.
    """
    positions, sizes, which = (
        torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=fill)
        for each, fill in zip(zip(*told, strict=True), (0, 1, -2), strict=True)
    )
    blend, psf = shown(fields)
    present = which > -2
    with autocast():
        seen = network.look(blend, psf)
        windows = network.windows(seen, positions.float(), present, sizes.float())
    light = torch.full(present.shape, torch.nan, device=blend.device).flatten()
    for source, _, (parts, *_) in windows:
        light[source] = parts[:, band].float().sum(dim=(1, 2))
    flux = torch.full(fields.present.shape, torch.nan, device=blend.device)
    field, slot = (which >= 0).nonzero(as_tuple=True)
    flux[field, which[field, slot]] = light.view(present.shape)[field, slot]
    return flux


def _mean(values):
    return float(values.mean()) if len(values) else None


def _quantile(values, share):
    return float(np.quantile(values, share)) if len(values) else None


def table(scores):
    """Return scores as lines of text."""
    lines = [
        "                  found               |dF|/limit of found   at given places",
        "S/N, neighbour  sources  complete      median      90 %    median      90 %",
    ]
    for name, row in scores["classes"].items():
        number, *values = row.values()
        values = ("-" if v is None else f"{v:.2f}" for v in values)
        lines.append(f"{name:15} {number:7}" + "".join(f"{v:>10}" for v in values))
    numbers = (f"{k} {v:.3f}" for k, v in scores.items() if isinstance(v, float))
    return "\n".join([*lines, ", ".join(numbers)])
