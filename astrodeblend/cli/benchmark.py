"""The command that compares deblenders: benchmark."""

from pathlib import Path

import click

from . import options

#: `astrodeblend.benchmark.PEERS` by their names.
PEERS = ("photutils", "sep", "scarlet2")


@click.command(
    epilog=options.examples(
        "astrodeblend benchmark --data galaxies --split test --out benchmark",
        "astrodeblend benchmark --data galaxies -n 300 --model run/model.safetensors --peer sep",
        "astrodeblend benchmark --data galaxies --split val -n 100 --peer sep --tune",
    )
)
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
    help="How many blends. Default: as many as 'astrodeblend evaluate' takes.",
)
@options.seed
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|PATH",
    help="A model of the package or a .safetensors file; may be given several times. Default: all "
    "models of the package for colour pictures.",
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
    "--tune",
    is_flag=True,
    help="Instead, try the settings of the peers on their grids, and print the scores of each.",
)
@click.option(
    "--out", metavar="FOLDER", help="Also write table (ECSV), numbers (JSON) and figures there."
)
@options.overwrite
@options.device
def benchmark(
    data, split, recipe, number, seed, models, peers, scarlet2_blends, tune, out, overwrite, device
):
    """Compare deblenders on the same simulated blends.

    Prints one table: quality and milliseconds per blend of the blend itself (doing nothing),
    of other deblenders, and of models. photutils is always there, SEP and scarlet2 come with
    pip install astrodeblend[sep] and astrodeblend[scarlet2]. Where another deblender leaves a
    choice, it is made in its favour; the notes below the table say how, and what it was given.

    --out writes benchmark.ecsv, benchmark.json, benchmark.png (quality against time) and
    panels.png (what each made of a few blends). The settings of the others are those of the
    highest mean PSNR on the val split; --tune prints what each setting scores.
    """
    from astrodeblend import benchmark as compare
    from astrodeblend.blends import draw_blends

    if split is None and (Path(data) / "splits.csv").is_file():
        split = "val"
    if tune and split == "test":
        raise ValueError("--tune chooses settings: give --split val, and keep test for the scores")
    if tune and (models or out):
        raise ValueError("--tune prints settings of peers; leave --model and --out away")
    if out is not None:
        options.check_folder(out, compare.FILES, overwrite=overwrite)
    blends = draw_blends(data, split=split, recipe=recipe, number=number, seed=seed)
    chosen = [compare.PEERS[name]() for name in peers or PEERS]
    if tune:
        click.echo(str(blends))
        for peer in chosen:
            if not peer.installed:
                click.echo(f"\n{peer.hint}")
                continue
            table = compare.tune(peer, blends, slow_blends=scarlet2_blends, progress=True)
            click.echo(f"\n{peer.name} {peer.version}, {table.meta['blends']} blends")
            click.echo(options.table_text(table))
        return
    result = compare.benchmark(
        blends,
        models=[options.load_model(name, device) for name in models or _models()],
        peers=chosen,
        slow_blends=scarlet2_blends,
        progress=True,
    )
    click.echo(str(result))
    if out is not None:
        result.write(out, overwrite=overwrite)
        click.echo(f"wrote {', '.join(str(Path(out) / name) for name in compare.FILES)}")


def _models():
    """Name the models of the package for colour pictures."""
    from astrodeblend.weights import list_models, read_card

    cards = [read_card(name) for name in list_models()]
    return [card.name for card in cards if card.scaling == "picture" and len(card.bands) == 3]
