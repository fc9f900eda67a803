"""Score the package on a small fixed set, so that every change shows what it changed.

    python examples/pinned_set.py FOLDER [--json new.json] [--against examples/pinned_base.json]

FOLDER holds pictures of galaxies, of which those of split ``val`` are taken, and, if there are real
blends, ``hsc_cosmos``. All seeds are fixed. Errors are by bootstrap over images; differences are
paired image by image, and ``worse`` marks those larger than their own error.

- ``scene``: 2 to 8 galaxies in a picture. |dF/F| is of ``segment_flux`` over the true light in the
  galaxy's own footprint, of galaxies that are found. A source is pure within 3.33 pixels of a
  galaxy, or of a peak that a galaxy's picture has outside the galaxy.
- ``two``: blends of the recipe reiman2019. PSNR of arrays; |dF/F| of pictures called one by one, in
  the true galaxy's isophote at a tenth of its peak.
- ``lsst``, ``hsc``: blends of two in griz, likewise; PSNR over the truth's peak in each band.
- ``field``: LSST coadds in gri, 200x200 pixels with 25 sources and the noise of the sky and of
  photons. |dF| of r flux over the noise limit 1 / sqrt(sum p^2 / variance), p the true profile, of
  sources with S/N over 20; completeness over 10.
- ``real``: HSC. Chi square is of the residual, per pixel and band, in pixels of signal over 5.
- ``hubble``: 400x400 pixels of the Hubble Deep Field.
"""

import argparse
import json
import time
from collections import defaultdict
from dataclasses import replace
from inspect import signature
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.nddata import InverseVariance, NDData, StdDevUncertainty
from astropy.stats import mad_std
from scipy.ndimage import gaussian_filter, label
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from skimage.data import hubble_deep_field
from skimage.feature import peak_local_max

from astrodeblend import Deblender
from astrodeblend.metrics import bootstrap_error, flux_error, isophote, psnr
from astrodeblend.simulate import (
    Simulator,
    SurveyStream,
    find_images,
    get_recipe,
    read_images,
    simulate_scene,
)

RADIUS = 10 / 3  # pixels; a source this near to a galaxy is it
STATISTICS = {
    "mean": np.mean,
    "median": np.median,
    "1 %": lambda values: np.percentile(values, 1),
    "90 %": lambda values: np.percentile(values, 90),
}
# What is printed of a metric, and how bad a value of it is.
METRICS = {
    "|dF/F|": (("median", "90 %"), abs),
    "|dF|/limit": (("median", "90 %"), abs),
    "PSNR": (("mean", "1 %"), lambda value: -value),
    "completeness": (("mean",), lambda value: -value),
    "purity": (("mean",), lambda value: -value),
    "chi square": (("median",), lambda value: abs(value - 1)),
    "light kept": (("mean",), lambda value: abs(value - 1)),
    "sources": (("mean",), None),
    "CPU seconds": (("mean",), None),
}


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description="Score the package on a small fixed set.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the values of every image here")
    parser.add_argument("--against", type=Path, help="compare with such a file")
    parser.add_argument("--few", action="store_true", help="one small image a set, to try it")
    options = parser.parse_args()
    few = options.few
    values = defaultdict(list)  # "set: metric" -> one list an image
    models = {
        name: Deblender.from_pretrained(name, dtype="float32")
        for name in ("galaxyzoo", "reiman2019", "survey")
    }
    split = "val" if (options.folder / "splits.csv").is_file() else None
    score_scenes(values, models["galaxyzoo"], options.folder, split, 1 if few else 20)
    score_pairs(values, models, options.folder, split, *((1, 1) if few else (100, 30)))
    for survey in ("lsst", "hsc"):
        score_survey(values, models["survey"], survey, 1 if few else 60)
    score_fields(values, models["survey"], *((1, 64, 5) if few else (8, 200, 25)))
    paths = sorted((options.folder / "hsc_cosmos").glob("*.npz"))[::4]
    score_real(values, models["survey"], paths[: 1 if few else 10])
    score_hubble(values, models["galaxyzoo"], 80 if few else 400)

    values = {
        key: [[float(f"{value:.4g}") for value in np.ravel(image)] for image in images]
        for key, images in values.items()
    }
    base = json.loads(options.against.read_text()) if options.against else None
    print_table(values, base)
    if options.json:
        lines = (f"{json.dumps(key)}: {json.dumps(images)}" for key, images in values.items())
        options.json.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def score_scenes(values, deblender, folder, split, number):
    """Take scenes of pictures apart, both modes of the same galaxies."""
    paths = find_images(folder, split=split, isolated=True)
    for mode in ("max", "sum"):
        for k in range(number):
            rng = np.random.default_rng([1, k])
            chosen = rng.choice(len(paths), rng.integers(2, 9), replace=False)
            scene = simulate_scene([read_images([paths[j]])[0] for j in chosen], mode=mode, rng=rng)
            true, others = [], []
            for alone, position in zip(scene.light, scene.positions, strict=True):
                footprint, peaks = look_at(alone.sum(axis=0), position)
                true.append(alone[:, footprint].sum())
                others.append(peaks)

            def error(flux, found, true=tuple(true)):
                return np.abs(flux.sum(axis=1) / 255 / np.array(true)[found] - 1)

            score_scene(
                *(values, f"scene {mode}", deblender, picture(scene.blend), scene.positions),
                {"|dF/F|": error},
                others=np.concatenate(others),
            )


