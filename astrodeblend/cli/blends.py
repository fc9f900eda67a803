"""Commands about blends with known truth: simulate, evaluate."""

from pathlib import Path

import click

from . import options


@options.command(
    "astrodeblend simulate --images galaxies -n 100 --seed 1 -o blends.fits --plot",
    "astrodeblend simulate --images galaxies --split val --recipe sum -o blends.fits",
    "astrodeblend simulate --survey lsst --bands g,r,i,z,y -n 100 -o blends.fits --plot",
    "astrodeblend simulate --survey MY.yaml --images galaxies -o blends.fits",
)
@click.option(
    "--images",
    "--data",
    "images",
    metavar="DIR",
    help="Folder of isolated galaxies, JPEG or PNG; for surveys colour pictures of SDSS. Without, "
    "the galaxies of surveys are parametric alone.",
)
@click.option("--split", metavar="S", help="Part of them, by splits.csv in DIR. Default: all.")
@options.recipe
@click.option(
    "--survey",
    metavar="NAME|YAML",
    help="Instead of a recipe: blends in linear flux as lsst, hsc, des or sdss sees them, or the "
    "survey of a file.",
)
@click.option("--bands", metavar="B,B,...", help="Bands of the survey. Default: all.")
@click.option(
    "--sources",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="With --survey: how many sources a blend has.",
)
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
@options.as_json
@options.quiet
@options.overwrite
@click.pass_context
def simulate(
    context, images, split, recipe, survey, bands, sources, number, seed, out, plot, overwrite
):
    """Make blends with known truth.

    OUT gets BLEND (n, bands, y, x), ISOLATED (n, 2, bands, y, x; central first), both from 0
    to 1, and the table DRAW: which galaxies, and how each companion was perturbed. The same
    images, number and seed give the same blends, here and in 'astrodeblend evaluate'.

    With --survey light is linear, in nJy, and adds; see the page on surveys. OUT gets BLEND,
    ISOLATED (without noise), VARIANCE, NOISE (that of the sky in each band) and the table TRUTH.
    It takes GalSim.
    """
    from astrodeblend.blends import draw_blends

    other = ("bands", "sources") if survey is None else ("recipe",)
    given = options.given(context, *other)
    if given:
        raise ValueError(
            f"{given} does not go with{'out' * (survey is None)} --survey; leave it out"
        )
    if images is None and survey is None:
        raise ValueError("--images is missing: a folder of galaxies; or give a --survey")
    with options.outputs(out, plot, overwrite=overwrite) as ((fits_file, picture), written):
        if survey is not None:
            text = _simulate_survey(
                survey, images, split, bands, sources, number, seed, fits_file, picture
            )
        else:
            blends = draw_blends(images, split=split, recipe=recipe, number=number, seed=seed)
            blend, isolated = blends.write(fits_file, progress=True)
            text = str(blends)
            if picture:
                _draw(blend[:8], isolated[:8], picture)
    click.echo(text)
    click.echo(options.wrote(written))
    return {"files": written, "number": number, "seed": seed}


