"""`python -m esrgan_export.named CHECKPOINT OUTPUT.onnx`: what the runtime calls for a model that it knows by name.

As esrgan-export without options, but to a path that the caller has chosen, and no engine is built.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from esrgan_deploy import __version__, cli
from esrgan_export.cli.export import describe, progress_printer


def main() -> int:
    """Entry point of the process."""
    return cli.run(_parser, _export, None)


def _parser() -> cli.Parser:
    parser = cli.Parser("esrgan-export", "Export a checkpoint to ONNX, verified, in fp32.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path)
    return parser


def _export(args: argparse.Namespace) -> None:
    progress = progress_printer()
    progress("loading PyTorch")
    from esrgan_export.artefact import export_artefact
    from esrgan_export.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(args.checkpoint)
    info = describe(checkpoint.network, None, checkpoint, None, "fp32", f"esrgan-export {__version__}")
    export_artefact(checkpoint.network, info, args.output, progress=progress)


if __name__ == "__main__":
    sys.exit(main())
