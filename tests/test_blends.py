"""Blends that anyone can make again."""

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable
from PIL import Image
from scipy.special import erfc

from astrodeblend.blends import draw_blends, flux_ratio, overlap, read_blends
from astrodeblend.metrics import isophote, moments
from astrodeblend.simulate import Recipe, Rendering, blend_pair, read_images

#: Leaves every picture as it is.
PLAIN = {
    "fraction": 1.0,
    "seeing": (0.0, 0.0),
    "zoom": (1.0, 1.0),
    "gain": (1.0, 1.0),
    "band_gain": (1.0, 1.0),
    "saturation": (1.0, 1.0),
    "exponent": (1.0, 1.0),
    "pedestal": (0.0, 0.0),
    "noise": (0.0, 0.0),
    "quality": (100.0, 100.0),
}


def images_of(blends, size=64):
    """Return blend and isolated of all blends."""
    return tuple(map(np.concatenate, zip(*blends.batches(size), strict=True)))


@pytest.fixture(scope="module")
def mixed(galaxies, tmp_path_factory):
    """Return a folder of two sub-folders, one with images that are a pixel smaller."""
    folder = tmp_path_factory.mktemp("mixed")
    for k, path in enumerate(sorted(galaxies.iterdir())):
        below = folder / ("one" if k % 2 else "two")
        below.mkdir(exist_ok=True)
        with Image.open(path) as image:
            image.crop((0, 0, 424 - k % 2, 424 - k % 2)).save(below / path.name, quality=95)
    return folder


def uses(blends):
    """How often each galaxy is used."""
    return np.bincount([*blends.draw.central, *blends.draw.companion])


class TestDrawBlends:
    def test_each_galaxy_once(self, galaxies):
        blends = draw_blends(galaxies)
        assert len(blends) == 4
        assert len(blends.paths) == 8
        assert (uses(blends) == 1).all()
        assert "each once" in str(blends)

    def test_few_blends_leave_images_unread(self, galaxies):
        blends = draw_blends(galaxies, number=2)
        assert len(blends.paths) == 4
        assert (uses(blends) == 1).all()

    def test_more_blends_than_pairs_use_all_alike(self, galaxies):
        blends = draw_blends(galaxies, number=11)
        assert len(blends) == 11
        assert set(uses(blends)) == {2, 3}
        assert (blends.draw.central != blends.draw.companion).all()
        assert "each 2 to 3 times" in str(blends)

    def test_an_odd_number_of_images(self, galaxies, tmp_path):
        for name in ("galaxy0.jpg", "galaxy1.jpg", "galaxy2.jpg"):
            shutil.copy(galaxies / name, tmp_path)
        assert len(draw_blends(tmp_path)) == 1
        blends = draw_blends(tmp_path, number=30)
        assert len(blends.paths) == 3
        assert uses(blends).min() > 10

    def test_the_seed_decides(self, galaxies):
        one, same, other = (draw_blends(galaxies, seed=seed) for seed in (1, 1, 2))
        assert one.paths == same.paths
        for name, values in vars(one.draw).items():
            np.testing.assert_array_equal(values, getattr(same.draw, name))
        assert not np.array_equal(one.draw.angle, other.draw.angle)

    def test_too_few(self, galaxies, tmp_path):
        shutil.copy(galaxies / "galaxy0.jpg", tmp_path)
        with pytest.raises(ValueError, match="holds 1 image; a blend takes two"):
            draw_blends(tmp_path)
        with pytest.raises(ValueError, match="number=0"):
            draw_blends(galaxies, number=0)

    @pytest.mark.parametrize("recipe", ["crowded", "crowded_max"])
    def test_blends_of_more_than_two_are_to_learn_from(self, galaxies, recipe):
        with pytest.raises(ValueError, match=rf"recipe='{recipe}' is to learn from.*choose"):
            draw_blends(galaxies, recipe=recipe)

    def test_the_table_says_all_there_is_to_know(self, galaxies, tmp_path):
        """What the table has makes the very blends again, by the plain path."""
        blends = draw_blends(galaxies, recipe="max_sum", seed=5)
        blend, isolated = blends.write(tmp_path / "blends.fits")
        np.testing.assert_array_equal(fits.getdata(tmp_path / "blends.fits", "BLEND"), blend)
        table = QTable.read(tmp_path / "blends.fits", hdu="DRAW")
        assert set(table["mode"]) == {"max_sum"}
        for k, row in enumerate(table):
            pair = read_images([galaxies / row["central"], galaxies / row["companion"]])
            draw = blends.draw[k : k + 1]
            for name in ("angle", "scale", "shift", "flip_x", "flip_y"):
                np.testing.assert_array_equal(getattr(draw, name)[0], row[name])
            changed = draw.__class__(**{**vars(draw), "central": [0], "companion": [1]})
            plain_blend, plain_isolated = blend_pair(pair, changed, "max_sum")
            np.testing.assert_allclose(isolated[k], plain_isolated, atol=2e-3)
            np.testing.assert_allclose(blend[k], plain_blend, atol=2e-3)

    def test_as_many_as_the_paper_has(self, galaxies, tmp_path):
        for k in range(40):
            os.link(galaxies / f"galaxy{k % 8}.jpg", tmp_path / f"{k}.jpg")
        blends = draw_blends(tmp_path)
        assert len(blends) == 3200
        assert (uses(blends) == 160).all()
        assert "each 160 times" in str(blends)
        (tmp_path / "0.jpg").unlink()
        blends = draw_blends(tmp_path)
        assert len(blends) == 19
        assert blends.uses == (1, 1)


