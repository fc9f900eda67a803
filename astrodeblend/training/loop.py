"""The training loop of networks with two outputs, from blends to a model."""

import copy
import json
import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from ..files import atomic_path
from ..networks import Discriminator, DiscriminatorConfig, build, load_vgg19
from ..networks.heads import FALSE_ALARMS
from ..simulate.recipes import get_recipe
from ..simulate.survey_batches import STAMP
from ..weights import Card, save_model
from .config import TrainingConfig
from .heads import FEWEST_BLENDS, familiarity_of
from .losses import adversarial_loss, discriminator_loss, feature_loss, pixel_loss, std_loss
from .run import (
    Log,
    check_compiler,
    check_parent,
    load_checkpoint,
    load_parent,
    parallel,
    processes,
    save_checkpoint,
)
from .stream import BlendStream, first_final, stream_of

#: Fields of the configuration that may change when a run is resumed.
FREE = ("steps", "minutes", "validate_every", "checkpoint_every", "log_every", "validation_blends",
         "familiarity_blends", "compile")  # fmt: skip
_RADII = 4.0  # Petrosian radii of a galaxy, convolved with the PSF: width of a stamp of flux
_HOPELESS = 100  # consecutive updates without a finite gradient that end a run
_KEEP = 120  # seconds between models and checkpoints of a run with ``minutes``


