"""A network over arrays: where sources are, and one after the other in the middle."""

import numpy as np
import pytest
import torch

from astrodeblend.calibration import ask_in_turn, recentred
from astrodeblend.inference import Inference
from astrodeblend.light import regained
from astrodeblend.weights import Card


def gaussian(x, y, flux, *, shape=(48, 56), sigma=2.5):
    rows, columns = np.indices(shape)
    square = (columns - x) ** 2 + (rows - y) ** 2
    return flux / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))


class Recorder(torch.nn.Module):
    """A network that gives all light to the middle, and keeps what it was told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def forward(self, blend, positions=None, present=None):
        self.told.append((positions, present))
        return torch.stack([blend, 0 * blend], dim=1), None


@pytest.fixture
def inference():
    options = {"device": "cpu", "dtype": None, "batch_size": 2}
    return Inference(Recorder(), Card("r", "", {}, bands=(), scaling="noise"), **options)


def test_positions_go_with_their_stamps(inference):
    batch = inference.check(np.zeros((3, 1, 20, 30), np.float32))
    given = [[[14, 9], [3, 4]], [[15, 9], [np.nan] * 2], [[16, 9], [-7, 50]]]
    components, *_ = inference.run(batch, *inference.check_positions(given, batch))
    assert components.shape == (3, 2, 1, 20, 30)
    positions, present = (torch.cat(each) for each in zip(*inference.network.told, strict=True))
    assert [len(told[0]) for told in inference.network.told] == [2, 1]
    np.testing.assert_array_equal(positions, np.nan_to_num(given))
    assert present.tolist() == [[True, True], [True, False], [True, True]]
    inference.run(batch)
    assert inference.network.told[-1] == (None, None)


@pytest.mark.parametrize(
    ("positions", "words"),
    [
        (np.zeros((2, 1, 2)), r"positions has shape \(2, 1, 2\).*each of the 3 stamps"),
        (np.zeros((3, 0, 2)), r"positions has shape \(3, 0, 2\)"),
        (np.full((3, 1, 2), np.nan), r"positions\[0, 0\] is \[0.0, 0.0\]|positions\[0, 0\] is"),
        (np.full((3, 1, 2), 25.0), r"positions\[0, 0\] is \[25.0, 25.0\]; .*30x20 pixels"),
    ],
)
def test_positions_that_are_none_are_refused(inference, positions, words):
    batch = inference.check(np.zeros((3, 1, 20, 30), np.float32))
    with pytest.raises(ValueError, match=words):
        inference.check_positions(positions, batch)


class TestInTurn:
    def test_moving_there_and_back(self):
        rng = np.random.default_rng(1)
        images = rng.standard_normal((3, 2, 9, 12)).astype(np.float32)
        shifts = np.array([[0, 0], [3, -2], [-4, 1]])
        moved = recentred(images, shifts)
        for image, new, (x, y) in zip(images, moved, shifts, strict=True):
            padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
            np.testing.assert_array_equal(new, np.roll(padded, (y, x), (1, 2))[:, 4:-4, 4:-4])
        back = recentred(moved, -shifts)
        known = back != 0
        np.testing.assert_array_equal(back[known], images[known])
        assert known[0].all()

    def test_three_sources_each_in_the_middle(self):
        """A network that keeps what is near the middle, and a fifth too little of it.

        With what the sum lacks of the image given back it is right.
        """
        positions = np.array([[[12.0, 30.2], [40.0, 10.0], [44.4, 39.0]]])
        shape = (55, 57)
        truth = np.stack(
            [gaussian(*position, 1e5, shape=shape, sigma=1.5) for position in positions[0]]
        )[None, :, None].repeat(2, axis=2)
        asked = []

        def answer(stamps, positions):
            asked.append((stamps, positions))
            y, x = np.indices(shape)
            near = 0.8 * stamps * (np.hypot(x - 28, y - 27) < 9)
            return np.stack([near, stamps - near], axis=1), np.ones((1, 2, 2, *shape))

        blend = truth.sum(axis=1)
        components, std = ask_in_turn(answer, blend, positions)
        assert components.shape == std.shape == (1, 3, 2, *shape)
        assert len(asked) == 3
        for k, (stamps, marks) in enumerate(asked):
            assert (stamps[:, :, 27, 28] / stamps.max(axis=(2, 3)) > 0.9).all()
            np.testing.assert_allclose(marks[0, 0], (28, 27), atol=0.5)
            others = np.roll(positions[0], -k, axis=0) - positions[0, k]
            np.testing.assert_allclose(marks[0] - marks[0, 0], others, atol=1e-9)
        flux, true = (each.sum(axis=(-2, -1)) for each in (components, truth))
        np.testing.assert_allclose(flux, 0.8 * true, rtol=1e-3)
        components *= regained(blend, components.sum(axis=1), 1.0)[:, None]
        np.testing.assert_allclose(components.sum(axis=(-2, -1)), true, rtol=0.02)
