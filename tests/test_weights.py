"""The one loader: every format gives the same weights, every wrong file gives one clear sentence."""

import io
import os
import struct
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geal_edge.errors import (
    GealEdgeError,
    MissingDependency,
    UnsafeCheckpoint,
    UsageError,
    WeightsError,
    WeightsMismatch,
)
from geal_edge.models.checkpoint import open_checkpoint
from geal_edge.models.vit import LAYER_NORM_EPS, VIT_S16, Geometry
from geal_edge.models.weights import load_weights, untrained, weights_digest
from tests.torch_files import Call, Global, Tensor, legacy_file, zip_file
from tests.web import safetensors_bytes

TINY = Geometry(patch_size=4, embed_dim=64, depth=2, mlp_dim=128, trained_grid=(2, 2))
WEIGHTS = untrained(1, TINY)
BFLOAT16_ERROR = 2.0**-8  # of the nearest: half of the last of its 8 bits


def as_bfloat16(array):
    """The nearest bfloat16, as the integers that a file holds."""
    return ((array.view(np.uint32) + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)


def as_hugging_face(tensors, prefix=""):
    """The same numbers as `transformers` saves a ViTModel, or with `prefix` inside a ViTForImageClassification."""
    parts = {
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
    }
    theirs = {}
    for name, array in tensors.items():
        if name in outside:
            theirs[prefix + outside[name]] = array
            continue
        _, block, inside = name.split(".", 2)
        part, kind = inside.rsplit(".", 1)
        layer = f"{prefix}encoder.layer.{block}"
        if part == "attn.qkv":
            d = len(array) // 3
            for i, which in enumerate(("query", "key", "value")):
                theirs[f"{layer}.attention.attention.{which}.{kind}"] = array[i * d : (i + 1) * d]
        else:
            theirs[f"{layer}.{parts[part]}.{kind}"] = array
    return theirs


@pytest.fixture
def load(tmp_path):
    """Write bytes to a file and load it."""

    def write_and_load(data, name="checkpoint.pth"):
        path = tmp_path / name
        path.write_bytes(data)
        return load_weights(path)

    return write_and_load


def full_checkpoint(**changes):
    """What DINO's training saves: DDP's student, the bare teacher, both with a projection head, and everything else."""
    head = {"head.mlp.0.weight": np.ones((8, 64), np.float32), "head.last_layer.weight_g": np.ones((9, 1), np.float32)}
    teacher = {**{f"backbone.{name}": array for name, array in WEIGHTS.tensors.items()}, **head}
    student = {f"module.{name}": np.zeros_like(array) for name, array in list(teacher.items())[:5]}
    dtype = Call(Global("numpy", "dtype"), ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    scalar = Call(
        Global("numpy._core.multiarray", "scalar"), (dtype, Call(Global("_codecs", "encode"), ("\0" * 8, "latin1")))
    )
    content = {
        "student": student,
        "teacher": Call(
            Global("collections", "OrderedDict"), (), items=teacher, state={"_metadata": {"": {"version": 1}}}
        ),
        "optimizer": {
            "state": {0: {"step": 7, "exp_avg": np.zeros(3, np.float32)}},
            "param_groups": [{"lr": scalar, "betas": (0.9, 0.999), "params": [0, 1]}],
        },
        "epoch": 100,
        "args": Call(
            Global("argparse", "Namespace"), (), new=True, state={"arch": "vit_small", "lr": 0.0005, "gpu": 0}
        ),
        "dino_loss": {"center": np.zeros((1, 9), np.float32)},
        "fp16_scaler": {"scale": 65536.0, "_growth_tracker": 12},
    }
    return {**content, **changes}


# Formats.


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(zip_file(WEIGHTS.tensors), id="zip"),
        pytest.param(zip_file(WEIGHTS.tensors, byteorder=None, name="dino_deitsmall16"), id="zip before byte orders"),
        pytest.param(
            zip_file({name: array.astype(">f4") for name, array in WEIGHTS.tensors.items()}, byteorder=b"big"),
            id="big-endian zip",
        ),
        pytest.param(legacy_file(WEIGHTS.tensors), id="legacy"),
        pytest.param(zip_file(full_checkpoint()), id="full checkpoint, zip"),
        pytest.param(legacy_file(full_checkpoint()), id="full checkpoint, legacy"),
        pytest.param(zip_file({"teacher": {f"module.backbone.{n}": a for n, a in WEIGHTS.tensors.items()}}), id="DDP"),
        pytest.param(zip_file({n: a.astype(np.float64) for n, a in WEIGHTS.tensors.items()}), id="float64"),
        pytest.param(safetensors_bytes(WEIGHTS.tensors), id="safetensors"),
        pytest.param(safetensors_bytes(dict(reversed(WEIGHTS.tensors.items()))), id="another order"),
        pytest.param(
            safetensors_bytes({n: a.astype(np.float64) for n, a in WEIGHTS.tensors.items()}), id="float64 safetensors"
        ),
    ],
)
def test_the_same_weights_come_out_of_every_format(load, data):
    weights = load(data)

    assert weights.digest == WEIGHTS.digest
    assert weights.geometry == TINY
    assert (weights.origin, weights.untrained) == ("checkpoint.pth", False)
    assert list(weights.tensors) == list(TINY.tensor_shapes())
    for name, array in weights.tensors.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert np.array_equal(array, WEIGHTS.tensors[name])


