"""The paper's table."""

import numpy as np
import pytest
from astropy.table import QTable
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from astrodeblend import Deblender
from astrodeblend.blends import draw_blends
from astrodeblend.evaluate import METRICS, PUBLISHED, STATISTICS, evaluate


@pytest.fixture(scope="module")
def deblender(tiny_model):
    return Deblender.load(tiny_model, device="cpu")


@pytest.fixture(scope="module")
def evaluation(deblender, galaxies):
    return evaluate(deblender, draw_blends(galaxies, seed=3))


class TestEvaluate:
    def test_scores_are_those_of_scikit_image(self, deblender, evaluation):
        blend, isolated = map(np.concatenate, zip(*evaluation.blends.batches(3), strict=True))
        components = deblender.deblend_arrays(blend)
        for k in range(4):
            for branch in range(2):
                truth, found = isolated[k, branch], components[k, branch]
                for name, images in (("scores", found), ("blend_scores", blend[k])):
                    scores = {m: v[k, branch] for m, v in getattr(evaluation, name).items()}
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
        table = evaluation.to_table()
        assert table.colnames == ["metric", "of", *STATISTICS]
        assert list(table["of"][:4]) == ["components", "central", "companion", "blend itself"]
        rows = {(row["metric"], row["of"]): row for row in table}
        assert len(rows) == 4 * len(METRICS)
        for metric, scores in evaluation.scores.items():
            both = rows[metric, "components"]
            assert both["mean"] == pytest.approx(scores.mean())
            assert both["variance"] == pytest.approx(scores.var())
            assert both["min"] == scores.min()
            assert rows[metric, "companion"]["median"] == np.median(scores[:, 1])
        assert table.meta["sha256"] == evaluation.sha256
        assert (table.meta["recipe"], table.meta["split"], table.meta["seed"]) == (
            "reiman2019", "all", 3,
        )  # fmt: skip

    def test_the_text(self, evaluation):
        text = str(evaluation)
        assert text.splitlines()[0] == f"model tiny (sha256 {evaluation.sha256[:12]})"
        assert "recipe reiman2019, seed 3" in text
        for metric in METRICS:
            assert f"{evaluation.scores[metric].mean():.2f}" in text
        for value in PUBLISHED["psnr"].values():
            assert f"{value:.2f}" in text
        assert len({len(line) for line in text.splitlines() if line.startswith("  ")}) == 1

    def test_the_files(self, evaluation, tmp_path):
        evaluation.write(tmp_path)
        table = QTable.read(tmp_path / "table.ecsv")
        assert table.meta["model"] == "tiny"
        np.testing.assert_array_equal(table["mean"], evaluation.to_table()["mean"])
        blends = QTable.read(tmp_path / "blends.ecsv")
        np.testing.assert_allclose(blends["psnr_companion"], evaluation.scores["psnr"][:, 1])
        assert list(blends["central"]) == list(evaluation.blends.to_table()["central"])
        with pytest.raises(FileExistsError, match="exists"):
            evaluation.write(tmp_path)
        evaluation.write(tmp_path, overwrite=True)

    def test_a_model_of_another_kind(self, deblender, galaxies):
        from dataclasses import replace

        from astrodeblend.networks import build

        card = replace(deblender.card, scaling="flux", name="survey")
        other = Deblender(build(**card.network), card)
        with pytest.raises(ValueError, match=r"'survey' works on .* choose a model for R, G, B"):
            evaluate(other, draw_blends(galaxies))


def test_scores_go_on_the_card(evaluation, deblender):
    card = evaluation.on_card(deblender.card)
    assert deblender.card.scores == {}
    scores = card.scores["reiman2019 on all"]
    assert (scores["blends"], scores["seed"]) == (len(evaluation.blends), 3)
    for name, values in evaluation.scores.items():
        assert scores[name]["mean"] == pytest.approx(values.mean(), abs=1e-4)
    other = evaluate(deblender, draw_blends(evaluation.blends.folder, recipe="sum"))
    assert set(other.on_card(card).scores) == {"reiman2019 on all", "sum on all"}
