import collections
import io
import zipfile

import pytest
import torch

from esrgan_deploy.errors import ModelError
from esrgan_export.torch_file import load_torch_file
from torch_pickles import call, number, tensor, text, write

LOOP = b"]q\x00h\x00a"
LAUGHS = b"]q\x00" + b"".join(b"](" + b"h%c" % n * 10 + b"eq%c" % (n + 1) for n in range(12))
BODIES = {
    "a storage longer than its record": tensor(4_000_000, [4_000_000], [1]),
    "a shape larger than its storage": tensor(4, [4000], [1]),
    "strides of zero": tensor(4, [1 << 20, 1 << 20], [0, 0]),
    "a tensor without numbers": call("torch", "Tensor", number(10**9)),
    "memory without a tensor": call("torch.storage", "UntypedStorage", number(1000)),
    "bytes by number": call("builtins", "bytearray", number(10**11)),
    "bytes by number, in Python 2": call("__builtin__", "bytearray", number(10**11)),
    "a command": call("posix", "system", text("touch ran")),
    "a list that holds itself": LOOP,
    "a million million lists": LAUGHS,
    "a hundred thousand levels": b"]" * 100_000 + b"a" * 99_999,
}


def load(path, **options):
    with path.open("rb") as file:
        return load_torch_file(file, path, "copy it again", **options)


@pytest.mark.parametrize("what", BODIES)
def test_what_cannot_be_is_refused_in_one_line(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pt"
    write(path, BODIES[what])
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.endswith("; copy it again")
    assert "\n" not in message
    assert not (tmp_path / "ran").exists()


def test_a_command_is_named(tmp_path):
    write(tmp_path / "x.pt", BODIES["a command"])
    with pytest.raises(ModelError, match=r"holds posix\.system, which is code"):
        load(tmp_path / "x.pt")


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path):
    write(tmp_path / "x.pt", tensor(1 << 22, [1 << 22], [1]), bytes(1 << 24), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "x.pt").stat().st_size < 1 << 16
    with pytest.raises(ModelError, match="is compressed"):
        load(tmp_path / "x.pt")


def test_the_part_without_numbers_has_a_limit(tmp_path):
    write(tmp_path / "x.pt", text("a" * (17 << 20)))
    with pytest.raises(ModelError, match="more than 16 MiB beside its numbers"):
        load(tmp_path / "x.pt")


def test_the_old_format_is_read_and_checked_as_well(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert load(path)["a"].tolist() == [0, 1, 2]
    with pytest.raises(ModelError, match="no file of PyTorch"):
        load(path, old=False)
    torch.save({"a": bytearray(5)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelError, match="bytearray"):
        load(path)


def test_a_dict_is_nothing_but_a_dict(tmp_path):
    """A pickle can give an OrderedDict an attribute `items`, which then is no method."""
    write(tmp_path / "x.pt", call("collections", "OrderedDict") + b"}" + text("items") + text("x") + b"sb")
    content = load(tmp_path / "x.pt")
    assert type(content) is dict
    assert list(content.items()) == []


def test_what_torch_saves_comes_back(tmp_path):
    one = torch.arange(6.0)
    content = {"a": one, "view": one[2:4], "t": one.view(2, 3).T, "n": [1, (2.5, None)], "s": torch.Size([3])}
    nested = collections.OrderedDict(content, empty=torch.zeros(0), half=torch.ones(2).half(), inner={3: "x"})
    file = io.BytesIO()
    torch.save(nested, file)
    read = load_torch_file(file, "x", "")
    assert list(read) == list(nested)
    assert read["n"] == [1, (2.5, None)]
    assert read["inner"] == {3: "x"}
    assert read["s"] == (3,)
    for name in ("a", "view", "t", "empty", "half"):
        assert torch.equal(read[name], nested[name])
    assert read["view"].untyped_storage().data_ptr() == read["a"].untyped_storage().data_ptr()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = tmp_path / "x.pt"
    torch.save({"a": torch.rand(1000)}, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError):
        load(path)
