"""Error bars of whole scenes and fields, fitted to such with known truth."""

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import torch
from astropy.nddata import NDData
from scipy.optimize import minimize
from tqdm import tqdm

from astrodeblend.calibration import Calibration
from astrodeblend.deblender import Deblender
from astrodeblend.field_inference import take_apart
from astrodeblend.inference import Inference
from astrodeblend.light import LIGHTS
from astrodeblend.networks import UNCALIBRATED
from astrodeblend.simulate import SCENE_MODES, SURVEYS, FieldStream, simulate_fields
from astrodeblend.training.field_losses import FAINT, match, shown, snr
from astrodeblend.weights import check_model, load_model, save_model, stored_dtype, write_card

from .scenes import draw_scenes, measure_truth, pixel_errors

__all__ = ["add_field_calibration", "add_scene_calibration"]

_PASSES = 2  # the noise of the image, which adds in quadrature, is not scaled
_68, _95 = 0.6827, 0.9545  # within one and two standard deviations of a Gaussian
_STRENGTHS = (5, 10, 20, 100, np.inf)  # classes of signal to noise in which fluxes are held
_NEAR = 8.0  # pixels to the nearest neighbour of a blended source
_MATCH = 2.0  # pixels at most from where a source is
_PARTS = ("noise", "coherent")  # of a flux's error: of the image, and by deblending
_BATCH = 4  # blocks
_RESIDUAL = 0.1  # units of the sky noise: sky that is left when it is subtracted
_ANY = 0.03  # purity: with all that may be sources
_THIN = 7  # so many pixels are as good as one: neighbours go wrong together


def add_scene_calibration(model, folder, *, split="val", scenes=40, seed=2, progress=True):
    """Make the error bars of scenes hold 68.3 % of the truths.

    Among many galaxies more goes wrong than in blends of two, which the model's error bars were
    fitted to (`astrodeblend.training.add_calibration`, which comes first). So deviations by
    deblending are scaled for scenes, those of pixels and those of fluxes, until they hold in scenes
    of two to eight galaxies (`draw_scenes`), true positions given: of the pixels of the network's
    components in the true footprints, and of fluxes in each source and band, of both kinds of
    light. The card is written anew; the weights stay as they are.

    Parameters
    ----------
    model : str or path-like
        A model for colour pictures, as `astrodeblend.weights.load_model` takes it.
    folder : str or path-like
        Pictures of isolated galaxies that it was not trained on.
    split : str, optional
        Which part of them, by the table ``splits.csv`` in the folder; None for all.
    scenes : int, optional
        How many of each of the recipes ``max`` and ``sum``.
    seed : int, optional
        Where the randomness starts from.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Card
        The card as it was saved.
    """
    network, card = load_model(model)
    check_model(card, "scenes")
    options = {"split": split, "number": scenes, "seed": seed}
    sets = [draw_scenes(folder, mode=mode, **options) for mode in SCENE_MODES]
    calibration = replace(Calibration(**card.calibration), in_scenes={})
    fitted = calibration
    for turn in range(_PASSES):
        so_far = replace(card, calibration=_with(calibration, fitted))
        deblender = Deblender(network, so_far, dtype="float32")
        total, words = sum(map(len, sets)), f"scenes, turn {turn + 1} of {_PASSES}"
        bar = tqdm(chain(*sets), words, total, disable=not progress, unit="scene")
        errors = zip(*(_errors(deblender, scene) for scene in bar), strict=True)
        fitted = _scaled(fitted, *map(np.concatenate, errors))
    fit = {"scenes": scenes, "recipes": list(SCENE_MODES), "split": split, "seed": seed}
    card = replace(card, calibration=_with(calibration, replace(fitted, fit=fit)))
    write_card(model, card)
    return card


def _with(calibration, in_scenes):
    return replace(calibration, in_scenes=in_scenes.to_dict()).to_dict()


def _errors(deblender, scene):
    """Return errors of a scene's pixels and fluxes, in the deviations that are stated of them."""
    truth = measure_truth(scene)
    apart = deblender.deblend_scene(scene.blend, positions=truth.positions)
    fluxes = []
    for light in LIGHTS:
        found = apart.with_light(light)
        if light == "network":
            pixels = [(error / std)[::_THIN] for error, std in pixel_errors(found, truth)]
        error = np.abs(found.catalog["segment_flux"] - truth.flux)
        deviation = np.asarray(found.catalog["segment_flux_err"])
        fluxes.append(error[deviation > 0] / deviation[deviation > 0])
    return np.concatenate(pixels), np.concatenate(fluxes)


