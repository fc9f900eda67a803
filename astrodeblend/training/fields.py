"""Training a network for fields: one loop, from simulated fields to a model."""

import copy
import itertools
import math
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ..networks import build
from ..simulate import FieldStream
from ..weights import Card, save_model
from .field_losses import field_losses, shown
from .loop import _interruptible, _plain, _update_average
from .run import load_checkpoint, load_parent, processes, save_checkpoint

__all__ = ["train_fields"]

_WEIGHTS = {
    "ratio": 3.0, "pixel": 0.5, "flux": 1.0, "total": 1.0, "heat": 2.0, "offset": 1.0, "size": 0.2,
    "std": 0.1, "flux_std": 0.1,
}  # fmt: skip
_BYTES = 3000  # bytes of activations per pixel and band
_MOST = 16  # largest number of blocks in an update: more updates help more than larger ones
#: Parameters of fields as surveys show them.
_OBSERVED = {"psf": None, "residual": 0.1}
#: Parameters of fields of bright pairs, beside those that are the run's.
_PAIRS = {"density": (10, 60), "magnitudes": (-8.0, -2.0), "slope": 0.0, "close": 0.95,
          "alike": 0.9, "large": 0.1, "bright": 0.0}  # fmt: skip
_LAST = 2.0  # seconds for the end of a run
_CHECKPOINT = 120.0  # seconds between checkpoints
_USES = 2  # updates with the same noiseless light, each with new noise
_APART = 64  # updates after which processes average their parameters
_AHEAD = 2  # draws rendered in advance
# Where the shared layers are held: updates with each batch of fields, and batches kept for them
_AGAIN, _KEPT = 8, 8


def train_fields(
    config, out, *, galaxies=(None, None), start=None, resume=False, minutes=math.inf, state=None,
    device=None, log=print,
):  # fmt: skip
    """Train a network on fields of galaxies.

    Processes that ``torchrun`` starts each make their own fields, and average their parameters
    every 64 updates.

    Parameters
    ----------
    config : FieldConfig
        Configuration of the run.
    out : str or path-like
        Folder for ``model.safetensors`` with its card, and ``log.txt``; the model is written every
        two minutes, on SIGTERM and at the end.
    galaxies : tuple of (Morphologies or None), optional
        Small and large galaxies.
    start : str or path-like, optional
        A model to start from, with the same network.
    resume : bool, optional
        Continue from ``state`` exactly where the run stopped.
    minutes : float, optional
        Duration of the whole run; the learning rate falls in time, even if blocks remain.
    state : str or path-like, optional
        File with the state of the run, in full precision. Default: ``state.safetensors`` in
        ``out``.
    device : str or torch.device, optional
        Device of the network. Default: a GPU if there is one.
    log : callable, optional
        Receives lines of text.

    Returns
    -------
    pathlib.Path
        The model's weight file.
    """
    with processes(device) as (rank, world, device):
        return _train(
            config, Path(out), rank, world, device, log if rank == 0 else _silent,
            galaxies=galaxies, start=start, resume=resume, minutes=minutes, state=state,
        )  # fmt: skip


def _silent(line):
    """Log nothing."""


