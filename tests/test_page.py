"""The page of a run: everything is on it, nothing on it runs that was in a header."""

import base64
import re
import warnings
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from click.testing import CliRunner
from matplotlib import colormaps
from PIL import Image

from astrodeblend import decode_flags, page
from astrodeblend.cli import main

EVIL = "<script>alert(1)</script> & \"'"
PLACES = [(30.0, 30.0), (41.0, 33.0), (75.0, 60.0)]
VOID = {"meta", "link", "input", "img", "br"}


class Parsed(HTMLParser):
    """Elements, each closed by its own name; attributes; the text of all cells, row by row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.rows, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def catalogue(self):
        """Return {column: [text of each row]}."""
        start = next(k for k, row in enumerate(self.rows) if "data, component, residual" in row)
        names = [a.get("data-name", "") for tag, a in self.elements if tag == "th"][-self.width() :]
        rows = self.rows[start + 1 :]
        return dict(zip(names, zip(*rows, strict=True), strict=True))

    def width(self):
        return len(next(row for row in self.rows if "data, component, residual" in row))


def sky(bands, seed=3):
    y, x = np.mgrid[:90, :110]
    light = sum(400 * np.exp(-np.hypot(x - px, y - py) / 2.5) for px, py in PLACES)
    noise = np.random.default_rng(seed).standard_normal((bands, 90, 110))
    return (light + noise).astype(np.float32)


def an_image(bands=3, unit=u.nJy, **header):
    data = sky(1)[0] if bands is None else sky(bands)
    mask = np.zeros(data.shape, bool)
    mask[..., 28:30, 33:36] = True
    meta = {"header": fits.Header({"OBJECT": EVIL} | header)}
    return NDData(data, unit=unit, mask=mask, meta=meta)


@pytest.fixture(scope="module")
def scene(splitting):
    return splitting["flux"].deblend_scene(an_image(), positions=PLACES)


@pytest.fixture
def folder(scene, tmp_path):
    (tmp_path / "run").mkdir()
    scene.write(tmp_path / "run" / "scene.fits")
    return tmp_path / "run"


def written(source, out):
    page.write_page(source, out)
    return Parsed(out.read_text(encoding="utf-8"))


def pixels(address):
    start, content = address.split(",")
    assert start == "data:image/png;base64"
    with Image.open(BytesIO(base64.b64decode(content, validate=True))) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def assert_residual(shown, left, mask, meta):
    """A residual, sky included, in standard deviations of the sum over bands: blue, white, red."""
    level, noise = (np.reshape(meta[name], (-1, 1, 1)) for name in ("background", "noise"))
    deviations = ((left - level) / noise).sum(axis=0) / len(left) ** 0.5
    expected = 255 * colormaps["RdBu_r"](0.5 + deviations / 10)[..., :3]
    known = ~mask.any(axis=0)
    np.testing.assert_allclose(shown[::-1][known], expected[known], atol=2)
    assert np.all(shown[::-1][mask.all(axis=0)] == 153)  # grey without data


def test_every_source_has_a_row_a_picture_and_its_flags_in_words(scene, folder, tmp_path):
    read = written(folder / "scene.fits", tmp_path / "page.html")
    table, catalog = read.catalogue(), scene.catalog
    assert table["label"] == ("1", "2", "3")
    np.testing.assert_allclose(np.array(table["x_centroid"], float), catalog["x_centroid"], 1e-4)
    np.testing.assert_allclose(
        np.array(table["segment_flux_0"], float), catalog["segment_flux"][:, 0].value, rtol=1e-4
    )
    ratio = (catalog["segment_flux"] / catalog["segment_flux_err"]).value.max(axis=1)
    np.testing.assert_allclose(np.array(table["snr"], float), ratio, rtol=1e-3)
    assert any(catalog["flags"])
    for text, flags in zip(table["flags"], catalog["flags"], strict=True):
        assert all(words in text for words in decode_flags(flags))
        assert bool(text) == bool(flags)
    strips = [a["src"] for tag, a in read.elements if tag == "img"]
    assert len(strips) == 3
    for strip in map(pixels, strips):
        assert strip.shape == (48, 148, 3)
        data, component = strip[:, :48], strip[:, 50:98]
        assert np.ptp(data) > 100
        assert np.ptp(component) > 100
    # The first is blended: beside its component there is less light than beside it in the data.
    first = pixels(strips[0]).astype(int)
    assert first[:, :48].sum() > 1.1 * first[:, 50:98].sum()


def test_pictures_show_the_image_and_what_is_left_the_right_way_up(scene, folder, tmp_path):
    read = written(folder / "scene.fits", tmp_path / "page.html")
    image, left = (pixels(a["href"]) for tag, a in read.elements if tag == "image")
    assert image.shape == left.shape == (90, 110, 3)
    x, y = PLACES[2]
    peak = image.sum(axis=-1)[:, 60:].argmax()
    row, column = np.unravel_index(peak, (90, 50))
    assert abs(column + 60 - x) <= 2
    assert abs(89 - row - y) <= 2  # the last row of a FITS image is the top
    assert_residual(left, scene.residual.data, scene.image.mask, scene.meta)
    outlines = [a for tag, a in read.elements if tag == "ellipse"]
    found = [(float(a["cx"]) - 0.5, 89.5 - float(a["cy"])) for a in outlines]
    np.testing.assert_allclose(found, PLACES, atol=0.5)
    rows = {a["id"] for tag, a in read.elements if tag == "tr" and "id" in a}
    assert {a["href"][1:] for tag, a in read.elements if tag == "a"} == rows


def test_text_of_headers_and_names_is_text(folder, tmp_path):
    evil = folder / "<img src=x onerror=alert(1)>.fits"
    (folder / "scene.fits").rename(evil)
    (folder / "<b>.fits").write_text("no FITS")
    read = written(folder, tmp_path / "page.html")
    assert EVIL in read.text
    assert evil.name in read.text
    assert "<b>.fits" in read.text
    assert [tag for tag, _ in read.elements].count("script") == 1
    assert not [a for _, a in read.elements if any(name.startswith("on") for name in a)]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href)=["']?([^"'>]*)""", text)
    assert all(each.startswith(("data:", "#")) for each in addresses if "onerror" not in each)
    assert not re.search(r"https?://", text)


