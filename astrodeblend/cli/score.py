"""The commands on blends whose truth is known: simulate, benchmark, evaluate."""

from pathlib import Path

import click

from . import options

#: `astrodeblend.score.PEERS` by their names.
PEERS = ("photutils", "sep", "scarlet2")


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
    from PIL import Image

    rows = rows.transpose(1, 3, 0, 4, 2)  # (rows, y, n, x, bands)
    pixels = rows.reshape(rows.shape[0] * rows.shape[1], -1, rows.shape[-1])
    Image.fromarray((255 * pixels).round().astype("uint8")).save(path)


@options.command(
    "astrodeblend benchmark --images galaxies --split test --out benchmark",
    "astrodeblend benchmark --images galaxies -n 300 --model run/model.safetensors --peer sep",
    "astrodeblend benchmark --images galaxies --split val -n 100 --peer sep --tune",
    "astrodeblend benchmark --survey lsst --out benchmark",
    "astrodeblend benchmark --survey hsc --bands i --images galaxies --split test",
    "astrodeblend benchmark --fields lsst -n 20 --out benchmark",
)
@options.images(
    "Folder of isolated galaxies, JPEG or PNG. With --survey or --fields optional: colour pictures "
    "of SDSS, of which half of the galaxies are made."
)
@options.split()
@options.recipe
@options.survey
@click.option(
    "--fields",
    metavar="NAME|YAML",
    help="Simulate whole fields, as this survey sees them, in which sources are detected first.",
)
@options.whole("--size", default=300, least=16, text="With --fields: width in pixels.")
@click.option(
    "--density",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    default=60,
    show_default=True,
    help="With --fields: galaxies per square arcminute.",
)
@options.bands("With --survey or --fields: the bands, such as g,r,i.", default="all but u")
@options.whole(
    "-n",
    "--number",
    text="Number of blends, or of fields.  [default: as many as 'astrodeblend evaluate' makes; "
    "1000 of a survey; 20 fields]",
)
@options.seed
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    show_default="all models of the package for such images",
    help="Name of a model, or its .safetensors file. May be given several times.",
)
@options.peers(PEERS, "Another deblender. May be given several times.", default="all")
@options.whole(
    "--scarlet2-blends",
    default=30,
    text="Number of blends, the first, on which scarlet2 runs: it takes seconds for each.",
)
@options.whole(
    "--scarlet2-fields",
    default=1,
    text="Number of fields, the first, on which scarlet2 runs: it takes minutes for each.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Print the score of every setting on the grids of the other deblenders, and stop.",
)
@options.out("Also write tables (ECSV), numbers (JSON) and figures (PNG) there.", metavar="FOLDER")
@click.option(
    "--card",
    is_flag=True,
    help="Also write the scores into the card of the model, one .safetensors file, with --survey.",
)
@options.as_json
@options.quiet
@options.overwrite
@options.how
@click.pass_context
def benchmark(
    context, images, split, recipe, survey, fields, size, density, bands, number, seed, models,
    peers, scarlet2_blends, scarlet2_fields, tune, out, card, overwrite, how,
):  # fmt: skip
    """Compare models with other deblenders on the same blends.

    The others are photutils, SEP (pip install astrodeblend[sep]) and scarlet2 (pip install
    astrodeblend[scarlet2]). Choices that they leave open are made in their favour; notes below the
    table state their settings and what they are given.

    Without --survey or --fields, blends are pictures of two galaxies. Prints PSNR (dB), SSIM, the
    relative error of the flux, and milliseconds per blend.

    With --survey, blends are two sources in linear flux, with the survey's PSFs and noise (pip
    install astrodeblend[galsim]). Prints errors of flux, colour, centroid and ellipticity, and the
    share of true values within the stated errors, by band, separation, flux ratio and S/N.

    With --fields, sources are detected as well. Prints completeness, purity, errors of the flux
    over the noise limit, of colour, centroid and ellipticity, and the share of true fluxes within
    the stated errors, at detected and at true positions.

    The page "Beside other deblenders" of the documentation explains the tables.
    """
    from astrodeblend import score

    kind = "fields" if fields else "survey" if survey else "pictures"
    wrong = {
        "fields": ("recipe", "survey", "scarlet2_blends", "tune", "card"),
        "survey": ("recipe", "size", "density", "scarlet2_fields"),
        "pictures": ("bands", "size", "density", "scarlet2_fields"),
    }
    given = options.given(context, *wrong[kind])
    if given:
        place = f" --{kind}"
        if kind == "pictures":
            place = "out --survey" if given == "--bands" else "out --fields"
        raise ValueError(f"{given} does not go with{place}; leave it out")
    if images is None and kind == "pictures":
        raise ValueError("--images is missing: give a folder of galaxies, a --survey, or --fields")
    if images is None and split is not None:
        raise ValueError(f"--split {split} is of --images; give --images, or leave --split out")
    split = _split(images, split)
    if tune and split == "test":
        raise ValueError("--tune selects settings: give --split val, and keep test for the scores")
    if tune and (models or out):
        raise ValueError(
            "--tune only prints scores of other deblenders; leave --model and --out out"
        )
    if card and not (survey and len(models) == 1 and models[0].endswith(".safetensors")):
        raise ValueError(
            f"--card writes beside the weights: give --survey and one --model, a .safetensors file "
            f"(--model is {', '.join(models) or 'missing'})"
        )
    if out is not None:
        options.check_folder(out, score.FILES[kind], overwrite=overwrite)
    if fields:
        models = models or _models("noise", fields=True)
        report = score.benchmark_fields(
            fields, number or 20, seed=seed, peers=peers or PEERS, bands=bands, size=size,
            models=[options.load_model(name, **how) for name in models], density=density,
            meta={"data": f"{images}, split {split or 'all'}"} if images else None,
            scarlet2_fields=scarlet2_fields, progress=True, **_real_galaxies(images, split),
        )  # fmt: skip
        return _show(report, out, overwrite)
    meta = None
    if survey:
        from astrodeblend.simulate import get_survey

        known = get_survey(survey)
        bands = bands or [band.name for band in known.bands if band.name != "u"]
        blends = options.survey_blends(known, number or 1000, images, split, bands=bands, rng=seed)
        meta = {"seed": seed} | ({"data": images, "split": split or "all"} if images else {})
        chosen = [score.SURVEY_PEERS[name] for name in peers or PEERS]
    else:
        from astrodeblend.blends import draw_blends

        blends = draw_blends(images, split=split, recipe=recipe, number=number, seed=seed)
        chosen = [score.PEERS[name]() for name in peers or PEERS]
    if tune:
        return _tune(chosen, blends, scarlet2_blends)
    models = models or _models("noise" if survey else "picture")
    if not models:
        click.echo("the package has no model for flux; give one by --model", err=True)
    loaded = [options.load_model(name, **how) for name in models]
    common = {"slow_blends": scarlet2_blends, "meta": meta, "progress": True}
    report = score.benchmark(blends, models=loaded, peers=chosen, **common)
    return _show(report, out, overwrite, card=models[0] if card else None)


