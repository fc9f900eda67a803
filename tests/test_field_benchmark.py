"""Deblenders of whole fields: matching and statistics against answers that are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.distance import cdist

from astrodeblend.cli import main
from astrodeblend.score import (
    FILES,
    PEERS,
    Catalogue,
    Method,
    Seen,
    benchmark_fields,
)
from astrodeblend.score.fields import CONDITIONS
from astrodeblend.score.methods import ellipticity_of
from astrodeblend.simulate import get_survey, simulate_fields

BANDS = ("g", "r", "i")
EASY = {"size": 160, "large": 0, "bright": 0, "gaps": 0, "edges": 0}


@pytest.fixture(scope="module")
def fields():
    return simulate_fields("lsst", 2, 1, bands=BANDS, **CONDITIONS | EASY)


class Oracle(Method):
    """Knows the truth; ``change`` makes something else of what it detects (a dict) in field k."""

    name, given_of_field = "oracle", "the truth"

    def __init__(self, fields, change=lambda k, rows: rows):
        self.fields, self.change = fields, change

    def find(self, seen, positions=None):
        fields = self.fields
        k = int(np.flatnonzero((fields.image[:, 0, 0] == seen.data[0, 0]).all(axis=1))[0])
        of = np.flatnonzero(fields.inside[k])
        if positions is not None:
            of = of[cdist(positions, fields.position[k, of]).argmin(axis=1)]
        light = fields.light.alone(k, of)
        rows = {
            "position": fields.position[k, of],
            "flux": fields.flux[k, of],
            "error": fields.limit[k, of],
            "ellipticity": ellipticity_of(light, fields.noise[k]),
        }
        rows = {name: each.copy() for name, each in rows.items()}
        return Catalogue(**(self.change(k, rows) if positions is None else rows))


def run(fields, change=lambda k, rows: rows, **options):
    peers = [Oracle(fields, change)]
    return benchmark_fields("lsst", 2, seed=1, bands=BANDS, peers=peers, **EASY | options)


def rows_of(result, positions="detected"):
    table = result.tables["fields"]
    return {row["group"]: row for row in table if row["positions"] == positions}


def snr(fields, k):
    """Return the signal to noise in r of the sources that are asked for; of others -1."""
    return np.where(fields.inside[k], fields.snr[k, :, 1], -1)


def test_a_perfect_deblender(fields):
    result = run(fields)
    for positions in ("detected", "given"):
        for name, row in rows_of(result, positions).items():
            if row["sources"]:
                assert row["complete"] == 1, name
                assert row["within_1"] == row["within_2"] == row["within_wide"] == 1
                for column in ("error_90", "relative_90", "centroid", "ellipticity"):
                    assert row[column] == pytest.approx(0, abs=2e-3), (name, column)
            if positions == "detected":
                assert row["pure"] == 1 or np.isnan(row["pure"])
    total = sum((snr(fields, k) > 5).sum() for k in (0, 1))
    assert rows_of(result)["S/N > 5"]["sources"] == total
    target = result.measured.targets()["oracle"]
    assert target["complete"] == target["complete_close"] == target["pure"] == 1
    assert target["error_median"] == target["close_90"] == 0


def test_classes_are_those_of_a_plain_count(fields):
    counts = dict.fromkeys(("alone", "close"), 0)
    for k in (0, 1):
        strong = fields.present[k] & (np.hypot.reduce(fields.snr[k], axis=1) > 3)
        for s in np.flatnonzero((snr(fields, k) >= 20) & (snr(fields, k) < 100)):
            others = [j for j in np.flatnonzero(strong) if j != s]
            least = min(np.hypot(*(fields.position[k, j] - fields.position[k, s])) for j in others)
            counts["close" if least < 8 else "alone"] += 1
    assert min(counts.values()) > 0
    rows = rows_of(run(fields))
    assert {name: rows[f"S/N 20-100, {name}"]["sources"] for name in counts} == counts


def test_the_ellipticity_of_light():
    """Of a Gaussian of axis ratio q, whose outline is an ellipse alike."""
    y, x = np.mgrid[:61, :61] - 30.0
    angle, q = 0.4, 0.5
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    light = 1e4 * np.exp(-0.5 * (along**2 + (across / q) ** 2) / 6**2)
    found = ellipticity_of(np.stack([light, 3 * light])[None], np.array([1.0, 2.0]))
    np.testing.assert_allclose(found, 0.6 * np.exp(0.8j), atol=0.01)


def test_a_missing_source(fields):
    def without_the_brightest(k, rows):
        keep = np.arange(len(rows["flux"])) != rows["flux"][:, 1].argmax()
        return {name: each[keep] for name, each in rows.items()} if k == 0 else rows

    result = run(fields, without_the_brightest)
    row = rows_of(result)["S/N > 5"]
    assert row["complete"] == pytest.approx(1 - 1 / row["sources"])
    assert row["pure"] == 1
    assert row["error_90"] == 0
    strong = [(snr(fields, k) > 10).sum() for k in (0, 1)]
    assert result.measured.targets()["oracle"]["complete"] == pytest.approx(1 - 1 / sum(strong))
    assert result.measured.targets(1)["oracle"]["complete"] == pytest.approx(1 - 1 / strong[0])


@pytest.mark.parametrize("where", ["empty", "beside"])
def test_a_false_source(fields, where):
    """In empty sky, or a second one on the flank of a galaxy."""
    y, x = np.mgrid[:160, :160].reshape(2, -1)
    away = cdist(np.stack([x, y], axis=1), fields.position[0][fields.present[0]]).min(axis=1)
    empty = np.array([x[away.argmax()], y[away.argmax()]], float)

    def with_one_more(k, rows):
        if k == 0:
            brightest = rows["flux"][:, 1].argmax()
            rows = {name: np.concatenate([v, v[[brightest]]]) for name, v in rows.items()}
            beside = rows["position"][brightest] + [0.9, 0.9]
            rows["position"][-1] = empty if where == "empty" else beside
        return rows

    result = run(fields, with_one_more)
    entry = result.measured.entries[0]
    strength, _, true, field = entry.detections.T
    assert (true == 0).sum() == 1
    assert field[true == 0] == 0
    assert result.measured.targets(1)["oracle"]["pure"] == pytest.approx(1 - 1 / (field == 0).sum())
    assert strength[true == 0] == pytest.approx(snr(fields, 0).max(), rel=1e-5)
    assert result.measured.targets()["oracle"]["pure"] == pytest.approx(1 - 1 / len(true))
    assert rows_of(result)["S/N > 5"]["complete"] == 1


def test_a_source_that_is_too_far_away_is_missed_and_false(fields):
    def moved(k, rows):
        rows["position"][rows["flux"][:, 1].argmax()] += [6, 0]
        return rows

    result = run(fields, moved)
    row = rows_of(result)["S/N > 5"]
    assert row["complete"] == pytest.approx(1 - 2 / row["sources"])
    assert (result.measured.entries[0].detections[:, 2] == 0).sum() == 2


def test_swapped_fluxes(fields):
    """The order of the rows says nothing, the flux at a position does."""

    def shuffled(k, rows):
        order = np.random.default_rng(k).permutation(len(rows["flux"]))
        return {name: each[order] for name, each in rows.items()}

    def swapped(k, rows):
        first, second = rows["flux"][:, 1].argsort()[-2:]
        rows["flux"][[first, second]] = rows["flux"][[second, first]]
        return rows

    result = run(fields, shuffled)
    np.testing.assert_array_equal(
        result.measured.entries[0].sources.flux, result.measured.truth.flux
    )
    result = run(fields, swapped)
    off = np.abs(result.measured.entries[0].sources.flux - result.measured.truth.flux)[:, 1]
    expected = []
    for k in (0, 1):
        low, high = np.sort(fields.flux[k, fields.inside[k], 1])[-2:]
        expected += [high - low] * 2
    np.testing.assert_allclose(np.sort(off[off > 0]), np.sort(expected), rtol=1e-5)
    assert rows_of(result)["S/N > 5"]["error_median"] == 0


def test_known_errors(fields):
    """A tenth too much in r, half a pixel to the right, and errors of two thirds of that."""

    def wrong(k, rows):
        rows["error"][:, 1] = 0.1 * rows["flux"][:, 1] / 1.5
        rows["flux"][:, 1] *= 1.1
        rows["position"] += [0.5, 0]
        rows["ellipticity"] += 0.03j
        return rows

    row = rows_of(run(fields, wrong))["S/N > 5"]
    for column in ("relative_median", "relative_90"):
        assert row[column] == pytest.approx(0.1, rel=1e-4)
    for column in ("colour_median", "colour_90"):
        assert row[column] == pytest.approx(2.5 * np.log10(1.1), rel=1e-4)
    assert row["centroid"] == pytest.approx(0.5, abs=1e-4)
    assert row["ellipticity"] == pytest.approx(0.03, abs=2e-3)
    assert (row["within_1"], row["within_2"], row["within_wide"]) == (0, 1, 1)
    values = np.sort(np.concatenate([snr(fields, k) for k in (0, 1)]))
    values = 0.1 * values[values >= 5]
    assert row["error_90"] == pytest.approx(np.quantile(values, 0.9, method="inverted_cdf"), 1e-4)
    assert row["bias"] == row["error_median"] > 0.5


def test_a_flux_that_is_not_known_is_as_wrong_as_can_be(fields):
    def unknown(k, rows):
        rows["flux"][:] = np.nan
        return rows

    row = rows_of(run(fields, unknown))["S/N > 5"]
    assert row["complete"] == 1
    assert row["error_median"] == row["relative_90"] == np.inf
    assert row["within_2"] == 0


def test_hidden_sources_are_not_judged():
    """Of a strip without data nobody is asked; what is found there is neither true nor false."""
    options = EASY | {"edges": 1}
    fields = simulate_fields("lsst", 2, 1, bands=BANDS, **CONDITIONS | options)
    hidden = fields.mask.any(axis=1)
    assert 0.02 < hidden.mean() < 0.98
    result = run(fields, edges=1)
    x, y = np.round(result.measured.truth.position).astype(int).clip(0, 159).T
    assert len(x) < fields.inside.sum()
    assert not hidden[result.measured.truth.field, y, x].any()
    assert result.measured.targets()["oracle"]["pure"] == 1


def test_failures_are_counted(fields):
    def failing(k, rows):
        if k == 1:
            raise KeyError("no such field")
        return rows

    result = run(fields, failing)
    assert [entry.failures for entry in result.measured.entries] == [
        {"KeyError: 'no such field'": 1},
        {},
    ]
    row = rows_of(result)["S/N > 5"]
    assert row["complete"] == pytest.approx((snr(fields, 0) > 5).sum() / row["sources"])
    assert "oracle failed on 1 fields" in str(result)


def test_as_many_rows_as_positions_are_expected(fields):
    class Forgetful(Oracle):
        def find(self, seen, positions=None):
            return Catalogue(*(each[:3] for each in super().find(seen, positions)))

    result = benchmark_fields("lsst", 2, bands=BANDS, peers=[Forgetful(fields)], **EASY)
    assert len(result.measured.entries[1].failures) == 2
    assert all(
        why.startswith("ValueError: 3 sources for ") for why in result.measured.entries[1].failures
    )
    assert not result.measured.entries[1].found.any()


@pytest.fixture(scope="module")
def easy():
    """Return elliptical Gaussians far from one another: what is seen, and what is true."""
    rng = np.random.default_rng(1)
    x, y = np.reshape(np.meshgrid([30, 75, 120], [30, 75, 120]), (2, -1)) + rng.uniform(
        -3, 3, (2, 9)
    )
    angle, q, flux = rng.uniform(0, np.pi, 9), rng.uniform(0.5, 0.9, 9), rng.uniform(1, 5, (9, 3))
    flux, noise, sigma = 1e4 * flux, np.array([5.0, 7.0, 9.0]), 3.0
    rows, columns = np.mgrid[:150, :150]
    dx, dy = columns - x[:, None, None], rows - y[:, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    square = (dx * cos + dy * sin) ** 2 + ((dy * cos - dx * sin) / q[:, None, None]) ** 2
    profile = np.exp(-square / (2 * sigma**2)) / (2 * np.pi * sigma**2 * q[:, None, None])
    error = np.broadcast_to(noise[:, None, None], (3, 150, 150)).astype(np.float32)
    image = np.einsum("sb,syx->byx", flux, profile) + error * rng.standard_normal(error.shape)
    truth = Catalogue(
        np.stack([x, y], axis=1),
        flux,
        noise * np.sqrt(4 * np.pi * sigma**2 * q)[:, None],  # the noise limit
        (1 - q**2) / (1 + q**2) * np.exp(2j * angle),
    )
    seen = Seen(image.astype(np.float32), error, np.zeros(error.shape, bool), "lsst", BANDS)
    return seen, truth


def check(found, truth, *, errors=True):
    nearest = cdist(truth.position, found.position).argmin(axis=1)
    found = Catalogue(*(each[nearest] for each in found))
    np.testing.assert_allclose(found.position, truth.position, atol=0.1)
    np.testing.assert_allclose(found.flux / truth.flux, 1, atol=0.1)
    assert np.median(np.abs(found.flux / truth.flux - 1)) < 0.04
    np.testing.assert_allclose(found.ellipticity, truth.ellipticity, atol=0.05)
    if errors:  # no aperture does better than the noise limit, none of these five times worse
        ratio = found.error / truth.error
        assert ratio.min() > 0.95
        assert ratio.max() < 5


@pytest.mark.parametrize("name", ["photutils", "sep"])
def test_peers_agree_with_the_truth_where_it_is_easy(name, easy):
    pytest.importorskip(name)
    seen, truth = easy
    found = PEERS[name]().find(seen)
    assert len(found.flux) == 9
    check(found, truth)


def test_sep_masks_neighbours(easy):
    """What is in a neighbour's segment is not in the flux, unlike that of an open aperture."""
    sep = pytest.importorskip("sep")
    seen, truth = easy
    near = np.zeros_like(seen.data)
    y, x = np.mgrid[:150, :150]
    place = truth.position[0] + [14, 0]
    near += (600 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / 8)).astype(np.float32)
    both = seen._replace(data=seen.data + near)
    found = PEERS["sep"]().find(both)
    assert len(found.flux) == 10
    k = cdist(truth.position[:1], found.position).argmin()
    np.testing.assert_allclose(found.flux[k] / truth.flux[0], 1, atol=0.1)
    radius = 14.0
    open_flux = sep.sum_circle(both.data[0].astype(float), *truth.position[:1].T, radius)[0]
    assert open_flux[0] > 1.2 * truth.flux[0, 0]


