"""Write the photographs that the compact pair is validated on: those that come with scikit-image and scikit-learn.

python benchmarks/studies/validation_photos.py DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import sklearn.datasets


def main(folder: Path) -> None:
    """Seven PNG files, 300 to 512 rows each."""
    china, flower = sklearn.datasets.load_sample_images().images
    photos = {
        "astronaut": skimage.data.astronaut(),
        "chelsea": skimage.data.chelsea(),
        "china": china,
        "coffee": skimage.data.coffee(),
        "flower": flower,
        "motorcycle": skimage.data.stereo_motorcycle()[0],
        "rocket": skimage.data.rocket(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, photo in photos.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(photo[:, :, ::-1]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the photos are written")
    main(parser.parse_args().folder)