def _tune(peers, blends, slow_blends):
    """Print the score of every setting of other deblenders."""
    from astrodeblend import score
    from astrodeblend.score.report import rows_of

    click.echo(str(blends))
    content = {}
    for peer in peers:
        if not peer.installed:
            click.echo(f"\n{peer.hint}")
            continue
        table = score.tune(peer, blends, slow_blends=slow_blends, progress=True)
        click.echo(f"\n{peer.name} {peer.version}, {table.meta['blends']} blends")
        click.echo(options.table_text(table))
        content[peer.name] = rows_of(table)
    return content


def _show(report, out, overwrite, *, card=None):
    """Print a report; write it into a folder, and its scores into a card, if they are given."""
    click.echo(str(report))
    if card:
        _keep(card, [report])
    if out is not None:
        report.write(out, overwrite=overwrite)
        click.echo(options.wrote([str(Path(out) / name) for name in report.files]))
    return report.to_dict()


def _keep(model, reports):
    """Write scores into the card of a model."""
    from astrodeblend.weights import read_card, write_card

    card = read_card(model)
    for report in reports:
        card = report.to_card(card)
    write_card(model, card)
    click.echo(f"wrote the scores into the card of {model}")


def _split(images, split):
    """Return the split to use: by default val, if the folder has a table of splits."""
    if split is None and images is not None and (Path(images) / "splits.csv").is_file():
        return "val"
    return split


