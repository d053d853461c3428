"""The restricted unpickler: what a checkpoint needs it understands, and nothing else can be made of it."""

import pickle
import pickletools
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geal_edge.errors import UnsafeCheckpoint, WeightsError
from geal_edge.models.torch_globals import FOREIGN, GLOBALS, Foreign, StorageRef, TensorRef
from geal_edge.models.unpickle import unpickle
from tests.torch_files import Call, Global, Pickle, Tensor

HERE = Path("some.pth")


def read(data: bytes) -> object:
    return unpickle(data, HERE).value


def written(value: object) -> object:
    return read(Pickle().dump(value))


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner, inner, inner) | st.tuples(inner) | st.dictionaries(st.text(), inner)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", [3, 4, 5])
@given(value=PLAIN)
@settings(max_examples=50, deadline=None)
def test_plain_values_are_read_as_python_itself_wrote_them(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


def test_protocol_2_is_read_with_its_memo():
    name = "blocks.0.norm1.weight"
    value = {"again": [name, name, name], "long": 1 << 80, "negative": -5, "twice": [(name,), (name, 1, 2.5, None)]}

    assert read(pickle.dumps(value, 2)) == value


def test_several_pickles_in_a_row_are_read_one_by_one():
    data = pickle.dumps("first", 2) + pickle.dumps("second", 2)

    first = unpickle(data, HERE)
    assert (first.value, unpickle(data, HERE, first.end).value) == ("first", "second")


def test_a_tensor_becomes_a_reference_into_its_storage():
    value = Tensor(np.zeros(12, np.float32), shape=(2, 3), strides=(1, 2), offset=4)

    ref = written(value)
    assert isinstance(ref, TensorRef)
    assert (ref.offset, ref.shape, ref.strides) == (4, (2, 3), (1, 2))
    assert (ref.storage.type.dtype, ref.storage.key, ref.storage.numel) == ("float32", "0", 12)


def test_a_parameter_is_its_tensor():
    call = Call(Global("torch._utils", "_rebuild_parameter"), (np.zeros(3, np.float32), True, {}))

    assert isinstance(written(call), TensorRef)


def test_what_a_full_checkpoint_holds_besides_is_a_placeholder():
    scalar = Call(
        Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8",), state=(3, "<")), "x")
    )
    namespace = Call(Global("argparse", "Namespace"), (), new=True, state={"lr": scalar, "seed": 0})

    value = written({"args": namespace, "lr": scalar, "epoch": 3})
    assert value == {"args": FOREIGN, "lr": FOREIGN, "epoch": 3}
    assert vars(FOREIGN) == {}


@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("argparse", "Namespace.__init__"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "FloatStorage.from_file"),
        ("torch", "load"),
        ("torch._utils", "__builtins__"),
        ("vision_transformer", "VisionTransformer"),
        ("", ""),
        ("torch\x1b[2J", "FloatStorage"),
    ],
)
@pytest.mark.parametrize("way", ["GLOBAL", "STACK_GLOBAL"])
def test_every_other_global_is_refused_by_name(module, name, way):
    text = Pickle().of
    named = f"c{module}\n{name}\n".encode() if way == "GLOBAL" else text(module) + text(name) + b"\x93"

    with pytest.raises(UnsafeCheckpoint, match="names") as refused:
        read(b"\x80\x04" + named + text(()) + b"R.")
    assert ascii(f"{module}.{name}") in str(refused.value)
    assert str(refused.value).isprintable()


def test_nothing_of_a_hostile_file_is_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "proof",))

    for protocol in range(2, 6):
        with pytest.raises(UnsafeCheckpoint):
            read(pickle.dumps({"teacher": Hostile()}, protocol))
    assert not (tmp_path / "proof").exists()


def test_no_permitted_global_is_a_python_object():
    for value in GLOBALS.values():
        assert not callable(value)


