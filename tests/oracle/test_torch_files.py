"""Our reader beside torch itself: what torch saves we read, what our test files say torch reads."""

import argparse
import collections
import io

import numpy as np
import pytest

from geal_edge.errors import UnsafeCheckpoint, WeightsError
from geal_edge.models.vit import Geometry
from geal_edge.models.weights import load_weights, untrained
from tests.torch_files import Call, Global, Tensor, legacy_file, zip_file

torch = pytest.importorskip("torch")

TINY = Geometry(patch_size=4, embed_dim=64, depth=2, mlp_dim=128, trained_grid=(2, 2))
WEIGHTS = untrained(1, TINY)

zipped = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def state_dict(dtype=None):
    return collections.OrderedDict(
        (name, torch.from_numpy(array.copy()).to(dtype or torch.float32)) for name, array in WEIGHTS.tensors.items()
    )


def saved(value, path, zipped, **options):
    torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
    return path


@zipped
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_saves_is_read(tmp_path, zipped, protocol):
    path = saved(state_dict(), tmp_path / "dino.pth", zipped, pickle_protocol=protocol)

    assert load_weights(path).digest == WEIGHTS.digest


@zipped
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_float_is_converted_as_torch_converts_it(tmp_path, zipped, dtype):
    state = state_dict(getattr(torch, dtype))

    weights = load_weights(saved(state, tmp_path / "dino.pth", zipped))
    for name, tensor in state.items():
        assert np.array_equal(weights.tensors[name], tensor.float().numpy())


def test_bfloat16_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    state = state_dict(torch.bfloat16)
    save_file(state, tmp_path / "model.safetensors")

    weights = load_weights(tmp_path / "model.safetensors")
    for name, tensor in state.items():
        assert np.array_equal(weights.tensors[name], tensor.float().numpy())


@zipped
def test_parameters_and_views_are_read(tmp_path, zipped):
    state = state_dict()
    state["norm.weight"] = torch.nn.Parameter(state["norm.weight"])
    weight = state["blocks.0.mlp.fc2.weight"]
    state["blocks.0.mlp.fc2.weight"] = weight.t().contiguous().t()
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].contiguous(memory_format=torch.channels_last)
    both = torch.stack([state["blocks.0.norm1.weight"], state["blocks.1.norm1.bias"]], dim=1)
    state["blocks.0.norm1.weight"], state["blocks.1.norm1.bias"] = both[:, 0], both[:, 1]
    assert not state["blocks.0.mlp.fc2.weight"].is_contiguous()
    assert not both[:, 1].is_contiguous()

    assert load_weights(saved(state, tmp_path / "dino.pth", zipped)).digest == WEIGHTS.digest


@zipped
def test_a_full_training_checkpoint_gives_its_teacher(tmp_path, zipped):
    head = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(64, 16))
    optimizer = torch.optim.AdamW(head.parameters())
    head(torch.ones(3, 64)).sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = np.linspace(0, 1, 5)[3]  # DINO's schedules are numpy arrays
    teacher = collections.OrderedDict((f"backbone.{name}", tensor) for name, tensor in state_dict().items())
    teacher.update({f"head.{name}": tensor for name, tensor in head.state_dict().items()})
    teacher._metadata = collections.OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined] # as torch's own have
    content = {
        "student": {f"module.{name}": torch.zeros_like(tensor) for name, tensor in teacher.items()},
        "teacher": teacher,
        "optimizer": optimizer.state_dict(),
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", lr=0.0005, output_dir=tmp_path, local_crops_scale=(0.05, 0.4)),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": torch.amp.GradScaler("cpu").state_dict(),
    }

    weights = load_weights(saved(content, tmp_path / "dino_full_checkpoint.pth", zipped))
    assert weights.digest == WEIGHTS.digest
    assert weights.dropped == tuple(sorted(f"head.{name}" for name in head.state_dict()))


@zipped
def test_a_whole_model_is_refused(tmp_path, zipped):
    path = saved(torch.nn.Linear(2, 2), tmp_path / "model.pth", zipped)

    with pytest.raises(UnsafeCheckpoint, match=r"'torch\.nn\.modules\.linear\.Linear'"):
        load_weights(path)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "program.pt")

    with pytest.raises(WeightsError, match="TorchScript"):
        load_weights(tmp_path / "program.pt")


@pytest.mark.parametrize("file", [zip_file, legacy_file])
def test_the_files_of_our_tests_are_files_to_torch(file):
    transposed = np.ascontiguousarray(WEIGHTS.tensors["blocks.0.mlp.fc1.weight"].T)
    tensors = {
        **WEIGHTS.tensors,
        "blocks.0.mlp.fc1.weight": Tensor(transposed, shape=(128, 64), strides=(1, 128)),
        "half": Tensor(np.array([0x3FC0], np.uint16), storage="BFloat16Storage"),
    }
    namespace = Call(Global("argparse", "Namespace"), (), new=True, state={"lr": 0.5})
    teacher = Call(Global("collections", "OrderedDict"), (), items=tensors, state={"_metadata": {}})

    loaded = torch.load(io.BytesIO(file({"teacher": teacher, "args": namespace})), weights_only=False)
    assert loaded["args"] == argparse.Namespace(lr=0.5)
    assert loaded["teacher"].pop("half").float().tolist() == [1.5]
    assert all(np.array_equal(loaded["teacher"][name].numpy(), array) for name, array in WEIGHTS.tensors.items())