def look_at(light, position):
    """Return the footprint of a galaxy alone, and peaks (x, y) outside of it."""
    smooth = gaussian_filter(light, 1)
    noise = mad_std(smooth)
    parts, _ = label(smooth > 3 * noise)
    x, y = np.round(position).astype(int)
    middle = parts[y - 3 : y + 4, x - 3 : x + 4]
    own = np.bincount(middle[middle > 0], minlength=2).argmax()
    footprint = parts == own
    peaks = peak_local_max(smooth, min_distance=3, threshold_abs=5 * noise, exclude_border=False)
    return footprint, peaks[~footprint[tuple(peaks.T)]][:, ::-1]


def score_scene(values, name, deblender, image, positions, errors, *, others=(), counts=...):
    """Take a scene apart at its true positions, and at those that are detected.

    ``errors`` has functions of the flux of some sources (m, bands) and which they are (n,);
    ``others`` are places of what else there is, and ``counts`` the sources to be complete in.
    """
    everybody = np.ones(len(positions), bool)
    for light in ("", ", network's light"):
        scene = take_apart(values, f"{name}, given{light}", deblender, image, positions)
        if scene is not None:
            for metric, error in errors.items():
                found = error(fluxes(scene), everybody)
                values[f"{name}, given{light}: {metric}"].append(found)
    name = f"{name}, detected"
    scene = take_apart(values, name, deblender, image)
    values[f"{name}: sources"].append([len(scene.catalog)])
    places = np.stack([scene.catalog["x_centroid"], scene.catalog["y_centroid"]], axis=-1)
    which = match(positions, places)
    known = np.concatenate([positions, np.reshape(others, (-1, 2))])
    near = (cdist(places, known) <= RADIUS).any(axis=1)
    values[f"{name}: completeness"].append((which >= 0)[counts])
    values[f"{name}: purity"].append(near)
    for metric, error in errors.items():
        found = error(fluxes(scene)[which[which >= 0]], which >= 0)
        values[f"{name}: {metric}"].append(found)


def take_apart(values, name, deblender, image, positions=None):
    """Return a scene; None if there is no such light."""
    light = {}
    if name.endswith("network's light"):
        if "light" not in signature(deblender.deblend_scene).parameters:
            return None
        light = {"light": "network"}
    start = time.process_time()
    scene = deblender.deblend_scene(image, positions=positions, **light)
    values[f"{name}: CPU seconds"].append([time.process_time() - start])
    values[f"{name}: image"].append([np.std(getattr(image, "data", image))])
    return scene


def fluxes(scene):
    """Return the fluxes of all sources, (n, bands); none of one without light."""
    return np.nan_to_num(u.Quantity(scene.catalog["segment_flux"]).value)


def match(galaxies, places):
    """Return which source each galaxy is, -1 for none."""
    distance = cdist(galaxies, places)
    rows, columns = linear_sum_assignment(np.minimum(distance, 10 * RADIUS))
    near = distance[rows, columns] <= RADIUS
    which = np.full(len(galaxies), -1)
    which[rows[near]] = columns[near]
    return which


