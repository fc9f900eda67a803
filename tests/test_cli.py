"""The commands do what they say, and refuse bad input in one sentence, leaving nothing behind."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import CCDData
from astropy.table import QTable
from astropy.wcs import WCS
from click.testing import CliRunner
from PIL import Image
from regions import Regions

from astrodeblend import Deblender
from astrodeblend.cli import main
from astrodeblend.cli.deblending import _parse_position
from astrodeblend.cli.options import outputs
from astrodeblend.training.run import read_state
from astrodeblend.weights import list_models


def invoke(*arguments, code=0):
    """Run a command here, and expect an exit code."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def refused(*arguments):
    """Run a command here that has to refuse, and return its sentence."""
    *before, sentence = invoke(*arguments, code=2).stderr.splitlines()
    assert sentence.startswith("Error: ")
    assert not any("Error" in line for line in before)  # what was said of progress
    return sentence


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def blend_image(bands=3, size=60):
    """Two round galaxies in linear flux, one in the middle."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    light = 100 * np.exp(-np.hypot(x, y) / 4) + 60 * np.exp(-np.hypot(x - 12, y - 6) / 4)
    return (light + rng.standard_normal((bands, size, size))).astype(np.float32)


def wcs():
    result = WCS(naxis=2)
    result.wcs.ctype = "RA---TAN", "DEC--TAN"
    result.wcs.crval = 150.1, 2.2
    result.wcs.crpix = 30.5, 30.5
    result.wcs.cdelt = -1e-4, 1e-4
    return result


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Return a FITS file with three bands, a WCS and a unit."""
    path = tmp_path_factory.mktemp("image") / "image.fits"
    header = wcs().to_header()
    header["BUNIT"] = "nJy"
    fits.PrimaryHDU(blend_image(), header).writeto(path)
    return path