def _real_galaxies(folder, split):
    """Cut galaxies, and large ones, out of the pictures of a folder."""
    from astrodeblend.simulate import cut_galaxies, cut_large_galaxies, find_images

    if folder is None:
        return {}
    paths = find_images(folder, split=split)
    kinds = {"images": cut_galaxies, "large_images": cut_large_galaxies}
    return {name: cut(paths, progress=True) for name, cut in kinds.items()}


def _models(scaling, *, fields=False):
    """Return the names of the package's models for colour pictures, for flux, or for fields."""
    from astrodeblend.weights import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    cards = [card for card in cards if card.scaling == scaling]
    if fields:  # the other models of flux pass whole images on to these
        cards = [card for card in cards if card.network["kind"] == "field"]
    return [card.name for card in cards if scaling != "picture" or len(card.bands) == 3]


# For each task of evaluate, its recipes, and the options that it does not take.
_TASKS = {
    "blends": (options.RECIPES, ("bands", "peers")),
    "scenes": (("max", "sum", "both"), ("listed", "card", "bands", "peers")),
    "detection": ((), ("recipes", "listed", "card", "bands", "peers")),
    "hsc": ((), ("split", "recipes", "number", "seed", "listed", "card")),
}


def _runs(task, images, recipes, split, number, seed, listed, bands, peers):
    """Return the runs of a task by recipe: functions of a model that return a report."""
    from astrodeblend import score

    drawn = {"split": split, "seed": seed}
    if task == "hsc":
        peers = [score.SURVEY_PEERS[name] for name in dict.fromkeys(peers)]
        for peer in peers:
            if not peer.installed:
                raise ValueError(f"--peer {peer.name}: {peer.hint}")
        chosen = {"bands": bands and "".join(bands), "peers": peers}
        return {"": lambda model: score.score_real_blends(model, images, **chosen, progress=True)}
    if task == "detection":
        drawn["number"] = number or 2000
        return {"": lambda model: score.score_detection(model, images, **drawn, progress=True)}
    if task == "scenes":
        run, drawn["number"] = score.score_scenes, number or 200
        sets = {mode: score.draw_scenes(images, mode=mode, **drawn) for mode in recipes}
    else:
        from astrodeblend.blends import draw_blends, read_blends

        run, drawn["number"] = score.evaluate, number
        if listed is None:
            sets = [draw_blends(images, recipe=recipe, **drawn) for recipe in recipes]
        else:
            sets = [read_blends(listed, images)]
        sets = {blends.recipe.name: blends for blends in sets}
    return {
        name: lambda model, each=each: run(model, each, progress=True)
        for name, each in sets.items()
    }


