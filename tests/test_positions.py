"""Networks are told where sources are, and streams say so: the contract, for every network."""

import numpy as np
import pytest
import torch

from astrodeblend import Deblender
from astrodeblend.networks import build
from astrodeblend.networks.blocks import crop, draw_marks, pad
from astrodeblend.networks.heads import symmetric_std
from astrodeblend.training.run import load_parent
from astrodeblend.training.stream import BlendStream, FluxStream
from astrodeblend.weights import Card, load_model, save_model

NETWORKS = {
    "unet": {"kind": "unet", "widths": [4, 8], "blocks": [1, 1], "attention": 1, "marks": True},
    "band_unet": {"kind": "band_unet", "band_widths": [4, 8], "widths": [8], "marks": True},
    "reiman2019": {"kind": "reiman2019", "width": 4, "root_blocks": 1, "branch_blocks": 1},
}
# One pixel's values, and the sum of all, from before networks took positions.
GOLDEN = {
    "galaxyzoo": (3, 1, [0.21394, 0.19726, 0.1174, 0.13516, 0.15957, 0.11245], 2465.328),
    "survey": (2, 30, [1.41943, 0.57495, 12.98994, 9.31772], 34998.168),
    "reiman2019": (3, 1, [0.30526, 0.3204, 0.22509, 0.36153, 0.4008, 0.16452], 2880.064),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    """A network all of whose weights matter."""
    torch.manual_seed(1)
    module = build(**NETWORKS[request.param]).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)
    return module.requires_grad_(False)


def stamps(n=2, height=24, width=32):
    torch.manual_seed(2)
    return torch.rand(n, 3, height, width)


def answers(network, *arguments):
    """Light and, where there are any, standard deviations, features and scores in one."""
    return torch.cat([each.flatten() for each in network(*arguments) if each is not None])


@pytest.mark.parametrize("name", GOLDEN)
def test_shipped_models_answer_as_before(name):
    bands, scale, pixel, total = GOLDEN[name]
    network, _ = load_model(name)
    torch.manual_seed(4)
    blend = scale * torch.rand(1, bands, 32, 40)
    with torch.inference_mode():
        light = network(blend)[0]
        told = network(blend, torch.tensor([[[19.5, 15.5]]]))[0]
    np.testing.assert_allclose(light[0, :, :, 16, 10].flatten(), pixel, rtol=2e-4)
    assert float(light.sum()) == pytest.approx(total, rel=1e-4)
    assert torch.equal(light, told)


def test_no_position_is_the_middle_and_elsewhere_is_another_answer(network):
    blend = stamps()
    middle = torch.tensor([15.5, 11.5]).expand(2, 1, 2)
    assert torch.equal(answers(network, blend), answers(network, blend, middle))
    assert not torch.allclose(answers(network, blend), answers(network, blend, middle + 4))


def test_others_have_no_order_and_the_absent_do_not_count(network):
    blend = stamps()
    positions = torch.tensor([[[9.0, 8.0], [20.0, 9.5], [4.0, 18.0]]]).repeat(2, 1, 1)
    expected = answers(network, blend, positions)
    assert torch.equal(answers(network, blend, positions[:, [0, 2, 1]]), expected)
    more = torch.cat([positions, torch.full((2, 2, 2), torch.nan)], dim=1)
    more[:, 3] = 12.0
    present = torch.tensor([3 * [True] + 2 * [False]]).repeat(2, 1)
    assert torch.equal(answers(network, blend, more, present), expected)
    alone = answers(network, blend, positions[:, :1])
    marked = getattr(network.config, "marks", False)
    assert torch.equal(alone, expected) != marked
    present = torch.tensor([[True, False, False]]).repeat(2, 1)
    assert torch.equal(answers(network, blend, positions, present), alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_moved_by_whole_pixels_is_the_answer_moved(name):
    torch.manual_seed(1)
    module = build(**{**NETWORKS[name], **({} if name == "reiman2019" else {"attention": 0})})
    module.eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.1)
    step = 3 if name == "reiman2019" else 4  # grids are halved at most twice
    blend = torch.zeros(1, 3, 128, 128)
    blend[..., 50:66, 50:66] = torch.rand(3, 16, 16)
    positions = torch.tensor([[[57.3, 58.0], [53.0, 61.6]]])
    light = module(blend, positions)[0]
    moved = module(blend.roll((step, 2 * step), (2, 3)), positions + step * torch.tensor([2, 1]))[0]
    inner = (..., slice(48, 80), slice(48, 80))
    torch.testing.assert_close(
        moved.roll((-step, -2 * step), (3, 4))[inner], light[inner], rtol=1e-4, atol=1e-5
    )