def picture(image):
    """Return the 8 bits of a picture."""
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def score_pairs(values, models, folder, split, number, called):
    """Take blends of two pictures apart."""
    paths = find_images(folder, split=split)
    rng = np.random.default_rng(1)
    recipe = get_recipe("reiman2019")
    draw = recipe.draw(rng, number, len(paths))
    used, where = np.unique([draw.central, draw.companion], return_inverse=True)
    central, companion = where.reshape(2, -1)
    simulator = Simulator(read_images([paths[k] for k in used]), recipe)
    blend, isolated = simulator(replace(draw, central=central, companion=companion))
    blend, isolated = blend.numpy(), isolated.numpy()
    for model in ("galaxyzoo", "reiman2019"):
        name = f"two, {model}"
        values[f"{name}: PSNR"] += list(psnr(models[model].deblend_arrays(blend), isolated))
        values[f"{name}: image"] += [[np.std(image)] for image in blend]
    for image, truth in zip(blend[:called], isolated, strict=False):
        start = time.process_time()
        result = models["galaxyzoo"](picture(image))
        values["two, called: CPU seconds"].append([time.process_time() - start])
        values["two, called: image"].append([np.std(image)])
        for branch, alone in zip(("central", "companion"), truth, strict=True):
            error = flux_error(getattr(result, branch).data / 255, alone)
            which = "" if branch == "central" else ", companion"
            values[f"two, called{which}: |dF/F|"].append(np.abs(error))


def score_survey(values, deblender, survey, number):
    """Take blends of two in linear flux apart."""
    stream = SurveyStream([survey], batch=number, seed=1, bands="griz", vary=0, stars=0)
    draw = stream.draw(0)
    blend, isolated, noise = (array.numpy() for array in stream.render(draw))
    peak = isolated.max(axis=(-2, -1))
    found = deblender.deblend_arrays(blend / noise[..., None, None])
    found = found * noise[:, None, :, None, None]
    score = psnr(found[:, :, :, None], isolated[:, :, :, None], data_range=peak).mean(axis=-1)
    values[f"{survey}: PSNR"] += list(score)
    values[f"{survey}: image"] += [[np.std(image)] for image in blend]
    for image, (truth, _), deviation, places in zip(
        blend, isolated, noise, draw.position, strict=True
    ):
        result = deblender(exposure(image, deviation), tuple(places[0]))
        light = result.central.data - np.reshape(result.meta["background"], (-1, 1, 1))
        inside = isophote(truth)
        error = light[:, inside].sum(axis=1) / truth[:, inside].sum(axis=1) - 1
        values[f"{survey}, called: |dF/F|"].append(np.abs(error))
        values[f"{survey}, called: image"].append([np.std(image)])


def exposure(image, noise):
    """Return flux with the noise of its sky."""
    deviation = np.broadcast_to(noise[:, None, None], image.shape).copy()
    return NDData(image, uncertainty=StdDevUncertainty(deviation), unit="nJy")


def score_fields(values, deblender, number, size, sources):
    """Take fields of a survey apart, whose sources are anywhere."""
    stream = SurveyStream(
        ["lsst"], batch=number, seed=1, bands="gri", stamp=size, sources=sources, vary=0,
        magnitudes=(-7.5, -6), contrast=6, separations=(0, 1),
    )  # fmt: skip
    draw = stream.draw(0)
    places = np.random.default_rng(1).uniform(8, size - 9, draw.position.shape)
    draw = replace(draw, position=places)
    for k in range(number):
        image, isolated, noise = (array[0].numpy() for array in stream.render(draw[k : k + 1]))
        alone = isolated[:, 1].astype(float)  # in r
        flux = alone.sum(axis=(1, 2))
        variance = noise[1] ** 2 + alone.clip(0) / draw.electrons[k, 1]
        limit = 1 / np.sqrt((alone**2 / variance).sum(axis=(1, 2))) * flux

        def error(found, which, flux=flux, limit=limit):
            deviation = np.abs(found[:, 1] - flux[which]) / limit[which]
            return deviation[(flux / limit)[which] > 20]

        score_scene(
            *(values, "field", deblender, exposure(image, noise), places[k]),
            {"|dF|/limit": error},
            counts=flux / limit > 10,
        )