@pytest.mark.parametrize("file", [zip_file, legacy_file, safetensors_bytes])
def test_float16_is_read_exactly(load, file):
    weights = load(file({name: array.astype(np.float16) for name, array in WEIGHTS.tensors.items()}))

    for name, array in weights.tensors.items():
        assert np.array_equal(array, WEIGHTS.tensors[name].astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("file", ["safetensors", "zip", "legacy"])
def test_bfloat16_needs_neither_torch_nor_another_package(load, file):
    halves = {name: as_bfloat16(array) for name, array in WEIGHTS.tensors.items()}
    if file == "safetensors":
        weights = load(safetensors_bytes(halves))
    else:
        tensors = {name: Tensor(array, storage="BFloat16Storage") for name, array in halves.items()}
        weights = load((zip_file if file == "zip" else legacy_file)(tensors))

    for name, array in weights.tensors.items():
        assert np.allclose(array, WEIGHTS.tensors[name], rtol=BFLOAT16_ERROR, atol=0)


def test_our_safetensors_are_those_of_the_package():
    package = pytest.importorskip("safetensors.numpy")

    loaded = package.load(safetensors_bytes(WEIGHTS.tensors))
    assert all(np.array_equal(loaded[name], array) for name, array in WEIGHTS.tensors.items())


@pytest.mark.parametrize("file", [zip_file, legacy_file])
def test_views_of_a_storage_are_read_as_torch_meant_them(load, file):
    tensors: dict[str, object] = dict(WEIGHTS.tensors)
    transposed = np.ascontiguousarray(WEIGHTS.tensors["blocks.0.mlp.fc1.weight"].T)
    tensors["blocks.0.mlp.fc1.weight"] = Tensor(transposed, shape=(128, 64), strides=(1, 128))
    channels_last = np.ascontiguousarray(WEIGHTS.tensors["patch_embed.proj.weight"].transpose(0, 2, 3, 1))
    tensors["patch_embed.proj.weight"] = Tensor(channels_last, shape=(64, 3, 4, 4), strides=(48, 1, 12, 3))
    # three tensors of one storage, one of them every second element of it
    norms = np.stack([WEIGHTS.tensors[f"norm.{part}"] for part in ("weight", "bias")], axis=1).ravel()
    flat = np.concatenate([norms, WEIGHTS.tensors["blocks.1.norm1.weight"]])
    tensors["norm.weight"] = Tensor(flat, shape=(64,), strides=(2,))
    tensors["norm.bias"] = Tensor(flat, shape=(64,), strides=(2,), offset=1)
    tensors["blocks.1.norm1.weight"] = Tensor(flat, shape=(64,), strides=(1,), offset=128)

    assert load(file(tensors)).digest == WEIGHTS.digest


def test_the_teacher_is_taken_and_both_heads_are_named(load):
    weights = load(zip_file(full_checkpoint()))

    assert weights.dropped == ("head.last_layer.weight_g", "head.mlp.0.weight")
    assert np.array_equal(weights.tensors["cls_token"], WEIGHTS.tensors["cls_token"])


def test_a_classifier_head_is_dropped_and_named(load):
    head = {"head.weight": np.zeros((10, 64), np.float32), "head.bias": np.zeros(10, np.float32)}

    assert load(safetensors_bytes({**WEIGHTS.tensors, **head})).dropped == ("head.bias", "head.weight")


def test_a_trained_checkpoint_of_timm_is_read(shared):
    path = shared / "data" / "weights" / "vit_tiny_patch16_224.safetensors"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    pytest.importorskip("safetensors")

    weights = load_weights(str(path))
    assert weights.geometry.name == "ViT-T/16"
    assert weights.geometry.trained_grid == (14, 14)
    assert weights.dropped == ("head.bias", "head.weight")
    assert (weights.origin, weights.untrained) == ("vit_tiny_patch16_224.safetensors", False)
    assert weights.digest == weights_digest(weights.tensors)


def test_without_the_package_safetensors_the_command_that_installs_it_is_named(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)

    with pytest.raises(MissingDependency, match=r"pip install 'geal-edge\[export\]'"):
        load(safetensors_bytes(WEIGHTS.tensors))
    assert load(zip_file(WEIGHTS.tensors)).digest == WEIGHTS.digest


# Geometry and mismatch.


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(patch_size=8, embed_dim=128, depth=3, mlp_dim=64, trained_grid=(1, 1)),
        Geometry(patch_size=14, embed_dim=64, depth=2, mlp_dim=65, trained_grid=(5, 5)),
        Geometry(patch_size=1, embed_dim=64, depth=12, mlp_dim=1, trained_grid=(3, 3)),
    ],
)
def test_the_geometry_is_what_the_shapes_say(load, geometry):
    weights = untrained(0, geometry)

    assert load(zip_file(weights.tensors)).geometry == geometry


