"""Coverage-guided fuzzing of what is read in Python, for whoever has atheris: python -m tests.hostile.guided READER

Each reader takes the bytes of a file. It may raise an EsrganError and nothing else. What it does raise is kept by
libFuzzer as `crash-*` in the folder of --keep, beside the inputs that reached new lines.
"""

import argparse
import contextlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path

OURS = ("esrgan_deploy", "esrgan_export", "esrgan_train", "esrgan_bench")
ROOM = Path(tempfile.gettempdir())


def _file(data, suffix):
    """A file with these bytes, always the same one."""
    path = ROOM / f"guided{suffix}"
    path.write_bytes(data)
    return path


def picture(data):
    """The head of a picture."""
    from esrgan_deploy.images.header import read_header

    read_header(Path("x.png"), data)


def y4m(data):
    """A stream of YUV4MPEG2."""
    from esrgan_deploy.video.source.y4m import Y4mPipe

    pipe = Y4mPipe(io.BytesIO(data), "-")
    while pipe.read(4096):
        pass


def playlist(data):
    """An HLS list or an ffconcat."""
    from esrgan_deploy.video.source.playlist import check_playlist, is_playlist

    path = _file(data, ".m3u8")
    if is_playlist(path):
        check_playlist(path, ())


def journal(data):
    """A journal whose lines are sealed as they should be."""
    from esrgan_deploy.video.output.journal import Lines

    lines = Lines(Path("x"), tuple(data.split(b"\n")), len(data), "", None)
    lines.values(0)
    for place in range(1, len(lines.texts)):
        lines.record(place)


def onnx(data):
    """An ONNX file."""
    from esrgan_deploy.model import load_onnx

    load_onnx(_file(data, ".onnx"))


def ncnn(data):
    """The graph of an ncnn network, without its weights."""
    from esrgan_export.checkpoint import load_checkpoint

    _file(b"", ".bin")
    load_checkpoint(_file(data, ".param"))


def safetensors(data):
    """A .safetensors checkpoint."""
    from esrgan_export.checkpoint import load_checkpoint

    load_checkpoint(_file(data, ".safetensors"))


def torch_file(data):
    """What torch.save wrote."""
    from esrgan_export.torch_file import load_torch_file

    load_torch_file(io.BytesIO(data), "x.pth", "download it again")


def recipe(data):
    """A recipe."""
    from esrgan_train.recipe import read_recipe

    read_recipe(str(_file(data, ".yaml")))


def older(data):
    """An older file of esrgan-bench."""
    from esrgan_bench.compare import read_older

    read_older(_file(data, ".json"))


READERS = {
    each.__name__: each
    for each in (picture, y4m, playlist, journal, onnx, ncnn, safetensors, torch_file, recipe, older)
}


def seeds(name, folder):
    """Small valid inputs to begin with."""
    from hostile.seeds import NETS, PICTURES, Seeds
    from hostile.seeds import y4m as stream

    made = Seeds(folder / "made")
    if name == "picture":
        return [made.path(each).read_bytes() for each in PICTURES]
    if name == "y4m":
        return [stream(2), stream(1, header=b"YUV4MPEG2 W%d H%d F25:1 C444p10 XYSCSS=444\n")]
    if name == "playlist":
        return [b"#EXTM3U\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n", b"ffconcat version 1.0\nfile 'a.ts'\nduration 1\n"]
    if name == "onnx":
        return [NETS["nearest"]().SerializeToString()]
    if name == "ncnn":
        return [b"7767517\n2 2\nInput in 0 1 data\nConvolution c 1 1 data output 0=3 1=3 4=1 5=1 6=81\n"]
    if name == "safetensors":
        header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        return [len(header).to_bytes(8, "little") + header + bytes(4)]
    if name == "torch_file":
        import torch

        file = io.BytesIO()
        torch.save({"params": {"a": torch.zeros(2)}}, file)
        return [file.getvalue()]
    if name == "recipe":
        import yaml

        from tiny import BASE

        return [yaml.safe_dump({**BASE, "data": {"train": [{"folder": "x"}], "patch": 32}}).encode()]
    if name == "journal":
        record = {"index": 0, "frames": 1, "bytes": 1, "sha256": "0" * 64, "pts": [0], "sizes": [1], "keys": [True]}
        return [b'{"format": 1}\n' + json.dumps(record).encode()]
    return [json.dumps({"format": 1, "machine": {}, "results": [{"model": "a"}]}).encode()]


def main():
    """Fuzz one reader until the time is over or it fails."""
    parser = argparse.ArgumentParser("python -m tests.hostile.guided", description=__doc__.splitlines()[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--seconds", type=int, default=60, help="(default: 60)")
    parser.add_argument("--keep", type=Path, default=Path("hostile-failures"), help="(default: hostile-failures)")
    args = parser.parse_args()
    import atheris

    modules = ["esrgan_deploy.model", "esrgan_deploy.images.header", "esrgan_deploy.video.output.journal"]
    modules += ["esrgan_deploy.video.source.playlist", "esrgan_deploy.video.source.y4m", "esrgan_bench.compare"]
    if args.reader in ("ncnn", "safetensors", "torch_file"):
        modules += ["esrgan_export.checkpoint", "esrgan_export.torch_file"]
    if args.reader == "recipe":
        modules.append("esrgan_train.recipe")
    with atheris.instrument_imports(include=OURS):
        for module in modules:
            importlib.import_module(module)
        from esrgan_deploy.errors import EsrganError
    reader = READERS[args.reader]

    def once(data):
        with contextlib.suppress(EsrganError):
            reader(data)

    corpus = args.keep / "guided" / args.reader
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds(args.reader, args.keep)):
        (corpus / f"seed-{number}").write_bytes(data)
    words = [f"-max_total_time={args.seconds}", "-timeout=20", "-rss_limit_mb=3000", f"-artifact_prefix={corpus}/"]
    atheris.Setup([sys.argv[0], *words, "-max_len=20000", "-verbosity=0", "-print_final_stats=1", str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
