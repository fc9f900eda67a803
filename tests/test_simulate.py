import dataclasses
import hashlib
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from astrodeblend.simulate import (
    BLENDING_MODES,
    RECIPES,
    Recipe,
    Rendering,
    Simulator,
    blend_images,
    blend_pair,
    find_images,
    get_recipe,
    read_images,
    reduce_image,
)
from astrodeblend.simulate.pictures import blended_images

SIZE = 424


def galaxy(size, *, sigma=20.0, centre=None, axis_ratio=0.6, colour=(1.0, 0.7, 0.5)):
    """A noiseless Gaussian galaxy, (3, size, size), from 0 to 1."""
    middle = (size - 1) / 2
    x0, y0 = centre or (middle, middle)
    y, x = np.mgrid[:size, :size]
    profile = np.exp(-0.5 * (((x - x0) / sigma) ** 2 + ((y - y0) / (axis_ratio * sigma)) ** 2))
    return np.array(colour)[:, None, None] * profile


@pytest.fixture(scope="module")
def images():
    """Four galaxies of different size and colour, with noise, as bytes."""
    rng = np.random.default_rng(5)
    stack = [
        galaxy(SIZE, sigma=s, axis_ratio=q, colour=rng.uniform(0.4, 1, 3))
        for s, q in ((12, 0.9), (20, 0.5), (30, 0.7), (40, 0.3))
    ]
    stack = np.array(stack) + 0.02 * rng.standard_normal((4, 3, SIZE, SIZE))
    return (255 * stack.clip(0, 1)).round().astype(np.uint8)


def still(recipe, **changes):
    """The draw that leaves everything in place, of galaxies 0 and 1."""
    draw = recipe.draw(np.random.default_rng(0), 1, 2)
    neutral = {
        "central": [0],
        "companion": [1],
        "flip_x": [False],
        "flip_y": [False],
        "angle": [0.0],
        "scale": [1.0],
        "shift": [[0.0, 0.0]],
        "mode": [0],
        "symmetry": [0],
    }
    values = {k: np.array(v) for k, v in {**neutral, **changes}.items()}
    return dataclasses.replace(draw, **values)


def test_the_reduction_takes_the_middle_pixel_of_every_cell():
    image = np.arange(424 * 424.0).reshape(1, 424, 424)
    stamp = reduce_image(image)
    assert stamp.shape == (1, 80, 80)
    cells = image[:, 92:332, 92:332].reshape(1, 80, 3, 80, 3)
    np.testing.assert_array_equal(stamp, cells[:, :, 1, :, 1])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, lambda image: image),
        ({"flip_x": [True]}, lambda image: image[:, :, ::-1]),
        ({"flip_y": [True]}, lambda image: image[:, ::-1]),
        ({"shift": [[30.0, 0.0]]}, lambda image: np.roll(image, 30, axis=2)),
        ({"shift": [[0.0, -45.0]]}, lambda image: np.roll(image, -45, axis=1)),
        # y points down in memory: a positive angle turns from x to y
        ({"angle": [math.pi / 2]}, lambda image: np.rot90(image, -1, axes=(1, 2))),
    ],
)
def test_the_perturbation_moves_the_companion_as_numpy_would(images, changes, expected):
    recipe = Recipe()
    _, isolated = blend_pair(images, still(recipe, **changes), recipe)
    np.testing.assert_allclose(isolated[0], reduce_image(images[0]) / 255, atol=1e-12)
    np.testing.assert_allclose(isolated[1], reduce_image(expected(images[1])) / 255, atol=1e-9)


