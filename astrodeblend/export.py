"""A model as one program with its scaling inside, for where this package is not."""

import json
import logging
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim
from torch.nn import functional as F

from ._version import __version__
from .calibration import DARK, Calibration
from .files import atomic_path
from .inference import ROUNDING, SMALLEST
from .networks.centres import centre_probability
from .weights import load_model

__all__ = ["export_model"]

_KNOWN = 0.5  # least share of a stamp in which each band has data
# Fields of the card that a file states.
_TOLD = ("name", "description", "bands", "modes", "scaling", "data", "licence", "limits", "sha256")
# Lengths of the axes of the traced inputs, all different so that torch ties none to another.
_EXAMPLE = {"n": 5, "bands": 7, "y": 44, "x": 52, "sources": 4}


def export_model(model, path, *, overwrite=False):
    """Write a model as a program that takes stamps as they are and returns their components.

    It does what `astrodeblend.Deblender.deblend_arrays` does, with scaling and calibrated standard
    deviations inside, for any number of stamps and sources, any y and x of at least 16, and any
    number of bands if the model takes that. It cannot refuse: stamps that are no input for it are
    answered with NaN.

    Parameters
    ----------
    model : str or path-like
        As in `astrodeblend.weights.load_model`.
    path : str or path-like
        File to write: ``.pt2`` for `torch.export.load`, or ``.onnx`` for any runtime of ONNX, which
        takes the packages of ``astrodeblend[export]``.
    overwrite : bool, optional
        Replace a file that is there already.

    Returns
    -------
    dict
        What the file says of the model, its inputs and outputs.

    Raises
    ------
    ValueError
        If there is no such model, it has not two branches, ``path`` ends otherwise, or packages
        are missing.
    FileNotFoundError, FileExistsError
        If the model's files do not exist; if ``path`` exists and ``overwrite`` is false.
    """
    path = Path(path)
    if path.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"path={str(path)!r}: end it in .pt2 (torch.export) or .onnx (ONNX)")
    if path.suffix == ".onnx" and not all(map(find_spec, ("onnx", "onnxscript"))):
        raise ValueError(
            f"path={str(path)!r} takes packages: pip install 'astrodeblend[export]', or choose .pt2"
        )
    with atomic_path(path, overwrite=overwrite) as temporary, _torch_quiet():
        network, card = load_model(model)
        program = _program(network, card)
        examples, shapes = _examples(program.inputs)
        outputs = list(program(*examples))
        about = _about(network, card, program, outputs)
        exported = torch.export.export(program, examples, dynamic_shapes=shapes)
        if path.suffix == ".pt2":
            told = {"astrodeblend.json": json.dumps(about, indent=2)}
            torch.export.save(exported, temporary, extra_files=told)
        else:
            _to_onnx(exported, about).save(temporary, external_data=False)
    return about