@pytest.mark.parametrize("bands", [None, 1, 2, 5])  # None: (y, x)
@pytest.mark.parametrize("unit", [None, u.nJy])
def test_a_result_and_any_bands(splitting, tmp_path, bands, unit):
    result = splitting["flux"](an_image(bands, unit, BAND1="g"), position=PLACES[0])
    result.write(tmp_path / "one.fits")
    read = written(tmp_path / "one.fits", tmp_path / "one.html")
    table = read.catalogue()
    assert table["component"] == ("central", "companion")
    assert sum(name.startswith("segment_flux_err") for name in table) == (bands or 1)
    strips = [pixels(a["src"]) for tag, a in read.elements if tag == "img"]
    assert len(strips) == 2
    # The residual of central and companion together is no more than noise: nearly white all over.
    assert np.median(strips[0][:, 100:]) > 220


def test_fluxes_of_different_units_are_different_columns(scene, splitting, folder, tmp_path):
    other = splitting["flux"].deblend_scene(an_image(3, u.uJy), positions=PLACES)
    other.write(folder / "z.fits")
    table = written(folder, tmp_path / "p.html").catalogue()
    assert "segment_flux_0" not in table
    assert [bool(text) for text in table["segment_flux_0_nJy"]] == [True] * 3 + [False] * 3
    assert [bool(text) for text in table["segment_flux_0_uJy"]] == [False] * 3 + [True] * 3
    assert all(table["x_centroid"])


def test_of_a_result_the_stamp_is_shown(splitting, tmp_path):
    result = splitting["flux"](an_image(), position=PLACES[2])
    result.write(tmp_path / "one.fits")
    read = written(tmp_path / "one.fits", tmp_path / "one.html")
    shown, left = (pixels(a["href"]) for tag, a in read.elements if tag == "image")
    assert "110 × 90 pixels, the stamp of which is shown" in read.text
    (top, bottom), (start, stop) = result.meta["stamp_box"]
    np.testing.assert_allclose(shown.shape[:2], (bottom - top, stop - start), atol=2)
    outline = next(a for tag, a in read.elements if tag == "ellipse")
    x, y = (int(float(outline[name])) for name in ("cx", "cy"))
    brightness = shown.sum(axis=-1)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert max(abs(row - y), abs(column - x)) <= 2
    both = result.central.data + result.companion.data
    part = ..., slice(top, top + len(left)), slice(start, start + left.shape[1])
    rest = result.image.data - both + 2 * np.reshape(result.meta["background"], (3, 1, 1))
    assert_residual(left, rest[part], result.image.mask[part], result.meta)


