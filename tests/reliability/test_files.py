"""Files from strangers.

What people, phones, other programs and attackers hand in: it is read or refused, at a bounded cost, and what
is kept of it is ours.
"""

import copy
import io
import os
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT
from django.urls import reverse
from PIL import Image, ImageCms, features
from PIL.PngImagePlugin import PngInfo
from pytest_django import Settings

from recognition import background, videos
from recognition.models import Analysis, Face, Photo, Rejection
from recognition.pictures import FILENAME
from recognition.samples import SAMPLES
from recognition.tasks import read_analysis
from recognition.uploads import BACKDROP, Limits, decode_photo
from tests.figures import Figure
from tests.recognition.conftest import *  # noqa: F403 (its fixtures)
from tests.recognition.test_uploads import STORED_AS, encoded, one_bit_bomb, png, png_claiming, scene
from tests.recognition.test_videos import film, grey
from tests.reliability.strangers import Outcome, hand_in, hand_in_elsewhere

STRANGE_IMAGES: Final = "FER_STRANGE_IMAGES"

Files = dict[str, bytes]

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it"),
]


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(background, "_send", lambda tokens: None)
    settings.FER_UPLOADS_PER_MINUTE = 1_000_000


@pytest.fixture
def door() -> Client:
    """Takes JSON, and 500 where something broke. What the process loads once is there already."""
    client = Client(raise_request_exception=False, headers={"accept": "application/json"})
    list(hand_in(client, [("photo.jpg", SAMPLES["eileen-collins"].path.read_bytes())], ["photo"]))
    list(hand_in(client, [("film.mp4", film(grey(3)))], ["video"]))
    return client


def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    """A PNG's chunk, which may lie about its length."""
    said = len(content) if length is None else length
    return struct.pack(">I", said) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(extra: bytes) -> bytes:
    """The scene as a PNG with something between its header and its pixels."""
    data = encoded(scene(), "PNG")
    place = data.index(b"IDAT") - 4
    return data[:place] + extra + data[place:]


def worst(outcomes: list[Outcome]) -> str:
    seconds, megabytes = max(one.seconds for one in outcomes), max(one.megabytes for one in outcomes)
    return f"at most {seconds:.2f} s of computing and {megabytes:.0f} MB for one"


# Pictures that nobody here made -----------------------------------------------------------------------------