@options.command(
    "astrodeblend evaluate --model galaxyzoo --split test --images galaxies",
    "astrodeblend evaluate --model run/model.safetensors --images galaxies -n 300 --out scores",
    "astrodeblend evaluate --images galaxies --recipe reiman2019 --recipe sum --recipe max_sum",
    "astrodeblend evaluate --images galaxies --blends scores/blends.ecsv",
    "astrodeblend evaluate --task scenes --images galaxies --split test -o scores",
    "astrodeblend evaluate --task detection --images galaxies --split test -n 2000 -o scores",
    "astrodeblend evaluate --task hsc --images blends --bands i,r,g",
    "astrodeblend evaluate --task hsc --model survey --images blends --peer scarlet2 -o scores",
)
@click.option(
    "--task",
    type=click.Choice(list(_TASKS)),
    default="blends",
    show_default=True,
    help="Blends of two galaxies; scenes of two to eight; detection, which is to tell blends from "
    "single galaxies; or real blends of HSC.",
)
@options.model("galaxyzoo")
@options.images(
    "Folder of isolated galaxies, JPEG or PNG; for --task hsc of blends, .npz.", required=True
)
@options.split()
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice([*options.RECIPES, "max", "both"]),
    multiple=True,
    show_default="reiman2019; of scenes both",
    help="How galaxies are blended. May be given several times. Scenes are blended by max, sum, or "
    "both in turn.",
)
@options.whole(
    "-n",
    "--number",
    text="Number of blends, scenes or stamps.  [default: 3200 blends, as in the paper, galaxies "
    "being used several times if they are too few, but each once if they are fewer than 40; 200 "
    "scenes; 2000 stamps for detection]",
)
@options.seed
@click.option(
    "--blends",
    "listed",
    metavar="LIST",
    help="Make the blends of this list, a blends.ecsv that --out wrote, instead of new ones.",
)
@options.bands(
    "For --task hsc: the bands, of g,r,i,z,y, in the order in which the model takes them.",
    default="i,r,g for colour models, else all",
)
@options.peers(["scarlet2"], "For --task hsc: also fit the blends with this deblender.")
@options.out("Also write there; with several recipes, to a subfolder for each.", metavar="FOLDER")
@click.option("--card", is_flag=True, help="Also write the scores into the model's card.")
@options.as_json
@options.quiet
@options.overwrite
@options.how
@click.pass_context
def evaluate(
    context, task, model, images, split, recipes, number, seed, listed, bands, peers, out, card,
    overwrite, how,
):  # fmt: skip
    """Score a model on blends whose truth is known.

    --task blends: blends of two galaxies. Prints Table 1 of Reiman & Goehre (2019), PSNR (dB) and
    SSIM, beside the values of the paper and of the blend itself; means by separation, flux ratio
    and overlap; and the texture of the components.

    --task scenes: scenes of two to eight overlapping galaxies. Prints how many are found, the
    relative error of their fluxes beside that of photutils, and the share of true fluxes within the
    stated errors.

    --task detection: stamps of one galaxy and of two. Prints the share of blends that the model's
    blend score finds at a given rate of false alarms, beside photutils.

    --task hsc: real blends in linear flux, .npz files with images (g, r, i, z, y), weights, peaks
    and psfs. Prints the share of peaks that are found, beside photutils, and chi square of the
    residual, with --peer scarlet2 beside that of scarlet2, which takes a minute for each.

    --out writes tables and the list of blends (ECSV), scores.json and figures (PNG). The page
    "Evaluation" of the documentation explains the numbers.
    """
    from astrodeblend.score import FILES, real_files, summary_of
    from astrodeblend.weights import check_model

    known, foreign = _TASKS[task]
    given = options.given(context, *foreign)
    if given:
        raise ValueError(f"--task {task} takes no {given}; leave it out")
    if card and not model.endswith(".safetensors"):
        raise ValueError(f"--card writes beside the weights; give them as a file, not {model!r}")
    if listed is not None:
        given = options.given(context, "split", "recipes", "number", "seed")
        if given:
            raise ValueError(f"--blends says which blends to make; leave {given} out, or --blends")
        if card:
            raise ValueError(
                "--card keeps the command that repeats the scores, which a list of blends does "
                "not allow; leave out --blends or --card"
            )
    for recipe in recipes:
        if recipe not in known:
            raise ValueError(f"--task {task} has no --recipe {recipe}; it has {', '.join(known)}")
    recipes = tuple(dict.fromkeys(recipes)) or ("reiman2019",)
    if task == "scenes" and {"both", "reiman2019"} & {*recipes}:
        recipes = ("max", "sum")
    names = real_files(images) if task == "hsc" else FILES[task]
    folders = _folders(out, recipes, names, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    if task == "blends":
        check_model(deblender.card)
    split = None if task == "hsc" else _split(images, split)
    runs = _runs(task, images, recipes, split, number, seed, listed, bands, peers)
    reports = {}
    for (name, run), folder in zip(runs.items(), folders, strict=True):
        reports[name] = report = run(deblender)
        click.echo(str(report))
        if folder is not None:
            folder.parent.mkdir(exist_ok=True)
            report.write(folder, overwrite=overwrite)
            files = ", ".join(report.files)
            if task == "hsc":  # too many to list
                files = "peaks.ecsv, blends.ecsv and a picture of each blend"
            click.echo(f"wrote {files} to {folder}")
        if name:
            click.echo()
    if task == "blends" and len(reports) > 1:
        click.echo(summary_of(reports.values()))
    if card:
        _keep(model, reports.values())
    if "" in reports:
        return reports[""].to_dict()
    return {name: report.to_dict() for name, report in reports.items()}


def _folders(out, recipes, names, *, overwrite):
    """Return the folder of each recipe, or None; refuse those that cannot be written."""
    if out is None:
        return [None] * len(recipes)
    alone = len(recipes) == 1
    options.check_folder(out, names if alone else (), overwrite=overwrite)
    folders = [Path(out) if alone else Path(out) / recipe for recipe in recipes]
    for folder in folders:
        if folder.exists():
            options.check_folder(folder, names, overwrite=overwrite)
    return folders
