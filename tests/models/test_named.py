"""Networks of timm and torchvision by name."""

import sys

import pytest
import torch

from atlas_fast import models
from atlas_fast.errors import UserError


@pytest.mark.parametrize("name, channels, size", [
    ("timm:resnet18", 1, 16), ("timm:vit_tiny_patch16_224", 3, 32), ("timm:mobilenetv3_small_050.lamb_in1k", 3, 32),
    ("torchvision:resnet18", 1, 16), ("torchvision:squeezenet1_1", 4, 24)])
def test_a_named_network_takes_the_images_and_has_the_classes(name, channels, size):
    pytest.importorskip(name.split(":")[0])
    torch.manual_seed(0)
    model = models.create(name, 7, channels, size).eval()
    x = torch.rand(2, channels, size, size)
    assert model(x).shape == (2, 7)
    torch.manual_seed(0)
    again = models.create(name, 7, channels, size).eval()
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)


def test_the_networks_are_the_libraries_own():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet18(num_classes=5)
    with torch.device("meta"):
        ours = models.create("torchvision:resnet18", 5, 3, 32)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    stem = models.create("torchvision:resnet18", 5, 1, 32).conv1
    assert (stem.in_channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, stem.bias) == \
        (1, 64, (7, 7), (2, 2), (3, 3), None)


def test_networks_with_auxiliary_heads_have_one_output_in_training():
    pytest.importorskip("torchvision")
    for name in ("googlenet", "inception_v3"):
        with torch.device("meta"):
            model = models.create(f"torchvision:{name}", 4, 2, 299).train()
            assert model(torch.empty(2, 2, 299, 299)).shape == (2, 4)


@pytest.mark.parametrize("name", ["convnext_tiny", "densenet121", "efficientnet_b0", "maxvit_t", "mnasnet0_5",
                                  "mobilenet_v3_small", "shufflenet_v2_x0_5", "swin_t", "vgg11"])
def test_a_family_of_torchvision_takes_two_channels(name):
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        assert models.create(f"torchvision:{name}", 4, 2, 224).eval()(torch.empty(1, 2, 224, 224)).shape == (1, 4)


@pytest.mark.parametrize("name, sentence", [
    ("timm:resnet-18", "has no model 'resnet-18'"), ("timm:", "has no model ''"),
    ("timm:hf_hub:someone/some_net", "has no model 'hf_hub"), ("torchvision:resnet", "near: resnet101"),
    ("torchvision:fcn_resnet50", "no classification model"), ("torchvision:raft_small", "no classification model"),
    ("torchvision:vit_b_16", "of 3 pixels")])
def test_unusable_names_are_refused_in_a_sentence(name, sentence):
    pytest.importorskip(name.split(":")[0])
    with pytest.raises(UserError) as error:
        models.create(name, 10, 3, 3)
    assert sentence in str(error.value)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_missing_library_names_the_command(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"needs {library}: pip install {library}"):
        models.create(f"{library}:resnet18", 10)