def test_missing_unexpected_and_misshapen_tensors_are_all_listed_at_once(load):
    tensors = dict(WEIGHTS.tensors)
    del tensors["norm.bias"], tensors["blocks.1.attn.qkv.bias"]
    tensors["fc_norm.weight"] = np.zeros(64, np.float32)
    tensors["norm.weight"] = np.zeros(63, np.float32)
    tensors["cls_token"] = tensors["cls_token"].astype(np.int64)

    with pytest.raises(WeightsMismatch) as refused:
        load(safetensors_bytes(tensors))
    message = str(refused.value)
    assert "missing (2): blocks.1.attn.qkv.bias, norm.bias;" in message
    assert "unexpected (1): fc_norm.weight;" in message
    assert "misshapen (2): cls_token is I64 (1, 1, 64) and must be floating point (1, 1, 64), norm.weight is" in message
    assert "checkpoint.pth" in message
    assert "dino_deitsmall16_pretrain.pth" in message


def test_of_many_faults_the_first_ten_are_listed_and_all_are_counted(load):
    extra = {f"extra.{i:02}": np.zeros(1, np.float32) for i in range(25)}

    with pytest.raises(WeightsMismatch, match=r"unexpected \(25\): extra.00, .*, extra.09 and 15 more\."):
        load(zip_file({**WEIGHTS.tensors, **extra}))


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"pos_embed": (1, 6, 64)}, "6 tokens"),
        ({"pos_embed": (1, 1, 64)}, "1 tokens"),
        ({"pos_embed": (5, 64)}, "not 3 sides"),
        ({"patch_embed.proj.weight": (65, 3, 4, 4)}, "65 is not a multiple of 64"),
        ({"patch_embed.proj.weight": (0, 3, 4, 4)}, "not a multiple of 64"),
        ({"patch_embed.proj.weight": (64, 3, 0, 0)}, "no size"),
        ({"patch_embed.proj.weight": (64, 3, 4, 8)}, "misshapen"),
        ({"patch_embed.proj.weight": (64, 48)}, "not 4 sides"),
        ({"blocks.0.mlp.fc1.weight": (0, 64)}, "no width"),
    ],
)
def test_shapes_of_no_such_vit_are_refused(load, changed, words):
    tensors = {**WEIGHTS.tensors, **{name: np.zeros(shape, np.float32) for name, shape in changed.items()}}

    with pytest.raises(WeightsMismatch, match=words):
        load(zip_file(tensors))