def test_the_perturbation_scales_and_shifts_the_moments_of_a_gaussian():
    recipe = Recipe()
    images = np.array([galaxy(SIZE), galaxy(SIZE, sigma=10.0, axis_ratio=1.0)])
    changes = {"scale": [1.5], "shift": [[20.0, -40.0]], "angle": [0.3], "flip_x": [True]}
    _, isolated = blend_pair(images, still(recipe, **changes), recipe)
    light = isolated[1].sum(axis=0)
    y, x = np.mgrid[:80, :80]
    x0, y0 = (light * x).sum() / light.sum(), (light * y).sum() / light.sum()
    # displacement is in image pixels, three to a stamp pixel, and is not scaled
    assert x0 == pytest.approx(39.5 + 20 / 3, abs=1e-3)
    assert y0 == pytest.approx(39.5 - 40 / 3, abs=1e-3)
    variance = (light * (x - x0) ** 2).sum() / light.sum()
    assert variance == pytest.approx((1.5 * 10 / 3) ** 2, rel=0.01)


def test_the_draw_keeps_to_the_published_ranges():
    draw = Recipe().draw(np.random.default_rng(1), 20_000, 50)
    shift = np.abs(draw.shift)
    assert shift.min() >= 10
    assert shift.max() <= 50
    assert shift.mean() == pytest.approx(30, abs=0.3)
    assert (draw.shift > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert np.log(draw.scale).min() >= -1
    assert np.log(draw.scale).max() <= 0.5
    assert np.log(draw.scale).mean() == pytest.approx(-0.25, abs=0.01)
    assert draw.angle.max() < 2 * np.pi
    assert draw.flip_x.mean() == pytest.approx(0.5, abs=0.02)
    assert (draw.central != draw.companion).all()
    assert set(draw.companion) == set(range(50))


# What seed 1 draws may never change: training runs that go on, and scores, depend on it.
DRAWS = {
    "reiman2019": "7eaa431ab2cd2006",
    "sum": "7eaa431ab2cd2006",
    "max_sum": "7eaa431ab2cd2006",
    "varied": "2b16afca019db36e",
    "mostly_reiman2019": "c5a2c25f0145e7f9",
    "crowded": "cd062f9dfce5b1fb",
    "crowded_max": "7d18e042409ac78f",
    "rerendered": "e0737153aa378d69",
}


@pytest.mark.parametrize("name", RECIPES)
def test_draws_stay_what_they_were(name):
    draw = RECIPES[name].draw(np.random.default_rng(1), 16, 100)
    content = hashlib.sha256()
    for each in (draw, *draw.further):
        for field, values in vars(each).items():
            if field in ("further", "target", "origin"):
                continue
            if values is not None and values.dtype.kind == "f":
                values = values.round(9)  # processors differ in the last digit of an exponential
            content.update(f"{field} {None if values is None else values.tolist()}\n".encode())
    assert content.hexdigest()[:16] == DRAWS[name]


def test_all_companions_are_one_component():
    rng = np.random.default_rng(5)
    images = rng.uniform(0, 0.05, (40, 3, 30, 30))
    recipe = Recipe(
        "few", "", ("sum",), crop=30, displacement=(2, 6), companions=(0.0, 0.2, 0.3, 0.5)
    )
    draw = recipe.draw(np.random.default_rng(6), 3000, len(images))
    assert [np.mean(more.companion >= 0) for more in draw.further] == pytest.approx(
        [0.8, 0.5], abs=0.03
    )
    # each is displaced from one of the galaxies before it
    first, second, third = (each.shift for each in (draw, *draw.further))
    from_first = (np.abs(second - first) <= 6).all(axis=1)
    from_middle = (np.abs(second) <= 6).all(axis=1)
    assert (from_first | from_middle).all()
    assert np.abs(third).max() > 12
    _, isolated = Simulator(images, recipe)(draw[:50])
    expected = 0
    for each in (draw[:50], *draw[:50].further):
        there = each.companion >= 0
        each = dataclasses.replace(each, companion=np.where(there, each.companion, 0), further=())
        alone = Simulator(images, recipe)(each)[1][:, 1].numpy()
        expected = expected + alone * there[:, None, None, None]
    np.testing.assert_allclose(isolated[:, 1], expected, atol=1e-6)


def test_the_documentation_states_the_ranges_of_rerendered():
    page = (Path(__file__).parents[1] / "docs" / "recipes.rst").read_text(encoding="utf-8")
    stated = re.findall(r"\* - ``(\w+)``.*\n +- ([\d.]+)\n +- ([\d.]+)\n", page)
    stated = {name: (float(low), float(high)) for name, low, high in stated}
    ranges = dataclasses.asdict(RECIPES["rerendered"].rendering)
    assert ranges.pop("fraction") == 1
    assert ranges.pop("zoom") == (1, 1)
    assert ranges.pop("quality") == (100, 100)
    assert stated == ranges


def test_rerendered_is_reiman2019_shown_by_another_survey(images):
    plain, rendered = RECIPES["reiman2019"], RECIPES["rerendered"]
    draws = [
        recipe.draw(np.random.default_rng(4), 2000, len(images)) for recipe in (plain, rendered)
    ]
    for field, values in vars(draws[0]).items():
        if values is not None and field != "further":
            np.testing.assert_array_equal(getattr(draws[1], field), values)
    assert (draws[1].gain != 1).all()
    assert (draws[1].exponent != 1).all()
    assert (draws[1].zoom == 1).all()
    assert (draws[1].quality == 100).all()
    assert (draws[1].noise > 0).mean() == pytest.approx(0.8, abs=0.03)
    # the same operation on truth and blend: no galaxy is brighter than the blend, which is theirs
    blend, isolated = Simulator(images, rendered)(draws[1][:8])
    torch.testing.assert_close(blend, isolated.amax(dim=1))


@pytest.mark.parametrize("name", RECIPES)
def test_both_paths_make_the_same_blends(images, name):
    recipe = RECIPES[name]
    draw = recipe.draw(np.random.default_rng(7), 12, len(images))
    if recipe.rendering:  # the two draw their noise, and JPEG libraries round, differently
        same = np.ones(len(draw))
        neutral = {"noise": 0 * same, "quality": 100 * same}
        further = tuple(dataclasses.replace(more, **neutral) for more in draw.further)
        draw = dataclasses.replace(draw, further=further, **neutral)
    if draw.further:  # as for networks that are told where the target is
        target, origin = np.arange(12) % 2 * (draw.companion >= 0), np.full((12, 2), 7.0)
        draw = dataclasses.replace(draw, target=target, origin=origin)
    blend, isolated = Simulator(images, recipe)(draw)
    for k in range(len(draw)):
        plain_blend, plain_isolated = blend_pair(images, draw[k : k + 1], recipe)
        for ours, plain in ((isolated[k], plain_isolated), (blend[k], plain_blend)):
            difference = np.abs(ours.numpy() - plain)
            # a stretch has infinite slope at zero, where rounding shows
            assert difference.max() < (3e-3 if recipe.rendering else 1e-4)
            assert difference.mean() < 1e-5


def test_both_paths_agree_on_images_of_odd_width_and_other_depth():
    recipe = Recipe("small", "for the test", ("sum",), crop=48, displacement=(3.0, 9.0))
    rng = np.random.default_rng(2)
    images = rng.random((3, 5, 61, 61), dtype=np.float32)
    draw = recipe.draw(rng, 4, 3)
    blend, isolated = Simulator(images, recipe)(draw)
    assert blend.shape == (4, 5, 16, 16)
    for k in range(4):
        plain_blend, plain_isolated = blend_pair(images, draw[k : k + 1], recipe)
        np.testing.assert_allclose(isolated[k], plain_isolated, atol=1e-4)
        np.testing.assert_allclose(blend[k], plain_blend, atol=1e-4)


def test_a_blend_does_not_depend_on_the_others_of_its_batch(images):
    recipe = RECIPES["varied"]
    draw = recipe.draw(np.random.default_rng(11), 8, len(images))
    simulator = Simulator(images, recipe)
    together, _ = simulator(draw)
    for k in range(8):
        torch.testing.assert_close(simulator(draw[k : k + 1])[0][0], together[k])


def test_rendering_covers_what_it_promises(images):
    draw = RECIPES["varied"].draw(np.random.default_rng(3), 4000, len(images))
    ranges = Rendering()
    untouched = (draw.gain == 1).all(axis=1)
    assert untouched.mean() == pytest.approx(1 - ranges.fraction, abs=0.03)
    for values, neutral in (
        (draw.seeing, 0),
        (draw.zoom, 1),
        (draw.saturation, 1),
        (draw.exponent, 1),
        (draw.pedestal, 0),
        (draw.noise, 0),
        (draw.quality, 100),
    ):
        assert (values[untouched] == neutral).all()
        assert (values[~untouched] != neutral).mean() > 0.4


def test_noise_of_a_rendering_has_the_variance_that_was_drawn(images):
    recipe = RECIPES["varied"]
    draw = recipe.draw(np.random.default_rng(3), 1, len(images))
    one = np.ones(1)
    changes = {
        "seeing": 0 * one,
        "gain": np.ones((1, 3)),
        "pedestal": 0.3 * one,
        "noise": 0.03 * one,
        "quality": 100 * one,
        "saturation": one,
        "exponent": one,
    }
    simulator = Simulator(np.zeros((2, 3, SIZE, SIZE), np.uint8), recipe)
    draw = dataclasses.replace(draw, central=np.array([0]), companion=np.array([1]), **changes)
    _, isolated = simulator(draw)
    assert isolated.std().item() == pytest.approx(0.03, rel=0.02)
    assert isolated.mean().item() == pytest.approx(0.3, abs=0.001)


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_jpeg_losses_are_those_of_a_jpeg_library(images, quality):
    from astrodeblend.simulate.batched import _jpeg

    stamp = reduce_image(images[2]) / 255
    ours = _jpeg(torch.tensor(stamp[None], dtype=torch.float32), torch.tensor([float(quality)]))
    ours = ours[0].numpy()
    recipe = RECIPES["varied"]
    draw = recipe.draw(np.random.default_rng(3), 1, 4)
    one = np.ones(1)
    draw = dataclasses.replace(
        still(recipe, central=[2]),
        seeing=0 * one, zoom=one, gain=np.ones((1, 3)), saturation=one, exponent=one,
        pedestal=0 * one, noise=0 * one, quality=quality * one,
    )  # fmt: skip
    theirs = blend_pair(images, draw, recipe)[1][0]
    lost, difference = np.abs(theirs - stamp).mean(), np.abs(theirs - ours).mean()
    assert lost > 0.002
    # the library rounds colours to integers on its way in and out
    assert difference < 0.25 * lost + 0.75 / 255
    assert peak_signal_noise_ratio(stamp, ours, data_range=1) == pytest.approx(
        peak_signal_noise_ratio(stamp, theirs, data_range=1), abs=0.3
    )


stamps = arrays(np.float64, (2, 3, 4, 4), elements=st.floats(0, 1))


@given(stamps, st.sampled_from(BLENDING_MODES))
def test_no_galaxy_is_brighter_than_the_blend(pair, mode):
    blend = blend_images(*pair, mode=mode)
    assert (blend >= pair).all()
    assert (blend <= 1).all()
    np.testing.assert_allclose(blend, blend_images(*pair[::-1], mode=mode), rtol=1e-12)


@given(stamps)
def test_light_adds_until_it_saturates(pair):
    np.testing.assert_allclose(blend_images(*pair, mode="sum"), np.minimum(pair.sum(axis=0), 1))


@given(stamps)
@settings(max_examples=50)
def test_max_sum_adds_diffuse_light_and_covers_behind_dense_light(pair):
    diffuse, dense = 0.19 * pair, 0.6 + 0.4 * pair
    np.testing.assert_allclose(
        blend_images(*diffuse, mode="max_sum"), blend_images(*diffuse, mode="sum")
    )
    np.testing.assert_allclose(
        blend_images(*dense, mode="max_sum"), blend_images(*dense, mode="max")
    )


def test_the_sky_is_counted_once():
    sky, light = 0.2, np.full((2, 3, 4, 4), 0.1)
    np.testing.assert_allclose(blend_images(*(sky + light), mode="sum", sky=sky), sky + 0.2)


def test_wrong_choices_are_named():
    with pytest.raises(ValueError, match="mode='add' is not known; choose one of max, sum"):
        blend_images(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), mode="add")
    with pytest.raises(ValueError, match="recipe='reiman' is not known; choose one of reiman2019"):
        get_recipe("reiman")
    with pytest.raises(ValueError, match=r"modes=\('add',\)"):
        Recipe(modes=("add",))
    with pytest.raises(ValueError, match="crop=241 is not a multiple of factor=3"):
        Recipe(crop=241)
    with pytest.raises(ValueError, match="sources=1"):
        Recipe().draw(np.random.default_rng(0), 1, 1)
    with pytest.raises(ValueError, match="images are 100 pixels wide; recipe 'reiman2019' needs"):
        Simulator(np.zeros((2, 3, 100, 100), np.uint8), "reiman2019")
    with pytest.raises(ValueError, match=r"shape \(3, 424, 424\)"):
        Simulator(np.zeros((3, 424, 424), np.uint8), "reiman2019")


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def test_images_of_423_and_424_pixels_keep_their_middle_crop(tmp_path):
    rng = np.random.default_rng(1)
    pixels = [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for size in (424, 423)]
    for k, image in enumerate(pixels):
        write(tmp_path / f"{k}.png", image)
    images = read_images(find_images(tmp_path))
    assert images.shape == (2, 3, 424, 424)
    assert images.dtype == np.uint8
    for image, original in zip(images, pixels, strict=True):
        expected = reduce_image(np.moveaxis(original, -1, 0))
        np.testing.assert_array_equal(reduce_image(image), expected)


