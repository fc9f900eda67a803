"""The command that compares deblenders: benchmark."""

import json
from pathlib import Path

import click

from . import options

#: `astrodeblend.benchmark.PEERS` by their names.
PEERS = ("photutils", "sep", "scarlet2")


@options.command(
    "astrodeblend benchmark --data galaxies --split test --out benchmark",
    "astrodeblend benchmark --data galaxies -n 300 --model run/model.safetensors --peer sep",
    "astrodeblend benchmark --data galaxies --split val -n 100 --peer sep --tune",
    "astrodeblend benchmark --survey lsst --out benchmark",
    "astrodeblend benchmark --survey hsc --bands i --data galaxies --split test",
    "astrodeblend benchmark --fields lsst -n 20 --out benchmark",
)
@click.option(
    "--data",
    "--images",
    "data",
    metavar="DIR",
    help="Folder of isolated galaxies. With --survey or --fields half of the galaxies are of "
    "these, which are then colour pictures of SDSS; without, all are parametric.",
)
@click.option(
    "--split",
    metavar="S",
    help="Part of them, by splits.csv in DIR. Default: val if there is that table, else all.",
)
@options.recipe
@click.option(
    "--survey",
    metavar="NAME|YAML",
    help="Instead of a recipe for pictures: blends in linear flux as lsst, hsc, des or sdss sees "
    "them, or the survey of a file.",
)
@click.option(
    "--fields",
    metavar="NAME|YAML",
    help="Instead, whole fields of such a survey, with sources anywhere, to be found and split.",
)
@click.option(
    "--size",
    type=click.IntRange(min=16),
    default=300,
    show_default=True,
    help="Of fields, in pixels.",
)
@click.option(
    "--density",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="Sources per square arcminute of fields.",
)
@click.option(
    "--bands",
    metavar="B,B,...",
    help="Bands of the survey. Default: all but u, which is shallow.",
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many blends. Default: as many as 'astrodeblend evaluate' takes; 1000 of a survey; 20 "
    "fields.",
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
@click.option(
    "--peer",
    "peers",
    type=click.Choice(PEERS),
    multiple=True,
    help="Another deblender; may be given several times. Default: all.",
)
@click.option(
    "--scarlet2-blends",
    type=click.IntRange(min=1),
    default=30,
    show_default=True,
    help="On how many of the blends, the first, scarlet2 is tried: it takes seconds for one.",
)
@click.option(
    "--scarlet2-fields",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="On how many of the fields, the first, scarlet2 is tried: it takes minutes for one.",
)
@click.option(
    "--tune",
    is_flag=True,
    help="Instead, try the settings of the peers on their grids, and print the scores of each.",
)
@click.option(
    "-o",
    "--out",
    metavar="FOLDER",
    help="Also write table (ECSV), numbers (JSON) and figures there.",
)
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
    band's PSF, with noise; it takes GalSim (pip install astrodeblend[galsim]). The tables have,
    band by band, errors of flux, colour, position and shape, PSNR over the truth's peak, and how
    well stated errors hold; then the flux errors by separation, flux ratio and signal-to-noise
    ratio. All of it is printed again for the blends that scarlet2 has tried. scarlet2 and models
    are given the true positions, scarlet2 also the PSFs. --out also writes bins.ecsv.

    With --fields sources are to be found, too. A first table has what counts most, with detection
    included; then come, class by class of signal-to-noise ratio, neighbour and size, completeness,
    purity, errors of flux over the noise limit, of colour, centroid and ellipticity, and how well
    error bars hold, of detected and of given positions. --out writes fields.json and fields.png.
    """
    from astrodeblend import benchmark as compare

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
    if split is None and data is not None and (Path(data) / "splits.csv").is_file():
        split = "val"
    if tune and split == "test":
        raise ValueError("--tune chooses settings: give --split val, and keep test for the scores")
    if tune and (models or out):
        raise ValueError("--tune prints settings of peers; leave --model and --out away")
    if card and not (survey and len(models) == 1 and models[0].endswith(".safetensors")):
        raise ValueError(
            f"--card writes beside the weights: give --survey and one --model, a .safetensors file "
            f"(--model is {', '.join(models) or 'missing'})"
        )
    files = {"fields": compare.FIELD_FILES, "survey": compare.SURVEY_FILES}.get(kind, compare.FILES)
    if out is not None:
        options.check_folder(out, files, overwrite=overwrite)
    if fields:
        result = compare.benchmark_fields(
            fields,
            number or 20,
            seed=seed,
            models=[
                options.load_model(name, **how) for name in models or _models("noise", fields=True)
            ],
            peers=peers or PEERS,
            bands=bands.split(",") if bands else None,
            scarlet2_fields=scarlet2_fields,
            meta={"data": f"{data}, split {split or 'all'}"} if data else None,
            progress=True,
            size=size,
            density=density,
            **_real_galaxies(data, split),
        )
        click.echo(str(result))
        _write(result, out, files, overwrite)
        return json.loads(result.to_json())
    if survey:
        blends, meta = _survey_blends(survey, bands, data, split, number or 1000, seed)
        chosen = [compare.SURVEY_PEERS[name] for name in peers or PEERS]
        run, tune_peer, more = compare.benchmark_survey, compare.tune_survey, {"meta": meta}
    else:
        from astrodeblend.blends import draw_blends

        blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
        chosen = [compare.PEERS[name]() for name in peers or PEERS]
        run, tune_peer, more = compare.benchmark, compare.tune, {}
    if tune:
        click.echo(str(blends))
        content = {}
        for peer in chosen:
            if not peer.installed:
                click.echo(f"\n{peer.hint}")
                continue
            table = tune_peer(peer, blends, slow_blends=scarlet2_blends, progress=True)
            click.echo(f"\n{peer.name} {peer.version}, {table.meta['blends']} blends")
            click.echo(options.table_text(table))
            rows = (dict(zip(table.colnames, row, strict=True)) for row in table.iterrows())
            content[peer.name] = list(rows)
        return content
    models = models or _models("noise" if survey else "picture")
    if not models:
        click.echo("no model of the package takes linear flux; give one by --model", err=True)
    result = run(
        blends,
        models=[options.load_model(name, **how) for name in models],
        peers=chosen,
        slow_blends=scarlet2_blends,
        progress=True,
        **more,
    )
    click.echo(str(result))
    if card:
        from astrodeblend.weights import read_card, write_card

        write_card(models[0], result.on_card(read_card(models[0])))
        click.echo(f"wrote the scores into the card of {models[0]}")
    _write(result, out, files, overwrite)
    return result.to_dict()


def _write(result, out, files, overwrite):
    """Write what there is to write into a folder, if there is one."""
    if out is not None:
        result.write(out, overwrite=overwrite)
        click.echo(f"wrote {', '.join(str(Path(out) / name) for name in files)}")


def _real_galaxies(data, split):
    """Cut galaxies, and large ones, out of the pictures of a folder."""
    from astrodeblend.simulate import cut_galaxies, cut_large_galaxies, find_images

    if data is None:
        return {}
    paths = find_images(data, split=split)
    kinds = {"images": cut_galaxies, "large_images": cut_large_galaxies}
    return {name: cut(paths, progress=True) for name, cut in kinds.items()}


def _survey_blends(survey, bands, data, split, number, seed):
    """Simulate the blends of a survey, and say where they come from."""
    from astrodeblend.simulate import cut_galaxies, find_images, get_survey, simulate_blends

    survey = get_survey(survey)
    names = [band.name for band in survey.bands if band.name != "u"]
    meta, images = {"seed": seed}, None
    if data is not None:
        images = cut_galaxies(find_images(data, split=split), progress=True)
        meta |= {"data": str(data), "split": split or "all"}
    try:
        blends = simulate_blends(
            survey,
            number,
            bands=bands.split(",") if bands else names or None,
            images=images,
            rng=seed,
            progress=True,
        )
    except ImportError as error:
        raise ValueError(str(error)) from error
    return blends, meta


def _models(scaling, *, fields=False):
    """Name the models of the package for colour pictures, or for linear flux, or for fields."""
    from astrodeblend.weights import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    cards = [card for card in cards if card.scaling == scaling]
    if fields:  # others hand them over
        cards = [card for card in cards if card.network["kind"] == "field"]
    return [card.name for card in cards if scaling != "picture" or len(card.bands) == 3]
