"""Blends that anyone can make again."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import QTable

from astrodeblend.blends import draw_blends
from astrodeblend.simulate import blend_pair, read_images


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
        assert "up to 3 times" in str(blends)

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
