"""The commands that score: benchmark, evaluate."""

from pathlib import Path

import click

from . import options

#: `astrodeblend.score.PEERS` by their names.
PEERS = ("photutils", "sep", "scarlet2")


@options.command(
    "astrodeblend benchmark --data galaxies --split test --out benchmark",
    "astrodeblend benchmark --data galaxies -n 300 --model run/model.safetensors --peer sep",
    "astrodeblend benchmark --data galaxies --split val -n 100 --peer sep --tune",
    "astrodeblend benchmark --survey lsst --out benchmark",
    "astrodeblend benchmark --survey hsc --bands i --data galaxies --split test",
    "astrodeblend benchmark --fields lsst -n 20 --out benchmark",
)
@options.data(
    "With --survey or --fields half of the galaxies are of these, which are then colour pictures "
    "of SDSS; without, all are parametric."
)
@options.split()
@options.recipe
@options.survey
@click.option(
    "--fields",
    metavar="NAME|YAML",
    help="Instead, whole fields of such a survey, with sources anywhere, to be found and split.",
)
@options.whole("--size", 300, "Of fields, in pixels.", least=16)
@click.option(
    "--density",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Sources per square arcminute of fields.",
)
@options.bands("Of the survey. Default: all but u, which is shallow.")
@options.number(
    "How many blends. Default: as many as 'astrodeblend evaluate' takes; 1000 of a survey; 20 "
    "fields."
)
@options.seed
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    help="A model of the package or a .safetensors file; may be given several times. Default: all "
    "models of the package for colour pictures, or with --survey for linear flux.",
)
@options.peers(PEERS, "Another deblender; may be given several times. Default: all.")
@options.whole(
    "--scarlet2-blends", 30,
    "On how many of the blends, the first, scarlet2 is tried: it takes seconds for one.",
)  # fmt: skip
@options.whole(
    "--scarlet2-fields", 1,
    "On how many of the fields, the first, scarlet2 is tried: it takes minutes for one.",
)  # fmt: skip
@click.option(
    "--tune",
    is_flag=True,
    help="Instead, try the settings of the peers on their grids, and print the scores of each.",
)
@options.folder("Also write table (ECSV), numbers (JSON) and figures there.")
@click.option(
    "--card",
    is_flag=True,
    help="With --survey and one --model, a file: also write its scores into its card.",
)
@options.as_json
@options.quiet
@options.overwrite
@options.how
@click.pass_context
def benchmark(
    context, data, split, recipe, survey, fields, size, density, bands, number, seed, models,
    peers, scarlet2_blends, scarlet2_fields, tune, out, card, overwrite, how,
):  # fmt: skip
    """Compare deblenders on the same simulated blends.

    Prints one table: quality and milliseconds per blend of the blend itself (doing nothing),
    of other deblenders, and of models. photutils is always there, SEP and scarlet2 come with
    pip install astrodeblend[sep] and astrodeblend[scarlet2]. Where another deblender leaves a
    choice, it is made in its favour; the notes below the table say how, and what it was given.

    --out writes benchmark.ecsv, benchmark.json, benchmark.png (quality against time) and
    panels.png (what each made of a few blends). The settings of the others are those of the
    highest mean PSNR on the val split; --tune prints what each setting scores.

    With --survey blends are of two sources in linear flux, whose light adds, seen through each
    band's PSF, with noise; it takes GalSim (pip install astrodeblend[galsim]). Tables have errors
    of flux, colour, position and shape band by band, and how well stated errors hold; then flux
    errors by separation, flux ratio and signal-to-noise ratio. scarlet2 and models are given the
    true positions, scarlet2 also the PSFs. --out also writes bins.ecsv and colours.ecsv.

    With --fields sources are to be found, too. A first table has what counts most, with detection
    included; then come, class by class, completeness, purity, errors of flux over the noise limit,
    of colour, centroid and ellipticity, and how well error bars hold, of detected and of given
    positions. --out writes fields.ecsv, fields.json and fields.png.
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
    if data is None and kind == "pictures":
        raise ValueError("--data is missing: a folder of galaxies; or give a --survey or --fields")
    if data is None and split is not None:
        raise ValueError(f"--split {split} is a part of --data; give --data, or leave --split out")
    split = _split(data, split)
    if tune and split == "test":
        raise ValueError("--tune chooses settings: give --split val, and keep test for the scores")
    if tune and (models or out):
        raise ValueError("--tune prints settings of peers; leave --model and --out away")
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
            meta={"data": f"{data}, split {split or 'all'}"} if data else None,
            scarlet2_fields=scarlet2_fields, progress=True, **_real_galaxies(data, split),
        )  # fmt: skip
        return _show(report, out, overwrite)
    meta = None
    if survey:
        from astrodeblend.simulate import get_survey

        known = get_survey(survey)
        bands = bands or [band.name for band in known.bands if band.name != "u"]
        blends = options.survey_blends(known, number or 1000, data, split, bands=bands, seed=seed)
        meta = {"seed": seed} | ({"data": str(data), "split": split or "all"} if data else {})
        chosen = [score.SURVEY_PEERS[name] for name in peers or PEERS]
    else:
        from astrodeblend.blends import draw_blends

        blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
        chosen = [score.PEERS[name]() for name in peers or PEERS]
    if tune:
        return _tune(chosen, blends, scarlet2_blends)
    models = models or _models("noise" if survey else "picture")
    if not models:
        click.echo("no model of the package takes linear flux; give one by --model", err=True)
    loaded = [options.load_model(name, **how) for name in models]
    common = {"slow_blends": scarlet2_blends, "meta": meta, "progress": True}
    report = score.benchmark(blends, models=loaded, peers=chosen, **common)
    return _show(report, out, overwrite, card=models[0] if card else None)


def _tune(peers, blends, slow_blends):
    """Print what each setting of other deblenders scores."""
    from astrodeblend import score

    click.echo(str(blends))
    content = {}
    for peer in peers:
        if not peer.installed:
            click.echo(f"\n{peer.hint}")
            continue
        table = score.tune(peer, blends, slow_blends=slow_blends, progress=True)
        click.echo(f"\n{peer.name} {peer.version}, {table.meta['blends']} blends")
        click.echo(options.table_text(table))
        rows = table.iterrows()
        content[peer.name] = [dict(zip(table.colnames, row, strict=True)) for row in rows]
    return content


def _show(report, out, overwrite, *, card=None):
    """Print a report, write it into a folder and into a model's card if there is one."""
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