@contextmanager
def _torch_quiet():
    """Silence the warnings and the log of torch."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _program(network, card):
    """Return the program of a model."""
    branches = card.network.get("branches", 2)
    if branches != 2:
        raise ValueError(
            f"model {card.name!r} has {branches} branches; only models with two can be exported"
        )
    network.familiarity = network.blend_score = None  # not part of the program
    kind = _Fields if hasattr(network, "find") else _Flux if card.scaling == "noise" else _Pictures
    return kind(network, Calibration(**card.calibration)).eval().requires_grad_(False)


def _about(network, card, program, outputs):
    """Return what a file says of itself."""
    about = {name: asdict(card)[name] for name in _TOLD}
    about |= {"astrodeblend": __version__, "unit": program.unit, "inputs": program.inputs}
    about["outputs"] = {name: program.outputs[name] for name in outputs}
    return about


def _examples(inputs):
    """Return inputs to trace with, and which of their lengths may be any."""
    lengths = dict.fromkeys(_EXAMPLE, Dim.DYNAMIC)
    lengths |= dict.fromkeys(("y", "x"), Dim.DYNAMIC(min=SMALLEST))
    examples = tuple(torch.ones([_EXAMPLE.get(k, k) for k in axes]) for axes in inputs.values())
    shapes = [
        {k: lengths.get(axis, Dim.STATIC) for k, axis in enumerate(axes)}
        for axes in inputs.values()
    ]
    return examples, tuple(shapes)


def _to_onnx(exported, about):
    """Return an exported program in ONNX."""
    aten = torch.ops.aten
    missing = {  # in ONNX
        aten.hypot.default: lambda x, y: (x.square() + y.square()).sqrt(),
        aten.median.dim: _median,
    }
    inputs, outputs = about["inputs"], about["outputs"]
    converted = torch.onnx.export(
        exported.run_decompositions(missing),
        dynamo=True,
        verbose=False,
        input_names=list(inputs),
        output_names=list(outputs),
    )
    graph = converted.model.graph
    named = inputs | outputs
    for value in (*graph.inputs, *graph.outputs):
        value.shape = type(value.shape)(named[value.name])
    converted.model.metadata_props.update(
        {name: v if isinstance(v, str) else json.dumps(v) for name, v in about.items()}
    )
    return converted


def _median(x, dim):
    """Return medians, the lower of the middle two, and zeros for their unused indices."""
    values = x.sort(dim=dim).values.select(dim, (x.shape[dim] - 1) // 2)
    return values, torch.zeros_like(values, dtype=torch.long)


class _Pictures(nn.Module):
    """Pictures, as they are."""

    inputs = {"blend": ("n", 3, "y", "x"), "positions": ("n", "sources", 2)}  # noqa: RUF012
    outputs = {"components": ("n", 2, 3, "y", "x"), "std": ("n", 2, 3, "y", "x")}  # noqa: RUF012
    unit = "from 0, black, to 1, white"

    def __init__(self, network, calibration):
        super().__init__()
        self.network, self.calibrated = network, _Calibrated(calibration)

    def forward(self, blend, positions):
        positions, present, inside = _placed(positions, blend)
        within = (blend >= -ROUNDING) & (blend <= 1 + ROUNDING)
        components, std = self.network(blend, positions, present)
        answers = {"components": components}
        if std is not None:
            answers["std"] = self.calibrated(std, components, blend)
        return _known(answers, inside & within.flatten(1).all(dim=1))


class _Flux(_Pictures):
    """Linear flux above the sky, in units of the noise."""

    inputs = {  # noqa: RUF012
        "blend": ("n", "bands", "y", "x"),
        "noise": ("n", "bands"),
        "positions": ("n", "sources", 2),
    }
    outputs = {"components": ("n", 2, "bands", "y", "x"), "std": ("n", 2, "bands", "y", "x")}  # noqa: RUF012
    unit = "any; noise is its standard deviation in a pixel of the sky"

    def forward(self, blend, noise, positions):
        positions, present, inside = _placed(positions, blend)
        values, data, noise = _in_noise(blend, noise)
        components, std = self.network(values.nan_to_num(), positions, present)
        std = self.calibrated(std, components, values)
        answers = {"components": components * noise, "std": std * noise}
        answers = _known(answers, data[:, None])
        return _known(answers, inside & (data.float().mean(dim=(2, 3)) >= _KNOWN).all(dim=1))


class _Fields(_Flux):
    """Linear flux, split among any number of sources, and a map of detections."""

    inputs = {  # noqa: RUF012
        "blend": ("n", "bands", "y", "x"),
        "noise": ("n", "bands"),
        "psf": ("n", "bands"),
        "positions": ("n", "sources", 2),
    }
    outputs = {  # noqa: RUF012
        "components": ("n", "sources + 1", "bands", "y", "x"),
        "std": ("n", "sources + 1", "bands", "y", "x"),
        "probability": ("n", "y", "x"),
        "offset": ("n", 2, "y", "x"),
        "size": ("n", "y", "x"),
    }

    def forward(self, blend, noise, psf, positions):
        positions, present, inside = _placed(positions, blend)
        values, data, noise = _in_noise(blend, noise)
        network = self.network
        seen = network.look(values, psf)
        heat, offset, log_size = network.heat(seen)
        light, std = network.share_whole(seen, positions, present)
        # The rest is the total light less that of the sources: the total has the smaller error.
        rest = (seen.total - light.sum(dim=1)).clamp(min=0)
        components = torch.cat([light, rest[:, None]], dim=1)
        std = torch.cat([std, std.square().sum(dim=1, keepdim=True).sqrt()], dim=1)
        std = self.calibrated(std, components, values)
        answers = {"components": components * noise, "std": std * noise}
        answers = _known(_known(answers, data[:, None]), inside)
        peak = heat == F.max_pool2d(heat, 3, stride=1, padding=1)
        answers["probability"] = (centre_probability(heat, network.calibration) * peak)[:, 0]
        answers["offset"] = offset.clamp(-1.5, 1.5)
        answers["size"] = log_size[:, 0].exp()
        return answers


class _Calibrated(nn.Module):
    """`astrodeblend.calibration.Calibration.std` in torch."""

    def __init__(self, calibration):
        super().__init__()
        self.in_noise = calibration.in_noise
        for name in ("log_ratio", "fraction", "log_factor", "log_peak", "log_peak_factor"):
            self.register_buffer(name, torch.tensor(getattr(calibration, name)))

    def forward(self, std, components, blend):
        light = blend[:, None].clamp(min=DARK)
        ratio = std.clamp(min=torch.finfo(torch.float32).tiny) / (1 if self.in_noise else light)
        rows = _weights(ratio.log(), self.log_ratio)
        columns = _weights(components / light, self.fraction)
        log_factor = ((rows @ self.log_factor) * columns).sum(dim=-1)
        if len(self.log_peak):
            peak = components.amax(dim=(-2, -1), keepdim=True).clamp(min=DARK).log()
            log_factor = log_factor + _weights(peak, self.log_peak) @ self.log_peak_factor
        return std * log_factor.exp()


def _weights(values, nodes):
    """Return the weights of nodes in linear interpolation, (..., nodes), constant beyond."""
    steps = (values[..., None] - nodes[:-1]) / nodes.diff()
    place = steps.clamp(0, 1).sum(dim=-1, keepdim=True)
    return (1 - (place - torch.arange(len(nodes))).abs()).clamp(min=0)


def _placed(positions, blend):
    """Return positions, whether they are present, and whether the first of each is in its stamp.

    NaN is no source, or, if it is the first, the middle.
    """
    height, width = blend.shape[-2:]
    extent = torch.stack([torch.scalar_tensor(side) for side in (width, height)])
    first = torch.arange(positions.shape[1])[:, None] == 0
    positions = torch.where(
        first & positions.isnan().all(dim=2, keepdim=True), (extent - 1) / 2, positions
    )
    present = positions.isfinite().all(dim=2)
    inside = ((positions[:, 0] >= -0.5) & (positions[:, 0] <= extent - 0.5)).all(dim=1)
    return torch.where(present[..., None], positions, 0), present, inside


def _in_noise(blend, noise):
    """Return flux in units of the noise, NaN without data; where data are; noise as a factor."""
    noise = noise[..., None, None]
    data = blend.isfinite() & noise.isfinite() & (noise > 0)
    return torch.where(data, blend / noise, torch.nan), data, noise[:, None]


def _known(answers, known):
    """Return answers with NaN in pixels, or in whole stamps, that are not known."""
    if known.ndim == 1:
        known = known[:, None, None, None, None]
    return {name: torch.where(known, answer, torch.nan) for name, answer in answers.items()}
