"""Train the network for fields in a given time.

    python examples/train_fields.py pack data.npz galaxies.npz large.npz
    python examples/train_fields.py run OUT --data data.npz --start MODEL.safetensors --minutes 10

The first command packs real galaxies, cut out of pictures as cut_galaxies and cut_large_galaxies
do, into one small file; the second trains. Without data galaxies are parametric. What is in OUT is
small and all that it takes to go on, by --start OUT/model.safetensors; what it takes to go on
exactly, by --resume, is in the file of --state.
"""

import argparse
import sys
import zlib
from dataclasses import fields
from pathlib import Path

import numpy as np

from astrodeblend.simulate import Morphologies, draw_spirals
from astrodeblend.training import FieldConfig, train_fields

SETS = ("galaxies", "large")
SPIRALS = 600  # drawn ones beside the real large galaxies, whose arms are not as sharp


def pack(path, sources, limit):
    """Write sets of galaxies as bytes, roots of their maps, the first one as far as they fit."""
    values, size = {}, 0
    sets = {name: Morphologies.read(source) for name, source in zip(SETS, sources, strict=True)}
    for name, galaxies in reversed(sets.items()):
        number = len(galaxies)
        if name == "galaxies":  # some tell how much space one takes
            few = _bytes(galaxies.maps[: min(100, number)])
            room = limit * 2**20 - size - 2**18
            number = min(number, int(room / (_packed_size(few) / len(few))))
        maps = _bytes(galaxies.maps[:number])
        size += _packed_size(maps)
        values[f"{name}_maps"] = maps
        for field in ("spectra", "shares", "radius"):
            values[f"{name}_{field}"] = getattr(galaxies, field)[:number].astype(np.float32)
        print(f"{name}: {number} of {len(galaxies)}")
    np.savez_compressed(path, **values)
    print(f"{path}: {Path(path).stat().st_size / 2**20:.1f} MiB")


def unpack(path):
    """Return the sets of galaxies of a packed file, or None for each without one."""
    if path is None:
        return dict.fromkeys(SETS)
    sets = {}
    with np.load(path) as file:
        for name in SETS:
            maps = file[f"{name}_maps"].astype(np.float32) ** 2
            maps /= maps.mean(axis=(2, 3), keepdims=True)
            rest = (file[f"{name}_{field}"] for field in ("spectra", "shares", "radius"))
            sets[name] = Morphologies(maps.astype(np.float16), *rest)
    return sets


def with_spirals(large, number, seed):
    """Return large galaxies, if any, and drawn spirals."""
    drawn = draw_spirals(number, seed)
    if large is None:
        return drawn
    parts = {
        name: np.concatenate([value, vars(drawn)[name]]) for name, value in vars(large).items()
    }
    return Morphologies(**parts)


def _bytes(maps):
    roots = np.sqrt(maps.astype(np.float32))
    return (255 * roots / roots.max(axis=(2, 3), keepdims=True)).round().astype(np.uint8)


def _packed_size(maps):
    return len(zlib.compress(maps.tobytes(), 6))


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    packing = commands.add_parser("pack", help="pack galaxies into one file")
    packing.add_argument("out")
    packing.add_argument("sources", nargs=2, metavar=SETS)
    packing.add_argument("--limit", type=float, default=16, help="MiB")
    run = commands.add_parser("run", help="train")
    run.add_argument("out", help="folder")
    run.add_argument("--data", help="packed galaxies")
    run.add_argument("--start", help="model to start from")
    run.add_argument("--state", help="file with all that it takes to go on exactly")
    run.add_argument("--resume", action="store_true", help="go on from that")
    run.add_argument("--minutes", type=float, default=float("inf"))
    choices = {field.name: field for field in fields(FieldConfig)}
    for name, field in choices.items():
        if field.type is bool:
            run.add_argument(f"--{name.replace('_', '-')}", action="store_true",
                             help=field.metadata["help"])  # fmt: skip
        elif among := field.metadata["among"]:
            run.add_argument(f"--{name}", choices=among, help=field.metadata["help"])
        elif field.type in (int, float):
            run.add_argument(
                f"--{name.replace('_', '-')}", type=field.type, default=field.default,
                help=field.metadata["help"],
            )  # fmt: skip
    run.add_argument("--sizes", type=int, nargs="+", default=FieldConfig.sizes)
    run.add_argument("--bfloat16", action="store_const", const=True, help="on a CPU, too")
    run.add_argument("--spirals", type=int, default=SPIRALS, help="drawn ones")
    run.add_argument("--device")
    given = parser.parse_args()
    if given.command == "pack":
        pack(given.out, given.sources, given.limit)
        return
    sys.stdout.reconfigure(line_buffering=True)
    sets = unpack(given.data)
    config = FieldConfig(**{name: v for name, v in vars(given).items() if name in choices})
    large = with_spirals(sets["large"], given.spirals, given.seed)
    train_fields(
        config, given.out, galaxies=(sets["galaxies"], large),
        start=given.start, state=given.state, resume=given.resume, minutes=given.minutes,
        device=given.device,
    )  # fmt: skip


if __name__ == "__main__":
    main()
