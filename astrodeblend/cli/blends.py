"""Commands about blends with known truth: simulate, evaluate."""

from pathlib import Path

import click

from . import options


@click.command(
    epilog=options.examples(
        "astrodeblend simulate --images galaxies -n 100 --seed 1 -o blends.fits --plot",
        "astrodeblend simulate --images galaxies --split val --recipe sum -o blends.fits",
    )
)
@click.option(
    "--images", required=True, metavar="DIR", help="Folder of isolated galaxies, JPEG or PNG."
)
@click.option("--split", metavar="S", help="Part of them, by splits.csv in DIR. Default: all.")
@options.recipe
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many blends.",
)
@options.seed
@click.option("-o", "--out", required=True, metavar="OUT", help="FITS file to write.")
@options.plot("the first blends with their galaxies")
@options.overwrite
def simulate(images, split, recipe, number, seed, out, plot, overwrite):
    """Make blends with known truth.

    OUT gets BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; central first), both from 0
    to 1, and the table DRAW: which galaxies, and how each companion was perturbed. The same
    images, number and seed give the same blends, here and in 'astrodeblend evaluate'.
    """
    from astrodeblend.blends import draw_blends

    with options.outputs(out, plot, overwrite=overwrite) as (fits_file, picture, written):
        blends = draw_blends(images, split=split, recipe=recipe, number=number, seed=seed)
        blend, isolated = blends.write(fits_file, progress=True)
        if picture:
            _draw(blend[:8], isolated[:8], picture)
    click.echo(str(blends))
    click.echo(written)


@click.command(
    epilog=options.examples(
        "astrodeblend evaluate --model galaxyzoo --split val --data galaxies",
        "astrodeblend evaluate --model run/model.safetensors --data galaxies --out scores",
    )
)
@options.model
@click.option("--data", required=True, metavar="DIR", help="Folder of isolated galaxies.")
@click.option(
    "--split",
    metavar="S",
    help="Part of them, by splits.csv in DIR. Default: val if there is that table, else all.",
)
@options.recipe
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many blends. Default: as many as there are with each galaxy used once, at most "
    "3200 as in the paper. With more, galaxies are used again.",
)
@options.seed
@click.option("--out", metavar="FOLDER", help="Also write the table and all scores there (ECSV).")
@click.option("--card", is_flag=True, help="Also write the scores into the model's card.")
@options.overwrite
@options.device
def evaluate(model, data, split, recipe, number, seed, out, card, overwrite, device):
    """Score a model on simulated blends: Table 1 of Reiman & Goehre (2019).

    Prints mean, median, maximum, minimum and variance of PSNR (dB), of ssim_reiman2019 (the
    paper's lenient scale) and of ssim (the strict one), over both components, for each branch,
    for the blend taken as it is, and what the paper has.
    """
    from astrodeblend.blends import draw_blends
    from astrodeblend.evaluate import FILES
    from astrodeblend.evaluate import evaluate as score
    from astrodeblend.weights import read_card, write_card

    if card and not model.endswith(".safetensors"):
        raise ValueError(f"--card writes beside the weights; give them as a file, not {model!r}")
    if split is None and (Path(data) / "splits.csv").is_file():
        split = "val"
    if out is not None:
        options.check_folder(out, FILES, overwrite=overwrite)
    blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
    evaluation = score(options.load_model(model, device), blends, progress=True)
    click.echo(str(evaluation))
    if card:
        write_card(model, evaluation.on_card(read_card(model)))
        click.echo(f"wrote the scores into the card of {model}")
    if out is not None:
        evaluation.write(out, overwrite=overwrite)
        click.echo(f"wrote {' and '.join(str(Path(out) / name) for name in FILES)}")


def _draw(blend, isolated, path):
    """Draw blends, a column each, over their central galaxies and their companions."""
    import numpy as np
    from PIL import Image

    rows = np.stack([blend, isolated[:, 0], isolated[:, 1]])  # (rows, n, bands, y, x)
    rows = rows.transpose(0, 3, 1, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
