"""The command that makes blends: simulate."""

import click

from . import options


@options.command(
    "astrodeblend simulate --images galaxies -n 100 --seed 1 -o blends.fits --plot",
    "astrodeblend simulate --images galaxies --split val --recipe sum -o blends.fits",
    "astrodeblend simulate --survey lsst --bands g,r,i,z,y -n 100 -o blends.fits --plot",
    "astrodeblend simulate --survey MY.yaml --images galaxies -o blends.fits",
)
@options.images(
    "Folder of isolated galaxies, JPEG or PNG; with --survey optional, colour pictures of SDSS, of "
    "which half of the galaxies are made."
)
@options.split("all galaxies of DIR")
@options.recipe
@options.survey
@options.bands("With --survey: the bands, such as g,r,i.", default="all")
@options.whole("--sources", default=2, text="With --survey: number of sources in a blend.")
@options.whole("-n", "--number", default=100, text="Number of blends.")
@options.seed
@options.out("FITS file to write.", required=True)
@options.plot("the first eight blends with their galaxies")
@options.as_json
@options.quiet
@options.overwrite
@click.pass_context
def simulate(
    context, images, split, recipe, survey, bands, sources, number, seed, out, plot, overwrite
):
    """Simulate blends whose truth is known.

    Without --survey, blends are pictures of two galaxies of --images. OUT has the extensions BLEND
    (n, bands, y, x), ISOLATED (n, 2, bands, y, x; the central galaxy first), both from 0 to 1, and
    the table DRAW: the file of each galaxy and the perturbation of each companion.

    With --survey, blends are linear flux in nJy, with the survey's bands, PSFs and noise. OUT has
    BLEND, ISOLATED (each source alone, without noise), VARIANCE, NOISE (standard deviation of the
    sky in each band) and the table TRUTH. This needs GalSim: pip install astrodeblend[galsim].

    The same images, number and seed give the same blends, in 'astrodeblend evaluate' too.
    """
    import numpy as np

    from astrodeblend.blends import draw_blends, write_survey_blends
    from astrodeblend.plot import in_colour

    given = options.given(context, *(("bands", "sources") if survey is None else ("recipe",)))
    if given:
        raise ValueError(
            f"{given} does not go with{'out' * (survey is None)} --survey; leave it out"
        )
    if images is None and survey is None:
        raise ValueError("--images is missing: give a folder of galaxies, or a --survey")
    with options.outputs(out, plot, overwrite=overwrite) as ((fits_file, picture), written):
        if survey is None:
            blends = draw_blends(images, split=split, recipe=recipe, number=number, seed=seed)
            blend, isolated = blends.write(fits_file, progress=True)
            click.echo(str(blends))
        else:
            blends = options.survey_blends(
                survey, number, images, split, bands=bands, rng=seed, sources=sources
            )
            write_survey_blends(blends, fits_file)
            blend, isolated = blends.blend, blends.isolated
            click.echo(f"{blends}, seed {seed}")
        if picture:
            rows = np.concatenate([blend[:8, None], isolated[:8]], axis=1)
            if survey is not None:
                wavelength = [band.wavelength for band in blends.survey.bands]
                rows = in_colour(rows, blends.noise[:8], wavelength)
            _draw(rows, picture)
    click.echo(options.wrote(written))
    return {"files": written, "number": number, "seed": seed}


def _draw(rows, path):
    """Draw blends above their galaxies, (n, rows, bands, y, x), a column for each blend."""
    import numpy as np
    from PIL import Image

    rows = rows.transpose(1, 3, 0, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
