"""What INT8 does to pictures: PSNR to fp32, NIQE and PSNR-Y against the originals, crops, and where the loss is made.

    esrgan-export --gan RealESRGAN_x4plus.pth --name x4plus -o models
    esrgan-export --gan RealESRGAN_x4plus.pth --name x4plus --int8 --calibrate FRAMES -o models
    python benchmarks/studies/int8.py PHOTOS --fp32 models/x4plus_x4_fp32.onnx --int8 models/x4plus_x4_int8.onnx

PHOTOS: high-resolution photographs, none of which was calibrated on; each is shrunk to at most 480 pixels, cropped, and
enlarged again from a quarter of that. INT8 and fp32 are what OpenVINO computes; bf16 is emulated, layer by layer, since
few processors have it. Writes results/int8_NAME.json, ../docs/int8/NAME_crops.png and, where the report
beside the INT8 file has sensitivities, ../docs/int8/NAME_sensitivity.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
from matplotlib import pyplot as plt

from esrgan_deploy import open_session
from esrgan_deploy.images import read_image
from esrgan_export.artefact import report_path
from esrgan_export.bicubic import downscale
from esrgan_export.emulate import Emulator
from esrgan_export.evaluation.html_images import Crop, most_detailed
from esrgan_export.evaluation.image_pairs import images_by_stem
from esrgan_export.metrics import niqe, psnr, psnr_y
from esrgan_export.precision import to_precision
from side_by_side import save

Picture = npt.NDArray[np.uint8]
PICTURES = Path(__file__).parents[2] / "docs" / "int8"
LARGEST = 480
SCALE = 4
CROP, CROPS = 96, 4
TARGETS = {"mean_psnr_db": 40.0, "worst_psnr_db": 34.0, "niqe_change": 0.02, "psnr_y_change_db": 0.1}


def main() -> None:
    """Measure, draw, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    for option in ("--fp32", "--int8"):
        parser.add_argument(option, type=Path, required=True)
    args = parser.parse_args()
    originals = {name: _shrunk(read_image(path).rgb) for name, path in images_by_stem(args.photos).items()}
    bf16 = Emulator(to_precision(onnx.load(args.fp32), "bf16"))
    rows, pictures = [], {}
    with open_session(args.fp32, "openvino", precision="fp32") as fp32, open_session(args.int8, "openvino") as int8:
        for name, hr in originals.items():
            lr = downscale(hr, SCALE)
            # 16-bit frames show what 8 bits would round away; 257 maps 255 to 65535.
            deep = lr[None].astype(np.uint16) * 257
            results = {
                "fp32": fp32.run(deep)[0] / 65535,
                "bf16": bf16.run((lr / 255).astype(np.float32))[0],
                "int8": int8.run(deep)[0] / 65535,
            }
            pictures[name] = {kind: np.rint(result * 255).astype(np.uint8) for kind, result in results.items()}
            close = {f"psnr_{kind}_db": psnr(results["fp32"], results[kind]) for kind in ("bf16", "int8")}
            rows.append({"photo": name, **close, **_scores(hr, pictures[name])})
            print(_line(rows[-1]), flush=True)
    summary = {kind: _summary(rows, kind) for kind in ("int8", "bf16")}
    for name, target in TARGETS.items():
        print(f"{name}: {summary['int8'][name]:.4f}, target {target:g}; bf16: {summary['bf16'][name]:.4f}")
    name = args.int8.stem
    PICTURES.mkdir(parents=True, exist_ok=True)
    draw_crops(originals, pictures, rows, PICTURES / f"{name}_crops.png")
    report = report_path(args.int8)
    sensitivities = json.loads(report.read_text())["sensitivities_db"] if report.exists() else {}
    if sensitivities:
        draw_sensitivities(sensitivities, PICTURES / f"{name}_sensitivity.png")
    figures = {"model": name, "photos": rows, "summary": summary, "targets": TARGETS, "sensitivities_db": sensitivities}
    save("int8", figures, name=f"int8_{name}")


def _shrunk(rgb: npt.NDArray[Any]) -> Picture:
    """At most `LARGEST` pixels wide and high, and a multiple of the scale."""
    factor = max(1.0, max(rgb.shape[:2]) / LARGEST)
    size = [int(side / factor) // SCALE * SCALE for side in rgb.shape[1::-1]]
    return np.ascontiguousarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _scores(hr: Picture, pictures: dict[str, Picture]) -> dict[str, float]:
    niqes = {f"niqe_{kind}": niqe(picture, SCALE) for kind, picture in pictures.items()}
    return niqes | {f"psnr_y_{kind}_db": psnr_y(picture, hr, SCALE) for kind, picture in pictures.items()}


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['photo'][:40]:40} {row['psnr_int8_db']:6.2f} dB (bf16 {row['psnr_bf16_db']:.2f})   "
        f"NIQE {row['niqe_fp32']:.3f} -> {row['niqe_int8']:.3f}   "
        f"PSNR-Y {row['psnr_y_fp32_db']:.2f} -> {row['psnr_y_int8_db']:.2f} dB"
    )


def _summary(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """The figures that `TARGETS` names, for "bf16" or "int8"; changes are those of the means."""
    mean = {name: fmean(row[name] for row in rows) for name in rows[0] if name != "photo"}
    return {
        "mean_psnr_db": mean[f"psnr_{kind}_db"],
        "worst_psnr_db": min(row[f"psnr_{kind}_db"] for row in rows),
        "niqe_change": abs(mean[f"niqe_{kind}"] / mean["niqe_fp32"] - 1),
        "psnr_y_change_db": abs(mean[f"psnr_y_{kind}_db"] - mean["psnr_y_fp32_db"]),
    }


def draw_crops(
    originals: dict[str, Picture], pictures: dict[str, dict[str, Picture]], rows: list[dict[str, Any]], path: Path
) -> None:
    """The worst photos: original, fp32, bf16, INT8, and what INT8 changes, eight times enlarged around grey."""
    bands = []
    for row in sorted(rows, key=lambda row: row["psnr_int8_db"])[:CROPS]:
        name = row["photo"]
        fp32, bf16, int8 = pictures[name].values()
        crop: Crop = most_detailed(originals[name], CROP)
        difference = np.clip(128 + 8 * (int8.astype(np.int16) - fp32), 0, 255).astype(np.uint8)
        parts = [crop.of(each) for each in (originals[name], fp32, bf16, int8, difference)]
        bands.append(np.hstack([part.repeat(2, axis=0).repeat(2, axis=1) for part in parts]))
    cv2.imwrite(str(path), np.vstack(bands)[:, :, ::-1])


def draw_sensitivities(sensitivities: dict[str, float], path: Path) -> None:
    """PSNR when each group alone computes in INT8, in the order of the network."""
    figure, axis = plt.subplots(figsize=(11, 4), constrained_layout=True)
    names = list(sensitivities)
    tail = [not name.startswith("body") for name in names]
    colours = ["tab:orange" if each else "tab:blue" for each in tail]
    axis.bar(range(len(names)), [sensitivities[name] for name in names], color=colours, width=0.8)
    axis.set_ylim(min(sensitivities.values()) - 3, max(sensitivities.values()) + 1)
    axis.set_ylabel("PSNR to fp32, dB")
    ticks = [i for i, name in enumerate(names) if tail[i] or name.endswith("rdb1")]
    axis.set_xticks(ticks, [names[i] for i in ticks], rotation=90, fontsize=7)
    axis.set_title("One dense block (blue) or other convolution (orange) in INT8, all else in float")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