def train(
    config, images, out, *, validation=None, start=None, resume=False, state=None, device=None,
    card=None, progress=True,
):  # fmt: skip
    """Train a model.

    Under ``torchrun`` every process calls this, and they divide the batches.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the run.
    images : numpy.ndarray or astrodeblend.simulate.Morphologies or None
        Galaxies for training, (n, bands, y, x), as `astrodeblend.simulate.read_images` returns.
        For surveys: real galaxies, as `astrodeblend.simulate.cut_galaxies` returns, or None for
        parametric ones only; or the light of isolated sources of your survey, as
        ``astrodeblend.training.stream.StampStream`` takes it.
    out : str or path-like
        Folder for the checkpoint, the log, pictures and the model; made if it is missing.
    validation : numpy.ndarray or astrodeblend.simulate.Morphologies, optional
        Galaxies for validation. Default: no validation; for surveys: parametric ones.
    start : str or path-like, optional
        A model to start from, as `astrodeblend.weights.load_model` takes it, with the network of
        the configuration. Default: random weights.
    resume : bool, optional
        Continue from the checkpoint in ``out`` exactly where the run stopped; if ``start`` is
        given, it has to be the one of the run.
    state : str or path-like, optional
        File for the checkpoint. Default: ``checkpoint.safetensors`` in ``out``.
    device : str or torch.device, optional
        Device of blends and networks. Default: a GPU if there is one.
    card : Card, optional
        The model's card; the training is filled in.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    pathlib.Path or None
        The model's weight file; None if the run was interrupted (its state is saved).

    Raises
    ------
    FileExistsError
        If ``out`` holds a run already and ``resume`` is false.
    FileNotFoundError
        If ``resume`` is true and there is no checkpoint.
    ValueError
        If checkpoint or ``start`` do not fit the configuration.
    """
    with processes(device) as (rank, world, device):
        out = Path(out)
        checkpoint = Path(state or out / "checkpoint.safetensors")
        if checkpoint.exists() and not resume:
            raise FileExistsError(
                f"{str(state or out)!r} holds a run already; continue it by resume (--resume), "
                "or choose another folder"
            )

        # The networks, their average, their optimisers.
        torch.manual_seed(config.seed)
        network = build(**config.network)
        parent = None if start is None else load_parent(start, network, weights=not resume)
        network = network.to(device, memory_format=torch.channels_last)
        average = copy.deepcopy(network).requires_grad_(False)
        if config.keep and parent is None and not resume:
            raise ValueError(f"keep={config.keep}: give a model to start from, or leave it out")
        begin = {"begin": copy.deepcopy(average)} if config.keep else {}
        if config.compile:
            check_compiler(device)
            network.compile(dynamic=False)
        modules = {"network": network, "average": average, **begin}
        optimizers = {"optimizer": _optimizer(config, network)}
        discriminator = features = None
        if config.adversarial != "none":
            shape = DiscriminatorConfig(
                bands=images.shape[1],
                pixels=get_recipe(config.recipe).stamp,
                **config.discriminator,
            )
            discriminator = Discriminator(shape).to(device)
            if config.compile:
                discriminator.compile(dynamic=False)
            modules["discriminator"] = discriminator
            optimizers["discriminator_optimizer"] = _optimizer(config, discriminator)
        if config.vgg and config.burn_in:
            path = None if config.vgg == "torchvision" else config.vgg
            features = load_vgg19(path, preprocess=config.vgg_preprocess).to(device)

        # Where the run stands.
        step, seconds = 0, 0.0
        if resume:
            saved = load_checkpoint(checkpoint, modules=modules, optimizers=optimizers)
            _check_same(saved["config"], config)
            parent = check_parent(saved.get("parent"), parent)
            step, seconds = saved["step"], saved["seconds"]
            if step > config.steps:
                raise ValueError(
                    f"steps={config.steps}: the run has done {step} updates; give {step} or more"
                )

        def place():
            """Return the progress in updates: those done, or those of the time gone, if more."""
            if not config.minutes:
                return step
            gone = (seconds + time.monotonic() - began) / (60 * config.minutes)
            here = max(step, gone * config.steps)
            if world == 1:
                return here
            here = torch.tensor(here, device=device)  # all processes use the latest clock
            dist.all_reduce(here, dist.ReduceOp.MAX)
            return here.item()

        def save():
            save_checkpoint(
                checkpoint,
                modules=modules,
                optimizers=optimizers,
                step=step,
                seconds=seconds + time.monotonic() - began,
                config=config.to_dict(),
                parent=parent,
            )

        def export(**more):
            hours = (seconds + time.monotonic() - began) / 3600
            if parent is not None:
                more["from"] = parent
            return _export(out, config, result(), card, step, hours * world, more)

        def result():
            """Return the weights to save: their average, mixed with those at the start."""
            if not begin:
                return average
            mixed = copy.deepcopy(average)
            state = mixed.state_dict()
            for name, value in begin["begin"].state_dict().items():
                if value.is_floating_point():
                    state[name].lerp_(value, config.keep)
            return mixed

        # The data.
        stream = stream_of(config, images, device, rank, world)
        judged = validation is not None or (config.surveys and not isinstance(images, np.ndarray))
        judge = judged and rank == 0 and _Validation(config, validation, device)
        out.mkdir(parents=True, exist_ok=True)
        generator = parallel(network, world)
        parallel_discriminator = discriminator and parallel(discriminator, world)

        began = last = time.monotonic()
        if resume and rank == 0 and _plain(config) != saved["config"]:
            save()  # the longer run is the one that a later resume continues
        kept, first, lost = began, step, 0
        bar = tqdm(
            total=config.steps, initial=step, unit="step", disable=not progress or rank > 0,
            desc=f"training {config.network['kind']}", mininterval=1,
        )  # fmt: skip
        record = Log(out, step) if rank == 0 else nullcontext()
        with bar, record as log, _interruptible() as interrupted:
            now_at, batch = place(), stream[step]
            while now_at < config.steps and not interrupted(world, device):
                rate = _learning_rate(config, step, now_at)
                for optimizer in optimizers.values():
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                losses = {}

                # The generator.
                if isinstance(stream, BlendStream) and now_at >= first_final(config):
                    stream.final = min(stream.final, step)
                blend, isolated, positions, present = batch
                blend = blend.contiguous(memory_format=torch.channels_last)
                with _autocast(config, device):
                    components, std = generator(blend, positions, present)
                components = components.float()
                burning_in = now_at < config.burn_in
                if burning_in and features is not None:
                    losses["features"] = feature_loss(features, components, isolated)
                    total = losses["features"]
                else:
                    losses["pixel"] = pixel_loss(components, isolated, kind=config.loss)
                    total = losses["pixel"]
                if std is not None:
                    losses["std"] = std_loss(components, std.float(), isolated)
                    total = total + config.std_weight * losses["std"]
                if discriminator is not None and not burning_in:
                    discriminator.requires_grad_(False)
                    with _autocast(config, device):
                        fake = discriminator(components.flatten(0, 1)).float()
                    discriminator.requires_grad_(True)
                    losses["adversarial"] = adversarial_loss(fake, form=config.adversarial)
                    total = total + config.adversarial_weight * losses["adversarial"]
                optimizers["optimizer"].zero_grad(set_to_none=True)
                total.backward()
                batch = stream[step + 1]  # while a GPU is still busy with this one
                limit = config.clip or torch.inf
                losses["gradient"] = torch.nn.utils.clip_grad_norm_(network.parameters(), limit)
                # A batch without a finite gradient must not change the weights.
                if torch.isfinite(losses["gradient"]):
                    optimizers["optimizer"].step()
                    lost = 0
                else:
                    lost += 1
                    if lost == _HOPELESS:
                        raise ValueError(
                            f"the gradient was not finite {lost} updates in a row; the last "
                            "checkpoint is from before: resume with another learning_rate or clip"
                        )

                # The discriminator.
                if discriminator is not None and not burning_in:
                    with _autocast(config, device):
                        real = parallel_discriminator(isolated.flatten(0, 1)).float()
                        fake = parallel_discriminator(components.detach().flatten(0, 1)).float()
                    losses["discriminator"] = discriminator_loss(real, fake)
                    optimizers["discriminator_optimizer"].zero_grad(set_to_none=True)
                    losses["discriminator"].backward()
                    norm = torch.nn.utils.clip_grad_norm_(discriminator.parameters(), limit)
                    if torch.isfinite(norm):
                        optimizers["discriminator_optimizer"].step()

                _update_average(average, network, config.average, step)
                step += 1
                bar.update()
                now_at = place()

                # The record.
                due = now_at >= config.steps
                validate = judge and (due or step % config.validate_every == 0)
                if rank == 0 and (due or validate or step % config.log_every == 0):
                    now = time.monotonic()
                    row = {name: value.item() for name, value in losses.items()}
                    row["learning_rate"] = rate
                    row["blends_per_second"] = (step - first) * config.batch / (now - last)
                    first = step
                    if validate:
                        row["validation_psnr"] = judge(result(), out / "validation.png")
                        bar.set_postfix(val=f"{row['validation_psnr']:.2f} dB", refresh=False)
                        export()
                    last = time.monotonic()
                    log.write(step, row)
                if rank == 0 and (due or step % config.checkpoint_every == 0):
                    save()
                if rank == 0 and config.minutes and time.monotonic() - kept > _KEEP:
                    save()
                    export()
                    kept = time.monotonic()
        if rank > 0:
            return None
        save()
        if now_at < config.steps:
            if config.minutes:  # there may be no going on
                export()
            return None
        blends = min(config.familiarity_blends, step * config.batch)
        if blends < FEWEST_BLENDS or config.surveys:
            return export()
        try:
            familiarity = familiarity_of(result(), stream, blends=blends, progress=progress)
        except KeyboardInterrupt:
            return None
        average.familiarity = familiarity
        entry = {"blends": blends, "false_alarms": FALSE_ALARMS}
        return export(familiarity=entry)