def test_photutils_takes_given_positions(easy):
    seen, truth = easy
    given = np.concatenate([truth.position, [[3.0, 147.0]]])  # the last one shows no light
    found = PEERS["photutils"]().find(seen, given[::-1])
    assert found.flux.shape == (10, 3)
    np.testing.assert_allclose(found.position[:0:-1], truth.position, atol=0.1)
    np.testing.assert_allclose(found.flux[:0:-1] / truth.flux, 1, atol=0.1)


def test_scarlet2_fits_what_others_found(easy):
    pytest.importorskip("scarlet2")
    seen, truth = easy
    survey = get_survey("lsst")  # a sharp PSF, as these Gaussians are seen through none
    sharp = tuple(replace(band, psf_fwhm=0.2, psf="gaussian") for band in survey.bands)
    seen = seen._replace(survey=replace(survey, bands=sharp))
    part = {name: getattr(seen, name)[:, :54, :54] for name in ("data", "error", "mask")}
    found = PEERS["scarlet2"]().find(seen._replace(**part), truth.position[:1])
    check(found, Catalogue(*(each[:1] for each in truth)), errors=False)
    assert np.isnan(found.error).all()


@pytest.mark.filterwarnings("ignore:No sources were found")
@pytest.mark.parametrize("name", ["photutils", "sep"])
def test_nothing_is_found_where_there_is_nothing(name):
    pytest.importorskip(name)
    noise = np.random.default_rng(1).standard_normal((3, 40, 40)).astype(np.float32)
    seen = Seen(noise / 100, np.ones_like(noise), np.zeros(noise.shape, bool), "lsst", BANDS)
    found = PEERS[name]().find(seen)
    assert [each.shape for each in found] == [(0, 2), (0, 3), (0, 3), (0,)]