@pytest.mark.parametrize("name", ["INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "STRING", "POP"])
def test_instructions_that_no_checkpoint_needs_are_refused_by_name(name):
    code = next(op.code for op in pickletools.opcodes if op.name == name).encode("latin-1")

    with pytest.raises(UnsafeCheckpoint, match=rf"\b{name}\b"):
        read(b"\x80\x02(" + code + b"os\nsystem\n" + b".")


# A pickle that asks permitted things for what they do not do: (what is asked, the bytes behind the protocol mark).
NAMESPACE = b"cargparse\nNamespace\n"
STORAGE = b"ctorch\nFloatStorage\n"
ABUSES = {
    "a placeholder is called": NAMESPACE + b")\x81)R.",
    "a storage type is called": STORAGE + b")R.",
    "a string is called": b"X\x04\x00\x00\x00eval)R.",
    "a call without a tuple": NAMESPACE + b"]R.",
    "a dict is given items at once": b"ccollections\nOrderedDict\n](\x88\x88te\x85R.",
    "a global is given attributes": NAMESPACE + b"}b.",
    "a storage type is given attributes": STORAGE + b"}(X\x08\x00\x00\x00itemsizeK\x00ub.",
    "a string is given items": b"X\x01\x00\x00\x00a(K\x01e.",
    "a number is given entries": b"K\x01K\x02K\x03s.",
    "a parameter of nothing": b"ctorch._utils\n_rebuild_parameter\n)R.",
    "a tensor of nothing": b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a global named by numbers": b"K\x01K\x02\x93.",
    "a global named beyond ASCII": b"c\xff\xfe\nx\n.",
    "a persistent id that is a number": b"K\x01Q.",
    "a persistent id that is a module": b"(X\x06\x00\x00\x00moduleNNNNtQ.",
    "memory of a far index": b"K\x01r\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "a text of 4 GB": b"X\xff\xff\xff\xff.",
    "bytes of 2**63": b"\x8e" + b"\xff" * 8 + b".",
    "a number of 2 GB": b"\x8b\xff\xff\xff\x7f.",
    "more values than there are": b"K\x01\x87.",
    "a mark that is not open": b"t.",
    "one storage as two": b"".join(
        b"(X\x07\x00\x00\x00storage" + STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + numel + b"tQ"
        for numel in (b"\x01", b"\x02")
    ),
    "nothing at all": b".",
    "a key without a value": b"}(K\x01u.",
    "broken text": b"X\x02\x00\x00\x00\xff\xff.",
}


@pytest.mark.parametrize("abuse", ABUSES.values(), ids=ABUSES)
def test_permitted_things_cannot_be_made_to_do_more(abuse):
    with pytest.raises(WeightsError, match="damaged"):
        read(b"\x80\x02" + abuse)


@pytest.mark.parametrize(
    "changed",
    [
        {"offset": -1},
        {"offset": 1 << 60},
        {"offset": "0"},
        {"offset": True},
        {"shape": (-1, 2)},
        {"shape": (1 << 62, 2)},
        {"shape": [2, 2]},
        {"shape": (2, 2, 1)},
        {"strides": (2, -1)},
        {"shape": (1,) * 9, "strides": (1,) * 9},
        {"numel": -4},
        {"numel": 4.0},
        {"numel": 1 << 62},
    ],
)
def test_a_tensor_that_cannot_be_is_refused(changed):
    with pytest.raises(WeightsError):
        written(Tensor(np.zeros((2, 2), np.float32), **changed))


def test_a_tensor_whose_metadata_changes_its_values_is_not_taken_for_its_storage():
    assert isinstance(written(Tensor(np.zeros(2, np.float32), metadata={"neg": True})), Foreign)


def test_a_tensor_of_a_type_without_a_storage_class_is_a_placeholder():
    storage = (
        b"(" + b"".join(map(Pickle().of, ("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 4))) + b"tQ"
    )
    rest = b"".join(map(Pickle().of, (0, (2,), (1,), False, {}, Global("torch", "float16"))))

    result = unpickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n(" + storage + rest + b"tR.", HERE)
    assert result.value is FOREIGN
    assert isinstance(result.storages["0"], StorageRef)


def test_what_is_nested_beyond_measure_is_neither_followed_nor_hashed():
    deep = b")" + b"\x85" * 200_000

    assert read(b"\x80\x02}(" + deep + b"K\x01X\x01\x00\x00\x00aK\x02u.") == {"a": 2}


def test_copies_of_copies_take_no_more_memory_than_the_pickle():
    doubled = b"]q\x00" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200))

    assert isinstance(read(b"\x80\x02" + doubled + b"."), list)


def small_checkpoint() -> bytes:
    namespace = Call(Global("argparse", "Namespace"), (), new=True, state={"lr": 0.5})
    tensors = {"cls_token": np.zeros((1, 1, 4), np.float32), "norm.bias": np.zeros(4, np.float16)}
    return Pickle().dump({"teacher": tensors, "args": namespace, "epoch": 100000})


def test_a_pickle_cut_off_anywhere_is_an_error_of_ours():
    data = small_checkpoint()
    for length in range(len(data)):
        with pytest.raises(WeightsError):
            read(data[:length])


def test_a_pickle_with_any_bit_flipped_is_read_or_refused():
    data = small_checkpoint()
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with suppress(WeightsError):
                read(bytes(flipped))


@given(st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data):
    for start in (b"", b"\x80\x02", b"\x80\x02](", STORAGE, b"ctorch._utils\n_rebuild_tensor_v2\n("):
        with suppress(WeightsError):
            read(start + data)


def test_surrogates_in_a_name_do_not_break_the_message():
    lone = "\ud800"

    with pytest.raises(UnsafeCheckpoint, match="ud800"):
        read(b"\x80\x04" + Pickle().of(lone) + Pickle().of("x") + b"\x93.")


def test_the_size_of_a_pickled_integer_is_that_of_its_bytes():
    raw = (1 << 40_000).to_bytes(5001, "little")

    assert read(b"\x80\x02\x8b" + struct.pack("<I", len(raw)) + raw + b".") == 1 << 40_000
