"""The command that makes blends: simulate."""

import click

from . import options


@options.command(
    "astrodeblend simulate --images galaxies -n 100 --seed 1 -o blends.fits --plot",
    "astrodeblend simulate --images galaxies --split val --recipe sum -o blends.fits",
    "astrodeblend simulate --survey lsst --bands g,r,i,z,y -n 100 -o blends.fits --plot",
    "astrodeblend simulate --survey MY.yaml --images galaxies -o blends.fits",
)
@options.data("For surveys colour pictures of SDSS; without, their galaxies are parametric alone.")
@options.split("all")
@options.recipe
@options.survey
@options.bands("Of the survey. Default: all.")
@options.whole("--sources", 2, "With --survey: how many sources a blend has.")
@options.number("How many blends.", default=100, show_default=True)
@options.seed
@click.option("-o", "--out", required=True, metavar="OUT", help="FITS file to write.")
@options.plot("the first blends with their galaxies")
@options.as_json
@options.quiet
@options.overwrite
@click.pass_context
def simulate(
    context, data, split, recipe, survey, bands, sources, number, seed, out, plot, overwrite
):
    """Make blends with known truth.

    OUT gets BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; central first), both from 0
    to 1, and the table DRAW: which galaxies, and how each companion was perturbed. The same
    images, number and seed give the same blends, here and in 'astrodeblend evaluate'.

    With --survey light is linear, in nJy, and adds; see the page on surveys. OUT gets BLEND,
    ISOLATED (without noise), VARIANCE, NOISE (that of the sky in each band) and the table TRUTH.
    It takes GalSim.
    """
    import numpy as np

    from astrodeblend.blends import draw_blends

    other = ("bands", "sources") if survey is None else ("recipe",)
    given = options.given(context, *other)
    if given:
        raise ValueError(
            f"{given} does not go with{'out' * (survey is None)} --survey; leave it out"
        )
    if data is None and survey is None:
        raise ValueError("--images is missing: a folder of galaxies; or give a --survey")
    with options.outputs(out, plot, overwrite=overwrite) as ((fits_file, picture), written):
        if survey is not None:
            blends = options.survey_blends(
                survey, number, data, split, bands=bands, seed=seed, sources=sources
            )
            _write_survey(blends, fits_file, picture)
            text = f"{blends}, seed {seed}"
        else:
            blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
            blend, isolated = blends.write(fits_file, progress=True)
            text = str(blends)
            if picture:
                _draw(np.concatenate([blend[:8, None], isolated[:8]], axis=1), picture)
    click.echo(text)
    click.echo(options.wrote(written))
    return {"files": written, "number": number, "seed": seed}


def _write_survey(blends, fits_file, picture):
    """Write blends of a survey, and draw the first ones."""
    import numpy as np

    from astrodeblend.blends import write_survey_blends
    from astrodeblend.plot import in_colour

    write_survey_blends(blends, fits_file)
    if picture:
        wavelength = [band.wavelength for band in blends.survey.bands]
        rows = np.concatenate([blends.blend[:8, None], blends.isolated[:8]], axis=1)
        _draw(in_colour(rows, blends.noise[:8], wavelength), picture)


def _draw(rows, path):
    """Draw blends, a column each, over their galaxies, (n, rows, bands, y, x)."""
    import numpy as np
    from PIL import Image

    rows = rows.transpose(1, 3, 0, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