def test_a_model_and_its_other_light(splitting):
    options = {"peers": ["photutils"], "bands": BANDS, **EASY, "size": 120}
    result = benchmark_fields("lsst", 1, models=[splitting["flux"]], **options)
    entries = {(entry.name, entry.positions): entry for entry in result.measured.entries}
    mine, other = (entries[name, "detected"] for name in ("split", "split, light network"))
    # the same detections, and other light
    assert abs(int(mine.found.sum()) - int(other.found.sum())) <= 1
    assert len(mine.detections) == len(other.detections)
    assert np.nanmax(np.abs(mine.sources.flux - other.sources.flux)) > 0
    assert entries["split", "given"].found.sum() > mine.found.sum()
    assert list(result.measured.targets()) == ["split", "photutils"]
    assert all(row["seconds"] > 0 for row in result.measured.targets().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "number=0"),
        ({"peers": ["sextractor"]}, "peers has 'sextractor': choose among photutils, sep"),
        ({"peers": []}, "the first deblender has to find sources"),
        ({"bands": ["g", "x"]}, "'x'"),
        ({"density": -1}, "density"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        benchmark_fields("lsst", **{"number": 1, "peers": ["photutils"], "size": 64} | options)


class TestCommand:
    def invoke(self, *arguments):
        return CliRunner().invoke(main, ["benchmark", *map(str, arguments)])

    def test_two_tiny_fields(self, flux_model, tmp_path):
        arguments = ["--fields", "hsc", "-n", 2, "--size", 80, "--density", 80, "--bands", "g,r"]
        arguments += ["--model", flux_model, "--device", "cpu", "--peer", "photutils"]
        done = self.invoke(*arguments, "--out", tmp_path / "out")
        assert done.exit_code == 0, done.output
        lines = done.stdout.splitlines()
        assert "survey hsc, number 2, bands gr, seed 1, density 80" in done.stdout
        assert next(line for line in lines if "faint" in line).split() == ["faint", "photutils"]
        content = json.loads((tmp_path / "out" / "fields.json").read_text())
        assert content["band"] == "r"
        assert content["targets"].keys() == {"faint", "photutils"}
        assert {row["positions"] for row in content["rows"]} == {"detected", "given"}
        assert all((tmp_path / "out" / name).stat().st_size > 1000 for name in FILES["fields"])

    def test_real_galaxies(self, galaxies):
        arguments = ["--fields", "lsst", "-n", 1, "--size", 64, "--bands", "r,i", "--peer", "sep"]
        pytest.importorskip("sep")
        means = []
        for data in ([], ["--data", galaxies]):
            done = self.invoke(*arguments, *data, "--model", "survey", "--device", "cpu")
            assert done.exit_code == 0, done.output
            means.append([line for line in done.stdout.splitlines() if line.startswith("S/N > 5")])
        assert means[0] != means[1]
        assert f"data {galaxies}, split all" in done.stdout.replace("\n", " ")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--fields", "lsst", "--recipe", "sum"], "--recipe does not go with --fields"),
            (["--fields", "lsst", "--tune"], "--tune does not go with --fields"),
            (["--survey", "lsst", "--size", "64"], "--size does not go with --survey"),
            (["--density", "9"], "--density does not go without --fields"),
            (["--fields", "lsts"], "lsts"),
        ],
    )
    def test_wrong_options(self, arguments, message):
        done = self.invoke(*arguments)
        assert done.exit_code == 2
        assert message in done.stderr
