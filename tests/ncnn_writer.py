"""Write networks as ncnn's converters do, from the weights by their names in PyTorch."""

import re
import struct


def write_rrdbnet(folder, state, blocks=1, scale=4, fp16=False):
    """An RRDBNet as net.param and net.bin; returns the .param."""
    lines, data = ["Input in 0 1 data"], bytearray()

    def layer(kind, inputs, params=""):
        output = f"b{len(lines) - 1}"
        lines.append(f"{kind} {kind}_{output} {len(inputs)} 1 {' '.join(inputs)} {output} {params}")
        return output

    def conv(name, x, leaky):
        weight, bias = (state[f"{name}.{part}"] for part in ("weight", "bias"))
        if fp16:
            half = weight.astype("<f2").tobytes()
            data.extend(struct.pack("<I", 0x01306B47) + half + bytes(-len(half) % 4))
        else:
            data.extend(struct.pack("<I", 0x0002C056) + weight.astype("<f4").tobytes())
        data.extend(bias.astype("<f4").tobytes())
        slope = "9=2 -23310=1,2.000000e-01" if leaky else ""
        return layer("Convolution", [x], f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size} {slope}")

    unshuffle = {1: 4, 2: 2}.get(scale)
    image = layer("Reorg", ["data"], f"0={unshuffle}") if unshuffle else "data"
    first = x = conv("conv_first", image, leaky=False)
    for block in range(blocks):
        before = x
        for k in (1, 2, 3):
            known = [x]
            for j in (1, 2, 3, 4, 5):
                source = known[0] if j == 1 else layer("Concat", known)
                known.append(conv(f"body.{block}.rdb{k}.conv{j}", source, leaky=j < 5))
            x = layer("Eltwise", [known[-1], x], "0=1 -23301=2,2.000000e-01,1.000000e+00")
        x = layer("Eltwise", [x, before], "0=1 -23301=2,2.000000e-01,1.000000e+00")
    x = layer("BinaryOp", [first, conv("conv_body", x, leaky=False)], "0=0")
    for k in range(1, 4 if scale == 8 else 3):
        x = conv(f"conv_up{k}", layer("Interp", [x], "0=1 1=2.000000e+00 2=2.000000e+00"), leaky=True)
    conv("conv_last", conv("conv_hr", x, leaky=True), leaky=False)
    lines[-1] = re.sub(r" b\d+ (?=0=)", " output ", lines[-1])
    return _write(folder, lines, data)


def write_srvgg(folder, state, scale=2):
    """An SRVGGNetCompact with PReLU, in fp32 with tag 0, as net.param and net.bin; returns the .param."""
    lines, data = ["Input in 0 1 data", "Split s 1 2 data d0 d1"], bytearray()
    blob, last = "d1", max(int(key.split(".")[1]) for key in state)
    for k in range(last + 1):
        weight = state[f"body.{k}.weight"]
        if k % 2:
            lines.append(f"PReLU p{k} 1 1 {blob} b{k} 0={weight.size}")
            data.extend(weight.astype("<f4").tobytes())
        else:
            lines.append(f"Convolution c{k} 1 1 {blob} b{k} 0={len(weight)} 1=3 4=1 5=1 6={weight.size}")
            data.extend(bytes(4) + weight.astype("<f4").tobytes() + state[f"body.{k}.bias"].astype("<f4").tobytes())
        blob = f"b{k}"
    lines += [f"PixelShuffle up 1 1 {blob} fine 0={scale}"]
    lines += [f"Interp near 1 1 d0 base 0=1 1={scale}.0 2={scale}.0"]
    lines += ["BinaryOp add 2 1 fine base output 0=0"]
    return _write(folder, lines, data)


def _write(folder, lines, data):
    blobs = sum(int(line.split()[3]) for line in lines)
    folder.joinpath("net.param").write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines]))
    folder.joinpath("net.bin").write_bytes(data)
    return folder / "net.param"