def test_a_vit_without_a_last_but_one_block_is_refused(load):
    one_block = {name: array for name, array in WEIGHTS.tensors.items() if not name.startswith("blocks.1.")}

    with pytest.raises(WeightsMismatch, match="1 block"):
        load(zip_file(one_block))


def test_blocks_with_a_gap_are_refused_not_renumbered(load):
    gap = {name.replace("blocks.1.", "blocks.7."): array for name, array in WEIGHTS.tensors.items()}

    with pytest.raises(WeightsMismatch, match=r"missing \(12\): blocks.1.*unexpected \(12\): blocks.7"):
        load(zip_file(gap))


def test_a_name_given_twice_by_its_prefixes_is_refused(load):
    with pytest.raises(WeightsMismatch, match=r"two tensors are both 'norm\.bias'"):
        load(zip_file({**WEIGHTS.tensors, "backbone.norm.bias": WEIGHTS.tensors["norm.bias"]}))


def test_a_student_alone_is_refused(load):
    content = full_checkpoint()
    del content["teacher"]

    with pytest.raises(WeightsMismatch, match="student but no teacher"):
        load(zip_file(content))


@pytest.mark.parametrize(
    "content, words",
    [
        ({"model": dict(WEIGHTS.tensors), "epoch": 3}, "no tensors where they were expected, but 'model', 'epoch'"),
        ({}, "but nothing"),
        (["cls_token"], "a list where a state dict"),
        (WEIGHTS.tensors["cls_token"], "a tensor where"),
        (full_checkpoint(teacher=3), "no tensors where"),
        (dict[Any, Any](WEIGHTS.tensors) | {"epoch": 3, ("a",): 1, 7: 1}, r"unexpected \(2\): 7, epoch"),
        ({**WEIGHTS.tensors, "norm.bias": 3}, "norm.bias is not a tensor"),
        ({**WEIGHTS.tensors, "head.\ud800\n": WEIGHTS.tensors["cls_token"]}, r"unexpected \(1\): 'head.\\ud800\\n'"),
    ],
)
def test_a_checkpoint_of_other_content_is_refused(load, content, words):
    with pytest.raises(WeightsMismatch, match=words) as refused:
        load(zip_file(content))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_tensor_that_is_not_finite_is_named(load, value):
    tensors = {name: array.astype(np.float64) for name, array in WEIGHTS.tensors.items()}
    tensors["blocks.1.norm2.bias"][3] = value

    with pytest.raises(WeightsError, match=r"blocks\.1\.norm2\.bias.*not finite"):
        load(safetensors_bytes(tensors))


# Hugging Face's names.


@pytest.mark.parametrize("file", [safetensors_bytes, zip_file, legacy_file])
@pytest.mark.parametrize("prefix", ["", "vit."])
def test_hugging_faces_names_give_the_same_weights(load, file, prefix):
    weights = load(file(as_hugging_face(WEIGHTS.tensors, prefix)), name="pytorch_model.bin")

    assert weights.digest == WEIGHTS.digest
    assert weights.geometry == TINY
    assert weights.dropped == ()
    for name, array in weights.tensors.items():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert np.array_equal(array, WEIGHTS.tensors[name])


def test_a_vit_small_has_198_tensors_in_hugging_faces_way(load):
    """facebook/dino-vits16: 150, and two more for each of 24 joined ones."""
    small = untrained(3, Geometry(patch_size=2, embed_dim=64, depth=12, mlp_dim=64, trained_grid=(1, 1)))
    theirs = as_hugging_face(small.tensors)

    assert len(theirs) == 198
    assert load(safetensors_bytes(theirs)).digest == small.digest


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_a_pooler_and_a_classifier_are_dropped_and_named(load, prefix):
    theirs = as_hugging_face(WEIGHTS.tensors, prefix)
    theirs |= {f"{prefix}pooler.dense.weight": np.ones((64, 64), np.float32), "classifier.bias": np.ones(7, np.float32)}

    weights = load(safetensors_bytes(theirs))
    assert weights.dropped == ("classifier.bias", f"{prefix}pooler.dense.weight")
    assert weights.digest == WEIGHTS.digest


