"""What a source's shape tells of which light is its own, against plain slow versions."""

import heapq

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from astrodeblend.templates import alike, hanging_together

images = arrays(np.float64, (2, 7, 9), elements=st.floats(-1, 10, width=32))
places = st.tuples(st.integers(0, 16).map(lambda k: k / 2), st.integers(0, 12).map(lambda k: k / 2))


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
def test_alike_is_the_smaller_of_opposite_pixels(light, position):
    found = alike(light, position)
    for row in range(7):
        for column in range(9):
            opposite = round(2 * position[1] - row), round(2 * position[0] - column)
            inside = 0 <= opposite[0] < 7 and 0 <= opposite[1] < 9
            other = light[:, *opposite] if inside else light[:, row, column]
            assert_array_equal(found[:, row, column], np.minimum(light[:, row, column], other))


@given(images, places)
def test_hanging_together_is_the_widest_path(light, position):
    at = min(int(position[1] + 0.5), 6), min(int(position[0] + 0.5), 8)
    smooth = gaussian_filter(np.maximum(light, 0).sum(axis=0), 1.0)
    # it starts from the pixels around the position as well
    around = [
        (y, x)
        for y in range(max(at[0] - 1, 0), min(at[0] + 2, 7))
        for x in range(max(at[1] - 1, 0), min(at[1] + 2, 9))
    ]
    expected = np.max([widest_paths(smooth, start) for start in around], axis=0)
    found = hanging_together(light, position)
    assert found.shape == (7, 9)
    assert_allclose(found * smooth, expected, atol=1e-9)


def test_a_galaxy_alone_is_all_its_own():
    light = np.stack([gaussian(30, 20), 2 * gaussian(30, 20)])
    assert_allclose(alike(light, (30, 20)), light)
    assert_allclose(hanging_together(light, (30, 20)), 1.0)


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
    light = np.ones((1, 7, 9))
    assert_allclose(alike(light, position), light)
    assert_allclose(hanging_together(light, position), 1.0)
