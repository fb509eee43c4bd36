"""Read, upscale and write pictures: 8 and 16 bit, grey, with transparency, orientation and colour profile.

header.py says what a file claims and whether its bytes can hold that, profile.py whether a colour profile is whole;
read.py and write.py turn files into pictures and back, and job.py does all of it for one file.
"""

from esrgan_deploy.images.header import SUFFIXES
from esrgan_deploy.images.job import upscale_file
from esrgan_deploy.images.read import read_image
from esrgan_deploy.images.still import StillImage, upscale_image
from esrgan_deploy.images.write import write_image

__all__ = ["SUFFIXES", "StillImage", "read_image", "upscale_file", "upscale_image", "write_image"]