def test_a_config_beside_the_file_changes_nothing(load, tmp_path):
    (tmp_path / "config.json").write_text('{"layer_norm_eps": 1e-12, "num_attention_heads": 7}')

    assert load(safetensors_bytes(as_hugging_face(WEIGHTS.tensors))).digest == WEIGHTS.digest
    assert LAYER_NORM_EPS == 1e-6


def test_what_is_wrong_is_listed_under_hugging_faces_names(load):
    theirs = as_hugging_face(WEIGHTS.tensors)
    key = "encoder.layer.1.attention.attention.key.bias"
    query = "encoder.layer.0.attention.attention.query.weight"
    del theirs[key]
    theirs |= {query: np.zeros((65, 64), np.float32), "embeddings.mask_token": np.zeros((1, 1, 64), np.float32)}

    with pytest.raises(WeightsMismatch) as refused:
        load(safetensors_bytes(theirs))
    message = str(refused.value)
    assert f"missing (1): {key}; unexpected (1): embeddings.mask_token; misshapen (1): {query} is" in message
    assert "Hugging Face's tensor names" in message


@pytest.mark.parametrize(
    "extra, words",
    [
        ({"norm.weight": (64,)}, r"unexpected \(1\): norm\.weight"),
        ({"blocks.0.attn.qkv.bias": (192,)}, r"unexpected \(1\): blocks\.0"),
        ({"vit.layernorm.bias": (64,)}, r"two tensors are both 'layernorm\.bias'"),
        ({"encoder.layer.2.output.dense.bias": (64,)}, r"missing \(15\): encoder\.layer\.2"),
        ({"embeddings.position_embeddings": (1, 6, 64)}, "6 tokens"),
    ],
)
def test_a_mixture_of_names_is_refused(load, extra, words):
    added = {name: np.zeros(shape, np.float32) for name, shape in extra.items()}

    with pytest.raises(WeightsMismatch, match=words):
        load(safetensors_bytes(as_hugging_face(WEIGHTS.tensors) | added))


def test_another_network_of_hugging_face_is_refused(load):
    bert = {"bert.embeddings.word_embeddings.weight": np.zeros((9, 8), np.float32)}
    theirs = {"embeddings.word_embeddings.weight": np.zeros((9, 8), np.float32)}

    for names in (bert, theirs):
        with pytest.raises(WeightsMismatch, match="not a DINO ViT: it lacks"):
            load(safetensors_bytes(names))


# Wrong files.


def test_a_file_that_names_code_is_refused_and_nothing_runs(load, tmp_path):
    proof = tmp_path / "proof"
    content = full_checkpoint(args=Call(Global("os", "mkdir"), (str(proof),)))

    for file in (zip_file, legacy_file):
        with pytest.raises(UnsafeCheckpoint, match=r"'os\.mkdir'"):
            load(file(content))
    assert not proof.exists()


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "empty file"),
        (b"  <!DOCTYPE html><html><title>Sign in</title></html>", "a web page"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"Entry not found", "neither a torch checkpoint nor safetensors.*Entry not found"),
        (b"\x08\x0a\x12\x07pytorch", "neither"),
        (b"\x1f\x8b\x08" + bytes(30), "neither"),
        (b"\x80", "stops making sense"),
        (b"\x80\x04}.", "torch.save did not write"),
        (b"\x80\x02K\x07.", "torch.save did not write"),
        (legacy_file(WEIGHTS.tensors, protocol=1002), "unknown version"),
        (legacy_file(WEIGHTS.tensors, keys=["1"]), "list of storages"),
        (legacy_file(WEIGHTS.tensors, keys=[]), "is missing"),
        (legacy_file(WEIGHTS.tensors, keys=3), "not a list"),
        (legacy_file(WEIGHTS.tensors, cut=1), "damaged or cut off"),
        (legacy_file(WEIGHTS.tensors, cut=100_000), "damaged or cut off"),
        (legacy_file({"cls_token": Tensor(np.zeros(8, np.float32), view=("1", 2, 4))}), "view of a storage"),
        (zip_file(WEIGHTS.tensors)[:-30], "damaged or cut off"),
        (zip_file(WEIGHTS.tensors)[:50_000], "damaged or cut off"),
        (zip_file(WEIGHTS.tensors, byteorder=b"middle"), "byte order"),
        (zip_file(WEIGHTS.tensors, constants__pkl=b""), "TorchScript"),
        (zip_file(WEIGHTS.tensors, name="a/b"), "has 0 data.pkl"),
        (safetensors_bytes(WEIGHTS.tensors)[:-1], "damaged or cut off"),
        (safetensors_bytes(WEIGHTS.tensors) + b"\0", "damaged or cut off"),
        (safetensors_bytes(WEIGHTS.tensors)[:9], "damaged or cut off"),
        (struct.pack("<Q", 1 << 62) + safetensors_bytes(WEIGHTS.tensors)[8:], "damaged or cut off"),
        (safetensors_bytes(WEIGHTS.tensors).replace(b"[64, 3, 4, 4]", b"[64, 3, 4, 5]"), "damaged or cut off"),
        (safetensors_bytes(WEIGHTS.tensors).replace(b'"F32"', b'"F99"', 1), "damaged or cut off"),
        (safetensors_bytes(WEIGHTS.tensors).replace(b'"F32"', b'"F\x7f2"', 1), "damaged or cut off"),
        (safetensors_bytes({}), "has no tensors"),
    ],
)
def test_a_wrong_file_is_one_clear_sentence(load, data, words):
    with pytest.raises(WeightsError, match=words) as refused:
        load(data, name="weights.bin")
    message = str(refused.value)
    assert "weights.bin: " in message
    assert message.endswith(".")
    assert message.isprintable()


