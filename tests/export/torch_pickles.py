"""Files of PyTorch written by hand, opcode by opcode, which say what `torch.save` never would."""

import pickle
import struct
import zipfile


def text(words):
    data = words.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return pickle.dumps(value, 2)[2:-1]


def call(module, name, *arguments):
    return f"c{module}\n{name}\n(".encode() + b"".join(arguments) + b"tR"


def tensor(count, size, stride, key="0"):
    """A tensor of float32 over a storage of `count` numbers."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    shape = b"".join(b"(" + b"".join(map(number, values)) + b"t" for values in (size, stride))
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", storage, number(0), shape, b"\x89", hooks)


def write(path, body, storage=bytes(16), compression=zipfile.ZIP_STORED):
    """A file whose pickle is `body`, and whose only storage is called "0"."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", storage, compression)
        archive.writestr("archive/version", "3\n")