def _split(data, split):
    """Return which part of the data is asked for: by default val, if there is such a table."""
    if split is None and data is not None and (Path(data) / "splits.csv").is_file():
        return "val"
    return split


def _real_galaxies(data, split):
    """Cut galaxies, and large ones, out of the pictures of a folder."""
    from astrodeblend.simulate import cut_galaxies, cut_large_galaxies, find_images

    if data is None:
        return {}
    paths = find_images(data, split=split)
    kinds = {"images": cut_galaxies, "large_images": cut_large_galaxies}
    return {name: cut(paths, progress=True) for name, cut in kinds.items()}


def _models(scaling, *, fields=False):
    """Name the models of the package for colour pictures, or for linear flux, or for fields."""
    from astrodeblend.weights import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    cards = [card for card in cards if card.scaling == scaling]
    if fields:  # others hand them over
        cards = [card for card in cards if card.network["kind"] == "field"]
    return [card.name for card in cards if scaling != "picture" or len(card.bands) == 3]


# Recipes that a task of evaluate knows, and options that mean nothing to it.
_TASKS = {
    "blends": (options.RECIPES, ("bands", "peers")),
    "scenes": (("max", "sum", "both"), ("listed", "card", "bands", "peers")),
    "detection": ((), ("recipes", "listed", "card", "bands", "peers")),
    "hsc": ((), ("split", "recipes", "number", "seed", "listed", "card")),
}