def test_a_compressed_archive_is_refused_before_it_is_unpacked(load):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"(" * 5_000_000)

    with pytest.raises(WeightsError, match="compressed"):
        load(buffer.getvalue())


def test_an_archive_that_was_changed_after_saving_is_noticed(load):
    data = zip_file(WEIGHTS.tensors)
    somewhere = data.index(WEIGHTS.tensors["blocks.1.attn.qkv.weight"].tobytes()) + 1000
    flipped = data[:somewhere] + bytes([data[somewhere] ^ 1]) + data[somewhere + 1 :]

    with pytest.raises(WeightsError, match=r"blocks\.1\.attn\.qkv\.weight.*CRC"):
        load(flipped)


@pytest.mark.parametrize("file", [zip_file, legacy_file])
@pytest.mark.parametrize(
    "changed",
    [
        {"offset": 1},
        {"strides": (0, 0, 2)},
        {"shape": (1, 1, 65)},
        {"shape": (1, 1 << 40, 1 << 40), "strides": (0, 0, 0)},
        {"shape": (2, 1, 64), "strides": (0, 0, 1)},
        {"numel": 1 << 40, "shape": (1, 1, 1 << 40)},
        {"offset": 1 << 47},
    ],
    ids=str,
)
def test_a_view_that_leaves_its_storage_or_repeats_it_is_refused(load, file, changed):
    view = Tensor(np.zeros((1, 1, 64), np.float32), **changed)

    with pytest.raises(WeightsError, match=r"does not fit|damaged or cut off|overlap"):
        load(file({**WEIGHTS.tensors, "cls_token": view}))


def test_a_storage_shorter_than_its_tensors_say_is_refused(load):
    short = Tensor(np.zeros(32, np.float32), shape=(64,), strides=(1,), numel=64)

    with pytest.raises(WeightsError, match=r"norm\.bias.*too short"):
        load(zip_file({**WEIGHTS.tensors, "norm.bias": short}))


def test_a_small_file_cannot_ask_for_much_memory(load):
    storage = np.zeros(100_000, np.float32)
    views = {f"blocks.{i}.mlp.fc1.bias": Tensor(storage, shape=(100_000,), strides=(1,)) for i in range(1000)}

    with pytest.raises(WeightsError, match="they overlap"):
        load(zip_file({**WEIGHTS.tensors, **views}))


def test_a_path_that_is_no_file_says_what_it_is(tmp_path):
    (tmp_path / "dino").mkdir()
    (tmp_path / "dino" / "model.safetensors").touch()
    os.mkfifo(tmp_path / "pipe")

    for name, words in {
        "absent.pth": "no such file.*untrained:SEED",
        "dino": "a folder.*model.safetensors",
        ".": "a folder",
        "pipe": "not a regular file",
        "dino/model.safetensors": "empty file",
        "dino/model.safetensors/x": "cannot be opened",
        "x" * 300: "cannot be opened",
        "nul\0": "cannot be opened",
    }.items():
        with pytest.raises(WeightsError, match=words):
            load_weights(tmp_path / name)
        with pytest.raises(WeightsError, match=words):
            load_weights(f"{tmp_path}/{name}")


