"""The paper's networks: size, shapes, gradients, golden numbers, and VGG19 by hand."""

import hashlib

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import save_file
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from astrodeblend.networks import build, describe, reiman2019
from astrodeblend.networks.reiman2019 import (
    BranchedGenerator,
    BranchedGeneratorConfig,
    Discriminator,
    DiscriminatorConfig,
    VGG19Features,
    load_vgg19,
)

TINY = BranchedGeneratorConfig(bands=2, width=4, root_blocks=2, branch_blocks=1, branches=3)


# What the networks made of `picture` with the weights of `fill` when these tests were written:
# one pixel of each branch and band (and of the first deviation), and three scores.
GENERATOR_GOLDEN = (0.028027, 0.083535, 0.776820, 0.116512, 0.030714, 0.350813)
UNET_GOLDEN = (0.409605, 0.302499, 0.402657, 0.391315, 0.608322, 0.536919, 0.312755)
DISCRIMINATOR_GOLDEN = (0.276917, 0.277482, 0.277267)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def fill(module):
    """Give every tensor values by a formula, which no random generator can change."""
    with torch.no_grad():
        for i, (name, tensor) in enumerate(sorted(module.state_dict().items())):
            if tensor.is_floating_point():
                wave = torch.sin(torch.arange(tensor.numel()) ** 2 % 97 * 1.7 + i).view(
                    tensor.shape
                )
                one = name.endswith("var") or (name.endswith("weight") and tensor.ndim == 1)
                scale = (2 / tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.3
                tensor.copy_(one + scale * wave)
    return module.eval()


def picture(n, bands, height, width):
    """Smooth light between 0 and 1, without a random generator."""
    grid = torch.meshgrid(*(torch.arange(s) for s in (n, bands, height, width)), indexing="ij")
    return 0.5 + 0.5 * torch.sin(sum((0.3 + 0.2 * i) * g for i, g in enumerate(grid)))


@torch.no_grad()
def test_generator_has_the_size_of_the_papers():
    generator = BranchedGenerator(BranchedGeneratorConfig())
    components, std = generator(torch.zeros(1, 3, 80, 80))
    assert components.shape == (1, 2, 3, 80, 80)
    assert std is None
    # 45 convolutions of 64 to 64 features with normalisation, 3 of 9x9 pixels, 23 PReLUs; and
    # the band that says where the centre is.
    published = 45 * (9 * 64**2 + 128) + 3 * 81 * 3 * 64 + 70 + 23 * 64
    assert parameters(generator) == published + 81 * 64
    assert round(published / 1e6, 2) == 1.71
    assert parameters(BranchedGenerator(BranchedGeneratorConfig(distance=False))) == published
    # Every weight of a convolution meets every pixel.
    multiplications = 80**2 * sum(p.numel() for p in generator.parameters() if p.ndim == 4)
    assert round(multiplications / 1e9, 1) == 10.9


@torch.no_grad()
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (80, 80)])
def test_generator_takes_any_size(size):
    components, std = BranchedGenerator(TINY)(picture(2, 2, *size))
    assert components.shape == (2, 3, 2, *size)
    assert std is None
    assert components.min() >= 0
    assert components.max() <= 1