def test_any_size_is_padded_alike_on_opposite_sides():
    for side in range(16, 42):
        image = torch.arange(side * (side + 3), dtype=torch.float32).view(1, 1, side, side + 3)
        for multiple in (2, 8):
            padded = pad(image, multiple)
            assert all(length % multiple == 0 for length in padded.shape[2:])
            assert torch.equal(crop(padded, image), image)
            before = int((padded[0, 0, :, -1] == padded[0, 0, 0, -1]).sum()) - 1
            assert before == (padded.shape[2] - side) // 2


def test_marks_are_spots_of_unit_height():
    blend = torch.zeros(1, 2, 20, 30)
    positions = torch.tensor([[[4.0, 6.0], [20.0, 10.0], [21.0, 10.0]]])
    distance, spots = draw_marks(blend, positions)
    assert distance[0, 0, 9, 8] == 5
    assert spots[0, 0, 6, 4] == spots[0, 1, 10, 20] == spots[0, 1, 10, 21] == 1
    expected = np.exp(-0.5 * np.hypot(4, 3) ** 2 / 1.5**2)
    assert float(spots[0, 0, 9, 8]) == pytest.approx(expected, rel=1e-4)
    assert spots[0, 1, 6, 4] < 1e-3


def test_positions_turn_with_a_stamp():
    def spot(blend, positions):
        return draw_marks(blend, positions)[1][:, :1, None]

    positions = torch.tensor([[[4.2, 6.0], [20.0, 10.0]]])
    blend = torch.zeros(1, 1, 20, 30)
    assert symmetric_std(spot, blend, positions).max() < 1e-6
    assert symmetric_std(lambda b, p: spot(b, positions), blend, positions).max() > 0.1


def test_a_model_without_marks_starts_one_with_them(tmp_path):
    for name in ("unet", "band_unet"):
        torch.manual_seed(1)
        parent = build(**{**NETWORKS[name], "marks": False})
        save_model(tmp_path / f"{name}.safetensors", parent, Card(name, "", network={}))
        child = build(**NETWORKS[name])
        load_parent(tmp_path / f"{name}.safetensors", child, weights=True)
        parent, _ = load_model(tmp_path / f"{name}.safetensors")  # as it was stored, rounded
        positions = torch.tensor([[[9.0, 8.0], [20.0, 9.5]]])
        with torch.inference_mode():
            expected = answers(parent, stamps(1), positions)
            torch.testing.assert_close(answers(child, stamps(1), positions), expected)
        save_model(tmp_path / f"{name}2.safetensors", child, Card("child", "", network={}))
        with pytest.raises(ValueError, match="another network"):
            load_parent(tmp_path / f"{name}2.safetensors", parent, weights=False)


class TestDeblendArrays:
    def test_positions_choose_the_source(self, tiny_model):
        deblender = Deblender.load(tiny_model, device="cpu", batch_size=2)
        batch = stamps(3).numpy()
        positions = np.array([[[4.0, 5], [20, 9]], [[7, 7], [np.nan, 3]], [[25, 18], [1, 1]]])
        light = deblender.deblend_arrays(batch, positions)
        for k in range(3):
            alone = deblender.deblend_arrays(batch[k : k + 1], positions[k : k + 1])[0]
            np.testing.assert_allclose(light[k], alone, atol=1e-6)
        assert np.abs(light - deblender.deblend_arrays(batch)).max() > 1e-4
        _, std = deblender.deblend_arrays(batch, positions, std="symmetries")
        assert np.isfinite(std).all()

    @pytest.mark.parametrize(
        ("positions", "message"),
        [
            (np.zeros((2, 2)), r"positions has shape \(2, 2\)"),
            (np.zeros((3, 1, 2)), r"positions has shape \(3, 1, 2\)"),
            (np.zeros((2, 0, 2)), r"positions has shape \(2, 0, 2\)"),
            (np.full((2, 1, 2), 31.6), r"positions\[0, 0\] is .* has to be in its stamp, 32x24"),
            (np.array([[[3, 3]], [[np.nan, 3]]]), r"positions\[1, 0\] is \[nan, 3.0\]"),
            ("high", "positions='high': give numbers of shape"),
            ([[(1, 2)], [3]], r"positions=\[\[\(1, 2\)\], \[3\]\]: give numbers of shape"),
        ],
    )
    def test_what_is_no_position_is_refused(self, tiny_model, positions, message):
        deblender = Deblender.load(tiny_model, device="cpu")
        with pytest.raises(ValueError, match=message):
            deblender.deblend_arrays(stamps(2).numpy(), positions)


