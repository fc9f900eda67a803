"""Each flag is raised by what it is for, and by nothing ordinary; flags in words and names."""

import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty

from astrodeblend import Deblender, Flag, decode_flags
from astrodeblend.detect import find_sources
from astrodeblend.flags import flag_names
from astrodeblend.sky import Sky
from astrodeblend.weights import Card

SHAPE = (96, 100)
PLACE = (48.0, 46.0)


class Known(torch.nn.Module):
    """A network that gives a part of all light to the source, and judges as it was told to."""

    def __init__(self, part=1.0, rest=0.0, *, distance=0.0, score=0.0):
        super().__init__()
        self.part, self.rest, self.score = part, rest, score
        self.familiarity, self.blend_score = (Judge(each) for each in (distance, score))

    def forward(self, blend, positions=None, present=None, **wanted):
        components = torch.stack([self.part * blend, self.rest * blend], dim=1)
        return components, 0.01 * components.abs(), None, torch.full((len(blend),), self.score)


class Judge(torch.nn.Module):
    threshold = torch.tensor(0.5)

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, features):
        return torch.tensor(self.says)


def made(*args, kind="flux", **options):
    flux = {"bands": (), "modes": ("sum",), "scaling": "noise"} if kind == "flux" else {}
    card = Card("known", "", {}, size_rule={"petrosian_radii": 5.8, "pixels": 40}, **flux)
    return Deblender(Known(*args, **options), card, device="cpu")


def image(*galaxies, flux=4000.0, sigma=2.0, header=None):
    """Galaxies on a sky whose noise is known to be 1; one at `PLACE` by default."""
    rows, columns = np.indices(SHAPE)
    data = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(np.float32)
    for x, y in galaxies or [PLACE]:
        square = (columns - x) ** 2 + (rows - y) ** 2
        data += flux / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))
    spread = StdDevUncertainty(np.ones_like(data))
    return NDData(data, uncertainty=spread, meta={"header": header or fits.Header()})


def picture(**options):
    data = np.moveaxis(image(**options).data, 0, -1)
    return np.rint(1.2 * data + 5).clip(0, 255).astype(np.uint8)


def masked():
    each = image()
    each.mask = np.zeros(each.data.shape, bool)
    each.mask[1, 40:42, 50] = True
    return each


CASES = {  # a model, an image, and a position
    Flag.SINGLE_BAND: lambda: (made(kind="picture"), picture()[:, :, 0], PLACE),
    Flag.EDGE: lambda: (made(), image((3, 46)), (3, 46)),
    Flag.MASKED: lambda: (made(), masked(), PLACE),
    Flag.SATURATED: lambda: (made(), image(header=fits.Header({"SATURATE": 100.0})), PLACE),
    Flag.NO_SOURCE: lambda: (made(), image(), (20.0, 75.0)),
    Flag.EMPTY: lambda: (made(0.0), image(flux=20.0), PLACE),
    Flag.OUT_OF_DISTRIBUTION: lambda: (made(distance=1.0), image(), PLACE),
    Flag.NOT_DEBLENDED: lambda: (made(np.nan), image(), PLACE),
    Flag.SEVERAL_PEAKS: lambda: (made(), image(PLACE, (58, 46)), PLACE),
    Flag.POSSIBLE_BLEND: lambda: (made(score=0.9), image(), PLACE),
    Flag.FLUX_NOT_CONSERVED: lambda: (made(0.5, kind="picture"), picture(), PLACE),
    Flag.MINOR_SHARE: lambda: (made(0.2, 0.8), image(), PLACE),
    Flag.BRIGHT: lambda: (made(), image(flux=1e5), PLACE),
    Flag.LARGE: lambda: (made(), image(flux=1e5, sigma=7.0), PLACE),
}


def test_there_is_a_case_for_every_flag():
    assert set(CASES) == set(Flag) - {Flag.UNCERTAIN_SIZE}


@pytest.mark.parametrize("flag", CASES, ids=lambda flag: flag.name)
def test_a_flag_is_raised(flag):
    deblender, image, place = CASES[flag]()
    scene = deblender.deblend_scene(image, positions=[place])
    assert flag in Flag(int(scene.catalog["flags"][0]))
    assert flag.name in scene.catalog["flag_names"][0].split()
    if flag is not Flag.EMPTY:
        result = deblender(image, place)
        assert flag in result.flags
        assert decode_flags(flag)[0] in repr(result)


def test_a_size_is_uncertain_where_the_image_ends_before_the_galaxy_does():
    hidden = np.zeros((3, *SHAPE), bool)
    sky = Sky(np.zeros((3, 1, 1)), np.ones((3, 1, 1)), hidden, np.ones(3), "image", ())
    for sigma, flagged in ((40.0, True), (5.0, False)):
        sources, _ = find_sources(image(sigma=sigma, flux=1e4 * sigma), sky, positions=[PLACE])
        assert bool(sources["flags"][0] & Flag.UNCERTAIN_SIZE) == flagged
        assert sources["petrosian_radius"][0] > 0


@pytest.mark.parametrize("kind", ["flux", "picture"])
def test_an_ordinary_source_has_none(kind):
    each = image() if kind == "flux" else picture()
    deblender = made(kind=kind)
    assert deblender.deblend_scene(each, positions=[PLACE]).catalog["flags"].tolist() == [0]
    assert deblender.deblend_scene(each).catalog["flags"].tolist() == [0]
    assert deblender(each, PLACE).flags == 0


def test_a_blend_score_tells_nothing_of_what_is_known_to_be_a_blend():
    scene = made(score=0.9).deblend_scene(image(PLACE, (54, 46)), positions=[PLACE, (54, 46)])
    np.testing.assert_allclose(scene.catalog["blend_score"], 0.9, rtol=1e-6)
    assert not (scene.catalog["flags"] & Flag.POSSIBLE_BLEND).any()


@pytest.mark.parametrize("kind", ["flux", "picture"])
def test_a_saturated_pixel_is_one_at_the_limit(kind):
    each = image() if kind == "flux" else picture()
    each = each if kind == "flux" else each.copy()
    if kind == "picture":
        each[46, 48, 1] = 255
        assert made(kind=kind)(each, PLACE).flags & Flag.SATURATED
        return
    top = float(each.data.max())
    for limit, flagged in ((top - 1, True), (top + 1, False), (0, False), (-1.0, False)):
        header = fits.Header({"SATURATE": limit})
        found = made()(image(header=header), PLACE).flags
        assert bool(found & Flag.SATURATED) == flagged


def test_in_words():
    assert decode_flags(0) == []
    assert decode_flags(Flag.SINGLE_BAND | Flag.MASKED) == decode_flags(np.int64(5))
    words = [decode_flags(flag) for flag in Flag]
    assert all(len(each) == 1 for each in words)
    assert len({each[0] for each in words}) == len(Flag)
    assert [int(flag) for flag in Flag] == [2**k for k in range(len(Flag))]


def test_of_arrays():
    flags = np.array([0, 2, 6])
    assert decode_flags(flags) == [[], decode_flags(2), decode_flags(6)]
    assert flag_names(flags) == ["", "EDGE", "EDGE MASKED"]
    assert flag_names(6) == "EDGE MASKED"
    assert flag_names(np.array([], int)) == decode_flags([]) == []


@pytest.mark.parametrize("flags", [-1, 1 << 20])
def test_bits_without_meaning_are_refused(flags):
    for each in (flags, [1, flags]):
        with pytest.raises(ValueError, match=rf"flags={flags} is no combination of flags"):
            decode_flags(each)
