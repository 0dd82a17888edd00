"""LPIPS with random weights of the networks: by hand, and against torchmetrics."""

import pytest
import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from cvae.errors import UserError
from cvae.evaluation import lpips as module
from cvae.evaluation.features import checksum
from cvae.evaluation.lpips import LPIPS, NETWORKS, judged, named_lpips

SMALL = "squeezenet1_1"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of each network the convolutions' random weights, by the names that torchvision's file has."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(1)
    for kind in NETWORKS:
        with torch.device("meta"):
            features = get_model(kind, weights=None).features
        features.to_empty(device="cpu")
        for layer in features.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, std=0.1)
        found[kind] = folder / f"{kind}.pth"
        torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, found[kind])
    return found


def images(channels=3, height=36, width=40, count=3):
    return torch.rand(2, count, channels, height, width, generator=torch.Generator().manual_seed(channels))


@pytest.mark.parametrize("kind", NETWORKS)
def test_it_is_that_of_torchmetrics(kind, files, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")

    def with_weights(net, pretrained):
        with torch.device("meta"):
            features = get_model(net, weights=None).features
        state = torch.load(files[kind], weights_only=True)
        features.to_empty(device="cpu").load_state_dict({name[9:]: value for name, value in state.items()})
        return features

    monkeypatch.setattr(theirs, "_get_tv_model_features", with_weights)
    x, y = images()
    expected = theirs._LPIPS(net=NETWORKS[kind][0], pnet_rand=True)(x, y, normalize=True).flatten()
    found = LPIPS(kind, (3, 36, 40), files[kind])(x, y)
    assert torch.allclose(found, expected, rtol=1e-4) and found.shape == (3,) and found.min() > 0.01


def test_it_is_the_equation_of_the_paper(files):
    distance = LPIPS(SMALL, (3, 36, 40), files[SMALL])
    network = get_model(SMALL, weights=None).features.eval()
    state = torch.load(files[SMALL], weights_only=True)
    network.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])
    x, y = images()
    expected = torch.zeros(3)
    for layer, weights in zip((1, 4, 7, 9, 10, 11, 12), judged("squeeze", 7), strict=True):
        a, b = (network[: layer + 1]((2 * z - 1 - shift[:, None, None]) / scale[:, None, None]) for z in (x, y))
        a, b = (nn.functional.normalize(features, dim=1) for features in (a, b))
        expected += torch.einsum("bchw,c->bhw", (a - b) ** 2, weights).mean((1, 2)).detach()
    assert torch.allclose(distance(x, y), expected, rtol=1e-4)


def test_equal_images_have_none_and_the_order_does_not_matter(files):
    distance, (x, y) = LPIPS(SMALL, (3, 36, 40), files[SMALL]), images()
    assert distance(x, x).tolist() == [0, 0, 0] and torch.allclose(distance(x, y), distance(y, x))
    assert distance(x.requires_grad_(), y).grad_fn is not None  # of the images, not of the network
    assert not any(weights.requires_grad for weights in distance.parameters())


def test_grey_images_have_three_equal_channels_and_alpha_is_left_out(files):
    distance, (x, y) = LPIPS(SMALL, (1, 36, 40), files[SMALL]), images(1)
    expected = distance(x.expand(-1, 3, -1, -1), y.expand(-1, 3, -1, -1))
    assert torch.equal(distance(x, y), expected)
    assert torch.equal(distance(torch.cat([x, y], 1), torch.cat([y, x], 1)), expected)


def test_images_are_measured_in_parts_that_bound_the_memory(files, monkeypatch):
    distance, (x, y) = LPIPS(SMALL, (3, 36, 40), files[SMALL]), images(count=5)
    whole, sizes, apart = distance(x, y), [], distance._apart
    monkeypatch.setattr(module, "PIXELS", 2 * 36 * 40 + 1)
    monkeypatch.setattr(distance, "_apart", lambda a, b: (sizes.append(len(a)), apart(a, b))[1])
    assert torch.allclose(distance(x, y), whole, rtol=1e-5) and sizes == [2, 2, 1]
    monkeypatch.setattr(module, "PIXELS", 1)
    assert torch.allclose(distance(x, y), whole, rtol=1e-5) and sizes[3:] == [1] * 5


def test_its_name_has_a_checksum_of_the_network_and_of_the_weights(files):
    distance = LPIPS(SMALL, (3, 36, 40), files[SMALL])
    assert distance.name == f"{SMALL}-{checksum(distance)}" == named_lpips(f"{SMALL}:{files[SMALL]}", (1, 20, 20)).name
    before = checksum(distance)
    distance.weighed["12"][0] += 1
    assert checksum(distance) != before


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_smallest_images(kind, files):
    side = NETWORKS[kind][2]
    x, y = images(height=side, width=side + 1)
    assert LPIPS(kind, (3, side, side + 1), files[kind])(x, y).isfinite().all()
    for shape in ((3, side - 1, 64), (3, 64, side - 1)):
        with pytest.raises(UserError, match=f"--lpips={kind}: must be .*{kind} needs {side} pixels a side"):
            LPIPS(kind, shape, files[kind])
    with pytest.raises(RuntimeError):  # else the limit is needlessly high
        LPIPS(kind, (3, side, side), files[kind])(*images(height=side - 1))


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("vgg", "--lpips=vgg: must be alexnet, squeezenet1_1, vgg16, or one of these"),
        ("vgg16:none.pth", "--lpips vgg16:none.pth: there is no such file"),
        ("alexnet:OTHER", "does not hold the weights of torchvision's alexnet"),
    ],
)
def test_wrong_words(word, said, files):
    with pytest.raises(UserError, match=said):
        named_lpips(word.replace("OTHER", str(files[SMALL])), (3, 64, 64))


def test_weights_are_looked_for_where_torch_keeps_them_and_never_fetched(tmp_path, monkeypatch, files):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it is fetched"))
    with pytest.raises(UserError, match=f"--lpips {SMALL}: its weights are not on this machine.*--lpips {SMALL}:FILE"):
        named_lpips(SMALL, (3, 64, 64))
    file = tmp_path / "hub" / "checkpoints" / get_model_weights(SMALL).DEFAULT.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_bytes(files[SMALL].read_bytes())
    assert named_lpips(SMALL, (3, 64, 64)).name == LPIPS(SMALL, (3, 64, 64), files[SMALL]).name


def test_without_the_authors_weights(monkeypatch, files):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--lpips needs torchmetrics>=1.0"):
        LPIPS(SMALL, (3, 64, 64), files[SMALL])
