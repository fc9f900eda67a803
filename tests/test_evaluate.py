"""The paper's table."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from astropy.table import QTable
from click.testing import CliRunner
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from astrodeblend import Deblender
from astrodeblend.blends import (
    PUBLISHED,
    STATISTICS,
    draw_blends,
    flux_ratio,
    overlap,
    read_blends,
)
from astrodeblend.calibration import Calibration
from astrodeblend.cli import main
from astrodeblend.metrics import isophote
from astrodeblend.networks import build, describe
from astrodeblend.score import FILES, evaluate, summary_of
from astrodeblend.score.evaluation import BINS, METRICS, _bins, _scores
from astrodeblend.texture import Texture


@pytest.fixture(scope="module")
def deblender(tiny_model):
    return Deblender.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def evaluation(deblender, galaxies):
    return evaluate(deblender, draw_blends(galaxies, seed=3))


@pytest.fixture(scope="module")
def written(evaluation, tmp_path_factory):
    """Return the folder that an evaluation was written to."""
    folder = tmp_path_factory.mktemp("evaluation") / "scores"
    evaluation.write(folder)
    return folder


class TestEvaluate:
    def test_scores_are_those_of_scikit_image(self, deblender, evaluation):
        blend, isolated = map(
            np.concatenate, zip(*evaluation.measured.blends.batches(3), strict=True)
        )
        components = deblender.deblend_arrays(blend)
        for k in range(4):
            for branch in range(2):
                truth, found = isolated[k, branch], components[k, branch]
                for name, images in (("scores", found), ("blend_scores", blend[k])):
                    scores = {
                        m: v[k, branch] for m, v in getattr(evaluation.measured, name).items()
                    }
                    mean = scores["psnr"]
                    assert mean == pytest.approx(
                        peak_signal_noise_ratio(truth, images, data_range=1), abs=1e-3
                    )
                    for metric, scale in (("ssim", 1), ("ssim_reiman2019", 2)):
                        expected = structural_similarity(
                            truth, images, channel_axis=0, data_range=scale
                        )
                        assert scores[metric] == pytest.approx(expected, abs=1e-4)

    def test_the_table(self, evaluation):
        table = evaluation.tables["table"]
        assert table.colnames == ["metric", "of", "number", *STATISTICS]
        assert list(table["of"][:4]) == ["components", "central", "companion", "blend itself"]
        rows = {(row["metric"], row["of"]): row for row in table}
        assert len(rows) == 4 * len(METRICS)
        for metric, scores in evaluation.measured.scores.items():
            both = rows[metric, "components"]
            assert both["mean"] == pytest.approx(scores.mean())
            assert both["variance"] == pytest.approx(scores.var())
            assert both["min"] == scores.min()
            assert both["p1"] == pytest.approx(np.percentile(scores, 1))
            assert both["number"] == 8
            assert rows[metric, "central"]["number"] == 4
            assert rows[metric, "companion"]["median"] == np.median(scores[:, 1])
        assert table.meta["sha256"] == evaluation.numbers["sha256"]
        assert (table.meta["recipe"], table.meta["split"], table.meta["seed"]) == (
            "reiman2019", "all", 3,
        )  # fmt: skip

    def test_the_text(self, evaluation):
        text = str(evaluation)
        assert text.splitlines()[0] == f"model tiny (sha256 {evaluation.numbers['sha256'][:12]})"
        assert "recipe reiman2019, seed 3" in text
        for metric in METRICS:
            assert f"{evaluation.measured.scores[metric].mean():.2f}" in text
        for value in PUBLISHED["psnr"].values():
            assert f"{value:.2f}" in text
        rows = text.partition("\n\n")[2].partition("\n\n")[0].splitlines()
        assert len({len(line) for line in rows if line.startswith("  ")}) == 1

    def test_subfolders_have_rows(self, deblender, galaxies, tmp_path):
        for k, path in enumerate(sorted(galaxies.iterdir())):
            below = tmp_path / ("one" if k < 3 else "two")
            below.mkdir(exist_ok=True)
            shutil.copy(path, below)
        evaluation = evaluate(deblender, draw_blends(tmp_path, number=7), examples=1)
        listed = evaluation.tables["blends"]
        expected = {"one": [], "two": []}
        for row in listed:
            for name in ("central", "companion"):
                expected[row[name].partition("/")[0]].append(row[f"psnr_{name}"])
        table = evaluation.tables["table"]
        for name, scores in expected.items():
            (row,) = table[(table["metric"] == "psnr") & (table["of"] == name)]
            assert row["number"] == len(scores)
            assert row["mean"] == pytest.approx(np.mean(scores))
        assert "  two  " in str(evaluation)

    def test_blends_of_pictures_with_nothing_else_in_them_have_a_row(
        self, deblender, galaxies, tmp_path
    ):
        shutil.copytree(galaxies, tmp_path, dirs_exist_ok=True)
        names = sorted(path.name for path in tmp_path.iterdir())
        alone = dict(zip(names, "11101110", strict=True))
        rows = [f"{name},{flag}" for name, flag in alone.items()]
        (tmp_path / "splits.csv").write_text("\n".join(["file,isolated", *rows]) + "\n")
        evaluation = evaluate(deblender, draw_blends(tmp_path, number=12), examples=1)
        expected = [
            row[f"psnr_{branch}"]
            for row in evaluation.tables["blends"]
            for branch in ("central", "companion")
            if alone[row["central"]] == alone[row["companion"]] == "1"
        ]
        table = evaluation.tables["table"]
        (row,) = table[(table["metric"] == "psnr") & (table["of"] == "both isolated")]
        assert 0 < row["number"] == len(expected) < 24
        assert row["mean"] == pytest.approx(np.mean(expected))
        assert row["p1"] == pytest.approx(np.percentile(expected, 1))

    def test_bins(self, evaluation):
        table = evaluation.tables["bins"]
        listed = evaluation.tables["blends"]
        pairs = [(row, name) for row in listed for name in ("central", "companion")]
        for quantity in BINS:
            rows = table[(table["quantity"] == quantity) & (table["metric"] == "ssim")]
            whole = rows[rows["of"] == "components"]
            assert whole["number"].sum() == 8
            for each in whole:
                scores, values = [], []
                for row, name in pairs:
                    column = f"overlap_{name}" if quantity == "overlap" else quantity
                    if each["low"] <= row[column] < each["high"]:
                        scores.append(row[f"ssim_{name}"])
                        values.append(row[column])
                assert each["number"] == len(scores)
                assert each["mean"] == pytest.approx(np.mean(scores))
                assert each["middle"] == pytest.approx(np.median(values))
            central = rows[rows["of"] == "central"]
            assert central["number"].sum() == 4
            mean = np.average(central["mean"], weights=central["number"])
            assert mean == pytest.approx(evaluation.measured.scores["ssim"][:, 0].mean())

    def test_properties_are_those_of_the_truth(self, deblender, galaxies):
        """In re-rendered pictures too, whose sky is bright."""
        blends = draw_blends(galaxies, recipe="varied", number=6)
        evaluation = evaluate(deblender, blends, examples=1)
        _, isolated = next(blends.batches())
        light = isolated - blends.sky[:, None, :, None, None]
        np.testing.assert_allclose(evaluation.measured.properties["flux_ratio"], flux_ratio(light))
        np.testing.assert_allclose(evaluation.measured.properties["overlap"], overlap(light))
        np.testing.assert_array_equal(
            evaluation.measured.properties["separation"], blends.separation
        )

    def test_errors_resample_blends(self, evaluation):
        """Components that always agree are worth one measurement, not two."""
        number = 400
        blends = draw_blends(evaluation.measured.blends.folder, number=number)
        drawn = np.random.default_rng(1).normal(30, 3, number)
        scores = {"psnr": np.stack([drawn, drawn], axis=1)}
        properties = {
            "separation": np.full(number, 10.0),
            "flux_ratio": np.full(number, 0.5),
            "overlap": np.stack([np.full(number, 0.2), np.full(number, np.nan)], axis=1),
        }
        other = SimpleNamespace(
            blends=blends, scores=scores, blend_scores=scores, properties=properties
        )
        expected = pytest.approx(drawn.std() / np.sqrt(number), rel=0.2)
        table = QTable(_scores(other))
        assert list(table["error"][:3]) == [expected] * 3
        bins = QTable(_bins(other))
        assert set(bins["quantity"]) == set(BINS)
        assert list(bins["error"]) == [expected] * len(bins)
        hidden = bins[bins["quantity"] == "overlap"]
        numbers = {row["of"]: row["number"] for row in hidden}
        assert numbers == {"components": number, "central": number, "blend itself": number}

    def test_texture(self, deblender, evaluation):
        blend, isolated = next(evaluation.measured.blends.batches())
        expected = Texture.of(deblender.deblend_arrays(blend), isolated)
        table = evaluation.tables["texture"]
        assert list(table["of"]) == ["components", "central", "companion"]
        np.testing.assert_allclose(table["power_ratio"][0], expected.power_ratio)
        np.testing.assert_allclose(
            table["median_power_ratio"][2], expected[:, 1].median_power_ratio
        )
        assert table["occluded_psnr"][1] == pytest.approx(expected[:, 0].occluded_psnr, nan_ok=True)
        assert len(table.meta["frequencies"]) == table["power_ratio"].shape[1]

    def test_coverage(self, galaxies, tiny_model):
        """Of pixels as it is counted by hand, of blends with a sky, by the card's calibration."""
        deblender = Deblender.load(tiny_model, device="cpu")
        calibration = Calibration(
            log_factor=((0.4,),), coherent=0.6, interval_95={"pixel": 2.5, "flux": 2.2}
        )
        card = replace(deblender.card, calibration=calibration.to_dict())
        deblender = Deblender(deblender._model.inference.network, card)
        blends = draw_blends(galaxies, recipe="varied", number=3)
        evaluation = evaluate(deblender, blends, examples=1)
        blend, isolated = next(blends.batches())
        components, std = deblender.deblend_arrays(blend, std="predicted")
        footprint = isophote(isolated - blends.sky[:, None, :, None, None])[:, :, None]
        off = np.abs(components - isolated) / (np.exp(0.4) * std)
        off = off[np.broadcast_to(footprint, off.shape)]
        pixels, *_, fluxes = evaluation.tables["coverage"][[0, 1, 2, 3]]
        assert (pixels["kind"], fluxes["kind"]) == ("pixels", "fluxes")
        assert pixels["number"] == off.size
        assert pixels["within_68"] == pytest.approx((off <= 1).mean(), abs=1e-3)
        assert pixels["within_95"] == pytest.approx((off <= 2.5).mean(), abs=1e-3)
        assert (pixels["interval_95"], fluxes["interval_95"]) == (2.5, 2.2)
        content = evaluation.to_dict()
        assert content["coverage"][0]["within_68"] == pixels["within_68"]
        assert content["calibration"]["blends"] == 3
        assert len(content["calibration"]["curve"]["pixels"]) == 50
        assert "truths within the error bars (%)" in str(evaluation)
        assert f"{100 * pixels['within_68']:.1f} ± " in str(evaluation)

    def test_examples(self, deblender, galaxies):
        blends = draw_blends(galaxies, number=6)
        evaluation = evaluate(deblender, blends, examples=2)
        mean = evaluation.measured.scores["psnr"].mean(axis=1)
        worst, good = evaluation.measured.failures, evaluation.measured.successes
        np.testing.assert_array_equal(worst.index, np.argsort(mean)[:2])
        assert (mean[good.index] >= np.median(mean)).all()
        again = evaluate(deblender, blends, examples=2).measured.successes
        np.testing.assert_array_equal(again.index, good.index)
        for each in (worst, good):
            score = METRICS["psnr"](each.components, each.isolated)
            np.testing.assert_allclose(
                score, evaluation.measured.scores["psnr"][each.index], rtol=1e-5
            )
            np.testing.assert_array_equal(each.blend, each.isolated.max(axis=1))
        with pytest.raises(ValueError, match="examples=0"):
            evaluate(deblender, blends, examples=0)

    def test_the_cost_is_that_counted_by_hand(self, deblender, galaxies):
        """Of the paper's network: (window x features in x features out) for each pixel."""
        blocks, branch_blocks, features = 2, 1, 8
        network = build(
            "reiman2019", width=features, root_blocks=blocks, branch_blocks=branch_blocks
        )
        card = replace(deblender.card, network=describe(network), name="small")
        evaluation = evaluate(Deblender(network, card), draw_blends(galaxies, number=1), examples=1)
        first, last = 81 * (3 + 1) * features, 81 * 3 * features  # distance from the centre, too
        block = 2 * 9 * features**2
        root = first + blocks * block + 9 * features**2
        branch = branch_blocks * block + last
        assert evaluation.numbers["cost"]["gmac"] * 1e9 == pytest.approx(
            80**2 * (root + 2 * branch)
        )
        parameters = sum(p.numel() for p in network.parameters())
        assert evaluation.numbers["cost"]["parameters"] == parameters

    def test_the_files(self, evaluation, deblender, written):
        assert sorted(path.name for path in written.iterdir()) == sorted(FILES["blends"])
        for name, expected in (
            ("table", evaluation.tables["table"]),
            ("bins", evaluation.tables["bins"]),
            ("texture", evaluation.tables["texture"]),
            ("coverage", evaluation.tables["coverage"]),
            ("blends", evaluation.tables["blends"]),
        ):
            table = QTable.read(written / f"{name}.ecsv")
            assert table.meta["model"] == "tiny"
            assert table.colnames == expected.colnames
            for column in table.colnames:
                np.testing.assert_array_equal(table[column], expected[column])
        for path in written.glob("*.png"):
            with Image.open(path) as image:
                assert min(image.size) > 200
        again = evaluate(
            deblender, read_blends(written / "blends.ecsv", evaluation.measured.blends.folder)
        )
        for metric, scores in evaluation.measured.scores.items():
            np.testing.assert_array_equal(again.measured.scores[metric], scores)
        with pytest.raises(FileExistsError, match="exists"):
            evaluation.write(written)

    def test_json_holds_what_is_printed(self, evaluation, written):
        def refuse(name):
            raise AssertionError(f"{name} is not JSON")

        text = (written / "scores.json").read_text()
        content = json.loads(text, parse_constant=refuse)
        assert content["model"] == "tiny"
        assert content["sha256"] == evaluation.numbers["sha256"]
        assert (content["recipe"], content["split"], content["seed"]) == ("reiman2019", "all", 3)
        assert set(content["versions"]) == {"astrodeblend", "torch"}
        assert content["arithmetic"] == evaluation.numbers["arithmetic"]
        assert content["cost"]["gmac"] > 0
        assert content["table"][0]["mean"] == evaluation.tables["table"]["mean"][0]
        assert content["bins"][0]["high"] == evaluation.tables["bins"]["high"][0]
        assert content["bins"][-1]["high"] is None or np.isfinite(content["bins"][-1]["high"])

    def test_all_files_or_none(self, evaluation, tmp_path):
        (tmp_path / "failures.png").mkdir()  # the last file cannot be written
        with pytest.raises(IsADirectoryError):
            evaluation.write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["failures.png"]
        with pytest.raises(FileNotFoundError):
            evaluation.write(tmp_path / "no" / "where")

    def test_a_model_of_another_kind(self, flux_model, galaxies):
        other = Deblender.load(flux_model, device="cpu")
        with pytest.raises(
            ValueError, match=r"'faint' works on any bands \(linear flux\).* choose .* for R, G, B"
        ):
            evaluate(other, draw_blends(galaxies))