# Anything may be wrong: only our own errors come out.

FEW = {
    "cls_token": np.arange(4, dtype=np.float32).reshape(1, 1, 4),
    "norm.bias": np.arange(3, dtype=np.float16),
}


def read_all(path: Path) -> None:
    with open_checkpoint(path) as stored:
        for tensor in stored.values():
            if tensor.dtype.startswith(("float", "bfloat")):
                assert tensor.read().shape == tensor.shape


@pytest.mark.parametrize("file", [zip_file, legacy_file, safetensors_bytes])
def test_a_file_cut_off_anywhere_is_refused(file, tmp_path):
    data, path = file(FEW), tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(GealEdgeError):
            read_all(path)


@pytest.mark.parametrize("file", [zip_file, legacy_file, safetensors_bytes])
def test_a_file_with_any_byte_changed_is_read_or_refused(file, tmp_path):
    data, path = bytearray(file(FEW)), tmp_path / "changed"
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        kept = data[position]
        data[position] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        with suppress(GealEdgeError):
            read_all(path)
        data[position] = kept


@pytest.mark.parametrize("file", [zip_file, legacy_file, safetensors_bytes])
def test_many_changed_bytes_are_read_or_refused(file, tmp_path):
    data, path = file(WEIGHTS.tensors), tmp_path / "changed"
    rng = np.random.default_rng(1)
    for _ in range(60):
        changed = bytearray(data)
        for position in rng.integers(0, len(data), 4).tolist() + rng.integers(0, 4000, 4).tolist():
            changed[position] = int(rng.integers(256))
        path.write_bytes(changed)
        with suppress(GealEdgeError):
            load_weights(path)


# Seeds and digests.


def test_an_untrained_model_is_that_of_its_seed():
    weights = load_weights("untrained:5")

    assert weights.geometry == VIT_S16
    assert (weights.untrained, weights.origin, weights.dropped) == (True, "untrained:5", ())
    assert {name: array.shape for name, array in weights.tensors.items()} == VIT_S16.tensor_shapes()
    assert sum(array.size for array in weights.tensors.values()) == 21_665_664  # DINO's ViT-S/16
    assert weights.tensors["blocks.3.attn.qkv.weight"].std() == pytest.approx(0.02, rel=0.01)
    assert weights.tensors["patch_embed.proj.weight"].std() == pytest.approx((3 * 768) ** -0.5, rel=0.01)
    assert not weights.tensors["norm.bias"].any()
    assert (weights.tensors["norm.weight"] == 1).all()


def test_a_seed_gives_the_same_weights_everywhere():
    """The digest was computed once; every numpy and Python that we support must give it."""
    assert untrained(1, TINY).digest == "sha256:418adeaf87a2c187d78ff6afab59e83fd163a2d6860dfde9097d16596ff19c0e"
    assert untrained(2, TINY).digest != untrained(1, TINY).digest


@pytest.mark.parametrize(
    "spec", ["untrained:", "untrained:x", "untrained:-1", "untrained:1.5", "untrained:" + "9" * 5000]
)
def test_a_seed_that_is_no_number_is_a_usage_error(spec):
    with pytest.raises(UsageError, match="untrained:0"):
        load_weights(spec)


def test_the_digest_is_that_of_names_shapes_and_numbers():
    tensors = dict(WEIGHTS.tensors)
    reordered = dict(reversed(tensors.items()))
    assert weights_digest(reordered) == WEIGHTS.digest
    assert weights_digest({name: array.astype(">f4") for name, array in tensors.items()}) == WEIGHTS.digest
    assert weights_digest({name: np.asfortranarray(array) for name, array in tensors.items()}) == WEIGHTS.digest

    for changed in (
        {"cls_token": np.nextafter(tensors["cls_token"], np.float32(1))},
        {"cls_token": tensors["cls_token"].reshape(1, 64, 1)},
        {"cls_token": tensors["pos_embed"], "pos_embed": tensors["cls_token"]},
    ):
        assert weights_digest({**tensors, **changed}) != WEIGHTS.digest
