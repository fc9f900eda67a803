"""Measure what each band adds: errors of fluxes in i, from one band of LSST to five.

Scores the model survey and photutils on the same blends with ever more of their bands.

    python examples/fewer_bands.py [FOLDER [BLENDS]]

FOLDER holds real galaxies (split test, if it has one); without it all are parametric. Draws
fewer_bands.png.
"""

import sys
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from astrodeblend import Deblender
from astrodeblend.score import SURVEY_PEERS, benchmark
from astrodeblend.simulate import cut_galaxies, find_images, simulate_blends

STEPS = ("i", "ri", "gri", "griz", "grizy")


def select(blends, bands):
    """Return the same blends in some of their bands."""
    names = [band.name for band in blends.survey.bands]
    kept = [names.index(band) for band in bands]
    return replace(
        blends,
        survey=blends.survey.select(bands),
        blend=blends.blend[:, kept],
        isolated=blends.isolated[:, :, kept],
        noise=blends.noise[:, kept],
        variance=blends.variance[:, kept],
        flux=blends.flux[..., kept],
    )


def main(folder=None, number=300):
    """Run the example."""
    images = cut_galaxies(find_images(folder, split="test"), progress=True) if folder else None
    blends = simulate_blends(
        "lsst", int(number), bands="grizy", images=images, rng=5, progress=True
    )
    deblender, peers = Deblender.from_pretrained("survey"), [SURVEY_PEERS["photutils"]]
    errors = {}
    print(f"{len(blends)} blends of LSST, fluxes in i, sources with S/N above 20\n")
    print(f"{'bands':8}{'':12}{'mean':>8}{'median':>8}{'bias':>8}{'PSNR dB':>9}")
    for bands in STEPS:
        result = benchmark(select(blends, bands), models=[deblender], peers=peers)
        for row in result.tables["benchmark"]:
            if row["band"] != "i" or row["deblender"] not in ("survey", "photutils"):
                continue
            errors.setdefault(row["deblender"], []).append((row["flux_mean"], row["flux_median"]))
            numbers = f"{row['flux_mean']:8.4f}{row['flux_median']:8.4f}{row['flux_bias']:8.4f}"
            print(f"{bands:8}{row['deblender']:12}{numbers}{row['psnr']:9.2f}")
    figure = Figure((6.4, 3.6), layout="constrained")
    axes = figure.subplots(1, 2)
    for ax, name, column in zip(axes, ("mean", "median"), (0, 1), strict=True):
        for deblender, marker in (("photutils", "s"), ("survey", "o")):
            values = 100 * np.array(errors[deblender])[:, column]
            ax.plot(STEPS, values, marker=marker, label=deblender)
        ax.set(xlabel="bands", ylabel=f"{name} error of the flux in i (%)", ylim=(0, None))
    axes[0].legend()
    figure.savefig("fewer_bands.png", dpi=120)
    print("wrote fewer_bands.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
