"""What several test files need: galaxies that were never on the sky, and a tiny model."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

# pixels of a stamp, by the kind of image
PIXELS = {"flux": 32, "picture": 80}

TINY = {"kind": "unet", "widths": [4, 8], "blocks": [1, 1], "attention": 0}


@pytest.fixture(scope="session")
def tiny_network():
    """Return the configuration of a network that trains in milliseconds."""
    return TINY


@pytest.fixture(scope="session")
def galaxies(tmp_path_factory):
    """Return a folder with eight JPEGs of exponential discs."""
    folder = tmp_path_factory.mktemp("galaxies")
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:424, :424] - 211.5
    for k in range(8):
        angle, ratio, radius = rng.uniform(0, np.pi), rng.uniform(0.3, 1), rng.uniform(8, 20)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        light = np.exp(-np.hypot(along, across / ratio) / radius)
        picture = light[..., None] * rng.uniform(0.4, 0.9, 3) + 0.02
        picture += 0.02 * rng.standard_normal(picture.shape)
        pixels = (255 * picture.clip(0, 1)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"galaxy{k}.jpg", quality=95)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Return the path of a model of pictures that has learned nothing."""
    return _untrained(tmp_path_factory.mktemp("models") / "tiny.safetensors", TINY)


@pytest.fixture(scope="session")
def flux_model(tmp_path_factory):
    """Return the path of a model of linear flux, in any bands, that has learned nothing."""
    network = {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "attention": 0}
    flux = {"bands": (), "modes": ("sum",), "scaling": "noise"}
    return _untrained(tmp_path_factory.mktemp("models") / "faint.safetensors", network, **flux)


def _untrained(path, network, **card):
    import torch

    from astrodeblend.networks import build
    from astrodeblend.weights import Card, save_model

    torch.manual_seed(1)
    card = Card(path.stem, "has learned nothing", network={}, **card)
    save_model(path, build(**network), card)
    return path


@pytest.fixture(scope="session")
def scoring_model(tiny_model, galaxies, tmp_path_factory):
    """Return the path of a model with a blend score that has learned little."""
    from astrodeblend.simulate import find_images, read_images
    from astrodeblend.training import add_blend_score

    path = tmp_path_factory.mktemp("models") / "scoring.safetensors"
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).write_bytes(tiny_model.with_suffix(suffix).read_bytes())
    images = read_images(find_images(galaxies))
    with pytest.MonkeyPatch.context() as patch:
        shorten_fits(patch)
        add_blend_score(path, images, stamps=80, progress=False)
    return path


def shorten_fits(patch):
    from astrodeblend.networks import fit_familiarity

    few = {"_EPOCHS": 2, "_FEWEST_STEPS": 20, "_FEWEST_STAMPS": 40, "FEWEST_BLENDS": 40}
    few["fit_familiarity"] = partial(fit_familiarity, false_alarms=1 / 40)
    for name, value in few.items():
        patch.setattr(f"astrodeblend.training.heads.{name}", value)


@pytest.fixture
def short_fits(monkeypatch):
    """Let familiarity and blend score be fitted to few stamps in few steps, whatever they learn."""
    shorten_fits(monkeypatch)


@pytest.fixture(scope="session")
def splitting():
    """Return deblenders by the kind of image, whose network is known: by nearness to the marks.

    A source has of each pixel the share exp(-(r / s)^4) / (the sum over all marks + 1e-5), r from
    its mark and s a fifth of the stamp's width. Of flux, what is no more than noise is nobody's.
    """
    import torch

    from astrodeblend import Deblender
    from astrodeblend.weights import Card

    class Split(torch.nn.Module):
        familiarity = blend_score = None

        def __init__(self, least):
            super().__init__()
            self.least = least

        def forward(self, blend, positions=None, present=None):
            n, bands, height, width = blend.shape
            if positions is None:
                positions = torch.tensor([[[(width - 1) / 2, (height - 1) / 2]]]).expand(n, 1, 2)
                present = torch.ones(n, 1, dtype=torch.bool)
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            square = (x - positions[..., 0, None, None]) ** 2
            square = square + (y - positions[..., 1, None, None]) ** 2
            weight = present[..., None, None] * torch.exp(-((25 * square / width**2) ** 2))
            share = (weight[:, 0] / (weight.sum(dim=1) + 1e-5))[:, None]
            smooth = torch.nn.functional.avg_pool2d(blend.sum(dim=1, keepdim=True), 5, 1, 2)
            light = blend * (smooth > self.least * bands**0.5)
            components = torch.stack([share * light, (1 - share) * light], dim=1)
            return components, 0.03 * components.abs() + 1e-3

    def made(kind):
        flux = {"bands": (), "modes": ("sum",), "scaling": "noise"} if kind == "flux" else {}
        least = 0.8 if flux else 0.0
        rule = {"petrosian_radii": 5.8, "pixels": PIXELS[kind]}
        card = Card("split", "known", {}, size_rule=rule, **flux)
        return Deblender(Split(least), card, device="cpu")

    return {kind: made(kind) for kind in PIXELS}