class TestBatches:
    def test_a_part_is_what_it_is_in_the_whole(self, mixed):
        blends = draw_blends(mixed, number=7, seed=2)
        blend, isolated = images_of(blends)
        for key in (slice(2, 5), [6, 0], [4]):
            some, truth = images_of(blends[key], size=2)
            np.testing.assert_array_equal(some, blend[key])
            np.testing.assert_array_equal(truth, isolated[key])
        assert len(blends[[6, 0]]) == 2
        assert blends[[6]].galaxies == 2

    def test_subfolders(self, mixed, galaxies):
        blends = draw_blends(mixed)
        table = blends.to_table()
        for k, name in enumerate(("central", "companion")):
            folders = [file.partition("/")[0] for file in table[name]]
            assert list(blends.subfolders[:, k]) == folders
        assert set(blends.subfolders.flat) == {"one", "two"}
        assert set(draw_blends(galaxies).subfolders.flat) == {""}


class TestReadBlends:
    @pytest.mark.parametrize("recipe", ["reiman2019", "max_sum", "varied"])
    def test_the_very_same_blends(self, recipe, mixed, tmp_path):
        blends = draw_blends(mixed, recipe=recipe, number=6, seed=4)
        blends.to_table().write(tmp_path / "list.ecsv")
        again = read_blends(tmp_path / "list.ecsv", mixed)
        assert str(again) == str(blends)
        assert again.recipe == blends.recipe
        for one, two in zip(images_of(blends), images_of(again), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_a_recipe_of_ones_own_and_a_part_of_the_list(self, mixed, tmp_path):
        recipe = Recipe("own", "mine", ("sum", "max"), rendering=Rendering(noise=(0.01, 0.02)))
        blends = draw_blends(mixed, recipe=recipe, number=6)
        table = blends.to_table()
        table["anything"] = 1.0
        table[4:].write(tmp_path / "list.ecsv")
        again = read_blends(tmp_path / "list.ecsv", mixed)
        assert again.recipe == recipe
        for one, two in zip(images_of(blends), images_of(again), strict=True):
            np.testing.assert_allclose(one[4:], two, atol=1e-6)

    def test_what_is_no_list(self, mixed, galaxies, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"'no.ecsv' does not exist"):
            read_blends("no.ecsv", mixed)
        path = tmp_path / "list.ecsv"
        path.write_text("a b\n1 2\n")
        with pytest.raises(ValueError, match="is not a list of blends"):
            read_blends(path, mixed)
        table = draw_blends(mixed).to_table()
        table.write(path, overwrite=True)
        with pytest.raises(FileNotFoundError, match=r"8 of the 8 images .* not in .*galaxies"):
            read_blends(path, galaxies)
        table[:0].write(path, overwrite=True)
        with pytest.raises(ValueError, match="is not a list of blends"):
            read_blends(path, mixed)
        del table["angle"]
        table.write(path, overwrite=True)
        with pytest.raises(ValueError, match=r"is not a list of blends .*angle"):
            read_blends(path, mixed)


class TestProperties:
    def test_separation_is_that_of_the_light(self, galaxies):
        """Centroids of the truth, with both galaxies turned and zoomed together."""
        rendering = Rendering(**{**PLAIN, "zoom": (0.7, 1.4)})
        recipe = Recipe("zoomed", symmetries=True, rendering=rendering, scale=(0.4, 0.6))
        blends = draw_blends(galaxies, recipe=recipe, number=12)
        _, isolated = images_of(blends)
        centres = moments(isolated, isophote(isolated, fraction=0.2)).centroid
        found = np.hypot(*(centres[:, 1] - centres[:, 0]).T)
        np.testing.assert_allclose(found, blends.separation, atol=0.5)

    def test_sky_is_what_an_empty_image_shows(self, tmp_path):
        for k in range(4):
            Image.fromarray(np.zeros((240, 240, 3), np.uint8)).save(tmp_path / f"{k}.png")
        assert draw_blends(tmp_path).sky == pytest.approx(0)
        changes = {"pedestal": (0.1, 0.9), "gain": (0.5, 2.0), "band_gain": (0.7, 1.3)}
        recipe = Recipe("sky", rendering=Rendering(**PLAIN | changes))
        blends = draw_blends(tmp_path, recipe=recipe, number=20)
        blend, _ = images_of(blends)
        expected = np.broadcast_to(blends.sky[..., None, None], blend.shape)
        np.testing.assert_allclose(blend, expected, atol=1e-6)
        assert (blend == 1).any()
        assert len(np.unique(blends.sky)) > 20

    @pytest.mark.parametrize("peaks", [(1.0, 1.0), (0.9, 0.5), (0.3, 1.0)])
    def test_overlap_of_two_gaussians(self, peaks):
        """The border between them is a straight line, the light beyond it an error function."""
        sigma, distance = 6.0, 9.0
        y, x = np.mgrid[:161, :161] - 80.0
        radius = np.stack([np.hypot(x, y), np.hypot(x - distance, y)])
        light = np.array(peaks)[:, None, None] * np.exp(-0.5 * (radius / sigma) ** 2)
        isolated = light[:, None] * np.array([0.2, 0.5, 0.3])[:, None, None]
        border = distance / 2 + sigma**2 / distance * np.log(peaks[0] / peaks[1])
        beyond = np.array([border, distance - border])
        expected = erfc(beyond / sigma / np.sqrt(2)) / 2
        # half a pixel's column of light may lie to either side of the border
        np.testing.assert_allclose(overlap(isolated, fraction=1e-6), expected, atol=0.035)
        swapped = overlap(np.stack([isolated, isolated[::-1]]), fraction=1e-6)
        np.testing.assert_allclose(swapped[1], swapped[0, ::-1])

    def test_overlap_of_galaxies_far_apart_and_behind(self):
        isolated = np.zeros((2, 3, 40, 40))
        isolated[0, :, 5:10, 5:10] = 0.5
        isolated[1, :, 20:30, 20:30] = 0.6
        np.testing.assert_array_equal(overlap(isolated), [0, 0])
        isolated[1, :, 4:30, 4:30] = 0.6
        np.testing.assert_array_equal(overlap(isolated), [1, 0])
        isolated[1] = 0
        np.testing.assert_array_equal(overlap(isolated), [0, np.nan])
        with pytest.raises(ValueError, match=r"isolated has shape \(3, 40, 40\)"):
            overlap(isolated[0])

    def test_flux_ratio_of_gaussians(self):
        """The footprint holds the same share of either: flux goes as peak times width squared."""
        y, x = np.mgrid[:121, :121] - 60.0
        light = [
            peak * np.exp(-0.5 * (np.hypot(x, y) / sigma) ** 2)
            for peak, sigma in ((0.8, 6.0), (0.2, 12.0), (0.4, 6.0))
        ]
        bright, same, faint = (np.repeat(each[None], 3, axis=0) for each in light)
        assert flux_ratio([bright, same]) == pytest.approx(0, abs=0.03)
        assert flux_ratio([bright, faint]) == pytest.approx(2.5 * np.log10(2), abs=1e-6)
        assert flux_ratio([faint, bright]) == pytest.approx(-2.5 * np.log10(2), abs=1e-6)
        assert np.isnan(flux_ratio([bright, 0 * bright]))
