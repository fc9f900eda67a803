"""An exported program answers as `deblend_arrays` does, without this package."""

import json
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from astrodeblend import Deblender, __version__, export
from astrodeblend.cli import main
from astrodeblend.export import export_model
from astrodeblend.networks import build, find_centres
from astrodeblend.weights import Card, load_model, read_card, save_model

NETWORKS = {
    "picture": {"kind": "unet", "widths": [4, 8], "blocks": [1, 1], "attention": 1, "marks": True},
    "flux": {
        "kind": "band_unet",
        "band_widths": [4, 8],
        "widths": [8],
        "attention": 0,
        "marks": True,
    },
    "field": {"kind": "field", "band_widths": [4, 8], "widths": [8], "attention": 1},
}
TABLE = {
    "log_ratio": [-3.0, -1.0, 2.0],
    "fraction": [0.1, 0.8],
    "log_factor": [[0.5, -0.2], [0.1, 0.9], [-0.7, 0.3]],
}
FLUX = {"bands": (), "modes": ("sum",), "scaling": "noise"}
CARDS = {
    "picture": {"calibration": TABLE},
    "flux": {
        **FLUX,
        "calibration": TABLE | {"log_peak": [0.0, 2.0], "log_peak_factor": [-0.5, 1.0],
                                "in_noise": True},
    },
    "field": {**FLUX, "calibration": {"log_factor": [[0.4]]}},
}  # fmt: skip


