"""Colour conversion against the formulas of ITU-T H.273 and the sample positions of H.264, H.265 and JPEG."""

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esrgan_deploy.video.info import BT601, BT709, RGB, UNSPECIFIED, Colour
from esrgan_deploy.video.pixels.chroma import LOCATIONS
from esrgan_deploy.video.pixels.convert import to_rgb, to_yuv

SIZE = 50, 76
"""Height and width; neither is a multiple of what is converted at once."""
LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087),
                9: (0.2627, 0.0593)}  # fmt: skip
"""Matrix -> weights of red and blue, table 4 of H.273."""
RANGES = pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
EVERY_MATRIX = pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
DEPTHS = pytest.mark.parametrize("bits", [8, 10, 12])
SUBSAMPLINGS = pytest.mark.parametrize("subsampling", ["420", "422", "444"])


def spans(bits, full):
    """Code value of black, and the spans of luma and chroma."""
    return (0, 2**bits - 1, 2**bits - 1) if full else tuple(value << bits - 8 for value in (16, 219, 224))


def rgb_of(yuv, matrix, full, bits):
    """From code values (..., 3) to RGB in 0 to 1, exact."""
    kr, kb = LUMA_WEIGHTS[matrix]
    black, luma, chroma = spans(bits, full)
    y, cb, cr = np.moveaxis(np.asarray(yuv, float), -1, 0)
    y, cb, cr = (y - black) / luma, (cb - 2 ** (bits - 1)) / chroma, (cr - 2 ** (bits - 1)) / chroma
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    return np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], -1)


def yuv_of(rgb, matrix, full, bits):
    """From RGB in 0 to 1 (..., 3) to code values, exact."""
    kr, kb = LUMA_WEIGHTS[matrix]
    black, luma, chroma = spans(bits, full)
    red, green, blue = np.moveaxis(np.asarray(rgb, float), -1, 0)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / 2 / (1 - kb), (red - y) / 2 / (1 - kr)
    return np.stack([y * luma + black, cb * chroma + 2 ** (bits - 1), cr * chroma + 2 ** (bits - 1)], -1)


def format_of(subsampling, bits):
    return f"yuv{subsampling}p" + ("" if bits == 8 else f"{bits}le")


def colour_of(matrix, full):
    return Colour(matrix, full, UNSPECIFIED, UNSPECIFIED)


def yuv_frame(planes, pixel_format, size=SIZE):
    """A frame from arrays of code values."""
    frame = av.VideoFrame(size[1], size[0], pixel_format)
    for view, values in zip(views(frame), planes, strict=True):
        view[:] = values
    return frame


def views(frame):
    dtype = np.uint8 if frame.format.components[0].bits == 8 else np.uint16
    return [np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def planes(frame):
    return [view.astype(int) for view in views(frame)]


@RANGES
@EVERY_MATRIX
@DEPTHS
def test_yuv_to_rgb_is_the_standards_formula(matrix, full, bits, rng):
    """Every pixel another colour, those outside RGB included."""
    yuv = rng.integers(0, 2**bits, (*SIZE, 3))
    rgb = to_rgb(SIZE[1], SIZE[0], format_of("444", bits), colour_of(matrix, full))(
        yuv_frame(np.moveaxis(yuv, -1, 0), format_of("444", bits))
    )
    peak = 255 if bits == 8 else 65535
    assert rgb.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.abs(rgb - np.clip(rgb_of(yuv, matrix, full, bits), 0, 1) * peak).max() < 0.53
    grey = yuv_of(np.ones(3), matrix, full, bits).round()
    assert (rgb_of(grey, matrix, full, bits).round(9) == 1).all(), "white has a code value"


@RANGES
@EVERY_MATRIX
@DEPTHS
def test_rgb_to_yuv_is_the_standards_formula(matrix, full, bits, rng):
    dtype = np.uint8 if bits == 8 else np.uint16
    rgb = rng.integers(0, np.iinfo(dtype).max, (*SIZE, 3), dtype, endpoint=True)
    rgb[0, :4] = np.array([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 0, 1]]) * np.iinfo(dtype).max
    frame = to_yuv(SIZE[1], SIZE[0], format_of("444", bits), colour_of(matrix, full))(rgb)
    assert (frame.format.name, frame.colorspace, frame.color_range) == (
        format_of("444", bits),
        matrix,
        2 if full else 1,
    )
    expected = np.clip(yuv_of(rgb / np.iinfo(dtype).max, matrix, full, bits), 0, 2**bits - 1)
    assert np.abs(np.stack(planes(frame), -1) - expected).max() < 0.53
    grey = np.repeat(rng.integers(0, np.iinfo(dtype).max, (*SIZE, 1), dtype), 3, axis=-1)
    _, cb, cr = planes(to_yuv(SIZE[1], SIZE[0], format_of("420", bits), colour_of(matrix, full))(grey))
    assert (cb == 2 ** (bits - 1)).all()
    assert (cr == 2 ** (bits - 1)).all()


