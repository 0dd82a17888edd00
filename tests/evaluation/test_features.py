"""Features of images: a classifier that is trained and kept, pixels, networks of torchvision with random weights."""

import os
import resource

import pytest
import torch
from conftest import config
from torch import nn
from torchvision import models

from cvae.build import make
from cvae.commands.inputs import levels_of
from cvae.data.contents import fingerprint, of_images
from cvae.data.mapped import Mapped
from cvae.errors import UserError
from cvae.evaluation import classifier
from cvae.evaluation import features as features_module
from cvae.evaluation import real as real_module
from cvae.evaluation.features import Classifier, Network, Pixels, checksum
from cvae.evaluation.real import FITTED, chosen, in_order
from cvae.runtime.noise import fixed_noise

SMALL = "shufflenet_v2_x0_5"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """The user's own folder, of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cvae" / "features"


def synthetic(*words, size=200):
    """Spots whose place is given by the class, as levels."""
    sizes = [f"data.source.train_size={size}", "data.source.test_size=50", "data.image_shape=[1,16,16]"]
    return levels_of(config("data=synthetic", "data.num_classes=4", *sizes, *words))


def plain(items, what, total):
    """For `watched`."""
    return items


def test_a_classifier_learns_and_its_features_are_what_its_last_layer_reads():
    data = synthetic("data.image_shape=[1,12,12]", size=512)
    model, accuracy = classifier.train(data, 8, plain)
    assert accuracy > 0.6 and not model.training
    x = data.batch("test", range(50))[0]
    assert model(x).shape == (50, 128)
    assert torch.allclose(model.logits(x), model.head(model(x)), atol=1e-5)
    right = (model.logits(x).argmax(1) == data.test.images.y).float().mean().item()
    assert accuracy == pytest.approx(right) and model.name == f"classifier-{checksum(model)}"


def test_a_classifier_reads_levels_over_255(monkeypatch):
    """In training and in its test."""
    seen = []
    logits = Classifier.logits
    monkeypatch.setattr(Classifier, "logits", lambda self, x: (seen.append(x), logits(self, x))[1])
    data = synthetic(size=300)
    classifier.train(data, 2, plain)
    assert [len(x) for x in seen] == [128, 128, 128, 128, 50]  # 600 images, without the rest of 88; then the test
    assert torch.equal(seen[-1], data.test.images.x.float() / 255)
    levels = {tuple(x.flatten().tolist()) for x in data.train.images.x.float() / 255}
    assert all(tuple(x.flatten().tolist()) in levels for batch in seen[:-1] for x in batch)


def test_the_same_data_give_the_same_classifier_and_nothing_outside_changes():
    torch.manual_seed(3)
    data = synthetic()
    before = torch.random.get_rng_state()
    one = classifier.train(data, 1, plain)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(4)
    two, other = classifier.train(data, 1, plain), classifier.train(data, 1, plain, seed=1)
    assert one.features.name == two.features.name != other.features.name


def test_a_classifier_is_kept_beside_the_data_with_what_it_is_of(tmp_path):
    data = synthetic()
    trained = classifier.train(data, 1, plain)
    assert classifier.kept(data) is None
    file = classifier.keep(trained, data, [tmp_path / "beside"])
    assert file == tmp_path / "beside" / f"classifier-{classifier.fingerprint(data)}.pt"
    found = classifier.read(file, data)
    x = data.batch("test", range(9))[0]
    assert found.features.name == trained.features.name and found.accuracy == trained.accuracy
    assert torch.allclose(found.features(x), trained.features(x), atol=1e-5) and not found.features.training


def test_a_folder_that_cannot_be_written_leaves_it_to_the_next(tmp_path, own_folder):
    (tmp_path / "file").touch()
    data, trained = synthetic(), classifier.named(Classifier((1, 16, 16), 4).eval(), 0.5)
    file = classifier.keep(trained, data, [tmp_path / "file" / "x", own_folder])
    assert file.parent == own_folder and classifier.kept(data).features.name == trained.features.name
    with pytest.raises(UserError, match="none of these folders can be written: .*file/x"):
        classifier.keep(trained, data, [tmp_path / "file" / "x"])


def test_places(tmp_path, own_folder):
    (tmp_path / "images.npz").touch()
    assert classifier.places(None) == [own_folder]
    assert classifier.places(str(tmp_path)) == [tmp_path / ".cvae_features", own_folder]
    assert classifier.places(str(tmp_path / "images.npz")) == [tmp_path / ".cvae_features", own_folder]


def test_other_data_have_other_fingerprints():
    known = {
        classifier.fingerprint(data)
        for data in (synthetic(), synthetic(size=201), synthetic("data.image_shape=[1,16,18]"))
    }
    assert len(known) == 3
    data = synthetic()
    before = classifier.fingerprint(data)
    assert before in known
    for change in (data.train.images.x, data.train.images.y, data.test.images.x, data.test.images.y):
        change[-1] += 1
        assert classifier.fingerprint(data) not in known
        change[-1] -= 1
    assert classifier.fingerprint(data) == before


def test_images_on_disk_have_the_fingerprint_of_those_in_memory():
    data = synthetic()
    before = classifier.fingerprint(data)
    images = {"train": data.train.images, "test": data.test.images}
    assert before == fingerprint({**of_images("train", images["train"]), **of_images("test", images["test"])})
    for split, found in images.items():
        getattr(data, split).images = found._replace(x=Mapped.of(found.x))
    assert classifier.fingerprint(data) == before


def test_levels_are_those_of_the_files_whatever_the_run_sees():
    words = ["data.binarization=static", "data.invert=true", "data.train_on=all", "data.validation_size=20"]
    assert classifier.fingerprint(synthetic(*words)) == classifier.fingerprint(synthetic("data.binarization=none"))


@pytest.mark.parametrize("change", ["bytes", "weights", "accuracy"])
def test_a_damaged_classifier_is_refused(change, own_folder):
    data = synthetic()
    file = classifier.keep(classifier.train(data, 1, plain), data, [own_folder])
    content = torch.load(file, weights_only=True)
    if change == "bytes":
        file.write_bytes(file.read_bytes()[:-200])
    elif change == "weights":
        content["state_dict"]["head.bias"][0] += 1
        torch.save(content, file)
    else:
        del content["classifier"]["accuracy"]
        torch.save(content, file)
    with pytest.raises(UserError, match="is damaged"):
        classifier.kept(data)


def test_of_several_that_are_kept_the_newest_is_used(tmp_path, own_folder, monkeypatch):
    data = synthetic()
    monkeypatch.setattr(classifier, "places", lambda root: [tmp_path, own_folder])
    for number, folder in enumerate((tmp_path, own_folder, tmp_path)):
        torch.manual_seed(number)
        trained = classifier.named(Classifier((1, 16, 16), 4).eval(), 0.5)
        file = classifier.keep(trained, data, [folder])
        os.utime(file, (number, number))
        assert classifier.kept_file(data) == file and classifier.kept(data).features.name == trained.features.name


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_classes", 2**40, "the model is larger than its checkpoint"), ("num_classes", 4.0, "no number of classes"),
        ("num_classes", 0, "no number of classes"), ("num_classes", True, "no number of classes"),
        ("image_shape", [1, 2**30, 2**30], "of another shape"), ("image_shape", [10**9, 16, 16], "of another shape"),
        ("image_shape", 3, "of another shape"), ("accuracy", "a", "could not convert"), ("accuracy", [], "must be"),
        ("data", "1" * 16, "its checksum is another"), ("name", "classifier-1", "its checksum is another"),
    ],
)  # fmt: skip
def test_a_classifier_that_came_with_data_of_somebody_else(key, value, said, own_folder):
    """One line, and no more memory than its file."""
    data = synthetic()
    file = classifier.keep(classifier.named(Classifier((1, 16, 16), 4).eval(), 0.5), data, [own_folder])
    content = torch.load(file, weights_only=True)
    content["classifier"][key] = value
    torch.save(content, file)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=f"^{file} is damaged: .*{said}") as error:
        classifier.kept(data)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes"


def test_images_of_one_class_have_no_classifier():
    data = synthetic()
    data.train.images.y.zero_()
    with pytest.raises(UserError, match="have one class"):
        classifier.train(data, 1, plain)


def test_large_images_are_halved_more_often_by_their_shorter_side():
    for side, halvings in ((8, 1), (28, 2), (32, 2), (55, 2), (64, 3), (128, 4)):
        strides = [layer.stride for layer in Classifier((3, side, 2 * side), 5).body if isinstance(layer, nn.Conv2d)]
        assert sum(stride == (2, 2) for stride in strides) == halvings
    widths = [layer.out_channels for layer in Classifier((3, 128, 128), 5).body if isinstance(layer, nn.Conv2d)]
    assert widths == [32, 32, 64, 64, 128, 128, 128, 128, 128]


def test_a_checksum_is_of_names_and_numbers():
    numbers = nn.Parameter(torch.arange(3.0))
    found = [nn.ParameterDict({name: numbers}) for name in ("a", "b")] + [nn.ParameterDict({"a": numbers + 1})]
    assert len({checksum(module) for module in found}) == 3


# Pixels


def test_pixels_keep_the_distances_that_few_directions_make():
    """Images in a plane: two components hold all of it."""
    basis = torch.randn(2, 3, 4, 4)
    x = torch.einsum("nk,kchw->nchw", torch.randn(50, 2), basis) + 0.5
    features = Pixels(x)
    assert features.name == f"pixels-{checksum(features)}" != Pixels(x / 2).name and features(x).shape == (50, 48)
    found, pixels = features(x).double(), x.flatten(1).double()
    assert torch.allclose(torch.cdist(found, found), torch.cdist(pixels, pixels), atol=1e-4)
    assert torch.allclose(features(x).mean(0), torch.zeros(48), atol=1e-5)
    assert torch.equal(Pixels(x).components, features.components)
    assert Pixels(torch.rand(100, 3, 8, 8))(torch.rand(2, 3, 8, 8)).shape == (2, 64)


def test_components_are_found_from_the_same_directions_each_time():
    """Those of seed 0: figures by pixels can be compared from machine to machine, and by another version."""
    x = torch.rand(90, 1, 12, 12)
    with fixed_noise(0, torch.device("cpu")):
        expected = torch.pca_lowrank(x.flatten(1), 64, niter=4)[2]
    assert torch.equal(Pixels(x).components, expected)


# Networks of torchvision


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in a file, as torchvision distributes trained ones."""
    return random_weights(SMALL, tmp_path_factory.mktemp("weights") / "weights.pth")