def test_a_folder_is_read_by_its_splits(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "some" / f"{name}.png", np.zeros((30, 30, 3), np.uint8))
    (tmp_path / "splits.csv").write_text(
        "file,split\nsome/c.png,train\nsome/a.png,val\nsome/b.png,train\n"
    )
    assert [p.stem for p in find_images(tmp_path)] == ["a", "b", "c"]
    assert [p.stem for p in find_images(tmp_path, split="train")] == ["c", "b"]
    with pytest.raises(ValueError, match=r"split='test' is not in .*; it has train, val"):
        find_images(tmp_path, split="test")


def test_pictures_that_are_not_isolated_are_told_by_the_table(tmp_path):
    assert blended_images(tmp_path) == set()
    table = tmp_path / "splits.csv"
    table.write_text("file,isolated\na.png,0\nsome/b.png,1\nsome/c.png,0\nd.png,\n")
    assert blended_images(tmp_path) == {tmp_path / "a.png", tmp_path / "some" / "c.png"}
    table.write_text("name,isolated\na.png,0\n")  # of which files?
    assert blended_images(tmp_path) == set()


def test_wrong_folders_and_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_images(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no JPEG or PNG"):
        find_images(tmp_path)
    (tmp_path / "splits.csv").write_text("name,split\na.png,train\n")
    with pytest.raises(ValueError, match=r"splits\.csv' lacks rows, or a column"):
        find_images(tmp_path, split="train")
    (tmp_path / "splits.csv").unlink()
    write(tmp_path / "wide.png", np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"splits\.csv"):
        find_images(tmp_path, split="train")
    with pytest.raises(ValueError, match="is 40 x 30 pixels; galaxy images are square"):
        read_images(find_images(tmp_path))
    (tmp_path / "wide.png").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_images(find_images(tmp_path))