def _simulate_survey(survey, images, split, bands, sources, number, seed, fits_file, picture):
    """Write blends of a survey, and say what they are."""
    import numpy as np

    from astrodeblend.blends import write_survey_blends
    from astrodeblend.plot import in_colour
    from astrodeblend.simulate import cut_galaxies, find_images, get_survey, simulate_blends

    survey = get_survey(survey)
    galaxies = None
    if images is not None:
        galaxies = cut_galaxies(find_images(images, split=split), progress=True)
    try:
        blends = simulate_blends(
            survey,
            number,
            sources=sources,
            bands=None if bands is None else bands.split(","),
            images=galaxies,
            rng=seed,
            progress=True,
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    write_survey_blends(blends, fits_file)
    if picture:
        wavelength = [band.wavelength for band in blends.survey.bands]
        rows = np.concatenate([blends.blend[:8, None], blends.isolated[:8]], axis=1)
        rows = in_colour(rows, blends.noise[:8], wavelength)
        _draw(rows[:, 0], rows[:, 1:], picture)
    return f"{blends}, seed {seed}"


def _evaluate_blends(
    context, model, data, split, recipes, number, seed, listed, out, card, overwrite, how
):
    """Score a model on blends of two."""
    from astrodeblend.blends import draw_blends, read_blends
    from astrodeblend.evaluate import FILES
    from astrodeblend.evaluate import evaluate as score
    from astrodeblend.report import summary_of
    from astrodeblend.weights import check_model, read_card, write_card

    if card and not model.endswith(".safetensors"):
        raise ValueError(f"--card writes beside the weights; give them as a file, not {model!r}")
    if listed is not None:
        given = options.given(context, "split", "recipes", "number", "seed")
        if given:
            raise ValueError(f"--blends says which blends to make; leave {given} out, or --blends")
        if card:
            raise ValueError(
                "--card keeps scores with the command that prints them again, and there is none "
                "for a list of blends; leave out --blends or --card"
            )
    recipes = _recipes(recipes, options.RECIPES) or ("reiman2019",)
    folders = _folders(out, recipes, FILES, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    check_model(deblender.card)
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
    return {e.blends.recipe.name: e.to_dict() for e in evaluations}


def _evaluate_scenes(context, model, data, split, recipes, number, seed, out, overwrite, how):
    """Score a model on scenes of several galaxies."""
    from astrodeblend.scene_scores import FILES, draw_scenes, score_scenes

    recipes = _recipes(recipes, ("max", "sum", "both"))
    if not recipes or "both" in recipes:
        recipes = ("max", "sum")
    folders = _folders(out, recipes, FILES, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    number = 200 if number is None else number
    sets = [draw_scenes(data, split=split, mode=m, number=number, seed=seed) for m in recipes]
    content = {}
    for recipe, scenes, folder in zip(recipes, sets, folders, strict=True):
        scores = score_scenes(deblender, scenes, progress=True)
        content[recipe] = scores.to_dict()
        click.echo(str(scores))
        if folder is not None:
            folder.parent.mkdir(exist_ok=True)
            scores.write(folder, overwrite=overwrite)
            click.echo(f"wrote {', '.join(FILES)} to {folder}")
        click.echo()
    return content


def _evaluate_detection(context, model, data, split, number, seed, out, overwrite, how):
    """Score how well a model tells blends from single galaxies."""
    from astrodeblend.blend_detection import FILES, score_detection

    if out is not None:
        options.check_folder(out, FILES, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    number = 2000 if number is None else number
    found = score_detection(deblender, data, split=split, number=number, seed=seed, progress=True)
    click.echo(str(found))
    if out is not None:
        found.write(out, overwrite=overwrite)
        click.echo(f"wrote {', '.join(FILES)} to {out}")
    return found.to_dict()


def _evaluate_hsc(context, model, data, bands, peers, out, overwrite, how):
    """Score a model on real blends with known peaks."""
    from astrodeblend.scene_scores import real_files, score_real_blends

    if out is not None:
        options.check_folder(out, real_files(data), overwrite=overwrite)
    peers = [_survey_peer(name) for name in dict.fromkeys(peers)]
    deblender = options.load_model(model, **how)
    bands = None if bands is None else bands.replace(",", "")
    scores = score_real_blends(deblender, data, bands=bands, peers=peers, progress=True)
    click.echo(str(scores))
    if out is not None:
        scores.write(out, overwrite=overwrite)
        click.echo(f"wrote peaks.ecsv, blends.ecsv and a picture of each blend to {out}")
    blends = scores.blends
    return {"blends": [dict(zip(blends.colnames, row, strict=True)) for row in blends.iterrows()]}


def _survey_peer(name):
    """Return another deblender with its settings for surveys, or refuse it if it is missing."""
    from astrodeblend.benchmark import SURVEY_PEERS

    peer = SURVEY_PEERS[name]
    if not peer.installed:
        raise ValueError(f"--peer {name}: {peer.hint}")
    return peer


# What each task runs, and options that mean nothing to it.
_TASKS = {
    "blends": (_evaluate_blends, ("bands", "peers")),
    "scenes": (_evaluate_scenes, ("listed", "card", "bands", "peers")),
    "detection": (_evaluate_detection, ("recipes", "listed", "card", "bands", "peers")),
    "hsc": (_evaluate_hsc, ("split", "recipes", "number", "seed", "listed", "card")),
}


@options.command(
    "astrodeblend evaluate --model galaxyzoo --split test --data galaxies",
    "astrodeblend evaluate --model run/model.safetensors --data galaxies -n 300 --out scores",
    "astrodeblend evaluate --data galaxies --recipe reiman2019 --recipe sum --recipe max_sum",
    "astrodeblend evaluate --data galaxies --blends scores/blends.ecsv",
    "astrodeblend evaluate --task scenes --data galaxies --split test -o scores",
    "astrodeblend evaluate --task detection --data galaxies --split test -n 2000 -o scores",
    "astrodeblend evaluate --task hsc --data blends --bands i,r,g",
    "astrodeblend evaluate --task hsc --model survey --data blends --peer scarlet2 -o scores",
)
@click.option(
    "--task",
    type=click.Choice(list(_TASKS)),
    default="blends",
    show_default=True,
    help="What to score on: blends of two; scenes of two to eight galaxies that overlap, "
    "beside photutils; or, beside photutils too, telling blends from single galaxies; or real "
    "blends with known peaks.",
)
@options.model("galaxyzoo")
@click.option(
    "--data", "--images", "data", required=True, metavar="DIR", help="Folder of isolated galaxies."
)
@click.option(
    "--split",
    metavar="S",
    help="Part of them, by splits.csv in DIR. Default: val if there is that table, else all.",
)
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice([*options.RECIPES, "max", "both"]),
    multiple=True,
    help="What to make. May be given several times. Default: reiman2019; for scenes, which are "
    "made by max, sum or both, both.",
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many blends. Default: 3200, as in the paper; galaxies are used again, all as often, "
    "if there are too few. Of fewer than 40 galaxies: each once. Of scenes: 200. Of stamps "
    "with one galaxy or two: 2000.",
)
@options.seed
@click.option(
    "--blends",
    "listed",
    metavar="LIST",
    help="Make the blends of this list, a blends.ecsv from --out, instead of drawing any.",
)
@click.option(
    "--bands",
    metavar="B,B,...",
    help="Of g, r, i, z, y, for --task hsc, in the order in which the model takes them. Default: "
    "i,r,g for colour models, else all.",
)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(["scarlet2"]),
    multiple=True,
    help="For --task hsc: fit the same blends with it too, for what it leaves of the light.",
)
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    help="Also write there; with several recipes, a folder for each.",
)
@click.option("--card", is_flag=True, help="Also write the scores into the model's card.")
@options.as_json
@options.quiet
@options.overwrite
@options.how
@click.pass_context
def evaluate(context, task, **chosen):
    """Score a model on simulated blends: Table 1 of Reiman & Goehre (2019), and more.

    Prints mean and its error, median, maximum, minimum, variance and 1st percentile (p1) of
    PSNR (dB), of ssim_reiman2019 (the paper's lenient scale) and of ssim (the strict one),
    over both components, for each branch and sub-folder of DIR, for blends of pictures that
    splits.csv calls isolated, for the blend taken as it is, and what the paper has; means by
    separation, flux ratio and overlap; and how rough components are beside the truth.

    With --task scenes: how many galaxies come back where the true positions are given, and
    where they are detected; median and 90th percentile of the relative error of fluxes by
    number of galaxies, separation and overlap, beside the segments of photutils; and how
    often the truth is within the errors.

    With --task detection: how many blends are found, by separation, at the same rate of false
    alarms, by the model's blend score and by photutils; the area under the curve; and how
    often stamps of a score are blends.

    With --task hsc: DIR holds real blends in linear flux (.npz: images in grizy, weights and
    peaks, and psfs for --peer). How many of the peaks with S/N above 5 are sources of the scene,
    beside photutils, why the others are not, and what the components leave of the light: chi
    square in their footprints, beside that of scarlet2 with --peer scarlet2, which takes a
    minute or so for each blend.

    --out writes all of it to FOLDER: tables and the list of blends or galaxies (ECSV),
    scores.json, and figures (PNG); of real blends a picture of each. --json prints what
    scores.json has, by recipe; of real blends a row for each.
    """
    run, foreign = _TASKS[task]
    given = options.given(context, *foreign)
    if given:
        raise ValueError(f"--task {task} knows no {given}; leave that out")
    for name in foreign:
        del chosen[name]
    if (
        "split" in chosen
        and chosen["split"] is None
        and (Path(chosen["data"]) / "splits.csv").is_file()
    ):
        chosen["split"] = "val"
    return run(context, **chosen)


def _recipes(recipes, known):
    """Return recipes, each once, or refuse those of another task."""
    for recipe in recipes:
        if recipe not in known:
            raise ValueError(f"--recipe {recipe} is none of this --task: {', '.join(known)}")
    return tuple(dict.fromkeys(recipes))


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

    rows = np.concatenate([blend[:, None], isolated], axis=1)  # (n, rows, bands, y, x)
    rows = rows.transpose(1, 3, 0, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
