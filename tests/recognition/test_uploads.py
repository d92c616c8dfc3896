"""Files from strangers.

What `decode_photo` makes of good, odd and hostile files, each made here.
"""

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from recognition.uploads import PIXELS_A_BYTE, Limits, PhotoError, decode_photo
from tests.figures import Figure

LIMITS = Limits(megabytes=15, megapixels=40)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def scene() -> Image.Image:
    """A picture whose corners all differ: red, green, blue and white quarters, 64 × 48."""
    image = Image.new("RGB", (64, 48), "red")
    image.paste("lime", (32, 0, 64, 24))
    image.paste("blue", (0, 24, 32, 48))
    image.paste("white", (32, 24, 64, 48))
    return image


def png(width: int, height: int, bits: int, colours: int, body: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def png_claiming(width: int, height: int) -> bytes:
    """57 bytes that say they are an RGBA picture of any size."""
    return png(width, height, 8, 6, b"")


def jpeg_of_scans(more: int, segments: int = 0, between: bytes = b"") -> bytes:
    """A progressive photo whose last scan stands there `more` times, each after `between`, and so many empty
    segments before it."""
    photo = encoded(Image.new("RGB", (640, 480), "grey"), "JPEG", progressive=True)
    assert photo.count(b"\xff\xda") > 5
    last = photo[photo.rindex(b"\xff\xda") : -2]
    return photo[:2] + b"\xff\xe9\x00\x02" * segments + photo[2:-2] + (between + last) * more + photo[-2:]


def one_bit_bomb() -> bytes:
    """30,000 × 30,000 one-bit pixels in about 100 kB."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 30_000 // 8)
    body = b"".join(packer.compress(row) for _ in range(30_000)) + packer.flush()
    return png(30_000, 30_000, 1, 0, body)


def assert_close(image: np.ndarray, expected: np.ndarray, most: float = 2) -> None:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    assert np.abs(image.astype(float) - expected.astype(float)).mean() <= most


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "MPO"])
def test_it_decodes_the_accepted_formats_to_rgb(form: str) -> None:
    image = decode_photo(encoded(scene(), form, quality=95), LIMITS)

    assert_close(image, np.asarray(scene()), most=6)


def test_it_reads_an_open_file_as_well_as_bytes() -> None:
    data = encoded(scene(), "PNG")

    assert np.array_equal(decode_photo(io.BytesIO(data), LIMITS), decode_photo(data, LIMITS))


def test_the_array_belongs_to_the_caller() -> None:
    image = decode_photo(encoded(scene(), "PNG"), LIMITS)

    image[0, 0] = 7

    assert image[0, 0].tolist() == [7, 7, 7]


# How a camera stores an upright scene under each EXIF orientation: what turning upright undoes.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_it_turns_a_photo_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = scene().transpose(STORED_AS[orientation]) if orientation > 1 else scene()

    image = decode_photo(encoded(stored, form, exif=exif, quality=95), LIMITS)

    assert_close(image, np.asarray(scene()), most=6)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_photo_with_broken_exif_is_still_a_photo() -> None:
    data = encoded(scene(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12\x01" * 9)

    assert_close(decode_photo(data, LIMITS), np.asarray(scene()), most=6)


def test_it_scales_16_bit_grey_instead_of_clipping_it() -> None:
    grey = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (32, 1))

    image = decode_photo(encoded(Image.fromarray(grey), "PNG"), LIMITS)

    assert_close(image, np.repeat((grey // 257).astype(np.uint8)[..., None], 3, axis=2), most=1)


def test_it_converts_cmyk() -> None:
    image = decode_photo(encoded(scene().convert("CMYK"), "JPEG", quality=95), LIMITS)

    assert_close(image, np.asarray(scene()), most=6)


@pytest.mark.parametrize("mode", ["P", "1", "L"])
def test_it_converts_palettes_and_grey(mode: str) -> None:
    source = scene().convert(mode)

    assert_close(decode_photo(encoded(source, "PNG"), LIMITS), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_it_lays_transparent_parts_on_grey(mode: str) -> None:
    source = Image.new("RGBA", (40, 40), (255, 255, 255, 255))
    source.paste((255, 255, 255, 0), (0, 0, 20, 40))

    image = decode_photo(encoded(source.convert(mode), "PNG"), LIMITS)

    assert np.abs(image[20, 5].astype(int) - 128).max() <= 2
    assert image[20, 35].tolist() == [255, 255, 255]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_it_takes_the_first_picture_of_an_animation(form: str) -> None:
    later = ImageOps.invert(scene())
    data = encoded(scene(), form, save_all=True, append_images=[later], lossless=True)

    assert_close(decode_photo(data, LIMITS), np.asarray(scene()))


def cut(share: float, form: str = "JPEG") -> Callable[[], bytes]:
    def make() -> bytes:
        noise = np.random.default_rng(1).integers(0, 256, (200, 200, 3), dtype=np.uint8)
        data = encoded(Image.fromarray(noise), form)
        return data[: int(len(data) * share)]

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"", "empty"),
        (lambda: b"dear diary, today", "a text file"),
        (lambda: "Übermut tut selten gut. ".encode() * 200, "a text file"),
        (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
        (lambda: b"<svg viewBox='0 0 1 1'/>", "an SVG drawing"),
        (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an EPS drawing"),
        (lambda: encoded(scene(), "GIF"), "a GIF image"),
        (lambda: encoded(scene(), "TIFF"), "a TIFF image"),
        (lambda: encoded(scene(), "BMP"), "a BMP image"),
        (lambda: encoded(scene(), "PDF"), "a PDF document"),
        (lambda: b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC photo"),
        (lambda: b"\0\0\0\x18ftypmp42\0\0\0\0", "a video"),
        (lambda: bytes(range(256)) * 8, "not a picture known here"),
        (lambda: b"\xff\xd8\xff\xe0", "a damaged JPEG"),
    ],
)
def test_it_says_what_a_refused_file_is_and_what_is_accepted(make: Callable[[], bytes], said: str) -> None:
    with pytest.raises(PhotoError, match=said) as refusal:
        decode_photo(make(), LIMITS)

    assert str(refusal.value).endswith(".")
    assert said == "empty" or "JPEG, PNG and WebP photos are accepted" in str(refusal.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_it_refuses_a_file_that_ends_too_early(form: str, share: float, figure: Figure) -> None:
    with pytest.raises(PhotoError, match="damaged"):
        decode_photo(cut(share, form)(), LIMITS)
    figure(f"A {form} cut at 90, 50 or 20 % is refused", f"{share:.0%}: refused, as are the others")


@pytest.mark.parametrize("size", [(1, 1), (19, 400), (400, 5)])
def test_it_refuses_what_is_too_small_to_hold_a_face(size: tuple[int, int]) -> None:
    with pytest.raises(PhotoError, match=f"{size[0]} × {size[1]} pixels, too small to hold a face"):
        decode_photo(encoded(Image.new("RGB", size), "PNG"), LIMITS)


def test_it_refuses_a_ribbon_longer_than_can_be_sampled() -> None:
    with pytest.raises(PhotoError, match="longer than 30,000 pixels"):
        decode_photo(encoded(Image.new("L", (40_000, 20)), "PNG"), LIMITS)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "make",
    [
        one_bit_bomb,
        lambda: png_claiming(50_000, 50_000),
        lambda: png_claiming(2**31 - 1, 2**31 - 1),
        lambda: png_claiming(10_000, 10_000),
        lambda: png_claiming(6_400, 6_400),
    ],
)
def test_it_refuses_bombs_at_once_and_in_little_memory(make: Callable[[], bytes]) -> None:
    data = make()
    tracemalloc.start()
    begun = time.process_time()  # its own: a busy machine is no fault of it

    with pytest.raises(PhotoError, match=r"more than 40 megapixels"):
        decode_photo(data, LIMITS)

    assert time.process_time() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_57_byte_png_within_the_limit_is_damaged() -> None:
    data = png_claiming(6_000, 6_000)

    assert len(data) == 57
    with pytest.raises(PhotoError, match="This PNG is damaged"):
        decode_photo(data, LIMITS)


def test_it_refuses_a_file_larger_than_the_limit_without_reading_on() -> None:
    class Endless:
        taken = 0

        def read(self, size: int, /) -> bytes:
            self.taken += size
            return bytes(size)

    endless = Endless()

    with pytest.raises(PhotoError, match="larger than 15 MB"):
        decode_photo(endless, LIMITS)

    assert endless.taken <= 15_000_001


def test_limits_are_the_callers() -> None:
    data = encoded(scene(), "PNG")

    with pytest.raises(PhotoError, match=r"more than 0.003 megapixels"):
        decode_photo(data, Limits(megabytes=15, megapixels=0.003))
    with pytest.raises(PhotoError, match=r"larger than 0.0001 MB"):
        decode_photo(data, Limits(megabytes=0.0001, megapixels=40))


@pytest.mark.parametrize(
    "photo",
    [jpeg_of_scans(10_000), jpeg_of_scans(0, 200_000), jpeg_of_scans(10_000, between=b"\xff\x01")],
    ids=["scans", "segments", "scans behind a marker without a length"],
)
def test_a_jpeg_of_endless_parts_is_refused_before_it_is_read(photo: bytes) -> None:
    with pytest.raises(PhotoError, match="more parts than any camera writes"):
        decode_photo(photo, LIMITS)


def test_a_progressive_jpeg_of_some_more_parts_is_read() -> None:
    assert decode_photo(jpeg_of_scans(20, 500), LIMITS).shape == (480, 640, 3)


def test_a_png_of_one_colour_is_small_and_whole_all_the_same() -> None:
    """A bit a pixel, all alike: no smaller file holds so many, and this one is read."""
    packed = io.BytesIO()
    Image.new("1", (6000, 6000)).save(packed, "PNG", compress_level=9)
    assert 6000 * 6000 / PIXELS_A_BYTE < len(packed.getvalue()) < 6000 * 6000 / 1000
    assert decode_photo(packed.getvalue(), LIMITS).shape == (6000, 6000, 3)
    with pytest.raises(PhotoError, match="damaged or incomplete"):
        decode_photo(packed.getvalue()[:200], LIMITS)