def onnx_session(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Program:
    """A program out of a file, which takes and returns arrays, and what the file says."""

    def __init__(self, path):
        if path.suffix == ".onnx":
            session = onnx_session(path)
            self.told = session.get_modelmeta().custom_metadata_map
            for name in ("inputs", "outputs"):
                self.told |= {name: json.loads(self.told.get(name, "null"))}
            assert self.told["inputs"] == {i.name: i.shape for i in session.get_inputs()}
            assert self.told["outputs"] == {o.name: o.shape for o in session.get_outputs()}

            def run(*given):
                feed = dict(zip(self.told["inputs"], given, strict=True))
                return dict(zip(self.told["outputs"], session.run(None, feed), strict=True))

            self.run = run
        else:
            files = {"astrodeblend.json": ""}
            program = torch.export.load(path, extra_files=files).module()
            self.told = json.loads(files["astrodeblend.json"])
            self.run = lambda *given: program(*map(torch.from_numpy, given))

    def __call__(self, *given):
        given = [np.asarray(each, np.float32) for each in given]
        return {name: np.asarray(answer) for name, answer in self.run(*given).items()}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return paths of models all of whose weights matter, by kind."""
    folder, paths = tmp_path_factory.mktemp("models"), {}
    for kind, network in NETWORKS.items():
        torch.manual_seed(1)
        module = build(**network)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        paths[kind] = folder / f"{kind}.safetensors"
        save_model(paths[kind], module, Card(kind, "", {}, licence="none", **CARDS[kind]))
    return paths


@pytest.fixture(scope="module", params=[".pt2", ".onnx"])
def programs(request, models, tmp_path_factory):
    """Return what makes an exported program of a kind, once."""
    if request.param == ".onnx":
        pytest.importorskip("onnxruntime")
    folder, made = tmp_path_factory.mktemp("programs"), {}

    def program(kind):
        if kind not in made:
            path = folder / f"{kind}{request.param}"
            command = ["export", str(models[kind]), "-o", str(path), "--json"]
            done = CliRunner().invoke(main, command)
            assert done.exit_code == 0, done.output
            made[kind] = Program(path)
            assert json.loads(done.stdout).items() >= {"files": [str(path)], "name": kind}.items()
        return made[kind]

    return program


def blends(kind, n, bands, height, width):
    """Return random blends in network units, the noise of their bands, and positions."""
    rng = np.random.default_rng(n)
    noise = rng.uniform(2e-9, 5e-9, (n, bands)).astype(np.float32)
    positions = rng.uniform(3, 13, (n, 3, 2)).astype(np.float32)
    y, x = np.indices((height, width))
    r = np.hypot(x - positions[..., 0, None, None], y - positions[..., 1, None, None])
    light = np.exp(-r / 3)[:, :, None] * rng.uniform(10, 60, (n, 3, bands, 1, 1))
    blend = (light.sum(axis=1) + rng.standard_normal((n, bands, height, width))).astype(np.float32)
    if kind == "picture":
        blend = (blend / 200).clip(0, 1)
    return blend, noise, positions


def asked(kind, blend, noise, positions):
    """Return what a program of a kind takes, in its own unit."""
    if kind == "picture":
        return blend, positions
    given = [blend * noise[..., None, None], noise, positions]
    return given if kind == "flux" else [*given[:2], np.full_like(noise, np.nan), positions]


def same(one, other):
    scale = np.abs(other[np.isfinite(other)]).max()
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 3, 40, 32), (1, 1, 19, 37)])
def test_it_answers_as_the_package_does(programs, models, kind, shape):
    shape = (shape[0], 3, *shape[2:]) if kind == "picture" else shape
    deblender = Deblender.load(models[kind], device="cpu", dtype="float32")
    blend, noise, positions = blends(kind, *shape)
    unit = 1 if kind == "picture" else noise[:, None, :, None, None]
    nowhere = np.full((len(blend), 1, 2), np.nan)
    third = np.where(np.arange(3)[:, None] == 2, np.nan, positions)
    for known, given in ((None, nowhere), (positions, positions), (third, third)):
        light, std = deblender.deblend_arrays(blend, known, std="calibrated")
        found = programs(kind)(*asked(kind, blend, noise, given))
        components, deviation = found["components"], found["std"]
        if kind == "field":
            assert components.shape[1] == given.shape[1] + 1
            components = np.stack([components[:, 0], components[:, 1:].sum(axis=1)], axis=1)
            light_std = deviation[:, -1]
            same(light_std**2, (deviation[:, :-1] ** 2).sum(axis=1))
            deviation, std = deviation[:, :1], std[:, :1]
        same(components / unit, light)
        same(deviation / unit, std)


def test_fields_are_found_and_split_among_all(programs, models):
    network, _ = load_model(models["field"])
    blend, noise, positions = blends("field", 2, 2, 40, 48)
    psf = np.array([[3.0, np.nan], [2.5, 4.0]], np.float32)
    found = programs("field")(blend * noise[..., None, None], noise, psf, positions)
    with torch.no_grad():
        values = [torch.from_numpy(each) for each in (blend, positions, psf)]
        light, _ = network.split(values[0], values[1], psf=values[2])
        centres = find_centres(*network.find(values[0], values[2]), network.calibration, least=0.0)
    same(found["components"][:, :3] / noise[:, None, :, None, None], light.numpy())
    for k, (at, chance, size) in enumerate(centres):
        y, x = np.nonzero(found["probability"][k])
        order = np.argsort(-found["probability"][k, y, x])
        y, x = y[order], x[order]
        assert 3 < len(x) == len(at)
        same(found["probability"][k, y, x], chance.numpy())
        same(np.column_stack([x, y]) + found["offset"][k, :, y, x], at.numpy())
        same(found["size"][k, y, x], size.numpy())


def test_what_would_be_refused_is_nan(programs):
    blend, _, positions = blends("picture", 3, 3, 32, 32)
    right = programs("picture")(blend, positions)["components"]
    wrong, outside = blend.copy(), positions.copy()
    wrong[1] *= 255
    outside[2, 0] = 31.6, 4
    found = programs("picture")(wrong, outside)["components"]
    assert np.isnan(found[1:]).all()
    same(found[:1], right[:1])
    wrong[1] = np.nan
    assert np.isnan(programs("picture")(wrong, positions)["components"][1]).all()


def test_no_data_is_nan(programs):
    for kind in ("flux", "field"):
        blend, noise, positions = blends(kind, 2, 2, 32, 32)
        holes = np.zeros(blend.shape, bool)
        holes[0, 1, 20:28, 8:20] = True
        given = asked(kind, blend, noise, positions)
        given[0] = np.where(holes, np.nan, given[0])
        found = programs(kind)(*given)
        for name in ("components", "std"):
            lost = np.broadcast_to(holes[:, None], found[name].shape)
            np.testing.assert_array_equal(np.isnan(found[name]), lost)
        if kind == "flux":  # empty sky is what the package shows its network there
            given[0] = np.where(holes, 0, given[0])
            same(found["std"], np.where(holes[:, None], np.nan, programs(kind)(*given)["std"]))
        given[1] = np.array([[1, 1], [1, 0]]) * noise
        found = programs(kind)(*given)["components"]
        assert np.isfinite(found[0]).all() == (kind == "flux")
        assert np.isnan(found[1, :, 1]).all()
        assert np.isnan(found[1, :, 0]).all() == (kind == "flux")


def test_one_of_the_package(tmp_path):
    export_model("reiman2019", tmp_path / "paper.pt2")
    blend, _, positions = blends("picture", 2, 3, 36, 28)
    found = Program(tmp_path / "paper.pt2")(blend, positions)
    deblender = Deblender.from_pretrained("reiman2019", device="cpu", dtype="float32")
    assert list(found) == ["components"]
    same(found["components"], deblender.deblend_arrays(blend, positions))


def test_a_file_says_what_it_is(programs, models):
    told = programs("field").told
    card = read_card(models["field"])
    assert (told["name"], told["licence"], told["sha256"]) == ("field", "none", card.sha256)
    assert told["astrodeblend"] == __version__
    assert told["inputs"]["blend"] == ["n", "bands", "y", "x"]
    assert list(told["inputs"]) == ["blend", "noise", "psf", "positions"]
    assert [*told["outputs"]] == ["components", "std", "probability", "offset", "size"]


def test_refusals_leave_nothing(models, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"path='mine.pt': end it in .pt2"):
        export_model(models["flux"], "mine.pt")
    with pytest.raises(ValueError, match="'nobody' is not known; choose one of"):
        export_model("nobody", tmp_path / "mine.pt2")
    save_model(
        tmp_path / "three.safetensors",
        build("unet", widths=[4], blocks=[1], branches=3),
        Card("three", "", {}),
    )
    with pytest.raises(ValueError, match="model 'three' has 3 branches"):
        export_model(tmp_path / "three.safetensors", tmp_path / "mine.pt2")
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'astrodeblend\[export\]'"):
        export_model(models["flux"], tmp_path / "mine.onnx")
    (tmp_path / "there.pt2").touch()
    with pytest.raises(FileExistsError, match="there"):
        export_model(models["flux"], tmp_path / "there.pt2")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"three.safetensors", "three.json", "there.pt2"}


def test_the_documentation(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs" / "export.rst").read_text(encoding="utf-8")
    for model, out in re.findall(r"    astrodeblend export (\w+) -o (\S+)", page):
        export_model(model, out)
    for code in re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", page):
        names = {}
        exec(textwrap.dedent(code), names)
    assert names["central"].shape == (2, 5, 64, 48)
