"""What a source's shape tells of which light is its own, against plain slow versions."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter, map_coordinates

from astrodeblend.templates import alike, filled, hanging_together

images = arrays(np.float64, (2, 7, 9), elements=st.floats(-1, 10, width=32))
places = st.tuples(st.floats(0, 8, width=32), st.floats(0, 6, width=32))


def gaussian(x, y, sigma=3.0, peak=100.0, shape=(41, 61)):
    rows, columns = np.indices(shape)
    return peak * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


def widest_paths(light, start):
    """The least light on the way from a pixel to each other, on the best way: Dijkstra's way."""
    reached = np.zeros_like(light)
    queue = [(-light[start], start)]
    while queue:
        level, (row, column) = heapq.heappop(queue)
        if reached[row, column] >= -level:
            continue
        reached[row, column] = -level
        for y in range(max(row - 1, 0), min(row + 2, light.shape[0])):
            for x in range(max(column - 1, 0), min(column + 2, light.shape[1])):
                least = min(-level, light[y, x])
                if least > reached[y, x]:
                    heapq.heappush(queue, (-least, (y, x)))
    return reached


@given(images, places)
def test_alike_is_the_smaller_of_opposite_points(light, position):
    x, y = position
    rows, columns = np.indices((7, 9))
    opposite = 2 * y - rows, 2 * x - columns
    inside = np.all(
        [(at >= 0) & (at <= end) for at, end in zip(opposite, (6, 8), strict=True)], axis=0
    )
    for band, found in zip(light, alike(light, position), strict=True):
        mirrored = map_coordinates(band, opposite, order=1, mode="nearest")
        assert_allclose(found, np.where(inside, np.minimum(band, mirrored), band), atol=1e-6)


@given(images, places, st.floats(1.5, 3))
def test_hanging_together_is_the_widest_path(light, position, reach):
    x, y = position
    smooth = gaussian_filter(np.maximum(light, 0).sum(axis=0), 1.0)
    middle = [
        (row, column) for row, column in np.ndindex(7, 9) if np.hypot(row - y, column - x) <= reach
    ]
    expected = np.max([widest_paths(smooth, start) for start in middle], axis=0)
    found = hanging_together(light, position, reach=reach)
    assert found.shape == (7, 9)
    assert_allclose(found * smooth, expected, atol=1e-9)


def test_masked_pixels_take_the_nearest_valid_one():
    light = np.arange(24.0).reshape(2, 3, 4)
    hidden = np.zeros(light.shape, bool)
    hidden[0, :, 2:] = True
    hidden[1] = True
    found = filled(light, hidden)
    assert_array_equal(found[0], np.arange(12.0).reshape(3, 4)[:, [0, 1, 1, 1]])
    assert_array_equal(found[1], light[1])
    assert_array_equal(light, np.arange(24.0).reshape(2, 3, 4))


def test_a_galaxy_alone_is_all_its_own():
    light = np.stack([gaussian(30, 20), 2 * gaussian(30, 20)])
    assert_allclose(alike(light, (30, 20)), light)
    assert_allclose(hanging_together(light, (30, 20)), 1.0)


@pytest.mark.parametrize("offset", [(2, 0), (-1, 2)])
def test_a_peak_within_reach_is_the_middle(offset):
    light = gaussian(30, 20)[None]
    position = 30 + offset[0], 20 + offset[1]
    assert_allclose(hanging_together(light, position, reach=3), 1.0)
    assert hanging_together(light, position, reach=0.8).min() < 0.97


def test_a_neighbour_is_on_one_side_and_beyond_a_gap():
    own, other = gaussian(20, 20), gaussian(34, 20, peak=300.0)
    near = np.hypot(*(np.indices(own.shape) - np.array([20, 34])[:, None, None])) < 5
    light = (own + other)[None]
    assert alike(light, (20, 20))[0][near].sum() < 0.02 * other[near].sum()
    kept = (light * hanging_together(light, (20, 20)))[0]
    assert kept[near].max() < 40  # what is at the bottom of the gap, of 300
    centre = np.hypot(*(np.indices(own.shape) - 20)) < 5
    assert_allclose(kept[centre], light[0][centre])


def test_where_there_is_no_light_nothing_hangs_together():
    assert_array_equal(hanging_together(np.zeros((3, 5, 5)), (2, 2)), np.zeros((5, 5)))


@pytest.mark.parametrize("position", [(-0.5, -0.5), (8.5, 6.5), (4.0, 6.49)])
def test_positions_at_the_edge(position):
    light = gaussian(*position, shape=(7, 9))[None]
    assert_allclose(alike(light, position), light, rtol=0.05)
    assert_allclose(hanging_together(light, position), 1.0)