def _autocast(config, device):
    automatic = "float32" if device.type == "cpu" else "bfloat16"
    if (automatic if config.precision == "auto" else config.precision) == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _optimizer(config, network):
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )


def _learning_rate(config, step, place):
    """Return the learning rate of an update, at a place in the schedule, both in updates."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = place / config.steps
    if config.plan == "reiman2019":
        fall = 1.0 if done < 0.5 else 0.1
    elif config.plan == "cosine":
        fall = 0.5 * (1 + np.cos(np.pi * done))
    else:
        fall = min(1.0, (1 - done) / config.decay) if config.decay else 1.0
    return config.learning_rate * rise * fall


@torch.no_grad()
def _update_average(average, network, decay, step):
    """Update the running average of the weights, with less memory at first."""
    decay = min(decay, (1 + step) / (10 + step))
    old, new = ([*each.parameters(), *each.buffers()] for each in (average, network))
    pairs = list(zip(old, new, strict=True))
    floats = [pair for pair in pairs if pair[0].is_floating_point()]
    get_ema_multi_avg_fn(decay)(*zip(*floats, strict=True), None)
    for old, new in pairs:
        if not old.is_floating_point():
            old.copy_(new)


def _check_same(saved, config):
    """Raise if a run is resumed with another configuration."""
    saved = TrainingConfig(**saved)
    same = replace(config, **{name: getattr(saved, name) for name in FREE})
    if _plain(same) != _plain(saved):
        was, now = _plain(saved), _plain(same)
        differing = [f"{k}={now[k]!r} (was {was[k]!r})" for k in now if now[k] != was[k]]
        raise ValueError(
            f"the run was begun with other choices: {', '.join(differing)}; "
            "resume with the same, or choose another folder"
        )


def _plain(config):
    """Return the configuration as JSON gives it back, tuples as lists."""
    return json.loads(json.dumps(asdict(config)))


def _export(out, config, network, card, steps, core_hours, more):
    """Write the model with its card."""
    card = card or Card(
        name=out.resolve().name, description="trained by astrodeblend train", network={}
    )
    device = next(network.parameters()).device
    training = {
        **card.training,
        "config": config.to_dict(),
        "steps": steps,
        "hours": round(core_hours, 3),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        **more,
    }
    if config.surveys:
        recipe, modes = "survey", ("sum",)
        # Any bands, in units of their noise, on stamps as wide as those of training.
        pixels = min(config.survey_options.get("stamp", STAMP), STAMP)
        size_rule = {"petrosian_radii": _RADII, "pixels": pixels}
        card = replace(card, bands=(), scaling="noise", size_rule=size_rule)
    else:
        recipe, modes = config.recipe, tuple(dict.fromkeys(get_recipe(config.recipe).modes))
    card = replace(card, recipe=recipe, modes=modes, training=training)
    path = out / "model.safetensors"
    save_model(path, network, card, overwrite=True)
    return path


class _Validation:
    """Score a network on the same blends every time.

    The score is the mean PSNR; in linear flux relative to the peak of each truth.
    """

    def __init__(self, config, images, device):
        self.config, self.device = config, device
        number = config.validation_blends
        if config.surveys:
            if not isinstance(images, np.ndarray):
                options = {**config.survey_options, "bands": {3: 1.0}, "widths": None}
                config = replace(config, survey_options=options)
            config = replace(config, batch=number, seed=config.seed + 1)
            stream = stream_of(config, images, device)
        else:
            recipe = config.validation_recipe
            stream = BlendStream(images, recipe, batch=number, seed=0, device=device)
        self.blend, self.isolated, *self.marks = stream[0]

    @torch.inference_mode()
    def __call__(self, network, picture):
        network.eval()
        parts = []
        for part in zip(
            *(each.split(self.config.batch) for each in (self.blend, *self.marks)), strict=True
        ):
            with _autocast(self.config, self.device):
                parts.append(network(*part)[0].float())
        network.train()
        components = torch.cat(parts)
        self._draw(components[:8], picture)
        error = (components - self.isolated).square()
        if self.config.surveys:
            peak = self.isolated.amax(dim=(3, 4))
            error = error.mean(dim=(3, 4)) / peak.square().clamp(min=1e-12)
        else:
            error = error.mean(dim=(2, 3, 4))
        return float(-10 * error.clamp(min=1e-12).log10().mean())

    def _draw(self, components, path):
        """Draw blends over components and truths, column by column."""
        rows = torch.stack(
            [self.blend[:8], *(t[:8, k] for k in (0, 1) for t in (components, self.isolated))]
        )  # (rows, n, bands, y, x)
        if self.config.surveys:  # shown from the sky to a thousand times its noise
            rows = torch.asinh(rows) / 7.6
        shown = [min(k, rows.shape[2] - 1) for k in range(3)]  # the last again if there are fewer
        rows = rows[:, :, shown].clamp(0, 1).permute(0, 3, 1, 4, 2)
        pixels = (255 * rows.flatten(2, 3).flatten(0, 1)).round().byte().cpu().numpy()
        with atomic_path(path, overwrite=True) as temporary:
            Image.fromarray(pixels).save(temporary)


@contextmanager
def _interruptible():
    """Delay Ctrl-C and SIGTERM until the current update is done."""
    asked = []

    def note(number, frame):
        if asked:  # the second request ends at once
            raise KeyboardInterrupt
        asked.append(number)

    def interrupted(world, device):
        if world == 1:
            return bool(asked)
        # All processes stop after the same update, else they would wait for each other for ever.
        vote = torch.tensor(float(bool(asked)), device=device)
        dist.all_reduce(vote)
        return bool(vote)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread, which alone may handle signals
        before = {}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