def random_weights(kind, file):
    """With statistics of images in the layers that normalize: without them all features would be near 0."""
    torch.manual_seed(1)
    network = models.get_model(kind, weights=None)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))
    torch.save(network.state_dict(), file)
    return file


def test_a_network_describes_by_what_its_last_layer_reads(weights):
    features = Network(SMALL, weights)
    x = torch.rand(2, 3, 224, 224)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    network = models.get_model(SMALL, weights=None).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    expected = network((x - mean[:, None, None]) / std[:, None, None])
    assert torch.allclose(network.fc(features(x)), expected, atol=1e-5)
    assert features.name == f"{SMALL}-{checksum(network)}" and features.slow


def test_a_network_sees_grey_images_in_three_channels_at_its_own_size(weights):
    features = Network(SMALL, weights)
    x = torch.rand(2, 1, 28, 20)
    assert torch.allclose(features(x), features(x.expand(-1, 3, -1, -1)))
    large = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    assert torch.allclose(features(x), features(large), atol=1e-5)
    assert torch.equal(features(torch.cat([x, x + 1], 1)), features(x))  # grey with an alpha channel
    colour = torch.rand(2, 4, 8, 8)
    assert torch.equal(features(colour), features(colour[:, :3]))


def test_large_images_become_smaller_without_aliasing(weights):
    features, x = Network(SMALL, weights), torch.rand(2, 3, 500, 300)
    small = torch.nn.functional.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    assert torch.allclose(features(x), features(small), atol=1e-5)
    assert not torch.allclose(features(x), features(torch.nn.functional.interpolate(x, (224, 224))), atol=1e-3)


