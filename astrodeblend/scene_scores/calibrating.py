"""Error bars of whole scenes, fitted to scenes with known truth."""

from dataclasses import replace
from itertools import chain

import numpy as np
from tqdm import tqdm

from astrodeblend.calibration import Calibration
from astrodeblend.deblender import Deblender
from astrodeblend.simulate import SCENE_MODES
from astrodeblend.weights import check_model, load_model, write_card

from .result import LIGHTS
from .scoring import measure_truth, pixel_errors
from .sets import draw_scenes

__all__ = ["add_scene_calibration"]

_PASSES = 2  # the noise of the image, which adds in quadrature, is not scaled
_68, _95 = 0.6827, 0.9545  # within one and two standard deviations of a Gaussian
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

    Raises
    ------
    FileNotFoundError
        If there is no such model, folder or split.
    ValueError
        If the model is not one for colour pictures, there are too few galaxies, or no component
        has any light.
    """
    network, card = load_model(model)
    check_model(card, "scenes")
    options = {"split": split, "number": scenes, "seed": seed}
    sets = [draw_scenes(folder, mode=mode, **options) for mode in SCENE_MODES]
    calibration = replace(Calibration(**card.calibration), in_scenes={})
    fitted = calibration
    total = _PASSES * sum(map(len, sets))
    with tqdm(total=total, desc="scenes", unit="scene", disable=not progress) as bar:
        for _ in range(_PASSES):
            so_far = replace(card, calibration=_with(calibration, fitted))
            deblender = Deblender(network, so_far, dtype="float32")
            pixels, fluxes = [], []
            for scene in chain(*sets):
                of_pixels, of_fluxes = _errors(deblender, scene)
                pixels.append(of_pixels)
                fluxes.append(of_fluxes)
                bar.update()
            fitted = _scaled(fitted, np.concatenate(pixels), np.concatenate(fluxes))
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