def test_scores_go_on_the_card(evaluation, deblender):
    card = evaluation.to_card(deblender.card)
    assert deblender.card.scores == {}
    folder = evaluation.measured.blends.folder.name
    scores = card.scores[f"reiman2019 on folder {folder}"]
    assert scores["data"] == folder
    assert (scores["blends"], scores["seed"]) == (len(evaluation.measured.blends), 3)
    for name, values in evaluation.measured.scores.items():
        assert scores[name]["mean"] == pytest.approx(values.mean(), abs=1e-4)
    other = evaluate(deblender, draw_blends(evaluation.measured.blends.folder, recipe="sum"))
    both = {f"{recipe} on folder {folder}" for recipe in ("reiman2019", "sum")}
    assert set(other.to_card(card).scores) == both
    assert scores["psnr"]["p1"] == pytest.approx(
        np.percentile(evaluation.measured.scores["psnr"], 1), abs=1e-4
    )


def test_summary(evaluation, deblender):
    other = evaluate(
        deblender, draw_blends(evaluation.measured.blends.folder, recipe="sum", number=2)
    )
    header, *lines = summary_of([evaluation, other]).splitlines()
    assert [line.split()[0] for line in lines] == ["reiman2019", "sum"]
    assert len({len(line) for line in (header, *lines)}) == 1
    assert f"{other.measured.scores['psnr'].mean():.2f}" in lines[1]
    assert f"{evaluation.measured.blend_scores['psnr'].mean():.2f}" in lines[0]


