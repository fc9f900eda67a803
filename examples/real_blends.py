"""Draw a page of real blends: pictures of a folder whose galaxy overlaps another one, deblended.

    python examples/real_blends.py FOLDER [--split test] [--number 24] [--seed 1] [--model NAME]

The galaxy in the middle of each picture is the central one. If splits.csv in FOLDER has a column
blend_candidate, pictures are those with a 1 in it. Writes real_blends.png and real_blends.ecsv.
"""

import argparse
from pathlib import Path

import numpy as np
from astropy.table import Column, Table, vstack
from tqdm import tqdm

from astrodeblend import Deblender
from astrodeblend.plot import panels
from astrodeblend.simulate import find_images


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", help="part of the pictures, by splits.csv; default: all")
    parser.add_argument("--number", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--model", default="galaxyzoo")
    given = parser.parse_args()
    paths = candidates(given.folder, given.split)
    chosen = np.random.default_rng(given.seed).permutation(len(paths))[: given.number]
    paths = [paths[k] for k in np.sort(chosen)]
    deblender = Deblender.from_pretrained(given.model)
    results = [deblender(path) for path in tqdm(paths, "deblending", disable=None)]
    panels(results, across=4 if len(results) > 12 else None).savefig("real_blends.png")
    tables = []
    for number, (path, result) in enumerate(zip(paths, results, strict=True), start=1):
        table = result.to_table()
        names = [path.relative_to(given.folder).as_posix()] * len(table)
        table.add_columns([Column([number] * len(table)), names], (0, 0), ("blend", "file"))
        table.meta = {}
        tables.append(table)
    table = vstack(tables)
    table.write("real_blends.ecsv", overwrite=True)
    table["blend", "file", "component", "x_centroid", "y_centroid"].pprint_all()


def candidates(folder, split=None):
    """List the pictures of a folder that may show a blend."""
    paths = find_images(folder, split=split)
    if (folder / "splits.csv").is_file():
        table = Table.read(folder / "splits.csv", format="ascii.csv")
        if "blend_candidate" in table.colnames:
            blends = {folder / row["file"] for row in table if row["blend_candidate"] == 1}
            paths = [path for path in paths if path in blends]
    if not paths:
        raise ValueError(f"{str(folder)!r} has no picture with blend_candidate = 1")
    return paths


if __name__ == "__main__":
    main()