def test_of_several_linear_layers_the_last_one_counts(tmp_path):
    kind = "mobilenet_v3_small"
    file, network = random_weights(kind, tmp_path / "weights.pth"), models.get_model(kind, weights=None).eval()
    network.load_state_dict(torch.load(file, weights_only=True))
    features, x = Network(kind, file), torch.rand(1, 3, 224, 224)
    mean, std = features.mean, features.std
    found = features(x)
    assert found.shape == (1, network.classifier[3].in_features) != (1, network.classifier[0].in_features)
    assert torch.allclose(network.classifier[3](found), network((x - mean) / std), atol=1e-5)


def test_weights_are_looked_for_where_torch_keeps_them_and_never_fetched(tmp_path, monkeypatch, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it is fetched"))
    with pytest.raises(UserError, match="not on this machine, and are not fetched unasked"):
        Network(SMALL)
    name = models.get_model_weights(SMALL).DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / name).write_bytes(weights.read_bytes())
    assert Network(SMALL).name == Network(SMALL, weights).name


@pytest.mark.parametrize("kind", ["googlenet", "inception_v3"])
def test_networks_with_weights_of_tensorflow_squash_their_input(kind, monkeypatch, weights):
    """As torchvision itself makes them for its weights."""
    made, get_model = [], models.get_model
    monkeypatch.setattr(features_module, "get_model", lambda *what, **how: made.append(how) or get_model(SMALL))
    Network(kind, weights)
    assert made == [{"weights": None, "transform_input": True, "init_weights": False}]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("inception", "must be classifier, pixels, or a network of torchvision"), ("r3d_18", "must be classifier"),
        ("fasterrcnn_resnet50_fpn", "must be classifier"), ("resnet18", "does not hold the weights of torchvision's"),
        ("squeezenet1_1", "does not hold"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be(kind, said, weights):
    with pytest.raises(UserError, match=said):
        Network(kind, weights)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        Network(SMALL, tmp_path / "none.pth")


# The word


def test_a_word_chooses_features(weights, own_folder):
    levels = synthetic()
    cfg = config("data=synthetic", "data.num_classes=4", "data.image_shape=[1,16,16]", "data.source.train_size=200")
    data = make(cfg, "data")
    data.setup()
    with pytest.raises(UserError, match="python -m cvae features RUN, or say --features pixels"):
        chosen("classifier", data, lambda: levels)
    trained = classifier.train(levels, 1, plain)
    classifier.keep(trained, levels, [own_folder])
    features, accuracy = chosen("classifier", data, lambda: levels)
    assert features.name == trained.features.name and accuracy == trained.accuracy
    features, accuracy = chosen("pixels", data, lambda: pytest.fail("levels are not needed"))
    assert features.name.startswith("pixels-") and accuracy is None
    features, accuracy = chosen(f"{SMALL}:{weights}", data, lambda: pytest.fail("levels are not needed"))
    assert features.name.startswith(SMALL) and accuracy is None


def test_pixels_are_of_training_images_drawn_by_seed_0(monkeypatch):
    """As the files have them, and no more than 10,000."""
    assert FITTED == 10_000
    monkeypatch.setattr(real_module, "FITTED", 30)
    words = ["data.image_shape=[1,16,16]", "data.source.train_size=200", "data.invert=true", "data.binarization=none"]
    data = make(config("data=synthetic", *words), "data")
    data.setup()
    rows = in_order(200, 30, 0).tolist()
    assert len(set(rows)) == 30 and rows != sorted(rows)
    expected = Pixels(1 - data.batch("train", rows)[0])
    assert chosen("pixels", data, lambda: pytest.fail("levels are not needed"))[0].name == expected.name