class TestHelp:
    @pytest.mark.parametrize("command", [None, *main.commands])
    def test_each_help_gives_examples(self, command):
        text = invoke(*([command] if command else []), "--help").output
        assert "Examples:" in text
        assert text.count("astrodeblend") >= 2

    def test_all_commands_are_there(self):
        assert set(main.commands) == {
            "deblend", "simulate", "train", "evaluate", "benchmark", "models", "demo",
            "report", "finish", "export",
        }  # fmt: skip

    def test_every_field_is_an_option_of_train(self):
        from astrodeblend.networks import _KINDS
        from astrodeblend.training import TrainingConfig

        options = {option.name: option for option in main.commands["train"].params}
        text = " ".join(invoke("train", "--help").output.split())
        for name, default in TrainingConfig().to_dict().items():
            if isinstance(default, dict | tuple):  # shapes come through --config
                continue
            assert options[name].opts == [f"--{name.replace('_', '-')}"]
            assert options[name].default is None
            if default is not None:
                shown = "no" if default is False else default
                assert options[name].help.endswith(f"  [default: {shown}]"), name
        kinds = set(_KINDS) - {"field"}  # which learns by train_fields
        assert set(options["network"].type.choices) == kinds
        assert options["loss"].type.choices == ("log_mse", "mse", "flux")
        names = {name: options[name].type.name for name in ("steps", "clip", "vgg")}
        assert names == {"steps": "integer", "clip": "float", "vgg": "text"}
        assert "--compile / --no-compile" in text

    def test_what_every_command_has(self):
        names = {name: {p.name for p in c.params} for name, c in main.commands.items()}
        assert {name for name in names if "quiet" not in names[name]} == {"models"}
        assert {name for name in names if "as_json" not in names[name]} == {"train", "finish"}

    def test_options_are_in_groups(self):
        text = re.split(r"^(\w+):\n", invoke("deblend", "--help").output, flags=re.MULTILINE)
        groups = dict(zip(text[1::2], text[2::2], strict=True))
        assert [*groups] == ["Image", "Scene", "Model", "Output", "Messages"]
        assert "--psf" in groups["Image"]
        assert "--regions" in groups["Output"]
        for name, command in main.commands.items():
            shown = re.findall(
                r"^  (?:-\w, )?(--[\w-]+)", invoke(name, "--help").output, re.MULTILINE
            )
            context = click.Context(command)
            options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
            assert set(shown) == {o.opts[len(o.opts[0]) == 2] for o in options}

    def test_ctrl_c(self, image, tmp_path, monkeypatch):
        def interrupted(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(Deblender, "__call__", interrupted)
        result = invoke("deblend", image, "-o", tmp_path / "out.fits", code=130)
        assert result.stderr == "Aborted!\n"
        assert not list(tmp_path.iterdir())

    def test_no_option_without_help(self):
        for command in main.commands.values():
            for parameter in command.params:
                if isinstance(parameter, click.Option):
                    assert parameter.help, f"{command.name} --{parameter.name}"


class TestDeblend:
    def test_components_open_on_the_same_sky(self, image, flux_model, tmp_path):
        out = tmp_path / "out.fits"
        result = invoke("deblend", image, "-o", out, "--model", flux_model, "--plot")
        assert "central" in result.output
        assert "nJy" in result.output
        assert f"wrote {out} and {out.with_suffix('.png')}" in result.output
        x, y = np.array([0.0, 12.3, 59.0]), np.array([3.0, 44.4, 59.0])
        for name in ("CENTRAL", "COMPANION"):
            component = CCDData.read(out, hdu=name, hdu_uncertainty=f"{name}_UNCERT")
            assert component.unit == "nJy"
            assert component.shape == (3, 60, 60)
            found = component.wcs.celestial.world_to_pixel(wcs().pixel_to_world(x, y))
            np.testing.assert_allclose(found, (x, y), atol=1e-6)
        with Image.open(out.with_suffix(".png")) as picture:
            assert min(picture.size) > 100
        assert len(QTable.read(out, hdu="SOURCES")) == 2

    def test_a_position_is_pixels_or_sky(self, image, flux_model, tmp_path):
        sky = wcs().pixel_to_world(41.5, 35.5)
        places = []
        for k, position in enumerate(("41.5,35.5", f"{sky.ra.deg:.8f} {sky.dec.deg:.8f}")):
            out = tmp_path / f"{k}.fits"
            invoke("deblend", image, "-o", out, "--model", flux_model, "--position", position)
            header = fits.getheader(out)
            places.append((header["XPOS"], header["YPOS"]))
        np.testing.assert_allclose(places, [(41.5, 35.5)] * 2, atol=1e-3)
        arguments = ("deblend", image, "--model", flux_model, "-o", tmp_path / "none.fits")
        said = invoke(*arguments, "--position", "3,55").stderr
        assert "NO_SOURCE" in said
        assert "give --position X,Y of the galaxy" in said

    def test_a_whole_scene(self, image, flux_model, tmp_path):
        out = tmp_path / "scene.fits"
        result = invoke("deblend", image, "-o", out, "--model", flux_model, "--scene", "--plot")
        catalog = QTable.read(out, hdu="CATALOG")
        blended = (catalog["n_blended"] > 1).sum()
        assert f"{len(catalog)} sources, {blended} of them blended\nlabel " in result.stdout
        with fits.open(out) as hdus:
            labels = [hdu.ver for hdu in hdus if hdu.name == "COMPONENT"]
        assert labels == list(catalog["label"])
        assert out.with_suffix(".png").exists()
        other = tmp_path / "o.fits"
        arguments = ("deblend", image, "-o", other, "--model", flux_model)
        assert "--position" in refused(*arguments, "--scene", "--position", "3,3")
        assert "give --scene too" in refused(*arguments, "--light", "network")
        invoke(*arguments, "--scene", "--light", "network")
        scene = Deblender.load(flux_model).deblend_scene(image, light="network")
        drawn = QTable.read(other, hdu="CATALOG")
        np.testing.assert_allclose(
            drawn["segment_flux"].value, scene.catalog["segment_flux"].value, rtol=1e-4
        )
        assert not np.allclose(
            drawn["segment_flux"].value, catalog["segment_flux"].value, rtol=1e-4
        )

    def test_a_scene_for_scripts(self, image, flux_model, tmp_path):
        names = [tmp_path / name for name in ("scene.fits", "scene.ecsv", "scene.reg")]
        arguments = ("deblend", image, "--model", flux_model, "--scene", "-o", names[0])
        arguments += ("--catalog", names[1], "--regions", names[2])
        told = json.loads(invoke(*arguments, "--json").stdout)
        catalog = QTable.read(names[1])
        assert told["files"] == [str(name) for name in names]
        assert told["sources"] == len(catalog) == len(Regions.read(names[2])) > 0
        assert told["meta"]["kind"] == "flux"
        names = Counter(" ".join(catalog["flag_names"]).split())
        assert told["flags"] == names
        assert names  # or that says nothing
        scene = Deblender.load(flux_model).deblend_scene(image)
        assert catalog["flags"].tolist() == scene.catalog["flags"].tolist()

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--regions", "a.reg"), "'a.reg' is for scenes"),
            (("--scene", "--regions", "a.txt"), "'a.txt' has to end in .reg"),
            (("--catalog", "a.fits"), "'a.fits' has to end in .ecsv"),
            (("--scene", "--catalog", "no/a.ecsv"), "'no' does not exist"),
            (("--quiet", "--catalog", "a.fits"), "'a.fits' has to end in .ecsv"),
        ],
    )
    def test_files_that_cannot_be(self, options, words, image, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert words in refused("deblend", image, "-o", "out.fits", *options)
        assert not list(tmp_path.iterdir())

    def test_a_file_is_not_written_twice(self, tmp_path):
        twice = tmp_path / "out.ecsv"
        files = outputs(str(twice.with_suffix(".fits")), False, overwrite=True, others=[twice] * 2)
        with pytest.raises(ValueError, match=r"out\.ecsv' would be written twice"), files:
            pass

    @pytest.mark.filterwarnings("always")
    def test_quiet(self, flux_model, tmp_path):
        image = tmp_path / "image.fits"
        fits.PrimaryHDU(blend_image()).writeto(image)
        arguments = ("deblend", image, "--model", flux_model, "--scene", "--quiet", "--overwrite")
        result = invoke(*arguments, "-o", tmp_path / "out.fits")
        assert result.stdout == result.stderr == ""
        assert (tmp_path / "out.fits").exists()
        fits.setval(image, "BUNIT", value="flurbs")  # a warning is no small talk
        result = invoke(*arguments, "-o", tmp_path / "out.fits", "--json")
        assert json.loads(result.stdout)["sources"] > 0
        assert result.stderr.startswith("Warning: ")
        assert result.stderr.count("\n") == 1

    def test_a_scene_of_nothing(self, flux_model, tmp_path):
        fits.writeto(tmp_path / "in.fits", np.random.default_rng(1).normal(size=(60, 60)))
        arguments = ("deblend", tmp_path / "in.fits", "--model", flux_model, "--scene", "--kind")
        arguments += ("flux", "-o", tmp_path / "out.fits", "--catalog", tmp_path / "out.ecsv")
        assert "0 sources, 0 of them blended\nwrote " in invoke(*arguments).stdout
        assert len(QTable.read(tmp_path / "out.ecsv")) == 0
        told = json.loads(invoke(*arguments, "--json", "--overwrite").stdout)
        assert (told["sources"], told["flags"]) == (0, {})

    def test_positions_in_words(self):
        assert _parse_position(None) is None
        assert _parse_position(" -1.5, +2e1") == (-1.5, 20)
        place = SkyCoord(150.11333, 2.20083, unit="deg")
        for text in ("150.11333 +2.20083", "10:00:27.2 +02:12:03", "10h00m27.2s 2d12m03s"):
            assert place.separation(_parse_position(text)).arcsec < 0.1

    def test_one_file_per_band(self, flux_model, tmp_path):
        names = [tmp_path / f"{band}.fits" for band in "irg"]
        for name, band in zip(names, blend_image(), strict=True):
            fits.writeto(name, band)
        invoke("deblend", *names, "-o", tmp_path / "out.fits", "--model", flux_model)
        assert fits.getdata(tmp_path / "out.fits", "CENTRAL").shape == (3, 60, 60)

    def test_overwrite(self, image, flux_model, tmp_path):
        out = tmp_path / "out.fits"
        out.write_text("mine")
        assert "--overwrite" in refused("deblend", image, "-o", out, "--model", flux_model)
        assert out.read_text() == "mine"
        invoke("deblend", image, "-o", out, "--model", flux_model, "--overwrite")
        assert fits.getdata(out, "CENTRAL").shape == (3, 60, 60)

    def test_a_picture_that_exists_keeps_the_fits_file_away(self, image, flux_model, tmp_path):
        (tmp_path / "out.png").write_text("mine")
        before = listing(tmp_path)
        refused("deblend", "--plot", image, "-o", tmp_path / "out.fits", "--model", flux_model)
        assert listing(tmp_path) == before

    @pytest.mark.parametrize("link", ["", "symbolic", "hard"])
    def test_an_input_is_never_written_over(self, link, image, flux_model, tmp_path):
        source = tmp_path / "in.fits"
        shutil.copy(image, source)
        out = tmp_path / "out.fits" if link else source
        if link == "symbolic":
            out.symlink_to(source)
        elif link == "hard":
            out.hardlink_to(source)
        before = source.read_bytes()
        common = ("-o", out, "--model", flux_model, "--overwrite")
        for arguments in ((f"{source}[0]",), (image, "--noise", source), (image, "--mask", source)):
            assert "the same file; choose another --out" in refused("deblend", *arguments, *common)
        assert source.read_bytes() == before

    def test_noise_and_mask_in_files_of_their_own(self, image, flux_model, tmp_path):
        out, files = tmp_path / "out.fits", []
        hidden = np.zeros((3, 60, 60), np.uint8)
        hidden[:, :5, :5] = 1
        for name, plane in (("noise", np.full((3, 60, 60), 2.5)), ("mask", hidden)):
            fits.writeto(tmp_path / f"{name}.fits", plane)
            files += [f"--{name}", tmp_path / f"{name}.fits"]
        result = invoke(
            "deblend",
            image,
            "-o",
            out,
            "--model",
            flux_model,
            "--verbose",
            "--kind",
            "flux",
            *files,
        )
        assert "read as standard deviations\nread as flux: it has the unit nJy\n" in result.stderr
        with fits.open(out) as hdus:
            assert (hdus["CENTRAL_MASK"].data[:, :5, :5] == 1).all()
            assert not hdus["CENTRAL_MASK"].data[:, 5:].any()


class TestDegreesOrPixels:
    @pytest.fixture
    def places(self, tmp_path, flux_model):
        """Deblend at a position of an image around one in degrees; where, and what is said."""

        def deblend(position, crval=(30.1, 20.2)):
            header = wcs().to_header()
            header["CRVAL1"], header["CRVAL2"] = crval
            fits.writeto(tmp_path / "in.fits", blend_image(), header, overwrite=True)
            arguments = ("deblend", tmp_path / "in.fits", "-o", tmp_path / "out.fits")
            arguments += ("--model", flux_model, "--overwrite", "--position", position)
            result = invoke(*arguments)
            found = fits.getheader(tmp_path / "out.fits")
            return (found["XPOS"], found["YPOS"]), result.stderr

        return deblend

    def test_either_is_refused(self, places, tmp_path, flux_model):
        places("30,20")  # in degrees that is outside the image
        sentence = refused(
            "deblend", tmp_path / "in.fits", "-o", tmp_path / "o.fits", "--model", flux_model,
            "--position", "30.1, 20.2",
        )  # fmt: skip
        assert "inside the image both as pixels and as degrees" in sentence
        assert "'30.1 20.2' for degrees, '30.1px,20.2px' for pixels" in sentence
        assert places("30.1px,20.2px")[0] == pytest.approx((30.1, 20.2))

    def test_only_one_of_them_is_said(self, places):
        place, said = places("30,20", crval=(150.1, 2.2))
        assert place == (30, 20)
        assert "is read as pixels; 'RA DEC' would be degrees" in said
        middle = wcs().wcs.crpix - 1
        for text in ("150.1, -2.2", "150.1,-2.2"):
            place, said = places(text, crval=(150.1, -2.2))
            assert place == pytest.approx(tuple(middle), abs=1e-3)
            assert "is read as degrees; as pixels it is outside the image" in said
        for text in ("150.1d, -2.2d", "150.1 -2.2", "150.1deg -2.2deg", "10:00:24, -2:12:00"):
            place, said = places(text, crval=(150.1, -2.2))
            assert place == pytest.approx(tuple(middle), abs=1e-3)
            assert "Note: --position" not in said


def all_nan(folder):
    fits.writeto(folder / "bad.fits", np.full((3, 40, 40), np.nan, np.float32))


def empty(folder):
    fits.PrimaryHDU().writeto(folder / "bad.fits")


def all_zero(folder):
    fits.writeto(folder / "bad.fits", np.zeros((3, 40, 40), np.float32))


def one_dimension(folder):
    fits.writeto(folder / "bad.fits", np.arange(100.0))


def five_dimensions(folder):
    fits.writeto(folder / "bad.fits", np.ones((2, 2, 3, 20, 20)))


def truncated(folder):
    fits.writeto(folder / "whole.fits", blend_image())
    content = (folder / "whole.fits").read_bytes()
    (folder / "bad.fits").write_bytes(content[: len(content) // 2])


def no_jpeg(folder):
    (folder / "bad.jpg").write_text("this is no picture")


def truncated_jpeg(folder):
    pixels = np.random.default_rng(1).integers(255, size=(99, 99, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "bad.jpg").write_bytes(content[: len(content) // 2])


def nothing(folder):
    pass


def no_bytes(folder):
    (folder / "bad.fits").touch()


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (all_nan, "pixel"),
            (empty, "no image"),
            (all_zero, "0 in every valid pixel"),
            (one_dimension, "100"),
            (five_dimensions, "(2, 2, 3, 20, 20)"),
            (truncated, "fresh copy"),
            (no_jpeg, "is not a whole"),
            (truncated_jpeg, "is not a whole"),
            (nothing, "does not exist"),
            (no_bytes, "is empty"),
        ],
    )
    def test_images(self, make, words, flux_model, tmp_path):
        make(tmp_path)
        before = listing(tmp_path)
        name = "bad.jpg" if "jpeg" in make.__name__ else "bad.fits"
        out = tmp_path / "out.fits"
        sentence = refused(
            "deblend", tmp_path / name, "-o", out, "--model", flux_model, "--plot"
        )  # fmt: skip
        assert words in sentence
        assert listing(tmp_path) == before

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--position", "500,3"), "outside the image"),
            (("--position", "10.0 -80.0"), "outside the image"),
            (("--position", "here"), "no position"),
            (("--model", "galaxyzo"), "'galaxyzo' is not a model; did you mean 'galaxyzoo'?"),
            (("--model", "no.safetensors"), "does not exist"),
            (("--device", "abacus"), "'abacus' is not here"),
            (("--plot", "-o", "out.png"), "end it in .fits"),
            (("-o", "out.png"), "end it in .fits, not .png"),
            (("-o", "out.csv.gz"), "end it in .fits, not .csv"),
            (("-o", "out.JPG"), "end it in .fits, not .jpg"),
            (("--noise", "none.fits"), "'none.fits' does not exist"),
            (("-o", "nowhere/out.fits"), "folder 'nowhere' does not exist"),
            (("-o", "."), "is a folder"),
        ],
    )
    def test_options(self, options, words, image, flux_model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        arguments = ["deblend", image, "-o", "out.fits", "--model", flux_model, *options]
        assert words in refused(*arguments)
        assert not listing(tmp_path)

    def test_weights_that_the_shell_made_images(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        images = ["g.fits", "r.fits", "--weight", "wg.fits", "wr.fits"]  # --weight w*.fits
        said = refused("deblend", *images, "-o", "out.fits")
        assert "--weight is given 1 times for the 3 images g.fits, r.fits, wr.fits" in said

    def test_a_sky_position_without_wcs(self, flux_model, tmp_path):
        fits.writeto(tmp_path / "image.fits", blend_image())
        sentence = refused(
            "deblend", tmp_path / "image.fits", "-o", tmp_path / "out.fits",
            "--model", flux_model, "--position", "150.1 2.2",
        )  # fmt: skip
        assert "no WCS" in sentence

    @pytest.mark.parametrize(("suited", "kind"), [("survey", "picture"), ("galaxyzoo", "flux")])
    @pytest.mark.filterwarnings("ignore:.*values beyond black and white")
    def test_a_model_of_the_other_kind(
        self, suited, kind, image, galaxies, tiny_model, flux_model, tmp_path
    ):
        inputs = {"picture": (image, tiny_model), "flux": (galaxies / "galaxy0.jpg", flux_model)}
        name, model = inputs[kind]
        arguments = ("deblend", name, "-o", tmp_path / "out.fits", "--model", model)
        sentence = refused(*arguments)
        assert f"choose '{suited}'" in sentence
        assert f"kind='{kind}' (--kind {kind})" in sentence
        assert not listing(tmp_path)
        invoke(*arguments, *re.search(r"--kind \w+", sentence)[0].split())
        assert fits.getheader(tmp_path / "out.fits")["KIND"] == kind

    @pytest.mark.filterwarnings("ignore:.*values beyond black and white")
    def test_bands_that_a_model_does_not_take(self, tiny_model, tmp_path):
        fits.writeto(tmp_path / "two.fits", blend_image(bands=2))
        arguments = ("deblend", tmp_path / "two.fits", "-o", tmp_path / "out.fits")
        assert "image has 2 bands; the model 'tiny' takes 3" in refused(
            *arguments, "--model", tiny_model, "--kind", "picture"
        )

    @pytest.mark.parametrize("damage", ["weights", "card", "no card"])
    def test_a_corrupt_model(self, damage, image, flux_model, tmp_path):
        model = tmp_path / "model.safetensors"
        shutil.copy(flux_model, model)
        card = model.with_suffix(".json")
        shutil.copy(flux_model.with_suffix(".json"), card)
        if damage == "weights":
            content = bytearray(model.read_bytes())
            content[-1] ^= 1
            model.write_bytes(content)
        elif damage == "card":
            card.write_text("{")
        else:
            card.unlink()
        before = listing(tmp_path)
        sentence = refused("deblend", image, "-o", tmp_path / "out.fits", "--model", model)
        words = {"weights": "corrupt", "card": "cannot be read", "no card": "does not exist"}
        assert words[damage] in sentence
        assert listing(tmp_path) == before

    def test_a_read_only_folder(self, image, flux_model, tmp_path, monkeypatch):
        def touch(path, **_):  # permissions mean nothing to root, as whom tests may run
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        monkeypatch.setattr(Path, "touch", touch)
        sentence = refused("deblend", image, "-o", tmp_path / "out.fits", "--model", flux_model)
        assert "nothing can be written to the folder" in sentence
        assert "Read-only file system" in sentence
        assert not listing(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("simulate", "--images", "none", "-o", "blends.fits"), "'none' is not a folder"),
            (("simulate", "--images", ".", "-o", "blends.fits"), "no JPEG or PNG"),
            (("train", "--images", "none", "--out", "run"), "'none' is not a folder"),
            (("train", "--out", "run"), "--images is missing"),
            (("train", "--images", ".", "--out", "run", "--steps", "0"), "steps=0"),
            (("train", "--images", ".", "--out", "run", "--vgg", "x"), "--burn-in"),
            (
                ("train", "--images", ".", "--out", "run", "--vgg", "x", "--burn-in", "9"),
                "'x' does not exist",
            ),
            (
                ("train", "--images", ".", "--out", "run", "--config", "no.json"),
                "'no.json' does not exist",
            ),
            (("models", "galaxyzo"), "'galaxyzo' is not known"),
            (("demo", "--out", "no/where"), "'no' does not exist"),
        ],
    )
    def test_other_commands(self, arguments, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert words in refused(*arguments)
        assert not listing(tmp_path)

    @pytest.mark.parametrize(
        ("pixels", "words"),
        [([(100, 100)] * 4, "100 pixels wide"), ([(240, 250)] * 4, "250 x 240")],
    )
    def test_galaxies_that_do_not_do(self, pixels, words, tmp_path):
        (tmp_path / "galaxies").mkdir()
        for k, shape in enumerate(pixels):
            picture = Image.fromarray(np.zeros((*shape, 3), np.uint8))
            picture.save(tmp_path / "galaxies" / f"{k}.png")
        run = tmp_path / "run"
        assert words in refused("train", "--images", tmp_path / "galaxies", "--out", run)
        assert not run.exists()

    def test_a_missing_option_shows_where_help_is(self):
        assert "--help" in invoke("deblend", code=2).stderr

    def test_traceback_on_demand(self, tmp_path):
        with pytest.raises(ValueError, match="no position"):
            invoke("--traceback", "deblend", "x", "-o", tmp_path / "x.fits", "--position", "here")

    def test_exit_codes_of_the_program(self, image, flux_model, tmp_path):
        command = [sys.executable, "-m", "astrodeblend", "deblend", "--model", flux_model]
        done = subprocess.run(
            [*command, "missing.fits", "-o", tmp_path / "out.fits"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == "Error: image 'missing.fits' does not exist; check the path\n"
        assert not listing(tmp_path)


class TestModels:
    def test_the_card_of_a_file(self, tiny_model):
        assert "has learned nothing" in invoke("models", tiny_model).output
        card = json.loads(invoke("models", tiny_model, "--json").output)
        every = json.loads(invoke("models", "--json").output)
        assert tuple(every) == list_models()
        assert every["survey"]["scaling"] == "noise"
        assert card["name"] == "tiny"
        assert len(card["sha256"]) == 64

    def test_the_list(self):
        header, _, *rows = invoke("models").output.splitlines()
        assert header.split() == ["name", "images", "bands", "modes", "scores"]
        assert [row.split()[0] for row in rows] == list(Deblender.models()["name"])


class TestSimulate:
    def test_blends_with_their_truth(self, galaxies, tmp_path):
        out = tmp_path / "blends.fits"
        arguments = ("simulate", "--images", galaxies, "-n", 4, "--seed", 7, "-o", out)
        assert "each once" in invoke(*arguments, "--plot").output
        told = json.loads(invoke(*arguments, "--json", "--overwrite").stdout)
        assert told == {"files": [str(out)], "number": 4, "seed": 7}
        with fits.open(out) as hdus:
            blend, isolated = hdus["BLEND"].data, hdus["ISOLATED"].data
            assert hdus[0].header["RECIPE"] == "reiman2019"
            assert hdus[0].header["SEED"] == 7
        assert blend.shape == (4, 3, 80, 80)
        np.testing.assert_array_equal(blend, isolated.max(axis=1))
        draw = QTable.read(out, hdu="DRAW")
        assert len({*draw["central"], *draw["companion"]}) == 8
        with Image.open(out.with_suffix(".png")) as picture:
            assert picture.size == (320, 240)

        invoke(*arguments, "--overwrite")
        np.testing.assert_array_equal(fits.getdata(out, "BLEND"), blend)

    def test_another_seed_is_another_draw(self, galaxies, tmp_path):
        for seed in (1, 2):
            out = tmp_path / f"{seed}.fits"
            invoke("simulate", "--data", galaxies, "-n", 4, "--seed", seed, "-o", out)
        one, two = (fits.getdata(tmp_path / f"{seed}.fits", "BLEND") for seed in (1, 2))
        assert not np.array_equal(one, two)

    def test_an_unknown_recipe(self, galaxies, tmp_path):
        out = tmp_path / "x.fits"
        result = invoke(
            "simulate", "--images", galaxies, "--recipe", "soup", "-o", out, code=2
        )  # fmt: skip
        assert "'reiman2019'" in result.stderr


class TestEvaluate:
    def test_table_and_files(self, galaxies, tiny_model, tmp_path):
        out = tmp_path / "scores"
        arguments = ("evaluate", "--model", tiny_model, "--data", galaxies)
        result = invoke(*arguments, "--out", out)
        for words in ("tiny (sha256 ", "4 blends of 8 galaxies", "reiman2019", "seed 1", "34.61"):
            assert words in result.output
        table = QTable.read(out / "table.ecsv")
        assert set(table["metric"]) == {"psnr", "ssim", "ssim_reiman2019"}
        assert len(QTable.read(out / "blends.ecsv")) == 4
        assert "table.ecsv, bins.ecsv, " in refused(*arguments, "--out", out)
        told = json.loads(invoke(*arguments, "--json").stdout)
        assert told["reiman2019"]["table"][0]["mean"] == pytest.approx(table["mean"][0])

    def test_the_split_val_is_taken_if_there_is_one(self, galaxies, tiny_model, tmp_path):
        folder = shutil.copytree(galaxies, tmp_path / "data")
        names = sorted(path.name for path in folder.iterdir())
        parts = ["train"] * 4 + ["val"] * 4
        rows = [f"{name},{part}" for name, part in zip(names, parts, strict=True)]
        (folder / "splits.csv").write_text("\n".join(["file,split", *rows]) + "\n")
        result = invoke("evaluate", "--model", tiny_model, "--images", folder)
        assert "2 blends of 4 galaxies" in result.output
        assert "split 'val'" in result.output
        sentence = refused("evaluate", "--model", tiny_model, "--data", folder, "--split", "tset")
        assert "train, val" in sentence


@pytest.fixture(scope="module")
def quick(tmp_path_factory, tiny_network):
    """Return a file with the choices of a run that takes a second."""
    choices = {
        "network": tiny_network,
        "recipe": "reiman2019",
        "steps": 24,
        "batch": 2,
        "warmup": 2,
        "precision": "float32",
        "validation_blends": 2,
        "validate_every": 10,
        "checkpoint_every": 3,
        "log_every": 1,
    }
    path = tmp_path_factory.mktemp("choices") / "quick.json"
    path.write_text(json.dumps(choices))
    return path


@contextmanager
def begun(run, *arguments, step):
    """Start a training run in another process, and wait until it has logged a step."""
    command = [sys.executable, "-m", "astrodeblend", "train", "--out", run, *arguments]
    process = subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            log = run / "log.csv"
            end = time.monotonic() + 120
            while not log.exists() or len(log.read_text().splitlines()) <= step:
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < end
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def steps_of(run):
    with (run / "log.csv").open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


class TestTrain:
    def test_two_steps_give_a_model(self, galaxies, quick, tmp_path):
        run = tmp_path / "runs" / "try"
        result = invoke(
            "train", "--images", galaxies, "--out", run, "--config", quick, "--steps", 2,
            "--seed", 0, "--device", "cpu",
        )  # fmt: skip
        assert "learning from 6 galaxies, validated on 2 others" in result.stderr
        assert str(run / "model.safetensors") in result.stderr
        card = json.loads((run / "model.json").read_text())
        assert card["name"] == "try"
        assert card["modes"] == ["max"]
        assert card["training"]["config"]["steps"] == 2
        assert card["training"]["config"]["seed"] == 0
        assert card["training"]["command"].startswith("astrodeblend train --images")
        assert steps_of(run) == [1, 2]
        assert (run / "validation.png").exists()

        out = tmp_path / "scores"
        model = run / "model.safetensors"
        invoke("evaluate", "--model", model, "--data", galaxies, "--out", out)
        before = listing(run)
        assert "--resume" in refused("train", "--images", galaxies, "--out", run)
        assert "is a file" in refused("train", "--images", galaxies, "--out", model)
        assert listing(run) == before

    def test_a_card_repeats_its_training(self, galaxies, quick, tmp_path):
        first, again = tmp_path / "first", tmp_path / "again"
        invoke(
            "train", "--images", galaxies, "--out", first, "--config", quick, "--steps", 2,
            "--batch", 4,
        )  # fmt: skip
        invoke("train", "--images", galaxies, "--out", again, "--config", first / "model.json")
        one, two = ((run / "model.safetensors").read_bytes() for run in (first, again))
        assert one == two

    def test_a_run_may_start_from_a_model(self, galaxies, tiny_model, quick, tmp_path):
        arguments = ("train", "--images", galaxies, "--from", tiny_model)
        first, again = tmp_path / "first", tmp_path / "again"
        few = ("--steps", 1, "--batch", 2, "--recipe", "reiman2019", "--validation-blends", 2)
        invoke(*arguments, *few, "--out", first)  # the network is that of the model
        card = json.loads((first / "model.json").read_text())
        parent = json.loads(tiny_model.with_suffix(".json").read_text())
        assert card["network"] == parent["network"]
        assert card["training"]["from"] == {"name": "tiny", "sha256": parent["sha256"]}
        assert f"--from {tiny_model}" in card["training"]["command"]

        for path in first.iterdir():  # killed before the first checkpoint
            if path.name != "run.json":
                path.unlink()
        invoke("train", "--out", first, "--resume")
        assert json.loads((first / "model.json").read_text())["training"]["from"]["name"] == "tiny"

        arguments = (*arguments, "--out", again)
        assert "kind='reiman2019' (it has 'unet')" in refused(*arguments, "--network", "reiman2019")
        assert "another network" in refused(*arguments, "--paper")
        assert "'tinny' is not known" in refused(*arguments[:3], "--from", "tinny", "--out", again)
        assert not again.exists()
        invoke(*arguments, "--config", quick, "--steps", 1)

    def test_a_run_that_its_minutes_end_early_has_too_few_blends_to_finish(
        self, galaxies, quick, tmp_path
    ):
        run = tmp_path / "run"
        result = invoke(
            "train", "--images", galaxies, "--out", run, "--config", quick, "--steps", 100_000,
            "--minutes", 0.001,
        )  # fmt: skip
        card = json.loads((run / "model.json").read_text())
        assert 2 * card["training"]["steps"] < 200
        assert "familiarity" not in card["training"]
        assert "astrodeblend finish" in result.stderr

    def test_the_choices_of_the_paper(self):
        from astrodeblend.cli.training import _training_config
        from astrodeblend.training import reiman2019

        assert _training_config({"paper": True}, {}) == reiman2019()
        assert _training_config({"paper": True, "steps": 5}, {}) == reiman2019(steps=5)
        assert _training_config({"clip": 0.0}, {}).clip == 0

    def test_a_config_that_is_none(self, galaxies, tmp_path, quick):
        for content, words in (("{", "neither"), ('{"stpes": 3}', "stpes"), ("[1]", "neither")):
            config = tmp_path / "c.json"
            config.write_text(content)
            arguments = ("train", "--images", galaxies, "--out", tmp_path / "r")
            assert words in refused(*arguments, "--config", config)
        assert "give one of them" in refused(*arguments, "--config", quick, "--paper")

    def test_resuming_with_other_choices(self, galaxies, quick, tmp_path):
        arguments = ("train", "--out", tmp_path)
        invoke(*arguments, "--images", galaxies, "--config", quick, "--steps", 2)
        assert "batch=4 (was 2)" in refused(*arguments, "--resume", "--batch", 4)
        assert "'none.json' does not exist" in refused(
            *arguments, "--resume", "--config", "none.json"
        )
        told = refused(*arguments, "--resume", "--steps", 1)
        assert "steps=1: the run has done 2 updates" in told
        others = tmp_path / "others"
        shutil.copytree(galaxies, others)
        invoke(*arguments, "--resume", "--images", others)  # moved, but the same
        sorted(others.iterdir())[0].unlink()
        assert "not those that the run" in refused(*arguments, "--resume", "--images", others)
        again = ("--images", galaxies, "--config", quick, "--steps", 2)
        invoke(*arguments, "--resume", *again)  # the first command once more

    def test_a_run_made_longer_and_killed_stays_longer(self, galaxies, quick, tmp_path):
        run = tmp_path / "run"
        invoke("train", "--out", run, "--images", galaxies, "--config", quick, "--steps", 2)
        rarely = ("--resume", "--steps", "10000", "--checkpoint-every", "10000")
        with begun(run, *rarely, step=4) as process:
            process.kill()
        state = read_state(run / "checkpoint.safetensors")
        assert (state["step"], state["config"]["steps"]) == (2, 10_000)

    def test_killed_at_any_step_and_resumed_is_as_never_killed(self, galaxies, quick, tmp_path):
        arguments = ("--images", galaxies, "--config", quick)
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        step = np.random.default_rng().integers(1, 18)  # any will do
        with begun(killed, *arguments, step=step) as process:
            process.kill()
        assert process.returncode == -signal.SIGKILL

        invoke("train", "--out", killed, "--resume")
        invoke("train", "--out", whole, *arguments)
        one, two = ((run / "model.safetensors").read_bytes() for run in (killed, whole))
        assert one == two
        assert steps_of(killed) == steps_of(whole) == list(range(1, 25))

    def test_killed_before_the_first_checkpoint(self, galaxies, quick, tmp_path):
        arguments = ("train", "--images", galaxies, "--config", quick, "--steps", 2)
        invoke(*arguments, "--out", tmp_path / "whole")
        invoke(*arguments, "--out", tmp_path / "killed")
        for path in (tmp_path / "killed").iterdir():
            if path.name != "run.json":
                path.unlink()
        result = invoke("train", "--out", tmp_path / "killed", "--resume")
        assert "from the beginning" in result.stderr
        one, two = ((tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
        assert one.read_bytes() == two.read_bytes()

    def test_ctrl_c_saves_a_run_that_was_made_longer(self, galaxies, quick, tmp_path):
        run = tmp_path / "run"
        invoke("train", "--out", run, "--images", galaxies, "--config", quick, "--steps", 2)
        with begun(run, "--resume", "--steps", 10_000, step=6) as process:
            process.send_signal(signal.SIGINT)
            _, text = process.communicate(timeout=60)
        assert process.returncode == 130
        assert f"continue by: astrodeblend train --out {run} --resume" in text
        assert "Traceback" not in text
        done = steps_of(run)[-1]
        state = read_state(run / "checkpoint.safetensors")
        assert (state["step"], state["config"]["steps"]) == (done, 10_000)
        invoke("train", "--out", run, "--resume", "--steps", done + 2)
        assert steps_of(run) == list(range(1, done + 3))