def centroid(image):
    """Where the middle of the brighter half of a source is, x and y."""
    light = (image - image.median()).clamp(min=0)
    light = light * (light > 0.5 * light.max())
    y, x = torch.meshgrid(*map(torch.arange, light.shape), indexing="ij")
    return torch.stack([(light * x).sum(), (light * y).sum()]) / light.sum()


@pytest.fixture(scope="module")
def spots():
    """Round galaxies of three sizes, in 8 bits."""
    y, x = np.mgrid[:424, :424] - 211.5
    light = [180 * np.exp(-(x**2 + y**2) / (2 * sigma**2)) for sigma in (8, 10, 12)]
    return np.repeat(np.array(light, np.uint8)[:, None], 3, axis=1)


def streams(spots, **options):
    survey = {"stamp": 48, "sources": {1: 1, 2: 1, 8: 1}, "stars": 1.0, "magnitudes": (-7, -5)}
    return [
        BlendStream(spots, "crowded", seed=1, **options),
        FluxStream(["lsst"], seed=1, widths=[37, 48], chain=0.5, **survey, **options),
    ]


def test_streams_say_where_their_sources_are(spots):
    for stream, limit in zip(streams(spots, batch=32, marks=True), (0.8, 1.3), strict=True):
        off, marked, widths = [], 0, set()
        for number in range(4):
            blend, isolated, positions, present = stream[number]
            widths.add(blend.shape[-1])
            assert isolated.shape == (32, 2, *blend.shape[1:])
            assert positions.shape == (*present.shape, 2)
            assert present[:, 0].all()
            marked += int(present[:, 1:].any(dim=1).sum())
            for k in range(32):
                target, rest = (each.sum(dim=0) for each in isolated[k])
                assert (centroid(target) - positions[k, 0]).abs().max() < limit
                off.append((positions[k, 0] - (blend.shape[-1] - 1) / 2).abs().max())
                # Where a true mark is, the rest has light; two marks in ten are false.
                for x, y in positions[k, 1:-2][present[k, 1:-2]].round().int().tolist():
                    if min(x, y) >= 0 and max(x, y) < blend.shape[-1]:
                        around = rest[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                        assert around.max() > 0.01 * rest.max()
        assert 2 < max(off) < 7
        assert 0.4 < marked / 128 < 0.8
        assert len(widths) > 1


def test_streams_without_marks_have_the_first_source_in_the_middle(spots):
    for stream in streams(spots, batch=8):
        _, isolated, positions, present = stream[0]
        middle = (isolated.shape[-1] - 1) / 2
        assert (positions[:, 0] - middle).abs().max() <= 0.5
        assert present.any(dim=1).all()


def test_marked_batches_follow_from_seed_and_number_and_are_shared(spots):
    ones, others = (streams(spots, batch=4, marks=True) for _ in range(2))
    parts = [streams(spots, batch=4, marks=True, rank=rank, world=2) for rank in (0, 1)]
    for k, (one, other) in enumerate(zip(ones, others, strict=True)):
        _ = other[0]
        halves = zip(parts[0][k][3], parts[1][k][3], strict=True)
        for a, b, half in zip(one[3], other[3], halves, strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(torch.cat(half), a)


def test_a_galaxy_may_have_no_companion(spots):
    stream = BlendStream(spots, "crowded", batch=64, seed=3)
    blend, isolated, _, present = stream[0]
    alone = present.sum(dim=1) == 1
    assert alone.any()
    assert torch.equal(blend[alone], isolated[alone, 0])
    assert (isolated[alone, 1].std(dim=(2, 3)) < 1e-6).all()
