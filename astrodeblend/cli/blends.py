"""Commands about blends with known truth: simulate, evaluate."""

from pathlib import Path

import click
from click.core import ParameterSource

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
        "astrodeblend evaluate --model galaxyzoo --split test --data galaxies",
        "astrodeblend evaluate --model run/model.safetensors --data galaxies -n 300 --out scores",
        "astrodeblend evaluate --data galaxies --recipe reiman2019 --recipe sum --recipe max_sum",
        "astrodeblend evaluate --data galaxies --blends scores/blends.ecsv",
    )
)
@options.model
@click.option("--data", required=True, metavar="DIR", help="Folder of isolated galaxies.")
@click.option(
    "--split",
    metavar="S",
    help="Part of them, by splits.csv in DIR. Default: val if there is that table, else all.",
)
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice(options.RECIPES),
    multiple=True,
    default=("reiman2019",),
    show_default=True,
    help="What blends to make. May be given several times.",
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many blends. Default: 3200, as in the paper; galaxies are used again, all as often, "
    "if there are too few. Of fewer than 40 galaxies: each once.",
)
@options.seed
@click.option(
    "--blends",
    "listed",
    metavar="LIST",
    help="Make the blends of this list, a blends.ecsv from --out, instead of drawing any.",
)
@click.option(
    "--out", metavar="FOLDER", help="Also write there; with several recipes, a folder for each."
)
@click.option("--card", is_flag=True, help="Also write the scores into the model's card.")
@options.overwrite
@options.device
@click.pass_context
def evaluate(
    context, model, data, split, recipes, number, seed, listed, out, card, overwrite, device
):
    """Score a model on simulated blends: Table 1 of Reiman & Goehre (2019), and more.

    Prints mean and its error, median, maximum, minimum, variance and 1st percentile (p1) of
    PSNR (dB), of ssim_reiman2019 (the paper's lenient scale) and of ssim (the strict one),
    over both components, for each branch and sub-folder of DIR, for the blend taken as it is,
    and what the paper has; means by separation, flux ratio and overlap; and how rough
    components are beside the truth.

    --out writes all of it to FOLDER: tables and the list of blends (ECSV), scores.json, and
    figures (PNG) of distributions, bins, power, successes and failures.
    """
    from astrodeblend.blends import draw_blends, read_blends
    from astrodeblend.evaluate import FILES
    from astrodeblend.evaluate import evaluate as score
    from astrodeblend.report import summary_of
    from astrodeblend.weights import read_card, write_card

    if card and not model.endswith(".safetensors"):
        raise ValueError(f"--card writes beside the weights; give them as a file, not {model!r}")
    if listed is not None:
        _refuse_beside_a_list(context)
    if split is None and (Path(data) / "splits.csv").is_file():
        split = "val"
    recipes = tuple(dict.fromkeys(recipes))
    folders = _folders(out, recipes, FILES, overwrite=overwrite)
    deblender = options.load_model(model, device)
    if listed is not None:
        sets = [read_blends(listed, data)]
    else:
        sets = [
            draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
            for recipe in recipes
        ]
    evaluations = []
    for blends, folder in zip(sets, folders, strict=True):
        evaluation = score(deblender, blends, progress=True)
        evaluations.append(evaluation)
        click.echo(str(evaluation))
        if folder is not None:
            folder.parent.mkdir(exist_ok=True)
            evaluation.write(folder, overwrite=overwrite)
            click.echo(f"wrote {', '.join(FILES)} to {folder}")
        click.echo()
    if len(evaluations) > 1:
        click.echo(summary_of(evaluations))
    if card:
        content = read_card(model)
        for evaluation in evaluations:
            content = evaluation.on_card(content)
        write_card(model, content)
        click.echo(f"wrote the scores into the card of {model}")


def _refuse_beside_a_list(context):
    """Refuse options that say what a list of blends says already."""
    given = [
        parameter.opts[-1]
        for parameter in context.command.params
        if parameter.name in ("split", "recipes", "number", "seed")
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise ValueError(
            f"--blends says which blends to make; leave {' and '.join(given)} out, or --blends"
        )


def _folders(out, recipes, names, *, overwrite):
    """Return where to write for each recipe, None for nowhere; refuse what cannot be written."""
    if out is None:
        return [None] * len(recipes)
    if len(recipes) == 1:
        options.check_folder(out, names, overwrite=overwrite)
        return [Path(out)]
    options.check_folder(out, (), overwrite=overwrite)
    folders = [Path(out) / recipe for recipe in recipes]
    for folder in folders:
        if folder.exists():
            options.check_folder(folder, names, overwrite=overwrite)
    return folders


def _draw(blend, isolated, path):
    """Draw blends, a column each, over their central galaxies and their companions."""
    import numpy as np
    from PIL import Image

    rows = np.stack([blend, isolated[:, 0], isolated[:, 1]])  # (rows, n, bands, y, x)
    rows = rows.transpose(0, 3, 1, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