def made_up() -> Files:
    """A few of each kind that the collections of strange images hold."""
    small = scene()
    forms = ("JPEG", "PNG", "WEBP", "MPO", "GIF", "TIFF", "BMP", "DIB", "PPM", "TGA", "ICO", "PCX", "SGI")
    forms += (
        "EPS",
        "PDF",
        "DDS",
        "IM",
        "MSP",
        "XBM",
        "SPIDER",
        *(("AVIF",) if features.check("avif") else ()),
    )
    modes = {"MSP": "1", "XBM": "1", "SPIDER": "F"}
    files = {f"as.{form.lower()}": encoded(small.convert(modes.get(form, "RGB")), form) for form in forms}
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        picture = small.convert("L").point(lambda level: 257 * level, "I").convert("I;16")
        files[f"mode-{mode}.png"] = encoded(picture if mode == "I;16" else small.convert(mode), "PNG")
    for mode in ("L", "CMYK", "YCbCr"):
        files[f"mode-{mode}.jpg"] = encoded(small.convert(mode), "JPEG")
    files["progressive.jpg"] = encoded(small, "JPEG", progressive=True)
    files["interlaced.png"] = encoded(small, "PNG", interlace=1)
    for form in ("PNG", "WEBP", "GIF"):
        frames = [small.rotate(90 * turn) for turn in range(3)]
        files[f"animated.{form.lower()}"] = encoded(small, form, save_all=True, append_images=frames)
    for orientation in (0, *range(1, 9), 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files[f"orientation-{orientation}.jpg"] = encoded(small, "JPEG", exif=exif)
    files["exif-broken.jpg"] = encoded(small, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\x12\x01" * 9)
    files["exif-loop.jpg"] = encoded(small, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    files["profile.jpg"] = encoded(small, "JPEG", icc_profile=profile)
    files["profile-broken.png"] = encoded(small, "PNG", icc_profile=b"\xff" * 500)
    for kind in (
        b"tEXt",
        b"zTXt",
        b"iTXt",
        b"iCCP",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"pHYs",
        b"eXIf",
        b"tIME",
        b"juNk",
    ):
        files[f"huge-{kind.decode()}.png"] = with_chunk(chunk(kind, b"Title\0\0" + bytes(200), 0x7FFFFFFF))
        files[f"empty-{kind.decode()}.png"] = with_chunk(chunk(kind, b""))
    files["bad-crc.png"] = encoded(small, "PNG").replace(b"IDAT", b"IDAX", 1)
    files["bad-adler.png"] = png(64, 48, 8, 2, zlib.compress(bytes(48 * 193))[:-4] + b"\0\0\0\0")
    files["no-pixels.png"] = png(64, 48, 8, 2, b"")
    files["bad-palette.png"] = png(64, 48, 8, 3, zlib.compress(b"\xff" * 48 * 65))
    files["sixteen-bit.png"] = png(64, 48, 16, 2, zlib.compress(b"\0" * 48 * (1 + 64 * 6)))
    files["nothing.jpg"] = b""
    files["zeros.jpg"] = bytes(5000)
    files["noise.jpg"] = np.random.default_rng(0).bytes(5000)
    files["words.jpg"] = "Übermut tut selten gut. ".encode() * 90
    files["drawing.svg"] = b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    files["start.jpg"] = b"\xff\xd8\xff\xe0"
    files["start.webp"] = b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff"
    files["start.heic"] = b"\0\0\0\x18ftypheic\0\0\0\0" + bytes(400)
    files["film.mp4"] = film(grey(3))
    with io.BytesIO() as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("photo.jpg", files["as.jpeg"])
        files["album.zip"] = stream.getvalue()
    whole = {name: data for name, data in files.items() if name.startswith(("as.", "animated"))}
    for name, data in whole.items():
        files[f"half-of-{name}"] = data[: len(data) // 2]
        files[f"{name}-and-more"] = data + b"<script>" * 99
        files[f"torn-{name}"] = data[: len(data) // 2] + bytes(40) + data[len(data) // 2 + 40 :]
    return files


def test_made_up_files_of_every_kind_are_read_or_refused(door: Client, figure: Figure) -> None:
    files = made_up()

    outcomes = list(hand_in(door, files.items(), ("photo", "video")))

    assert [one for one in outcomes if not one.is_answer] == []
    assert max(one.megabytes for one in outcomes) < 100
    said = f"{len(files)} files of all kinds at two doors: {tally(outcomes)}, {worst(outcomes)}"
    figure("Made-up files of every kind are read or refused, and nothing breaks", said)


def tally(outcomes: list[Outcome]) -> str:
    counts = Counter(
        "refused" if one.is_refused else "read" if one.is_answer else "broken" for one in outcomes
    )
    return ", ".join(f"{counts[what]} {what}" for what in ("read", "refused", "broken"))


@pytest.mark.slow
def test_images_that_nobody_here_made_are_read_or_refused(figure: Figure) -> None:
    if not os.environ.get(STRANGE_IMAGES):
        pytest.skip(f"{STRANGE_IMAGES} names no folder of strange images (Pillow's Tests/images, PngSuite…)")
    folder = Path(os.environ[STRANGE_IMAGES])

    outcomes = hand_in_elsewhere(folder, "photo", "frame", "video", timeout=7200)

    assert [one for one in outcomes if not one.is_answer] == []
    assert max(one.megabytes for one in outcomes) < 800  # 40 megapixels, as read, upright and shrunk
    # What it holds at the end is what it held before: the last tenth beside the first.
    tenth = len(outcomes) // 10
    first, last = (
        sorted(one.resident for one in part)[tenth // 2] for part in (outcomes[:tenth], outcomes[-tenth:])
    )
    assert last < 1.25 * first
    photos = [one for one in outcomes if one.door == "photo"]
    held = f"the process held {first} MB in the beginning, {last} MB in the end"
    figure(
        "Thousands of images that nobody here made are read or refused, and no process is lost",
        f"{len(photos)} files: {tally(photos)}, {worst(outcomes)}; {held}",
    )


# Bombs ------------------------------------------------------------------------------------------------------


def endless_gif() -> bytes:
    head = b"GIF89a\x40\0\x40\0\x80\0\0\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\0\x01\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    return head + 100_000 * frame + b";"


def packed_text() -> bytes:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(300)) + packer.flush()
    return with_chunk(chunk(b"zTXt", b"Title\0\0" + packed))


def zip_of(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def zip_of_one_member_a_thousand_times() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.jpg", np.random.default_rng(0).bytes(200_000) + bytes(1_800_000))
        for number in range(1, 1000):
            again = copy.copy(archive.filelist[0])
            again.filename = f"{number}.jpg"
            archive.filelist.append(again)
    return stream.getvalue()


def zip_that_understates() -> bytes:
    """100 MB that are said to be a hundred bytes."""
    data = bytearray(zip_of(("a.jpg", bytes(100_000_000))))
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", data, data.index(signature) + place, 100)
    return bytes(data)


def film_with(*changes: tuple[bytes, int, tuple[int, ...]]) -> bytes:
    """A film in which other numbers stand so many bytes after an atom's name."""
    data = bytearray(film(grey(5)))
    for atom, place, numbers in changes:
        struct.pack_into(f">{len(numbers)}I", data, data.index(atom) + place, *numbers)
    return bytes(data)


def fragments(count: int | None = None) -> bytes:
    """A film as a camera streams it. count: the pictures that its first fragment says it has."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mp4", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        pictures = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        for number, picture in enumerate(grey(5)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode(None))
    data = bytearray(stream.getvalue())
    if count:
        struct.pack_into(">II", data, data.index(b"trun") + 4, 0, count)
    return bytes(data)


BOMBS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "30,000² one-bit PNG": ("photo", one_bit_bomb),
    "57-byte PNG of 36 megapixels": ("photo", lambda: png_claiming(6_000, 6_000)),
    "huge_tEXt_chunk.png": ("photo", lambda: with_chunk(chunk(b"tEXt", b"Title\0" + bytes(200), 0x7FFFFFFF))),
    "PNG with 300 MB of packed text": ("photo", packed_text),
    "GIF of 100,000 frames": ("photo", endless_gif),
    "ZIP whose photo grows a thousandfold": ("batch", lambda: zip_of(("a.jpg", bytes(14_000_000)))),
    "ZIP of one photo a thousand times": ("batch", zip_of_one_member_a_thousand_times),
    "ZIP that understates its photo": ("batch", zip_that_understates),
    "ZIP in a ZIP": ("batch", lambda: zip_of(("a.zip", zip_of(("b.zip", bytes(9_000_000)))))),
    "MP4 of 100 million pictures": ("video", lambda: film_with((b"stsz", 8, (1, 100_000_000)))),
    "MP4 with 50 million in a fragment": ("video", lambda: fragments(50_000_000)),
    "MP4 of a false length": ("video", lambda: film_with((b"mdat", -4, (0x7FFFFFFF,)))),
    "MP4 of a million edits": ("video", lambda: film_with((b"elst", 8, (1_000_000,)))),
}


def test_a_bomb_is_refused_in_under_a_second_and_100_megabytes(door: Client, figure: Figure) -> None:
    bombs = {name: (where, make()) for name, (where, make) in BOMBS.items()}
    outcomes = [
        outcome for name, (where, data) in bombs.items() for outcome in hand_in(door, [(name, data)], [where])
    ]

    assert [one for one in outcomes if not one.is_refused] == []
    assert [one for one in outcomes if one.seconds > 1 or one.megabytes > 100] == []
    figure(
        "A bomb is refused in under a second and 100 MB",
        f"{len(outcomes)} bombs ({', '.join(BOMBS)}): {worst(outcomes)}",
    )


def test_films_as_cameras_make_them_are_no_bombs(tmp_path: Path) -> None:
    """What `recognition.mp4` must let pass: fragments, uncompressed sound, several edits."""
    path = tmp_path / "film.mov"
    for data in (fragments(), with_plain_sound(), film(grey(30), sound=True)):
        path.write_bytes(data)
        with videos.open_video(path, videos.video_limits()) as video:
            assert video.stream.codec_context.width == 64


def with_plain_sound() -> bytes:
    """A MOV whose sound has 48,000 samples a second, each in the tables."""
    stream = io.BytesIO()
    with av.open(stream, "w", format="mov") as container:
        pictures = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        assert isinstance(pictures, VideoStream)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 64, "yuv420p"
        sound = container.add_stream("pcm_s16le", rate=48_000)
        for number, picture in enumerate(grey(50)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(pictures.encode(frame))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.int16), "s16", "mono")
            tone.sample_rate, tone.pts = 48_000, 4800 * number
            container.mux(sound.encode(tone))
        for stream_out in (pictures, sound):
            container.mux(stream_out.encode(None))
    return stream.getvalue()


# Colours and orientations -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colours(portrait: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(portrait)).convert("RGB").resize((256, 256)))


def conversions(colours: np.ndarray) -> Iterator[tuple[str, bytes, np.ndarray]]:
    """What it is, the file, and the RGB that it means, float (256, 256, 3)."""
    height, width = colours.shape[:2]
    deep = colours.astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    yield "16-bit RGB", png(width, height, 16, 2, zlib.compress(rows)), colours
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep[..., 0])
    yield "16-bit grey", png(width, height, 16, 0, zlib.compress(rows)), np.repeat(colours[..., :1], 3, 2)
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype(np.uint8).repeat(32, 0).repeat(32, 1)
    printed = (255.0 - inks[..., :3]) * (255.0 - inks[..., 3:]) / 255
    cmyk = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=100, subsampling=0)
    yield "CMYK", cmyk, printed
    palette = Image.fromarray(colours).quantize(64)
    yield "palette", encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))
    ramp = np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))[..., None]
    share = ramp / 255.0
    flat = colours * share + np.array(BACKDROP) * (1 - share)
    yield "alpha", encoded(Image.fromarray(np.dstack([colours, ramp])), "PNG"), flat
    grey_flat = np.repeat(colours[..., :1] * share + BACKDROP[0] * (1 - share), 3, 2)
    yield (
        "grey with alpha",
        encoded(Image.fromarray(np.dstack([colours[..., 0], ramp]), "LA"), "PNG"),
        grey_flat,
    )


def test_unusual_colours_are_converted_as_they_should_be(colours: np.ndarray, figure: Figure) -> None:
    off = {
        what: float(np.abs(decode_photo(data, Limits()).astype(float) - meant).mean())
        for what, data, meant in conversions(colours)
    }

    assert {what: mean for what, mean in off.items() if mean > 2} == {}
    figure(
        "16-bit, CMYK, palette and transparent pictures are within 2/255 of a correct conversion",
        "mean difference of " + ", ".join(f"{what} {mean:.2f}" for what, mean in off.items()) + " (of 255)",
    )


# So long that a picture's packed bytes do not hold one by chance.
OWNER: Final = "Ada Lovelace"
NOTES: Final = (b"Exif\0\0", OWNER.encode(), b"http://ns.adobe.com", b"ICC_PROFILE", b"Photoshop")


def test_a_face_is_found_where_it_is_however_the_camera_was_held(
    client: Client, portrait: bytes, figure: Figure
) -> None:
    upright = Image.open(io.BytesIO(portrait)).convert("RGB")
    boxes = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = orientation, f"Camera of {OWNER}"
        exif.get_ifd(0x8825)[2] = (51.0, 30.0, 0.0)
        stored = upright.transpose(STORED_AS[orientation]) if orientation > 1 else upright
        notes = {
            "exif": exif,
            "comment": f"{OWNER} at home".encode(),
            "xmp": f"<x:xmpmeta>{OWNER}</x:xmpmeta>".encode(),
            "icc_profile": OWNER.encode() * 50,
        }
        send(
            client,
            "photo.jpg",
            encoded(stored, "JPEG", quality=100, subsampling=0, **notes),
        )
        boxes.append(Face.objects.get(photo__analysis=Analysis.objects.get()).box)
        for served in pictures(client):
            picture = Image.open(io.BytesIO(served))
            assert not picture.getexif()
            assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density", "transparency"}
            assert not [note for note in NOTES if note in served]
        Analysis.objects.all().delete()

    farthest = float(np.abs(np.array(boxes) - boxes[0]).max())
    assert farthest <= 2
    figure(
        "A face has the same box under each EXIF orientation, and no note of the camera is kept or served",
        f"1 to 8: sides at most {farthest:.2f} px apart; no EXIF, XMP, ICC profile or comment left",
    )


def send(client: Client, name: str, data: bytes, address: str = "/analyse/") -> int:
    """Upload a file under exactly this name, which Django's own test client would tidy."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="photos"; filename="'.encode()
    middle = b'"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head + name.encode() + middle + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    response = client.generic("POST", address, body, content_type=MULTIPART_CONTENT)
    return response.status_code


def pictures(client: Client) -> Iterator[bytes]:
    """Every picture of the only analysis, as it is stored and as it is served, with headers that bind."""
    analysis = Analysis.objects.get()
    for path in sorted(analysis.folder.iterdir()):
        response = client.get(reverse("picture", args=[analysis.pk, path.name]))
        assert response.status_code == 200
        assert response["Content-Type"] in ("image/jpeg", "image/png")
        assert response["X-Content-Type-Options"] == "nosniff"
        assert "no-store" in response["Cache-Control"]
        served = response.getvalue()
        assert served == path.read_bytes()
        yield served


# Names, and files that are two things -----------------------------------------------------------------------

NAMES: Final = (
    "../../../etc/cron.d/photo.jpg",
    "..\\..\\windows\\photo.jpg",
    "/etc/passwd",
    "a\0b.jpg",
    "a" * 300 + ".jpg",
    "shell.php.jpg",
    "photo.jpg/../../x",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "<script>alert(1)</script>.jpg",
    '"onload="alert(1).jpg',
    "=1+1.jpg",
    "..",
    ".",
    "CON",
    "",
    "%2e%2e%2fphoto.jpg",
    "{{ settings.SECRET_KEY }}.jpg",
    "'; DROP TABLE recognition_analysis; --.jpg",
)


@pytest.mark.parametrize("address", ["/analyse/", "/batch/"])
def test_whatever_a_file_is_called_it_is_stored_under_our_own_name(
    client: Client, tmp_path: Path, media: Path, address: str, figure: Figure
) -> None:
    data = encoded(scene(), "JPEG")
    taken = 0
    for name in NAMES:
        status = send(client, name, data, address)
        assert status in (302, 400), name
        for analysis in Analysis.objects.all():
            taken += 1
            read_analysis(analysis.pk)
            for path in tmp_path.rglob("*"):
                ours = path in (media, media / "analyses", analysis.folder)
                assert ours or (path.parent == analysis.folder and FILENAME.fullmatch(path.name)), path
            for photo in Photo.objects.all():
                assert photo.name.isprintable()
            for shown in ("", "?show=unused", "expressions.json", "expressions.csv"):
                page = b"".join(client.get(analysis.get_absolute_url() + shown))
                assert b"<script>alert" not in page
                assert b'"onload="' not in page
        Analysis.objects.all().delete()
        for path in sorted(tmp_path.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
    assert taken > len(NAMES) / 2
    what = {"/analyse/": "a photo", "/batch/": "a batch's file"}[address]
    figure(
        f"Whatever {what} is called, it is stored under our own name and shown as text",
        f"{len(NAMES)} names (../, NUL, 300 letters, .php.jpg, right-to-left mark, `<script>`…): "
        f"{taken} taken, {len(NAMES) - taken} refused, none on disk or unescaped on a page",
    )


def test_members_of_a_zip_leave_its_folder_as_little(client: Client, media: Path, tmp_path: Path) -> None:
    data = encoded(scene(), "JPEG")
    album = zip_of(*((name.replace("\0", ""), data) for name in NAMES if name.strip("./")))

    assert send(client, "album.zip", album, "/batch/") == 302
    analysis = Analysis.objects.get()
    read_analysis(analysis.pk)

    analysis.refresh_from_db()
    assert analysis.state == "done", analysis.error
    assert not Rejection.objects.exists()
    outside = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != analysis.folder]
    assert outside == []
    assert all(FILENAME.fullmatch(path.name) for path in analysis.folder.iterdir())


SCRIPT: Final = b"<html><script>alert(document.cookie)</script><?php system('id') ?>"


def polyglots(portrait: bytes) -> Iterator[tuple[str, bytes]]:
    """Photos that are something else as well."""
    photo = Image.open(io.BytesIO(portrait)).convert("RGB").resize((200, 200))
    yield "page behind a JPEG", encoded(photo, "JPEG") + SCRIPT
    yield "page in a JPEG's comment", encoded(photo, "JPEG", comment=SCRIPT)
    exif = Image.Exif()
    exif[0x010E] = SCRIPT.decode()
    yield "page in EXIF", encoded(photo, "JPEG", exif=exif)
    info = PngInfo()
    info.add_text("Comment", SCRIPT.decode())
    yield "page in a PNG's text", encoded(photo, "PNG", pnginfo=info)
    yield "ZIP behind a PNG", encoded(photo, "PNG") + zip_of(("x.html", SCRIPT), ("x.class", SCRIPT))
    yield "PDF behind a WebP", encoded(photo, "WEBP") + b"%PDF-1.4" + SCRIPT
    rows = b"".join(b"\0" + SCRIPT.ljust(3 * 40, b" ") for _ in range(40))
    yield "page as a PNG's very pixels", png(40, 40, 8, 2, zlib.compress(rows, 0))


def test_a_file_that_is_two_things_is_never_served_as_it_was_uploaded(
    client: Client, portrait: bytes, figure: Figure
) -> None:
    names = []
    for name, data in polyglots(portrait):
        assert any(part in data for part in (b"<script>", b"PK\x03\x04")), name
        assert send(client, "photo.jpg", data) == 302
        for served in pictures(client):
            assert not re.search(rb"<script|<html|<\?php|%PDF|PK\x03\x04", served), name
            assert served != data
        policy = client.get(Analysis.objects.get().get_absolute_url())["Content-Security-Policy"]
        assert "unsafe" not in policy
        names.append(name)
        Analysis.objects.all().delete()
    figure(
        "A file that is two things at once is never served as it came; pictures are nosniff and no-store",
        f"{len(names)} polyglots ({', '.join(names)}): nothing of the second thing is left",
    )