def test_a_picture_keeps_its_colours_and_its_top(splitting, tmp_path):
    picture = np.moveaxis(sky(3).clip(0, 255), 0, -1).astype(np.uint8)
    picture[..., 2] //= 3
    scene = splitting["picture"].deblend_scene(picture, positions=PLACES)
    scene.write(tmp_path / "s.fits")
    read = written(tmp_path / "s.fits", tmp_path / "s.html")
    shown = pixels(next(a["href"] for tag, a in read.elements if tag == "image"))
    dark = np.median(picture, axis=(0, 1))
    np.testing.assert_allclose(shown, (picture - dark).clip(0), atol=1)


def test_one_bad_file_is_named_and_the_rest_is_there(scene, folder, tmp_path):
    (folder / "sub").mkdir()
    scene.write(folder / "sub" / "other.fits.gz")
    content = (folder / "scene.fits").read_bytes()
    half = 2880 * (len(content) // 2 // 2880)
    (folder / "half.fits").write_bytes(content[:half])
    (folder / "torn.fits").write_bytes(content[: half + 1000])
    (folder / "last.fits").write_bytes(content[:-3000])
    packed = (folder / "sub" / "other.fits.gz").read_bytes()
    (folder / "packed.fits.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "broken.fits.gz").write_bytes(packed[:4000] + bytes(500) + packed[4500:])
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(folder / "plain.fits")
    (folder / "text.fits").write_text("hello")
    (folder / "notes.txt").write_text("not looked at")
    done = CliRunner().invoke(main, ["report", str(folder), "-o", str(tmp_path / "p.html")])
    assert done.exit_code == 0, done.output
    assert "6 sources" in done.stdout
    bad = ["broken.fits.gz", "half.fits", "last.fits", "packed.fits.gz", "plain.fits", "text.fits"]
    bad.append("torn.fits")
    lines = done.stderr.splitlines()
    assert len(lines) == len(bad)
    read = Parsed((tmp_path / "p.html").read_text(encoding="utf-8"))
    for name, line in zip(bad, lines, strict=True):
        assert line.startswith("Left out: ")
        assert name in line
        assert line.removeprefix("Left out: ") in read.text
    assert read.catalogue()["file"] == ("scene.fits",) * 3 + ("sub/other.fits.gz",) * 3
    assert "notes.txt" not in read.text


def test_what_is_left_out_is_said(folder, tmp_path, monkeypatch):
    (folder / "b.fits").write_bytes((folder / "scene.fits").read_bytes())
    for name, number in (("SOURCES", 4), ("THUMBNAILS", 3), ("PICTURES", 1)):
        monkeypatch.setattr(page, name, number)
    read = written(folder, tmp_path / "p.html")
    assert "6 sources in 2 files" in read.text
    assert "The 4 of the highest signal-to-noise ratio are below" in read.text
    assert "The 3 of the highest have thumbnails" in read.text
    assert "The first 1 files are drawn" in read.text
    assert len(read.catalogue()["label"]) == 4
    tags = [tag for tag, _ in read.elements]
    assert (tags.count("img"), tags.count("image")) == (3, 2)


def test_a_scene_without_sources(splitting, tmp_path):
    data = np.random.default_rng(1).standard_normal((2, 60, 60)).astype(np.float32)
    scene = splitting["flux"].deblend_scene(NDData(data), positions=np.zeros((0, 2)))
    scene.write(tmp_path / "s.fits")
    assert "0 sources in 1 file" in written(tmp_path / "s.fits", tmp_path / "s.html").text


def test_refusals(folder, tmp_path):
    out, scene = tmp_path / "page.html", folder / "scene.fits"

    def refused(*arguments):
        done = CliRunner().invoke(main, ["report", *map(str, arguments)])
        assert done.exit_code == 2
        (line,) = done.stderr.splitlines()
        return line

    plain = tmp_path / "plain.fits"
    fits.PrimaryHDU(np.zeros((5, 5))).writeto(plain)
    assert re.search("plain.fits' is no scene or result.*--scene", refused(plain, "-o", out))
    assert "does not exist" in refused(tmp_path / "none.fits", "-o", out)
    (tmp_path / "empty").mkdir()
    assert "holds no FITS file" in refused(tmp_path / "empty", "-o", out)
    plain.rename(tmp_path / "empty" / "plain.fits")
    assert "holds no scene or result" in refused(tmp_path / "empty", "-o", out)
    assert ".html" in refused(scene, "-o", tmp_path / "page.pdf")
    assert not out.exists()
    out.write_text("mine")
    assert "--overwrite" in refused(scene, "-o", out)
    assert out.read_text() == "mine"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page.write_page(scene, out, overwrite=True)
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert not list(tmp_path.glob(".*"))
