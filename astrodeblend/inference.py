"""Running a network over arrays, in batches, on its device."""

from contextlib import contextmanager

import numpy as np
import torch

from astrodeblend.networks.heads import symmetric_std

__all__ = ["Inference", "find_device"]

SMALLEST = 16  # pixels: least y and x of a stamp
ROUNDING = 1e-5  # tolerance of values outside of [0, 1]
# Pixels per batch, by type of device: enough to keep it busy, few enough to stay in the cache.
_BATCH_PIXELS = {"cpu": 8 * 80 * 80, "cuda": 512 * 80 * 80}
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Inference:
    """A network with two slots that runs on arrays.

    ``network`` is the network on its device, without gradients; ``device``, ``dtype`` and
    ``batch_size`` are as in `astrodeblend.Deblender`. ValueError if one of them is not there.
    """

    def __init__(self, network, card, *, device, dtype, batch_size):
        self.device = find_device(device)
        self.dtype = _find_dtype(dtype, self.device, network, card)
        self._batch_size = _check_batch_size(batch_size)
        self._bands, self._linear = card.bands, card.scaling == "noise"
        network = network.to(self.device, memory_format=torch.channels_last).eval()
        self.network = network.requires_grad_(False)

    @property
    def scorer(self):
        """The network's `astrodeblend.networks.BlendScore`, or None."""
        return getattr(self.network, "blend_score", None)

    def check(self, batch):
        """Return a batch as a float32 tensor; raise if it is invalid."""
        if not isinstance(batch, np.ndarray | torch.Tensor):
            raise TypeError(
                f"batch is a {type(batch).__name__}; give a numpy array or a torch tensor "
                "(n, bands, y, x)"
            )
        is_tensor = isinstance(batch, torch.Tensor)
        if not (batch.is_floating_point() if is_tensor else batch.dtype.kind == "f"):
            raise TypeError(
                f"batch has values of type {batch.dtype}; give float32 (8-bit pictures divided "
                "by 255)"
            )
        shape, bands = tuple(batch.shape), len(self._bands)
        fits = len(shape) == 4 and min(shape[2:]) >= SMALLEST
        if not fits or (shape[1] == 0 if self._linear else shape[1] != bands):
            takes = "any number of bands" if self._linear else f"bands {', '.join(self._bands)}"
            raise ValueError(
                f"batch has shape {shape}; the model takes (n, {bands or 'bands'}, y, x), {takes}, "
                f"y and x of at least {SMALLEST}"
            )
        if not is_tensor:
            batch = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
        batch = batch.detach().float()
        # min and max are NaN if any value is; values may exceed [0, 1] by rounding
        low, high = (-np.inf, np.inf) if self._linear else (-ROUNDING, 1 + ROUNDING)
        if batch.numel():
            least, most = batch.min().item(), batch.max().item()
            if not (np.isfinite([least, most]).all() and least >= low and most <= high):
                takes = "finite ones" if self._linear else "finite ones within [0, 1]"
                raise ValueError(
                    f"batch has values from {least:.4g} to {most:.4g}; the model takes {takes} "
                    "(for images in flux units use deblend_stamps)"
                )
        return batch

    def check_positions(self, positions, batch):
        """Return positions of a checked batch as the network takes them; raise if invalid.

        NaN is no source. Return positions (n, s, 2), finite, and present (n, s); None and None for
        no positions.
        """
        if positions is None:
            return None, None
        try:
            positions = torch.as_tensor(positions, dtype=torch.float32, device=batch.device)
        except (TypeError, ValueError, RuntimeError) as error:
            text = f"positions={positions!r}: give numbers of shape (n, sources, 2), x and y"
            raise ValueError(text) from error
        positions = positions.detach()
        if positions.ndim != 3 or positions.shape[::2] != (len(batch), 2) or not positions.shape[1]:
            raise ValueError(
                f"positions has shape {tuple(positions.shape)}; give (n, sources, 2), x and y, for "
                f"each of the {len(batch)} stamps, NaN where there is no further source"
            )
        present = positions.isfinite().all(dim=2)
        limit = positions.new_tensor(batch.shape[:1:-1]) - 0.5
        inside = (positions[:, 0] >= -0.5) & (positions[:, 0] <= limit)
        if not inside.all():
            wrong = int((~inside).any(dim=1).nonzero()[0])
            raise ValueError(
                f"positions[{wrong}, 0] is {positions[wrong, 0].tolist()}; the source that is "
                f"asked for has to be in its stamp, {batch.shape[3]}x{batch.shape[2]} pixels"
            )
        return positions.nan_to_num(), present

    def run(self, batch, positions=None, present=None, *, bare=True):
        """Run the network over a tensor (n, bands, y, x), in batches.

        ``positions`` (n, s, 2) and ``present`` (n, s) are as the network takes them. Return
        components (n, 2, bands, y, x) and, unless ``bare``, those of their standard deviations,
        distances (n,) from the training blends and blend scores (n,) that the network has; None
        otherwise. All are on the device of the batch.
        """
        # Allocated outside of inference mode, so that the tensors can be used with gradients.
        components = batch.new_empty(len(batch), 2, *batch.shape[1:])
        std = None if bare else torch.empty_like(components)
        judge = None if bare else getattr(self.network, "familiarity", None)
        scorer = None if bare else self.scorer
        distance, score = (
            None if head is None else batch.new_empty(len(batch)) for head in (judge, scorer)
        )
        wanted = {"with_features": judge, "with_blend_score": scorer}
        wanted = {name: True for name, head in wanted.items() if head is not None}
        with self.arithmetic():
            for chosen, *part in self._parts(batch, positions, present):
                answer, expected, *more = self.network(*part, **wanted)
                components[chosen] = answer
                if expected is None:
                    std = None
                elif std is not None:
                    std[chosen] = expected
                if judge is not None:
                    distance[chosen] = judge(more[0])
                if scorer is not None:
                    score[chosen] = more[-1]
        return components, std, distance, score

    def score(self, batch):
        """Return the blend scores (n,) of a tensor (n, bands, y, x), or NaN without a scorer."""
        scores = batch.new_full((len(batch),), torch.nan)
        if self.scorer is not None:
            with self.arithmetic():
                for chosen, part, *_ in self._parts(batch):
                    scores[chosen] = self.scorer(self.network.blend_features(part))
        return scores

    def spread(self, batch, positions=None, present=None):
        """Return the standard deviation of components over the eight symmetries of a stamp."""
        return symmetric_std(lambda *turned: self.run(*turned, present)[0], batch, positions)

    @contextmanager
    def arithmetic(self):
        """Return the context of the network: no gradients, and its dtype."""
        low = self.dtype is not torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.dtype, enabled=low):
            yield

    def _parts(self, batch, positions=None, present=None):
        """Yield slices of a tensor (n, bands, y, x), and their parts on the device."""
        height, width = batch.shape[-2:]
        size = self._batch_size
        if size == "auto":
            size = max(1, _BATCH_PIXELS[self.device.type] // (height * width))
        for start in range(0, len(batch), size):
            chosen = slice(start, start + size)
            marks = (
                each if each is None else each[chosen].to(self.device)
                for each in (positions, present)
            )
            yield chosen, batch[chosen].to(self.device, memory_format=torch.channels_last), *marks


def find_device(device):
    """Return a device; raise if it is not available."""
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if device is None:
        return torch.device("cuda" if len(there) > 1 else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or f"{found.type}:{found.index or 0}".removesuffix(":0") not in {
        name.removesuffix(":0") for name in there
    }:
        raise ValueError(
            f"device={str(device)!r} is not here; choose {' or '.join(map(repr, there))}"
        )
    return found


def _find_dtype(dtype, device, network, card):
    if dtype is None:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in all versions
        multiplies = any(map(capabilities.get, ("amx_bf16", "avx512_bf16")))
        takes = card.scaling != "noise" or getattr(network, "mixed_precision", False)
        low = takes and (device.type == "cuda" or multiplies)
        return torch.bfloat16 if low else torch.float32
    for name, found in _DTYPES.items():
        if dtype in (name, found):
            return found
    raise ValueError(f"dtype={dtype!r} is not offered; choose {' or '.join(_DTYPES)}")


def _check_batch_size(batch_size):
    if batch_size == "auto" or (type(batch_size) is int and batch_size >= 1):
        return batch_size
    raise ValueError(f"batch_size={batch_size!r}: give a positive integer or 'auto'")
