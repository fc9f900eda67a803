"""Fitting the `Calibration` of a trained network's standard deviations."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.optimize import minimize
from tqdm import tqdm

from ..calibration import Calibration, ask_in_turn, log_peaks, measure_segment, pixel_features
from ..light import regained
from ..metrics import isophote
from ..networks.heads import symmetric_std
from ..simulate.batched import Simulator
from ..simulate.survey_batches import SurveyStream
from ..simulate.surveys import get_survey
from ..weights import load_own, write_card
from .stream import FluxStream

#: Smallest number of blends: one truth in twenty is beyond the 95.4 % interval.
FEWEST_BLENDS = 20
# Recipes of the blends and their relative numbers; the coverage is exact for the first.
_RECIPES = {"reiman2019": 3, "rerendered": 1, "sum": 1}
_BANDS = 5  # number of bands of blends in linear flux
# Options of blends in linear flux: the defaults of `simulate_blends`.
_AS_SEEN = {"vary": 0.0, "slope": 0.31, "magnitudes": (-6.8, -1.8), "separations": (0.63, 3.8)}
_FAR = 10_000  # added to seeds, to differ from those of training
_BATCH = 16  # blends that the network takes at a time
_68, _95 = 0.6827, 0.9545  # share of a Gaussian within one and two standard deviations
# Nodes of the factors, as `Calibration` has them.
_LOG_RATIO = tuple(map(float, range(-6, 3)))  # ln(deviation / light of the blend), of pictures
_LOG_STD = tuple(map(float, range(-4, 6)))  # ln(deviation / sky noise), of flux
_FRACTION = (0.0, 0.1, 0.3, 0.5, 0.7, 0.85, 0.93, 0.97, 0.99, 1.0)  # component / blend
_LOG_PEAK = tuple(map(float, range(-1, 7)))  # ln(peak / sky noise)
_FEWEST_GALAXIES = 30  # galaxies per node of ``log_peak``
_FEWEST_PIXELS = 300  # pixels per node; one with fewer takes the factor of the nearest node
_FAINT = 0.04  # fraction of a component's peak: isophote of the pixels that enter the fit
_MANY_PIXELS = 2_000_000  # largest number of pixels in the fit
_MANY_BLENDS = 2000  # largest number of blends for fluxes
_TINY = np.finfo(np.float32).tiny
_GROWN = 0.45  # fraction of a segment's radius: growth to the median area of Kron apertures


def fit_calibration(
    blend, components, std, isolated, *, final=None, sky=0.0, noise=None, main=slice(None)
):
    """Fit the calibration of error bars to blends with known truth.

    The factor of a pixel is the 68.3 % quantile of |error| / deviation among pixels of the same
    deviation and fraction of light; in linear flux a second factor depends on the galaxy's peak.
    All are scaled to the nominal coverage in the footprints of the main blends. Fluxes are measured
    as in catalogues, sky-subtracted, in the segment detected in the component, and in a larger one.
    The factors of the parts of their error minimise the pinball loss of the logarithm of the errors
    (Koenker & Bassett 1978, Econometrica 46, 33), scaled to the nominal coverage in the segments of
    the main blends; one more factor does so in the larger ones.

    Parameters
    ----------
    blend : numpy.ndarray, shape (n, bands, y, x)
        Blends of galaxies that the network was not trained on.
    components, std, isolated : numpy.ndarray, shape (n, branches, bands, y, x)
        The network's components and standard deviations, and the truth.
    final : numpy.ndarray, shape (n, branches, bands, y, x), optional
        The components that are measured, if they are changed after the network.
    sky : float or numpy.ndarray, shape (n, bands), optional
        Sky level of the truth.
    noise : float, optional
        Sky noise of the blends, for sky-subtracted linear flux with noiseless truth.
    main : slice or numpy.ndarray, optional
        Blends whose coverage is nominal; by default all.

    Returns
    -------
    astrodeblend.calibration.Calibration
    """
    final = components if final is None else final
    error = np.abs(final - isolated)
    if not (np.isfinite(error).all() and np.isfinite(std).all()):
        raise ValueError("components or deviations are not all finite; the weights are of no use")
    sky = np.broadcast_to(np.asarray(sky, np.float32), blend.shape[:2])[:, None, :, None, None]
    true = isophote(isolated - sky)[:, :, None]
    own = isophote(np.maximum(final - sky, 0), fraction=_FAINT)[:, :, None]
    main = np.isin(np.arange(len(blend)), np.arange(len(blend))[main])
    every = std > 0  # beyond a source's stamp there is no deviation
    held = every & true & main[:, None, None, None, None]
    if not held.any():
        raise ValueError("the images have no light; give images of galaxies")

    # in the footprint of the truth or of the component; black pixels of pictures are left out
    seen = every & (true | own) & ((blend[:, None] > 0) | (noise is not None))
    thin = slice(None, None, 1 + np.count_nonzero(seen) // _MANY_PIXELS)
    pixels = (std, components, np.broadcast_to(blend[:, None], error.shape), error)
    values = (values[seen][thin] for values in pixels)
    calibration = _fit_pixels(*values, in_noise=noise is not None)
    parts = [slice(k, k + _BATCH) for k in range(0, len(std), _BATCH)]  # to save memory
    std = [calibration.std(std[part], components[part], blend[part, None]) for part in parts]
    std = np.concatenate(std)
    if noise is not None:
        calibration, factor = _fit_peaks(calibration, components, error, std, held)
        std *= factor
    by, beyond = np.quantile(error[held] / np.maximum(std[held], _TINY), (_68, _95))
    std *= by

    few = slice(None, None, 1 + len(blend) // _MANY_BLENDS)
    factors, flux_beyond = _fit_fluxes(final[few], std[few], isolated[few], main[few], noise)
    table = np.round(np.asarray(calibration.log_factor) + np.log(by), 4)
    return replace(
        calibration,
        log_factor=tuple(map(tuple, table.tolist())),
        **{name: round(float(value), 4) for name, value in factors.items()},
        interval_95={"pixel": round(float(beyond / by), 3), "flux": round(flux_beyond, 3)},
    )


def _fit_pixels(std, components, blend, error, *, in_noise):
    """Return a calibration of pixels: at each node the 68.3 % quantile of the errors nearest it."""
    nodes = (_LOG_STD if in_noise else _LOG_RATIO), _FRACTION
    shape = tuple(map(len, nodes))
    features = pixel_features(std, components, blend, in_noise=in_noise)
    row, column = (
        np.rint(np.interp(values, at, range(len(at)))).astype(int)
        for values, at in zip(features, nodes, strict=True)
    )
    node = np.ravel_multi_index((row, column), shape)
    order = np.argsort(node, kind="stable")
    numbers = np.bincount(node, minlength=np.prod(shape))
    off = np.log(error / np.maximum(std, _TINY) + 1e-5)[order]
    table = np.full(len(numbers), np.nan)
    for k, values in enumerate(np.split(off, np.cumsum(numbers)[:-1])):
        if len(values) >= _FEWEST_PIXELS:
            table[k] = np.quantile(values, _68)
    table = table.reshape(shape)
    unknown = np.isnan(table)
    if unknown.all():
        table[:] = np.quantile(off, _68)
    elif unknown.any():
        nearest = distance_transform_edt(unknown, return_distances=False, return_indices=True)
        table = table[tuple(nearest)]
    return Calibration(*nodes, in_noise=in_noise, log_factor=tuple(map(tuple, table.tolist())))


def _fit_peaks(calibration, components, error, std, held):
    """Return a calibration with factors by peak, and these factors of the components."""
    peaks = log_peaks(components)
    nearest = np.rint(np.interp(peaks, _LOG_PEAK, range(len(_LOG_PEAK)))).astype(int)
    galaxies = nearest[held.any(axis=(-2, -1))].ravel()
    known = np.bincount(galaxies, minlength=len(_LOG_PEAK)) >= _FEWEST_GALAXIES
    nearest = np.broadcast_to(nearest, held.shape)[held]
    off = np.log(error[held] / np.maximum(std[held], _TINY) + 1e-5)
    found = [
        np.quantile(off[nearest == node], _68) if enough else np.nan
        for node, enough in enumerate(known)
    ]
    if not known.any():
        return calibration, std.dtype.type(1)
    factors = np.interp(_LOG_PEAK, np.array(_LOG_PEAK)[known], np.array(found)[known])
    factors = tuple(np.round(factors, 4).tolist())
    calibration = replace(calibration, log_peak=_LOG_PEAK, log_peak_factor=factors)
    return calibration, np.exp(np.interp(peaks, _LOG_PEAK, factors)).astype(std.dtype)


def _fit_fluxes(components, std, isolated, main, noise):
    """Return the factors of fluxes, and the half width of their 95.4 % interval."""
    rows = []
    unscaled = replace(Calibration(), coherent=1.0)
    for k, branch in np.ndindex(components.shape[:2]):
        fluxes = measure_segment(components[k, branch], isolated[k, branch], noise=noise)
        if fluxes is None:
            continue
        expected = std[k, branch]
        coherent = unscaled.coherent_std(fluxes.light, expected, fluxes.segment)
        for grown, each in enumerate((fluxes, fluxes.grown(_GROWN))):
            sums = [x[:, each.segment].sum(axis=1) for x in (coherent, np.square(expected))]
            level = each.noise * np.count_nonzero(each.segment)
            columns = np.abs(each.error), sums[0], np.sqrt(sums[1]), level
            rows += [(*values, main[k], grown) for values in zip(*columns, strict=True)]
    if not any(row[-2] for row in rows):
        raise ValueError("no galaxy is detected in the components; the weights are of no use")
    *columns, main, grown = map(np.array, zip(*rows, strict=True))
    log_error, *parts = (np.log(np.maximum(values, 1e-9)) for values in columns)

    def deviation(factors):
        return 0.5 * np.logaddexp.reduce([2 * (f + p) for f, p in zip(factors, parts, strict=True)])

    def loss(factors):
        off = log_error - deviation(factors)
        return np.mean(np.maximum(_68 * off, (_68 - 1) * off))

    factors = minimize(loss, (0.5, 1.5, -2.0), method="Nelder-Mead").x
    off = np.exp(log_error - deviation(factors))
    by, beyond = np.quantile(off[main & (grown == 0)], (_68, _95))
    coherent, independent, level = np.exp(factors) * by
    kron = np.quantile(off[main & (grown == 1)], _68) / by
    found = {"coherent": coherent, "independent": independent, "level": level, "kron": kron}
    return found, float(beyond / by)


def add_calibration(
    model, images, *, surveys=None, blends=800, seed=1, device="cpu", progress=True
):
    """Calibrate the error bars of a trained model, so that one holds 68.3 % of the truths.

    Its card is replaced; the weights stay the same.

    Parameters
    ----------
    model : str or path-like
        A ``.safetensors`` file with its card beside it.
    images : numpy.ndarray, astrodeblend.simulate.Morphologies or None
        A few hundred galaxies it was not trained on, (n, bands, y, x), for blends of the recipes
        ``reiman2019`` (three in five, for which the coverage is nominal), ``rerendered`` and
        ``sum``. For a model of linear flux, real galaxies as `astrodeblend.simulate.cut_galaxies`
        returns, or None for parametric ones only, for blends of two in the surveys of its training.
    surveys : sequence of (str, path-like or Survey), optional
        Surveys of the blends, for a model of linear flux; in scenes the coverage is nominal for
        the first. Default: those of its training.
    blends : int, optional
        Number of blends, at least 20.
    seed : int, optional
        Seed of the random numbers.
    device : str or torch.device, optional
        Device of the network.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Card
        The card as it was saved.
    """
    if blends < FEWEST_BLENDS:
        raise ValueError(f"blends={blends} are too few; give at least {FEWEST_BLENDS}")
    path, network, card = load_own(model, device=device)
    with tqdm(total=blends, desc="calibration", unit="blend", disable=not progress) as bar:
        if card.scaling == "noise":
            surveys = _surveys_of(card) if surveys is None else tuple(surveys)
            of = surveys, card.size_rule["pixels"]
            fitted, made_of = _fit_to_flux(network, *of, images, blends, seed, device, bar)
        else:
            fitted, made_of = _fit_to_pictures(network, images, blends, seed, device, bar)
    fit = {"blends": blends, "galaxies": 0 if images is None else len(images), "seed": seed}
    card = replace(card, calibration=replace(fitted, fit=fit | made_of).to_dict())
    write_card(path, card)
    return card


def _surveys_of(card):
    """Return the surveys that a model was trained on; raise if they cannot be simulated."""
    surveys = tuple(card.training.get("config", {}).get("surveys", ()))
    with suppress(ValueError, OSError):
        if surveys and all(map(get_survey, surveys)):
            return surveys
    raise ValueError(
        f"the model {card.name!r} was trained on {', '.join(map(repr, surveys)) or 'no survey'}, "
        "which cannot be simulated; give surveys=, such as ['MY.yaml']"
    )


def _fit_to_pictures(network, images, blends, seed, device, bar):
    """Fit to blends of pictures; return the calibration and the recipes."""
    rng = np.random.default_rng([seed, blends])
    parts = []
    for recipe, share in _RECIPES.items():
        simulator = Simulator(images, recipe, device=device)
        number = round(blends * share / sum(_RECIPES.values()))
        draw = simulator.recipe.draw(rng, number, simulator.number)
        for start in range(0, number, _BATCH):
            part = draw[start : start + _BATCH]
            blend, isolated = simulator(part)
            sky = np.broadcast_to(part.sky, blend.shape[:2])
            parts.append((*_answers(network, blend, isolated), sky))
            bar.update(len(part))
    blend, isolated, components, std, sky = map(np.concatenate, zip(*parts, strict=True))
    main = slice(round(blends * next(iter(_RECIPES.values())) / sum(_RECIPES.values())))
    fitted = fit_calibration(blend, components, std, isolated, sky=sky, main=main)
    return fitted, {"recipes": dict(_RECIPES)}


def _fit_to_flux(network, surveys, pixels, images, blends, seed, device, bar):
    """Fit to simulated blends of surveys; return the calibration and its data.

    One calibration is for stamps, from one or more sources in varied conditions of all surveys;
    one for scenes, from all sources of blends of two, deblended in turn, nominal in the first.
    """
    bands = min(_BANDS, len(get_survey(surveys[0]).bands))
    options = {"batch": _BATCH, "bands": bands, "stamp": pixels, "device": device}

    def answer(blend, positions=None):
        with torch.inference_mode():
            where = ()
            if positions is not None:
                where = torch.from_numpy(positions.astype(np.float32)).to(device)
                where = where.nan_to_num(), where.isfinite().all(dim=2)
            blend = torch.from_numpy(blend).to(device, memory_format=torch.channels_last)
            return [part.float().cpu().numpy() for part in network(blend, *where)]

    stream = FluxStream(surveys, images, seed=_FAR + seed, **options)
    parts = []
    for number in range(-(-blends // (2 * _BATCH))):
        blend, isolated, *_ = (part.cpu().numpy() for part in stream[number])
        parts.append((blend, *answer(blend), isolated))
        bar.update(min(_BATCH, bar.total - bar.n))
    blend, components, std, isolated = map(np.concatenate, zip(*parts, strict=True))
    final = components * regained(blend, components.sum(axis=1), 1.0)[:, None]
    # Only the source in the middle of its stamp is measured.
    central = (each[:, :1] for each in (components, std, isolated))
    fitted = fit_calibration(blend, *central, final=final[:, :1], noise=1.0)

    parts, first = [], []
    halves = (surveys[:1], surveys)
    for k, some in enumerate(halves):
        stream = SurveyStream(some, images, seed=_FAR + seed + 1 + k, **_AS_SEEN, **options)
        for number in range(-(-blends // (2 * len(halves) * _BATCH))):
            draw = stream.draw(number)
            blend, isolated, noise = (part.cpu().numpy() for part in stream.render(draw))
            blend = blend / noise[..., None, None]
            isolated = isolated / noise[:, None, :, None, None]
            places = np.where(draw.present[..., None], draw.position, np.nan)
            parts.append((blend, *ask_in_turn(answer, blend, places), isolated))
            first += len(blend) * [k == 0]
            bar.update(min(_BATCH, bar.total - bar.n))
    blend, components, std, isolated = map(np.concatenate, zip(*parts, strict=True))
    final = components * regained(blend, components.sum(axis=1), 1.0)[:, None]
    in_scenes = fit_calibration(
        blend, components, std, isolated, final=final, noise=1.0, main=np.flatnonzero(first)
    )
    names = [get_survey(survey).name for survey in surveys]
    made_of = {"surveys": names, "bands": bands, "held_to": names[0]}
    return replace(fitted, in_scenes=in_scenes.to_dict()), made_of


def _answers(network, blend, isolated):
    """Return blends, truth, components and their standard deviations as arrays."""
    with torch.inference_mode():
        blend = blend.contiguous(memory_format=torch.channels_last)
        components, std = network(blend)
        if std is None:
            std = symmetric_std(lambda *turned: network(*turned)[0], blend)
    return [x.cpu().numpy() for x in (blend, isolated, components, std)]