def test_generator_by_hand():
    """The published network, told where the centre is, written out with functions."""
    generator = fill(BranchedGenerator(TINY))
    weights = dict(generator.state_dict())
    blend = picture(2, 2, 18, 20)

    def conv(x, name):
        weight = weights[f"{name}.weight"]
        return functional.conv2d(x, weight, weights.get(f"{name}.bias"), padding="same")

    def norm(x, name):
        mean, var, gain, bias = (
            weights[f"{name}.{key}"][:, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias

    def prelu(x, name):
        return torch.where(x > 0, x, weights[f"{name}.weight"][:, None, None] * x)

    def block(x, name):
        y = prelu(norm(conv(x, f"{name}.layers.0"), f"{name}.layers.1"), f"{name}.layers.2")
        return x + norm(conv(y, f"{name}.layers.3"), f"{name}.layers.4")

    y, x = torch.meshgrid(torch.arange(18) - 8.5, torch.arange(20) - 9.5, indexing="ij")
    distance = ((x**2 + y**2).sqrt() / 40).expand(2, 1, 18, 20)
    first = prelu(conv(torch.cat([blend, distance], dim=1), "first.0"), "first.1")
    root = block(block(first, "root.0"), "root.1")
    root = first + norm(conv(root, "root.2"), "root.3")
    expected = torch.stack(
        [torch.tanh(conv(block(root, f"branches.{b}.0"), f"branches.{b}.1")) for b in range(3)],
        dim=1,
    )
    with torch.no_grad():
        components, _ = generator(blend)
    assert components.std() > 0.1
    assert_allclose(components, (expected + 1) / 2, atol=1e-5)


def test_generator_golden_numbers():
    with torch.no_grad():
        components, _ = fill(BranchedGenerator(TINY))(picture(1, 2, 16, 16))
    found = components[0, :, :, 5, 9].ravel()
    assert_allclose(found, GENERATOR_GOLDEN, atol=1e-5)


def test_discriminator_golden_numbers():
    config = DiscriminatorConfig(bands=2, pixels=20, width=2, dense=3)
    with torch.no_grad():
        found = fill(Discriminator(config))(picture(3, 2, 20, 20))
    assert_allclose(found, DISCRIMINATOR_GOLDEN, atol=1e-5)


@torch.no_grad()
def test_discriminator_has_the_layers_of_the_papers():
    discriminator = Discriminator(DiscriminatorConfig()).eval()
    images = torch.zeros(2, 3, 80, 80)
    features = discriminator.features(images)
    assert discriminator(images).shape == (2,)
    assert features.shape == (2, 512, 5, 5)
    layers = [m for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in layers] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [m.stride[0] for m in layers] == [1, 2, 1, 2, 1, 2, 1, 2]
    slopes = {m.negative_slope for m in discriminator.modules() if hasattr(m, "negative_slope")}
    assert slopes == {0.2}
    assert [m.out_features for m in discriminator.judge if hasattr(m, "out_features")] == [1024, 1]


@pytest.mark.parametrize("pixels", [16, 33])
def test_discriminator_takes_the_size_it_was_made_for(pixels):
    discriminator = Discriminator(DiscriminatorConfig(pixels=pixels, width=2, dense=3))
    assert discriminator(picture(2, 3, pixels, pixels)).shape == (2,)
    with pytest.raises(ValueError, match=rf"\(2, 3, 40, 40\); .* \(n, 3, {pixels}, {pixels}\)"):
        discriminator(picture(2, 3, 40, 40))


@pytest.mark.parametrize(
    ("network", "images"),
    [
        (BranchedGenerator(TINY), picture(2, 2, 16, 16)),
        (Discriminator(DiscriminatorConfig(pixels=16, width=2, dense=8)), picture(4, 3, 16, 16)),
    ],
)
def test_gradients_reach_every_parameter_and_the_images(network, images):
    images.requires_grad_()
    output = network(images)
    output = output[0] if isinstance(output, tuple) else output
    # A plain sum would not do: batch normalisation makes sums constant.
    (output * picture(1, 1, 1, output.numel()).view(output.shape)).sum().backward()
    for name, tensor in [("images", images), *network.named_parameters()]:
        assert tensor.grad.abs().max() > 0, name


def test_generator_starts_as_published():
    torch.manual_seed(0)
    generator = BranchedGenerator(BranchedGeneratorConfig(root_blocks=1, branch_blocks=1))
    first = generator.first[0].requires_grad_(False)
    limit = (6 / (81 * (3 + 64))) ** 0.5  # Glorot & Bengio (2010), equation 16
    assert first.weight.abs().max() == pytest.approx(limit, rel=0.01)
    assert first.bias.abs().max() == 0
    assert generator.first[1].weight.detach().abs().max() == 0


def test_configurations_are_checked():
    with pytest.raises(ValueError, match="branches=0 is too few; give 1 or more"):
        BranchedGeneratorConfig(branches=0)
    with pytest.raises(ValueError, match="pixels=0 is too few"):
        DiscriminatorConfig(pixels=0)
    BranchedGenerator(BranchedGeneratorConfig(width=2, root_blocks=0, branch_blocks=0))


@pytest.fixture(scope="module")
def weights():
    """Made-up weights of VGG19 as torchvision names them, in half precision."""
    generator = torch.Generator().manual_seed(3)
    tensors, before, index = {}, 3, 0
    for block in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        width, layers = block
        for _ in range(layers):
            scale = (2 / (9 * before)) ** 0.5  # keeps the light up through the layers
            weight = scale * torch.randn(width, before, 3, 3, generator=generator)
            tensors[f"features.{index}.weight"] = weight.half()
            tensors[f"features.{index}.bias"] = torch.full((width,), 0.01).half()
            before, index = width, index + 2
        index += 1  # the pooling
    tensors["classifier.6.bias"] = torch.zeros(1000)
    return tensors


@pytest.fixture(scope="module")
def weight_file(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "weights.pth"
    torch.save(weights, path)
    yield path
    path.unlink()  # 40 MB


def by_hand(weights, x):
    """VGG19 to the ReLU behind conv5_4, with functions; x is scaled and 224x224."""
    for i, index in enumerate((0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)):
        if i in (2, 4, 8, 12):
            x = functional.max_pool2d(x, 2)
        weight, bias = (weights[f"features.{index}.{key}"].float() for key in ("weight", "bias"))
        x = functional.conv2d(x, weight, bias, padding=1).clamp(min=0)
    return x


def test_vgg_by_hand(weights, weight_file):
    network = load_vgg19(weight_file)
    assert "features.34.weight" in dict(network.named_parameters())
    images = picture(1, 3, 224, 224)
    x = images - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    x = x / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = by_hand(weights, x)
    assert expected.shape == (1, 512, 14, 14)
    assert expected.std() > 0.1
    assert_allclose(network(images), expected, rtol=1e-4, atol=1e-4)


def test_vgg_feeds_the_original_weights_as_keras_does(weights, weight_file):
    network = load_vgg19(weight_file, preprocess="caffe")
    images = picture(1, 3, 80, 80)
    x = functional.interpolate(255 * images, size=(224, 224), mode="bilinear").flip(1)
    x = x - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
    expected = by_hand(weights, x)
    assert_allclose(network(images) / expected.max(), expected / expected.max(), atol=1e-5)
    with pytest.raises(ValueError, match="preprocess='keras'; choose one of torchvision, caffe"):
        VGG19Features("keras")


def test_vgg_is_frozen_but_lets_gradients_through(weight_file):
    network = load_vgg19(weight_file)
    assert not any(p.requires_grad for p in network.parameters())
    images = picture(1, 3, 20, 20).requires_grad_()
    network(images).sum().backward()
    assert images.grad.abs().max() > 0
    with pytest.raises(ValueError, match=r"\(1, 5, 20, 20\); VGG19 takes \(n, 3, y, x\)"):
        network(picture(1, 5, 20, 20))


def test_vgg_reads_safetensors(weights, weight_file, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    found, expected = (load_vgg19(p).state_dict() for p in (path, weight_file))
    path.unlink()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_bad_weight_files_are_refused(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match="there is no weight file"):
        load_vgg19(path)
    path.write_text("these are no weights")
    with pytest.raises(ValueError, match="is not a weight file that can be read"):
        load_vgg19(path)
    tensors = {"features.0.weight": torch.zeros(64, 1, 3, 3)}
    (torch.save if path.suffix == ".pth" else save_file)(tensors, path)
    with pytest.raises(ValueError, match=r"has \(64, 1, 3, 3\) for 'features.0.weight' where VGG"):
        load_vgg19(path)
    (torch.save if path.suffix == ".pth" else save_file)({"fc": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"has nothing for 'features\.0\.weight'"):
        load_vgg19(path)


def test_a_weight_file_runs_no_code(tmp_path):
    torch.save({"network": BranchedGenerator(TINY)}, tmp_path / "module.pth")
    with pytest.raises(ValueError, match="is not a weight file that can be read"):
        load_vgg19(tmp_path / "module.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(ValueError, match="holds a Tensor, not weights"):
        load_vgg19(tmp_path / "tensor.pth")


@pytest.fixture
def hub(weight_file, tmp_path, monkeypatch):
    """A cache of its own, and a published file that lies on this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(reiman2019, "_URL", weight_file.as_uri())
    digest = hashlib.sha256(weight_file.read_bytes()).hexdigest()
    monkeypatch.setattr(reiman2019, "_SHA256", digest)
    return tmp_path / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"


def test_weights_are_fetched_once_and_checked(hub, monkeypatch):
    network = load_vgg19()
    assert hub.is_file()
    monkeypatch.setattr(reiman2019, "_URL", "file:///nowhere")
    again = load_vgg19()
    assert torch.equal(network.features[34].weight, again.features[34].weight)
    with hub.open("r+b") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match=r"differs from the published file .* delete it"):
        load_vgg19()
    hub.unlink()


def test_offline_says_how_to_give_the_path(hub, monkeypatch):
    monkeypatch.setattr(reiman2019, "_URL", "file:///nowhere/vgg19-dcbb9e9d.pth")
    with pytest.raises(OSError, match=r"could not be fetched from .* give its path"):
        load_vgg19()
    assert not list(hub.parent.iterdir())


def test_a_changed_download_is_refused(hub, monkeypatch):
    monkeypatch.setattr(reiman2019, "_SHA256", "0" * 64)
    with pytest.raises(OSError, match=r"could not be fetched from .*invalid hash value"):
        load_vgg19()
    assert not list(hub.parent.iterdir())


def test_the_published_hash_is_that_of_the_name():
    assert reiman2019._SHA256.startswith(
        reiman2019._NAME.removeprefix("vgg19-").removesuffix(".pth")
    )
    assert len(reiman2019._SHA256) == 64


class TestUNet:
    """What the U-shaped generator promises whatever its weights."""

    def network(self, **config):
        torch.manual_seed(3)
        shape = {"widths": (8, 16, 32), "blocks": (1, 1, 2), "attention": 1, **config}
        network = build("unet", **shape).eval()
        with torch.no_grad():  # blocks start as nothing: make them count
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return network

    def blend(self, *shape):
        return torch.rand(shape, generator=torch.Generator().manual_seed(5))

    @pytest.mark.parametrize(("bands", "branches"), [(1, 2), (3, 2), (5, 3)])
    @pytest.mark.parametrize("shape", [(16, 16), (17, 30), (80, 80), (41, 64)])
    def test_components_are_fractions_of_the_blend(self, bands, branches, shape):
        network = self.network(bands=bands, branches=branches)
        blend = self.blend(2, bands, *shape)
        with torch.inference_mode():
            components, std = network(blend)
        assert components.shape == std.shape == (2, branches, bands, *shape)
        assert (components >= 0).all()
        assert (components <= blend[:, None]).all()
        assert (std > 0).all()

    @pytest.mark.parametrize("factor", [1e-3, 0.5, 40.0])
    def test_brightness_scales_through(self, factor):
        network, blend = self.network(), self.blend(2, 3, 32, 32)
        with torch.inference_mode():
            for one, scaled in zip(network(blend), network(factor * blend), strict=True):
                torch.testing.assert_close(scaled, factor * one, rtol=1e-3, atol=1e-5 * factor)

    def test_no_light_gives_no_light(self):
        with torch.inference_mode():
            components, std = self.network()(torch.zeros(1, 3, 32, 32))
        assert (components == 0).all()
        assert torch.isfinite(std).all()

    def test_a_stamp_does_not_depend_on_the_others(self):
        network, blend = self.network(), self.blend(4, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(network(blend)[0][2:3], network(blend[2:3])[0])

    def test_every_parameter_learns(self):
        network = self.network()
        components, std = network(self.blend(2, 3, 32, 32))
        (components.square().mean() + std.square().mean()).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad.abs().sum() > 0, name

    def test_the_std_does_not_teach_the_components(self):
        network = self.network()
        network(self.blend(1, 3, 32, 32))[1].mean().backward()
        assert network.stem.weight.grad is None

    def test_wrong_shapes_and_kinds_are_named(self):
        with pytest.raises(ValueError, match="widths has 3 levels and blocks has 2"):
            build("unet", widths=(8, 8, 8), blocks=(1, 1))
        with pytest.raises(ValueError, match="kind='vnet' is not a network; choose one of"):
            build("vnet")
        with pytest.raises(ValueError, match="network is a Identity"):
            describe(torch.nn.Identity())

    def test_the_default_keeps_to_its_budget(self):
        network = build("unet")
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            network(self.blend(1, 3, 80, 80))
        assert counter.get_total_flops() / 2 < 4e9
        assert 2 * sum(p.numel() for p in network.parameters()) < 15.9e6

    def test_golden(self):
        network = fill(build("unet", widths=(4, 8), blocks=(1, 2), attention=1))
        with torch.inference_mode():
            components, std = network(picture(1, 3, 20, 20))
        numbers = [*components[0, :, :, 7, 9].flatten().tolist(), std[0, 0, 0, 7, 9].item()]
        assert_allclose(numbers, UNET_GOLDEN, rtol=1e-4)