def _scaled(calibration, pixels, fluxes):
    """Return a calibration whose deviations are as large as the errors tell."""
    if not (len(pixels) and len(fluxes)):
        raise ValueError("no component of the scenes has any light; the weights are of no use")
    (by, beyond), (flux_by, flux_beyond) = (np.quantile(x, (_68, _95)) for x in (pixels, fluxes))
    return replace(
        calibration,
        log_factor=tuple(map(tuple, np.round(np.log(by) + calibration.log_factor, 4).tolist())),
        coherent=round(float(calibration.coherent * flux_by / by), 4),
        independent=round(float(calibration.independent * flux_by / by), 4),
        level=round(float(calibration.level * flux_by), 4),
        interval_95={
            "pixel": round(float(beyond / by), 3),
            "flux": round(float(flux_beyond / flux_by), 3),
        },
    )


def add_field_calibration(
    model, *, surveys=tuple(SURVEYS), number=6, blocks=240, seed=3, images=(None, None),
    progress=True,
):  # fmt: skip
    """Make what a model for fields says of its sources hold: probabilities and error bars.

    Sources of simulated fields are found and split. Probabilities are scaled until so many of the
    sources are true. The parts of a flux's error are scaled
    until 68.3 % of the total fluxes are within it, for isolated and for blended sources and in
    classes of signal to noise, in every band, of both kinds of light; a pixel's deviation in the
    footprints of sources. Weights and card are written anew; the weights are the same.

    Parameters
    ----------
    model : str or path-like
        A model with a `astrodeblend.networks.FieldNet`, as `astrodeblend.weights.load_model` takes
        it.
    surveys : sequence of str, optional
        Whose fields.
    number : int, optional
        Fields of each, for the error bars.
    blocks : int, optional
        Smaller fields, of all of them, for the probabilities.
    seed : int, optional
        Where the randomness starts from.
    images : tuple of (Morphologies or None), optional
        Small and large galaxies that it was not trained on.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Card
        The card as it was saved.
    """
    network, card = load_model(model)
    if not hasattr(network, "find"):
        raise ValueError(f"model={str(model)!r} finds no sources; give a model for fields")
    of = {"batch": _BATCH, "seed": seed, "size": 192, "psf": None, "residual": _RESIDUAL}
    stream = FieldStream(surveys, *images, **of)
    batches = (stream[k] for k in range(-(-blocks // _BATCH)))
    _calibrate(network, card, tqdm(batches, "probabilities", disable=not progress))
    deblender = Deblender(network, replace(card, calibration={}), dtype="float32")
    pixels, rows = [], {light: [] for light in LIGHTS}
    starts = [(which, seed + 1000 * k) for which in range(len(surveys)) for k in range(number)]
    for which, start in tqdm(starts, "error bars", disable=not progress, unit="field"):
        fields = simulate_fields(
            surveys[which], 1, start, images=images[0], large_images=images[1], residual=_RESIDUAL
        )
        some, tables = _field_errors(deblender, fields)
        pixels.append(some)
        for light, table in tables.items():
            rows[light].append(np.pad(table, ((0, 0), (0, 1)), constant_values=which))
    pixels = np.concatenate(pixels)
    rows = {light: np.concatenate(tables) for light, tables in rows.items()}
    if min(map(len, rows.values())) < 100:
        raise ValueError(f"model={str(model)!r} finds {len(rows['network'])} fluxes; it takes 100")
    by, beyond = np.quantile(pixels, (_68, _95))
    fitted = {light: _fitted(table) for light, table in rows.items()}
    interval = {"pixel": round(float(beyond / by), 3)}
    for values in fitted.values():
        values["interval_95"] = interval | values["interval_95"]
    calibration = Calibration(
        log_factor=((round(float(np.log(by)), 4),),), in_noise=True, independent=0.0,
        **fitted["network"], apportioned=fitted["apportioned"],
        fit={"fields": number, "surveys": list(surveys), "seed": seed,
             "fluxes": len(rows["network"])},
    )  # fmt: skip
    card = replace(card, calibration=calibration.to_dict())
    return save_model(model, network, card, dtype=stored_dtype(model), overwrite=True)


@torch.no_grad()
def _calibrate(network, card, batches):
    """Calibrate the probabilities of what is found on all scales."""
    network.calibration.copy_(torch.tensor(UNCALIBRATED))
    inference = Inference(network, card, device="cpu", dtype="float32", batch_size="auto")
    heat, true = [], []
    for fields in batches:
        kernels = np.exp(-0.5 * (np.arange(-3, 4) / fields.draw.kernel[:, None]) ** 2)
        correlation = kernels.sum(axis=1) ** 2 / (kernels**2).sum(axis=1)
        for k, each in enumerate(zip(*shown(fields), strict=True)):
            values, psf = (part.numpy() for part in each)
            answer = take_apart(inference, values, psf, correlation=correlation[k], purity=_ANY)
            at = torch.from_numpy(answer.positions).float()
            _, right, counts = judged(fields, k, at)
            heat.append(torch.from_numpy(answer.probability).logit()[counts])
            true.append(right[counts].double())
    network.calibration.copy_(fitted(torch.cat(heat), torch.cat(true)))


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


def _field_errors(deblender, fields):
    """Return errors of pixels in their deviations, and of each light a table of fluxes.

    Its columns: error, variances of its parts, distance of the nearest neighbour, signal to noise.
    """
    image = NDData(fields.image[0], mask=fields.mask[0])
    scene = deblender.deblend_scene(image)
    catalog = scene.catalog
    at = np.stack([catalog["x_centroid"], catalog["y_centroid"]], axis=1)
    true = np.flatnonzero(fields.inside[0])
    away = np.hypot(*(fields.position[0, true, None] - at).transpose(2, 0, 1))
    found = away.argmin(axis=1)
    mutual = away[:, found].argmin(axis=0) == np.arange(len(true))
    good = mutual & (away.min(axis=1) < _MATCH)
    true, found = true[good], found[good]
    flux, limit = fields.flux[0, true], fields.limit[0, true]
    place = fields.position[0, true]
    strong = fields.inside[0] & (fields.snr[0].max(axis=1) > _STRENGTHS[0])
    apart = np.hypot(*(place[:, None] - fields.position[0, strong]).transpose(2, 0, 1))
    near = np.where(apart > 0, apart, np.inf).min(axis=1)
    usable = (flux / limit > _STRENGTHS[0]) & np.isfinite(limit)
    columns = np.broadcast_to(near[:, None], flux.shape)[usable], (flux / limit)[usable]

    pixels, lights = [], fields.light.alone(0, true)
    for row, truth in zip(found, lights, strict=True):
        c = scene.light.components[row]
        inside = (c.footprint & (c.light > 0) & ~c.hidden).nonzero()
        error = np.abs(c.light[inside] - truth[:, *c.box][inside])
        pixels.append((error / np.maximum(c.deblending[inside], 1e-9))[::_THIN])

    tables = {}
    for light in LIGHTS:
        shown = replace(scene, meta=scene.meta | {"light": light})
        variances = []
        for part in _PARTS:
            units = {name: float(name == part) for name in _PARTS}
            of_part = Calibration(**units, independent=0.0).of_fluxes()
            meta = shown.meta | {"calibration": of_part}
            catalog = replace(shown, meta=meta).catalog
            variances.append(np.asarray(catalog["segment_flux_err"])[found][usable] ** 2)
        error = np.asarray(catalog["segment_flux"])[found][usable] - flux[usable]
        table = np.stack([error, *variances, *columns], axis=1)
        tables[light] = table[np.isfinite(table).all(axis=1)]
    return np.concatenate(pixels), tables


def _fitted(table):
    """Return the factors of parts with which errors hold in all classes."""
    error, *parts, near, strength, survey = table.T
    parts = {name: part for name, part in zip(_PARTS, parts, strict=True) if part.any()}
    classes = [
        (strength >= low) & (strength < high) & blended & (survey == which)
        for low, high in pairwise(_STRENGTHS)
        for blended in (near < _NEAR, near >= _NEAR)
        for which in np.unique(survey)
    ]
    classes = [of for of in classes if of.sum() >= 20]

    def off(logs):
        spread = np.sqrt(sum(np.exp(2 * k) * p for k, p in zip(logs, parts.values(), strict=True)))
        return np.abs(error) / np.maximum(spread, 1e-9)

    def cost(logs):
        ratio = np.log(off(logs) + 1e-9)
        return sum(
            abs(np.quantile(ratio[of], _68)) + 0.5 * abs(np.quantile(ratio[of], _95) - np.log(2))
            for of in classes
        )

    starts = np.vstack([np.zeros(len(parts)), -2 * np.eye(len(parts))])
    best = min((minimize(cost, s, method="Nelder-Mead") for s in starts), key=lambda r: r.fun)
    values = {name: round(float(np.exp(k)), 4) for name, k in zip(parts, best.x, strict=True)}
    return values | {"interval_95": {"flux": round(float(np.quantile(off(best.x), _95)), 3)}}
