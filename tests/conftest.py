"""What several test files need: galaxies that were never on the sky, and a tiny model."""

import numpy as np
import pytest
from PIL import Image

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
    """Return the path of a model that has learned nothing."""
    import torch

    from astrodeblend.networks import build
    from astrodeblend.weights import Card, save_model

    path = tmp_path_factory.mktemp("models") / "tiny.safetensors"
    torch.manual_seed(1)
    network = build(**TINY)
    save_model(path, network, Card("tiny", "has learned nothing", network={}))
    return path


@pytest.fixture(scope="session")
def scoring_model(tiny_model, galaxies, tmp_path_factory):
    """Return the path of a model that has learned nothing but to tell one galaxy from two."""
    from astrodeblend.simulate import find_images, read_images
    from astrodeblend.training import add_blend_score

    path = tmp_path_factory.mktemp("models") / "scoring.safetensors"
    for suffix in (".safetensors", ".json"):
        path.with_suffix(suffix).write_bytes(tiny_model.with_suffix(suffix).read_bytes())
    add_blend_score(path, read_images(find_images(galaxies)), stamps=400, progress=False)
    return path