def _runs(task, data, recipes, split, number, seed, listed, bands, peers):
    """Return by its name each run of a task, which takes a model and gives a report."""
    from astrodeblend import score

    drawn = {"split": split, "seed": seed}
    if task == "hsc":
        peers = [score.SURVEY_PEERS[name] for name in dict.fromkeys(peers)]
        for peer in peers:
            if not peer.installed:
                raise ValueError(f"--peer {peer.name}: {peer.hint}")
        chosen = {"bands": bands and "".join(bands), "peers": peers}
        return {"": lambda model: score.score_real_blends(model, data, **chosen, progress=True)}
    if task == "detection":
        drawn["number"] = number or 2000
        return {"": lambda model: score.score_detection(model, data, **drawn, progress=True)}
    if task == "scenes":
        run, drawn["number"] = score.score_scenes, number or 200
        sets = {mode: score.draw_scenes(data, mode=mode, **drawn) for mode in recipes}
    else:
        from astrodeblend.blends import draw_blends, read_blends

        run, drawn["number"] = score.evaluate, number
        if listed is None:
            sets = [draw_blends(data, recipe=recipe, **drawn) for recipe in recipes]
        else:
            sets = [read_blends(listed, data)]
        sets = {blends.recipe.name: blends for blends in sets}
    return {
        name: lambda model, each=each: run(model, each, progress=True)
        for name, each in sets.items()
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
@options.data(required=True)
@options.split()
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice([*options.RECIPES, "max", "both"]),
    multiple=True,
    help="What to make. May be given several times. Default: reiman2019; for scenes, which are "
    "made by max, sum or both, both.",
)
@options.number(
    "How many blends. Default: 3200, as in the paper; galaxies are used again, all as often, "
    "if there are too few. Of fewer than 40 galaxies: each once. Of scenes: 200. Of stamps "
    "with one galaxy or two: 2000."
)
@options.seed
@click.option(
    "--blends",
    "listed",
    metavar="LIST",
    help="Make the blends of this list, a blends.ecsv from --out, instead of drawing any.",
)
@options.bands(
    "Of g, r, i, z, y, for --task hsc, in the order in which the model takes them. Default: "
    "i,r,g for colour models, else all."
)
@options.peers(
    ["scarlet2"],
    "For --task hsc: fit the same blends with it too, for what it leaves of the light.",
)
@options.folder("Also write there; with several recipes, a folder for each.")
@click.option("--card", is_flag=True, help="Also write the scores into the model's card.")
@options.as_json
@options.quiet
@options.overwrite
@options.how
@click.pass_context
def evaluate(
    context, task, model, data, split, recipes, number, seed, listed, bands, peers, out, card,
    overwrite, how,
):  # fmt: skip
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
    from astrodeblend.score import FILES, real_files, summary_of
    from astrodeblend.weights import check_model

    known, foreign = _TASKS[task]
    given = options.given(context, *foreign)
    if given:
        raise ValueError(f"--task {task} knows no {given}; leave that out")
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
    for recipe in recipes:
        if recipe not in known:
            raise ValueError(f"--recipe {recipe} is none of this --task: {', '.join(known)}")
    recipes = tuple(dict.fromkeys(recipes)) or ("reiman2019",)
    if task == "scenes" and {"both", "reiman2019"} & {*recipes}:
        recipes = ("max", "sum")
    names = real_files(data) if task == "hsc" else FILES[task]
    folders = _folders(out, recipes, names, overwrite=overwrite)
    deblender = options.load_model(model, **how)
    if task == "blends":
        check_model(deblender.card)
    split = None if task == "hsc" else _split(data, split)
    runs = _runs(task, data, recipes, split, number, seed, listed, bands, peers)
    reports = {}
    for (name, run), folder in zip(runs.items(), folders, strict=True):
        reports[name] = report = run(deblender)
        click.echo(str(report))
        if folder is not None:
            folder.parent.mkdir(exist_ok=True)
            report.write(folder, overwrite=overwrite)
            files = ", ".join(report.files)
            if task == "hsc":  # too many to be named
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
    """Return where to write for each recipe, None for nowhere; refuse what cannot be written."""
    if out is None:
        return [None] * len(recipes)
    alone = len(recipes) == 1
    options.check_folder(out, names if alone else (), overwrite=overwrite)
    folders = [Path(out) if alone else Path(out) / recipe for recipe in recipes]
    for folder in folders:
        if folder.exists():
            options.check_folder(folder, names, overwrite=overwrite)
    return folders