def score_real(values, deblender, paths):
    """Take real blends of HSC apart, whose peaks are known."""
    for path in paths:
        with np.load(path) as file:
            data, weights = (np.asarray(file[name], float) for name in ("images", "weights"))
            peaks = np.reshape(file["peaks"], (-1, 2)).astype(float)
        image = NDData(data, uncertainty=InverseVariance(weights.copy()), unit=u.adu)
        scene = take_apart(values, "real", deblender, image)
        bands = np.maximum((weights > 0).sum(axis=0), 1)
        signal = (data * np.sqrt(weights)).sum(axis=0) / np.sqrt(bands)
        x, y = np.round(peaks).astype(int).T
        places = np.stack([scene.catalog["x_centroid"], scene.catalog["y_centroid"]], axis=-1)
        found = match(peaks, places)[signal[y, x] > 5] >= 0
        # a Gaussian of 1 pixel takes noise down to 1 / (2 sqrt(pi))
        bright = gaussian_filter(signal, 1) > 5 / (2 * np.sqrt(np.pi))
        left = scene.residual.data - np.reshape(scene.meta["background"], (-1, 1, 1))
        seen = bright & (weights > 0)
        values["real: completeness"].append(found)
        values["real: sources"].append([len(scene.catalog)])
        values["real: chi square"].append([np.mean((weights * left**2)[seen])])


def score_hubble(values, deblender, size):
    """Take a real picture apart."""
    image = np.moveaxis(hubble_deep_field()[200 : 200 + size, 200 : 200 + size], -1, 0)
    scene = take_apart(values, "hubble", deblender, image)
    light = sum(float(component.data.sum()) for component in scene.components)
    above = image - np.reshape(scene.meta["background"], (-1, 1, 1))
    values["hubble: sources"].append([len(scene.catalog)])
    values["hubble: light kept"].append([light / above.sum()])


def print_table(values, base):
    """Print every number with its error, beside those of the base."""
    print(f"{'':34}{'':13}{'':7}{'value':>9}   error", end="")
    print("" if base is None else f"{'base':>11}{'difference':>12}   error")
    for key, images in values.items():
        name, metric = key.split(": ")
        for kind in METRICS.get(metric, ((),))[0]:
            statistic, bad = STATISTICS[kind], METRICS[metric][1]
            new, error = estimate(statistic, images)
            line = f"{name:34}{metric:13}{kind:7}{new:9.4g} ± {error:5.2g}"
            if base is not None:
                line += compare(
                    statistic, bad, images, base.get(key), new, same(values, base, name)
                )
            print(line)


def same(values, base, name):
    """Say whether the images of a set are those of the base."""
    name = name.removesuffix(", companion")
    new, old = (np.ravel(each.get(f"{name}: image", ())) for each in (values, base))
    return new.shape == old.shape and np.allclose(new, old, rtol=1e-3)


def compare(statistic, bad, images, base, new, paired):
    """Return the base's number, the difference, and whether that is for the worse."""
    if base is None:
        return "          -"
    old, error = estimate(statistic, base)
    if not paired:
        return f"{old:11.4g}   of other images"
    _, error = estimate(statistic, images, base)
    worse = bad is not None and bad(new) - bad(old) > error
    return f"{old:11.4g}{new - old:+12.3g} ± {error:5.2g}{'  worse' if worse else ''}"


def estimate(statistic, *sets):
    """Return a statistic, or the difference of two, and its bootstrap error over images."""
    longest = max(1, *(len(image) for images in sets for image in images))
    padded = np.full((len(sets[0]), len(sets), longest), np.nan)
    for j, images in enumerate(sets):
        for k, image in enumerate(images):
            padded[k, j, : len(image)] = image

    def number(drawn):
        each = [part[~np.isnan(part)] for part in np.moveaxis(drawn, 1, 0)]
        each = [statistic(part) if len(part) else np.nan for part in each]
        return each[0] - (each[1] if len(each) > 1 else 0)

    return number(padded), bootstrap_error(padded, number, resamples=400, rng=1)


if __name__ == "__main__":
    main()