@RANGES
@EVERY_MATRIX
@DEPTHS
@SUBSAMPLINGS
@pytest.mark.parametrize("location", LOCATIONS)
def test_yuv_comes_back_within_one_code_value(matrix, full, bits, subsampling, location, rng):
    """Any colours that RGB has, with detail as fine as the chroma samples: nothing is blurred."""
    rows, columns = (2 if subsampling == "420" else 1), (1 if subsampling == "444" else 2)
    small = SIZE[0] // rows, SIZE[1] // columns
    colours = yuv_of(rng.uniform(0.3, 0.7, (*small, 3)), matrix, full, bits).round().astype(int)
    _, luma, _ = spans(bits, full)
    y = rng.integers(luma * 9 // 20, luma * 11 // 20, SIZE) + spans(bits, full)[0]
    chroma = np.moveaxis(colours[..., 1:], -1, 0)
    chroma = (chroma - 2 ** (bits - 1)) // 2 + 2 ** (bits - 1)  # so that no mixture with a neighbour leaves RGB
    name = format_of(subsampling, bits)
    before = yuv_frame([y, *chroma], name)
    arguments = (SIZE[1], SIZE[0], name, colour_of(matrix, full))
    rgb = to_rgb(*arguments, chroma_location=location)(before)
    assert rgb.min() > 0
    assert rgb.max() < np.iinfo(rgb.dtype).max
    after = to_yuv(*arguments, chroma_location=location)(rgb)
    for one, other in zip(planes(before), planes(after), strict=True):
        assert np.abs(one - other).max() <= 1
    if bits > 8:  # 16 bit RGB is fine enough
        assert all(map(np.array_equal, planes(before), planes(after)))


@DEPTHS
@pytest.mark.parametrize(
    ("location", "across", "down"), [("left", 0, 0.5), ("center", 0.5, 0.5), ("topleft", 0, 0), ("top", 0.5, 0)]
)
def test_chroma_is_read_and_written_where_it_sits(bits, location, across, down):
    """H.264 figure E-1. On a ramp, the place of a sample can be read from its value."""
    side = 32
    step = 1 << bits - 8
    column, row = np.meshgrid(np.arange(side // 2), np.arange(side // 2))
    cb, cr = (96 + 4 * column + 2 * across) * step, (96 + 4 * row + 2 * down) * step
    name = format_of("420", bits)
    frame = yuv_frame([np.full((side, side), 120 * step), cb, cr], name, (side, side))
    arguments = (side, side, name, colour_of(BT709, full=False))
    rgb = to_rgb(*arguments, chroma_location=location)(frame)
    read = (yuv_of(rgb / np.iinfo(rgb.dtype).max, BT709, full=False, bits=bits) / step - 96) / 2
    inside = (slice(4, -4), slice(4, -4))
    place = np.arange(4, side - 4)
    assert (read[inside][..., 1] - place).mean() == pytest.approx(0, abs=0.05)
    assert (read[inside][..., 2] - place[:, None]).mean() == pytest.approx(0, abs=0.05)
    ramp = rgb_ramp(*np.mgrid[0:side, 0:side]).astype(np.uint16)
    written = planes(to_yuv(*arguments, chroma_location=location)(ramp))
    samples = rgb_ramp(*np.mgrid[down:side:2, across:side:2]) / 65535
    for channel in (1, 2):
        expected = yuv_of(samples, BT709, full=False, bits=bits)[..., channel]
        assert (written[channel] - expected)[inside].mean() / step == pytest.approx(0, abs=0.05)


def rgb_ramp(row, column):
    """Blue grows to the right and red downwards, by about a code value of 8 bits per pixel."""
    return np.stack([20000 + 500 * row, np.full_like(row, 30000), 20000 + 500 * column], -1)


@RANGES
@pytest.mark.parametrize("bits", [8, 9, 10, 12])
def test_grey_has_neutral_chroma(full, bits, rng):
    name = "gray" if bits == 8 else f"gray{bits}le"
    black, luma, _ = spans(bits, full)
    y = rng.integers(black, black + luma, SIZE, endpoint=True)
    rgb = to_rgb(SIZE[1], SIZE[0], name, colour_of(BT709, full))(yuv_frame([y], name))
    peak = 255 if bits == 8 else 65535
    assert np.abs(rgb - ((y - black) / luma * peak)[..., None]).max() < 0.53


@pytest.mark.parametrize(("name", "bits"), [("gbrp", 8), ("gbrp10le", 10), ("gbrp12le", 12), ("gbrp9le", 9)])
def test_rgb_sources_keep_their_values(name, bits, rng):
    rgb = rng.integers(0, 2**bits, (*SIZE, 3))
    frame = yuv_frame([rgb[..., channel] for channel in (1, 2, 0)], name)
    got = to_rgb(SIZE[1], SIZE[0], name, colour_of(RGB, full=True).resolved(*SIZE))(frame)
    peak = 255 if bits == 8 else 65535
    assert np.array_equal(got, np.round(rgb / (2**bits - 1) * peak))


@pytest.mark.parametrize("name", ["rgb24", "bgr24", "bgr0", "rgba", "pal8", "x2rgb10le"])
def test_packed_rgb_is_unpacked(name, rng):
    colours = rng.integers(0, 256, (6, 3), np.uint8)
    rgb = colours[rng.integers(0, 6, SIZE)]
    if name == "pal8":
        palette = np.zeros((256, 4), np.uint8)
        palette[:6, 0], palette[:6, 1:] = 255, colours
        index = (rgb[:, :, None] == colours).all(-1).argmax(-1).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray((index, palette), format="pal8")
    else:
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=name)
    got = to_rgb(SIZE[1], SIZE[0], name, colour_of(RGB, full=True).resolved(*SIZE))(frame)
    assert np.abs(got / np.iinfo(got.dtype).max * 255 - rgb).max() <= (1 if "10" in name else 0)


@RANGES
@pytest.mark.parametrize(
    ("packed", "planar"), [("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("yuyv422", "yuv422p"),
                           ("yuv420p10be", "yuv420p10le"), ("y210le", "yuv422p10le")],
)  # fmt: skip
def test_other_layouts_give_the_same_rgb(packed, planar, full, rng):
    colour = colour_of(BT709, full)
    plain = yuv_frame([rng.integers(50, 200, view.shape) for view in views(av.VideoFrame(76, 50, planar))], planar)
    plain.color_range = 2 if full else 1
    other = plain.reformat(format=packed, src_color_range=plain.color_range, dst_color_range=plain.color_range)
    assert np.array_equal(to_rgb(76, 50, packed, colour)(other), to_rgb(76, 50, planar, colour)(plain))


def test_full_range_by_name_is_full_range_by_tag(rng):
    old = yuv_frame([rng.integers(50, 200, view.shape) for view in views(av.VideoFrame(76, 50, "yuv420p"))], "yuvj420p")
    new = yuv_frame(planes(old), "yuv420p")
    colour = colour_of(BT601, full=True)
    assert np.array_equal(to_rgb(76, 50, "yuvj420p", colour)(old), to_rgb(76, 50, "yuv420p", colour)(new))


def test_coarse_chroma_is_brought_to_every_pixel():
    frame = yuv_frame([np.full(SIZE, 100), np.full((SIZE[0], SIZE[1] // 4), 90), np.full((50, 19), 160)], "yuv411p")
    rgb = to_rgb(SIZE[1], SIZE[0], "yuv411p", colour_of(BT601, full=False))(frame)
    assert np.abs(rgb - rgb_of([100, 90, 160], BT601, full=False, bits=8) * 255).max() < 0.53


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    subsampling=st.sampled_from(["420", "422", "444"]),
    bits=st.sampled_from([8, 10]),
    seed=st.integers(0, 99),
)
def test_sizes_down_to_one_pixel_come_back(height, width, subsampling, bits, seed):
    rng = np.random.default_rng(seed)
    name = format_of(subsampling, bits)
    middle = 2 ** (bits - 1)
    shapes = [view.shape for view in views(av.VideoFrame(width, height, name))]
    before = yuv_frame(
        [rng.integers(middle * 9 // 10, middle * 11 // 10, shape) for shape in shapes], name, (height, width)
    )
    arguments = (width, height, name, colour_of(BT709, full=False))
    after = to_yuv(*arguments)(to_rgb(*arguments)(before))
    cut = height % 2 and subsampling == "420"  # the last chroma line lies below the last luma line
    for one, other in zip(planes(before), planes(after), strict=True):
        whole = len(one) - 1 if cut and len(one) < height else len(one)
        assert np.abs(one - other)[:whole].max(initial=0) <= 1


def test_tall_frames_are_the_same_in_every_part(rng):
    """Wide enough for many passes: a small frame, repeated, gives the small result, repeated."""
    height, width = 64, 4096
    small = [rng.integers(100, 150, view.shape) for view in views(av.VideoFrame(64, height, "yuv420p"))]
    arguments = (width, height, "yuv420p", colour_of(BT709, full=False))
    wide = yuv_frame([np.tile(plane, (1, 64)) for plane in small], "yuv420p", (height, width))
    rgb = to_rgb(*arguments)(wide)
    alone = to_rgb(64, height, "yuv420p", arguments[3])(yuv_frame(small, "yuv420p", (height, 64)))
    assert np.array_equal(rgb[:, :62], alone[:, :62])
    for before, after in zip(planes(wide), planes(to_yuv(*arguments)(rgb)), strict=True):
        assert np.abs(before - after).max() <= 1


def test_frames_that_were_given_out_stay_as_they_are(rng):
    arguments = (SIZE[1], SIZE[0], "yuv420p", colour_of(BT709, full=False))
    decode, encode = to_rgb(*arguments), to_yuv(*arguments)
    first = decode(yuv_frame([60, 100, 100], "yuv420p"))
    kept, written = first.copy(), encode(first)
    kept_planes = planes(written)
    encode(decode(yuv_frame([200, 140, 140], "yuv420p")))
    assert np.array_equal(first, kept)
    assert all(map(np.array_equal, planes(written), kept_planes))
    with pytest.raises(ValueError, match="shape"):
        encode(first[1:])


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(640, 480, BT601), (720, 576, BT601), (704, 577, BT709), (1280, 544, BT709), (1920, 1080, BT709)],
)
def test_the_matrix_that_players_assume(width, height, expected):
    assert Colour(UNSPECIFIED, False, 2, 2).resolved(width, height) == Colour(expected, False, 2, 2)
    assert Colour(BT709, True, 1, 1).resolved(width, height) == Colour(BT709, True, 1, 1)
