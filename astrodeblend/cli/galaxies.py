"""The command that cuts galaxies out of a picture."""

from contextlib import ExitStack
from pathlib import Path

import click

from . import options


@options.command(
    "astrodeblend galaxies hubble -o hubble-galaxies --plot hubble-galaxies.png",
    "astrodeblend galaxies picture.jpg -o galaxies -n 20",
    "astrodeblend evaluate --data hubble-galaxies -n 300",
)
@click.argument("image", default="hubble")
@click.option(
    "-o", "--out", required=True, metavar="FOLDER", help="Where to; made if it is missing."
)
@click.option(
    "-n",
    "--number",
    type=click.IntRange(min=1),
    help="How many at most, those first that are enlarged least. Default: all.",
)
@click.option(
    "--plot", metavar="PNG", help="Also draw all of them side by side; not inside FOLDER."
)
@options.as_json
@options.quiet
@options.overwrite
def galaxies(image, out, number, plot, overwrite):
    """Cut isolated galaxies out of a colour picture, to make blends of.

    IMAGE is a JPEG or PNG file, or "hubble", the Hubble Deep Field that comes with scikit-image,
    which is the default. Each galaxy becomes a picture as those of Galaxy Zoo, 424 pixels wide,
    its middle 240 pixels 5.8 Petrosian radii; other sources are replaced by sky. FOLDER gets
    the pictures (PNG) and the table galaxies.ecsv. 'astrodeblend evaluate', 'simulate' and
    'train' take the folder as it is.
    """
    from astrodeblend.files import atomic_path
    from astrodeblend.galaxies import TABLE, find_galaxies

    options.check_folder(out, [TABLE], overwrite=overwrite)
    if plot is not None and Path(out).resolve() in Path(plot).resolve().parents:
        raise ValueError(
            f"--plot {plot!r} is inside {out!r}, where it would be taken for a galaxy; "
            "put it elsewhere"
        )
    if image == "hubble":
        from skimage.data import hubble_deep_field

        image = hubble_deep_field()
        click.echo("Hubble Deep Field (NASA, ESA; out of scikit-image)")
    with ExitStack() as stack:
        if plot is not None:
            picture = stack.enter_context(atomic_path(plot, overwrite=overwrite))
        found = find_galaxies(image, number=number, progress=True)
        if plot is not None:
            found.sheet().save(picture, format="PNG")
        found.write(out, overwrite=overwrite)
    click.echo(options.table_text(found.table))
    click.echo(f"wrote {TABLE} and {len(found)} PNG to {out}")
    if plot is not None:
        click.echo(f"wrote {plot}")
    files = [str(Path(out) / TABLE), *([] if plot is None else [plot])]
    return {"files": files, "folder": out, "galaxies": len(found)}
