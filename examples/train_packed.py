"""Train the paper's network in a given time, from one file of packed pictures.

    python examples/train_packed.py pack data.npz GALAXIES --limit 38
    python examples/train_packed.py run OUT --data data.npz --start MODEL.safetensors --minutes 9

The first command packs as many pictures of a folder as fit into one file, those of val to judge by
among them; the second, which needs neither them nor astropy, trains. OUT gets what is small: the
model with its card, log.csv and a picture of blends of val taken apart. What it takes to go on
exactly, by --resume, is in the file of --state.
"""

import argparse
import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from astrodeblend.simulate import find_images, read_images
from astrodeblend.training import reiman2019, train
from astrodeblend.weights import Card, read_card

JUDGED = 128  # pictures of val


def pack(out, folder, limit, quality):
    """Write pictures as AVIF, one after the other, in random order, as far as they fit."""
    values, room = {}, limit * 2**20 - 2**16
    rng = np.random.default_rng(1)
    for split, most in (("val", JUDGED), ("train", None)):
        paths = find_images(folder, split=split)
        paths = [paths[k] for k in rng.permutation(len(paths))[:most]]
        files, errors = [], []
        for start in range(0, len(paths), 64):
            images = read_images(paths[start : start + 64], width=424).transpose(0, 2, 3, 1)
            with ThreadPoolExecutor() as pool:
                some = list(pool.map(lambda image: _write(image, quality), images))
            files += some
            room -= sum(map(len, some))
            if room < 0:
                break
            errors.append(_stamps(np.array(list(map(_read, some)))) - _stamps(images))
        while room < 0:
            room += len(files.pop())
        psnr = -10 * np.log10(np.square(np.concatenate(errors)).mean(axis=(1, 2, 3)))
        print(
            f"{split}: {len(files)} of {len(paths)} pictures; PSNR of their stamps to the "
            f"original's {psnr.mean():.1f} dB, at least {psnr.min():.1f}"
        )
        values[split] = np.frombuffer(b"".join(files), np.uint8)
        values[f"{split}_sizes"] = np.array([*map(len, files)])
    np.savez(out, **values)
    print(f"{out}: {Path(out).stat().st_size / 2**20:.1f} MiB")


def unpack(path, split, *, mirrored=False):
    """Return the pictures of a split of a packed file as `read_images` does, mirrored ones too."""
    with np.load(path, allow_pickle=False) as file:
        files = np.split(file[split], file[f"{split}_sizes"].cumsum()[:-1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        images = np.array(list(pool.map(_read, files)))
    if mirrored:
        images = np.concatenate([images[:, ::y, ::x] for y in (1, -1) for x in (1, -1)])
    return np.moveaxis(images, -1, 1)


def _write(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "AVIF", quality=quality, subsampling="4:4:4", max_threads=1)
    return file.getvalue()


def _read(file):
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


def _stamps(images):
    """Return what `Recipe` has of the central galaxy: (n, y, x, bands), of full scale 1."""
    return images[:, 93:332:3, 93:332:3] / 255


def main():
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    packing = commands.add_parser("pack", help="pack pictures into one file")
    packing.add_argument("out")
    packing.add_argument("folder")
    packing.add_argument("--limit", type=float, default=38, help="MiB")
    packing.add_argument("--quality", type=int, default=70, help="of AVIF")
    run = commands.add_parser("run", help="train")
    run.add_argument("out", help="folder")
    run.add_argument("--data", required=True, help="packed pictures")
    run.add_argument("--start", help="model to start from")
    run.add_argument("--state", help="file with all that it takes to go on exactly")
    run.add_argument("--resume", action="store_true", help="go on from that")
    run.add_argument("--minutes", type=float, default=0, help="of training; 0 for any")
    run.add_argument("--steps", type=int, default=200_000, help="updates at most")
    run.add_argument("--batch", type=int, default=48)
    run.add_argument("--mirrored", action="store_true", help="each picture in four ways: more room")
    run.add_argument("--recipe", default="reiman2019")
    run.add_argument("--loss", default="log_mse", help="or mse, the paper's")
    run.add_argument("--learning-rate", type=float, default=5e-4)
    run.add_argument("--warmup", type=int, default=300, help="updates")
    run.add_argument("--decay", type=float, default=0.6)
    run.add_argument("--average", type=float, default=0.998)
    run.add_argument("--burn-in", type=float, default=1.0, help="share without adversarial loss")
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--familiarity-blends", type=int, default=2048)
    run.add_argument("--precision", default="auto", help="float32 or bfloat16")
    run.add_argument("--device")
    given = vars(parser.parse_args())
    if given.pop("command") == "pack":
        pack(**given)
        return
    data, out, start, state = (given.pop(name) for name in ("data", "out", "start", "state"))
    resume, device, burn_in = (given.pop(name) for name in ("resume", "device", "burn_in"))
    mirrored = given.pop("mirrored")
    sys.modules["torch.utils.tensorboard"] = None  # fewer files to fetch
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    network = read_card(start).network if start else {"kind": "reiman2019"}
    config = reiman2019(
        **given,
        network=network,
        plan="trapezoid",
        clip=1.0,
        burn_in=round(burn_in * given["steps"]),
        adversarial="nonsaturating" if burn_in < 1 else "none",
        validate_every=given["steps"],
        checkpoint_every=given["steps"],
        validation_blends=JUDGED,
    )
    images, judged = unpack(data, "train", mirrored=mirrored), unpack(data, "val")
    print(f"learning from {len(images)} pictures, judged by {len(judged)} others")
    card = Card("reiman2019", "the generator of Reiman & Goehre (2019)", network)
    train(
        config, images, out, validation=judged, start=start, resume=resume, state=state,
        device=device, card=card, progress=sys.stderr.isatty(),
    )  # fmt: skip
    names, *_, last = (Path(out) / "log.csv").read_text().splitlines()
    print(names, last, sep="\n")


if __name__ == "__main__":
    main()
