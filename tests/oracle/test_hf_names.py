"""Files that transformers itself writes: the same weights come out, and they compute what its ViTModel computes."""

import numpy as np
import pytest

from geal_edge.export.parity import reference_forward
from geal_edge.models.weights import load_weights
from tests.tiny import NORM, random_frames

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIDE = 32


@pytest.fixture(scope="module")
def model():
    """A ViTModel in which everything matters: no bias is 0, no gain is 1."""
    config = transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=192,
        image_size=SIDE,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * parameter[0].numel() ** -0.25)
    return model


def test_what_transformers_saves_is_read_from_both_kinds_of_file(model, tmp_path):
    from safetensors.torch import load_file

    model.save_pretrained(tmp_path)
    # transformers 5 has other names in memory than in its files, and writes no .bin any more: the hub's have the files' names
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    classifier = transformers.ViTForImageClassification(model.config)
    classifier.vit.load_state_dict(model.state_dict(), strict=False)
    classifier.save_pretrained(tmp_path / "classifier")

    weights = load_weights(tmp_path / "model.safetensors")
    assert weights.geometry.name == "ViT-128x3/8"
    assert weights.dropped == ("pooler.dense.bias", "pooler.dense.weight")
    assert load_weights(tmp_path / "pytorch_model.bin").digest == weights.digest
    assert load_weights(tmp_path / "classifier" / "model.safetensors").digest == weights.digest
    assert load_weights(tmp_path / "classifier" / "model.safetensors").dropped == (
        "classifier.bias",
        "classifier.weight",
    )


def test_the_second_last_layer_is_the_one_that_transformers_computes(model, tmp_path):
    model.save_pretrained(tmp_path)
    frames = random_frames(2, SIDE, SIDE)
    ours = reference_forward(
        load_weights(tmp_path / "model.safetensors"), frames, tap="norm", cls_embedding=True, **NORM
    )

    pixels = (frames / 255.0 - np.array(NORM["mean"])) / np.array(NORM["std"])
    with torch.no_grad():
        double = model.double()
        theirs = double(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), output_hidden_states=True)
        tokens = double.layernorm(theirs.hidden_states[-2])[:, 1:]
    model.float()
    assert np.abs(ours["patch_features"] - tokens.numpy()).max() < 1e-9
    assert np.abs(ours["cls_embedding"] - theirs.last_hidden_state[:, 0].numpy()).max() < 1e-9