class TestCommand:
    def run(self, *arguments, code=0):
        result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
        assert result.exit_code == code, result.output
        return result

    def test_several_recipes(self, galaxies, tiny_model, tmp_path):
        model = tmp_path / "model.safetensors"
        for suffix in (".safetensors", ".json"):
            shutil.copy(tiny_model.with_suffix(suffix), model.with_suffix(suffix))
        out = tmp_path / "scores"
        arguments = [
            "--model", model, "--data", galaxies, "-n", 3, "--out", out, "--card",
            "--recipe", "reiman2019", "--recipe", "max_sum", "--recipe", "reiman2019",
        ]  # fmt: skip
        text = self.run(*arguments).stdout
        assert sorted(path.name for path in out.iterdir()) == ["max_sum", "reiman2019"]
        for recipe in ("max_sum", "reiman2019"):
            assert sorted(path.name for path in (out / recipe).iterdir()) == sorted(FILES["blends"])
            assert f"recipe {recipe}, seed 1" in text
        scores = json.loads(model.with_suffix(".json").read_text())["scores"]
        folder = galaxies.name
        assert set(scores) == {f"reiman2019 on folder {folder}", f"max_sum on folder {folder}"}
        assert set(scores[f"max_sum on folder {folder}"]["psnr"]) >= {"mean", "p1"}
        assert "holds table.ecsv" in self.run(*arguments, code=2).stderr

    def test_a_list_of_blends(self, galaxies, tiny_model, tmp_path):
        model = ("--model", tiny_model, "--data", galaxies)
        drawn = (*model, "--recipe", "sum", "-n", 3, "--seed", 9)
        first = self.run(*drawn, "--out", tmp_path).stdout
        listed = (*model, "--blends", tmp_path / "blends.ecsv")
        assert first.startswith(self.run(*listed).stdout.rstrip())
        assert "leave out --blends or --card" in self.run(*listed, "--card", code=2).stderr
        sentence = self.run(*listed, "--seed", 2, "--recipe", "sum", code=2).stderr
        assert "leave --recipe and --seed out" in sentence
        sentence = self.run(*model, "--blends", tmp_path / "none.ecsv", code=2).stderr
        assert "none.ecsv' does not exist" in sentence