def _train(config, out, rank, world, device, log, *, galaxies, start, resume, minutes, state):
    """Train as `train_fields`, as one of ``world`` processes."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    state = Path(state or out / "state.safetensors")
    if state.exists() and not resume:
        raise FileExistsError(f"{str(state)!r} holds a run already; resume it, or choose another")

    # The network, its average, its optimiser.
    torch.manual_seed(config.seed)
    network = build(**config.network)
    parent = None if start is None or resume else load_parent(start, network, weights=True)
    network = network.to(device, memory_format=torch.channels_last)
    for name, layer in network.named_children():
        layer.requires_grad_(config.only is None or name in getattr(network, config.only))
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    parts = {"modules": {"network": network, "average": average}, "optimizers": {"o": optimizer}}
    step = blocks = 0
    if resume:
        saved = load_checkpoint(state, **parts)
        if saved["config"] != _plain(config):
            raise ValueError(f"{str(state)!r} is of a run with other choices; resume with the same")
        step, blocks, parent = saved["step"], saved["blocks"], saved["parent"]
    low = device.type == "cuda" if config.bfloat16 is None else config.bfloat16
    autocast = partial(torch.autocast, device.type, torch.bfloat16) if low else nullcontext

    # The fields.
    batch = config.batch or _batch_that_fits(config, device)
    streams = {}
    kinds = {"": config.options, "observed": _OBSERVED, "pairs": config.options | _PAIRS}
    for size, kind in itertools.product(config.sizes, _shares(config)):
        number = max(1, round(batch * (max(config.sizes) / size) ** 2))
        streams[size, kind] = FieldStream(
            config.surveys, *galaxies, batch=number, seed=config.seed + size, size=size,
            bands=config.bands, device=device, **kinds[kind],
        )  # fmt: skip

    def save():
        if rank > 0:
            return
        card = Card(
            name=out.resolve().name, description="finds and splits the sources of a field",
            network={}, bands=(), modes=("sum",), recipe="survey", scaling="noise",
            size_rule={"petrosian_radii": 4.0, "pixels": 64},
            training={"config": _plain(config), "blocks": blocks, "steps": step, "from": parent},
        )  # fmt: skip
        save_model(out / "model.safetensors", average, card, overwrite=True)
        save_checkpoint(
            state, **parts, step=step, blocks=blocks, parent=parent, config=_plain(config)
        )

    workers = {}
    if device.type == "cuda":  # only a GPU works in parallel
        workers = {"num_workers": min(8, os.cpu_count()), "multiprocessing_context": "fork"}
    times = 1 if config.only is None else _AGAIN
    first = max(0, step // times - (_KEPT if config.only else 0))  # of the fields
    drawn = DataLoader(
        _Draws(streams, config, world), batch_size=None,
        sampler=itertools.count(first // _USES * world + rank, world), **workers,
    )  # fmt: skip
    log(f"{world} x {batch} blocks of {max(config.sizes)} pixels on {device}, from block {blocks}")
    ran = time.monotonic()
    record = (out / "log.txt").open("a") if rank == 0 else nullcontext()
    trained = [p for p in network.parameters() if p.requires_grad]
    apart = 1 if world == 1 else _APART
    sums, last = {}, ran
    rendered = _ahead(drawn, streams, device)
    for _ in range(first % _USES):  # used before the run stopped
        next(rendered)
    looked = ((fields, None) for fields in rendered)
    if config.only:
        looked = _again(rendered, first, step, network, autocast)
    with _interruptible() as interrupted, record, closing(rendered):
        for fields, seen in looked:
            passed = (time.monotonic() - began) / max(1e-9, 60 * minutes - _LAST)
            done = max(blocks / config.blocks, passed if math.isfinite(minutes) else 0)
            if step % apart == 0:
                _average(trained, world)
                done = _first(done, world, device)
                if done >= 1 or interrupted(world, device):
                    break
            done = min(done, 1)
            rate = min(1, (blocks + 1) / max(1, config.warmup)) * min(1, (1 - done) / config.decay)
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * rate
            number = len(fields)
            try:
                losses = field_losses(
                    network, fields, config.seed * 1_000_003 + step * world + rank,
                    autocast=autocast, asked=config.asked, seen=seen,
                )  # fmt: skip
                total = sum(_WEIGHTS[name] * value for name, value in losses.items())
                optimizer.zero_grad(set_to_none=True)
                if total.requires_grad:  # or there is nothing to split
                    total.backward()
            except torch.OutOfMemoryError:  # one crowded batch does not end the run
                log(f"out of memory at step {step}: batch skipped")
                optimizer.zero_grad(set_to_none=True)
                fields = seen = total = None
                losses = {}
                torch.cuda.empty_cache()
            norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip or math.inf)
            losses["gradient"] = norm
            if torch.isfinite(norm):
                optimizer.step()
                _update_average(average, network, config.average, step)
            step, blocks = step + 1, blocks + number * world
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach()
            sums["n"] = sums.get("n", 0) + 1
            if step % 20 == 0:
                means = {k: float(v) / sums["n"] for k, v in sums.items() if k != "n"}
                line = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                line = f"{step}, {blocks} blocks, {time.monotonic() - began:.0f} s, {line}"
                log(line)
                if rank == 0:
                    print(line, file=record, flush=True)
                sums = {}
            if time.monotonic() - last > _CHECKPOINT:
                save()
                last = time.monotonic()
    save()
    seconds = time.monotonic() - ran
    log(f"{step} steps, {blocks} blocks, {seconds:.0f} s in the loop")
    return out / "model.safetensors"


@torch.no_grad()
def _average(parameters, world):
    """Average parameters over processes."""
    if world == 1:
        return
    mean = torch.cat([p.flatten() for p in parameters]) / world
    dist.all_reduce(mean)
    for p, part in zip(parameters, mean.split([p.numel() for p in parameters]), strict=True):
        p.copy_(part.view(p.shape))


def _first(value, world, device):
    """Return a number of the first process."""
    value = torch.tensor(float(value), device=device)
    if world > 1:
        dist.broadcast(value, 0)
    return float(value)


def _shares(config):
    """Return the shares of updates with each kind of fields, without those that have none."""
    others = {"observed": config.observed, "pairs": config.pairs}
    shares = {"": 1 - sum(others.values()), **others}
    return {kind: share for kind, share in shares.items() if share > 0}


class _Draws:
    """Random numbers of updates: which stream, and its fields' draws."""

    def __init__(self, streams, config, world):
        self.streams, self.config, self.world = streams, config, world

    def __getitem__(self, number):
        rng = np.random.default_rng([self.config.seed, number // self.world])
        size = self.config.sizes[rng.integers(len(self.config.sizes))]
        shares = _shares(self.config)
        kind = rng.choice([*shares], p=[*shares.values()])
        return size, kind, self.streams[size, kind].draw(number)


def _ahead(drawn, streams, device):
    """Yield the fields of each update; those of later ones are rendered in the meantime."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    waiting = deque()

    def render(size, kind, draw):
        with torch.cuda.stream(stream):  # does nothing for None
            fields = list(_rendered(streams[size, kind], draw))
            if stream is not None:
                stream.synchronize()
        return fields

    with ThreadPoolExecutor(1) as thread:
        for each in drawn:
            waiting.append(thread.submit(render, *each))
            if len(waiting) > _AHEAD:
                yield from waiting.popleft().result()
                if stream is not None:  # their memory must be free before it is given to others
                    torch.cuda.current_stream(device).synchronize()


def _again(rendered, first, step, network, autocast):
    """Yield fields and what shared layers see of them, from an update on, each several times."""
    kept = deque(maxlen=_KEPT)
    for number, fields in enumerate(rendered, first):
        with torch.no_grad(), autocast():
            kept.append((fields, network.look(*shown(fields))))
        for update in range(max(step, number * _AGAIN), (number + 1) * _AGAIN):
            yield kept[np.random.default_rng(update).integers(len(kept))]


def _rendered(stream, draw):
    """Yield the fields of a draw with new noise each time: rendering the light takes longest."""
    light, seen = stream.light(draw), draw.seen
    for k in range(_USES):
        again = replace(draw, seen=replace(seen, noise_seed=seen.noise_seed + k))
        yield stream.render(again, light)


def _batch_that_fits(config, device):
    if device.type != "cuda":
        return 2
    pixels = max(config.sizes) ** 2 * max(config.bands) * _BYTES * (_KEPT if config.only else 1)
    return int(min(_MOST, max(1, 0.5 * torch.cuda.mem_get_info(device)[0] // pixels)))
