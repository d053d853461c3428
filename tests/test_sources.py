"""Sources read real files, which the tests write themselves; the last tests read the shared drives."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geal_edge.errors import MissingDependency, SourceError, UsageError
from geal_edge.runtime.frame import Frame, LostFrame
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.sources.images import ImageSource
from geal_edge.runtime.sources.video import VideoSource
from tests.contracts import RECORDED_SOURCE_CHECKS, SOURCE_CHECKS, OpenSource
from tests.fakes import MemorySource
from tests.fakes import frame as fake_frame
from tests.films import SIZE, number_of, picture, write_mov, write_video


def save(path: Path, number: int = 0, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number)).save(path, **options)
    return path


def only(path: Path) -> Frame | LostFrame:
    """What a single image file gives."""
    (item,) = open_source(str(path)).frames()
    return item


def image_of(path: Path) -> np.ndarray:
    item = only(path)
    assert isinstance(item, Frame), item
    return item.image


def reason_of(path: Path) -> str:
    item = only(path)
    assert isinstance(item, LostFrame), item
    return item.reason


def numbers(source, after: int = -1) -> list[int | None]:
    """The number in each picture, None for a lost one."""
    return [number_of(item.image) if isinstance(item, Frame) else None for item in source.frames(after)]


# One contract for all of them


def image_folder_with_damage(folder: Path) -> str:
    for number in range(4):
        save(folder / "drive" / f"{number}.jpg", number)
    (folder / "drive" / "2.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    save(folder / "drive" / "more" / "5.png", 5)
    return str(folder / "drive")


RECORDED = {
    "folder": image_folder_with_damage,
    "glob": lambda folder: image_folder_with_damage(folder) + "/**/*.*g",
    "one image": lambda folder: str(save(folder / "one.webp", 3)),
    "mp4": lambda folder: str(write_video(folder / "drive.mp4", 9)),
    "avi": lambda folder: str(write_video(folder / "drive.avi", 9, fourcc="MJPG")),
    "damaged video": lambda folder: str(write_mov(folder / "drive.mov", 9, broken=(0, 3, 4, 8))),
    "cut video": lambda folder: str(cut(write_mov(folder / "drive.mov", 9), 0.6)),
    "drawn": lambda folder: "drawn:1:6",
}


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("check", RECORDED_SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", RECORDED)
def test_every_source_keeps_the_contract(kind, check, tmp_path):
    spec = RECORDED[kind](tmp_path)
    check(lambda: open_source(spec))


@pytest.mark.parametrize("check", RECORDED_SOURCE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", ["mp4", "damaged video", "drawn"])
def test_every_source_keeps_the_contract_at_a_lower_rate(kind, check, tmp_path):
    spec = RECORDED[kind](tmp_path)
    check(lambda: open_source(spec, fps=2 if kind == "drawn" else 10))


@pytest.mark.parametrize("check", SOURCE_CHECKS, ids=lambda check: check.__name__)
def test_the_fake_source_keeps_the_contract_too(check):
    open_it: OpenSource = lambda: MemorySource([fake_frame(index) for index in range(5)])  # noqa: E731
    check(open_it)


# What a spec opens


def test_a_folder_is_read_to_the_bottom_in_byte_order_of_the_paths(tmp_path):
    for name in ("b.jpg", "a/z.png", "a/y/1.jpg", "a.jpg", "B.JPG", "10.jpeg", "9.jpeg"):
        save(tmp_path / "drive" / name)

    ids = [item.id for item in open_source(str(tmp_path / "drive")).frames()]

    assert ids == [f"drive/{name}" for name in ("10.jpeg", "9.jpeg", "B.JPG", "a.jpg", "a/y/1.jpg", "a/z.png", "b.jpg")]


def test_files_that_are_no_images_by_name_are_no_frames(tmp_path):
    save(tmp_path / "a.jpg")
    for name in ("notes.txt", "._a.jpg", ".hidden.png", "a.json", "jpg"):
        (tmp_path / name).write_text("not a frame")
    save(tmp_path / ".thumbnails" / "a.jpg")

    assert open_source(str(tmp_path)).frame_count == 1


def test_a_glob_takes_what_matches_and_is_named_after_its_folder(tmp_path):
    for name in ("left/1.jpg", "left/2.png", "right/1.jpg"):
        save(tmp_path / "cameras" / name)

    source = open_source(str(tmp_path / "cameras" / "*" / "1.jpg"))

    assert source.name == "cameras"
    assert [item.id for item in source.frames()] == ["cameras/left/1.jpg", "cameras/right/1.jpg"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    assert open_source(str(save(tmp_path / "drive[1].jpg"))).frame_count == 1


def test_a_source_is_named_after_its_folder_or_file_unless_told_otherwise(tmp_path, monkeypatch):
    save(tmp_path / "night" / "1.jpg")
    video = write_video(tmp_path / "day.mp4", 2)
    monkeypatch.chdir(tmp_path / "night")

    assert open_source(".").name == "night"
    assert open_source("1.jpg").name == "1.jpg"
    assert open_source(str(video)).name == "day.mp4"
    assert [item.id for item in open_source(str(video)).frames()] == ["day.mp4#0", "day.mp4#1"]
    assert [item.id for item in open_source(".", name="trip 7").frames()] == ["trip 7/1.jpg"]


def test_a_spec_opens_the_same_source_from_any_folder(tmp_path, monkeypatch):
    save(tmp_path / "night" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    spec = open_source("night").spec
    monkeypatch.chdir("/")

    assert open_source(spec).frame_count == 1


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\nb"])
def test_a_name_that_would_spoil_ids_is_refused(name):
    with pytest.raises(UsageError, match="--name"):
        open_source("drawn:1", name=name)


def test_file_names_that_are_no_text_still_give_ids_that_are(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/dr\xffive")
    with open(os.fsencode(tmp_path) + b"/dr\xffive/\xe9.jpg", "wb") as file:
        file.write(save(tmp_path / "a.jpg").read_bytes())

    (item,) = open_source(os.fsdecode(os.fsencode(tmp_path) + b"/dr\xffive")).frames()

    assert item.id == r"dr\xffive/\xe9.jpg"
    assert isinstance(item, Frame)


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        ("nowhere", SourceError, "no such file or folder"),
        ("nowhere.mp4", SourceError, "no such file or folder"),
        ("none/*.jpg", SourceError, "no image files were found there .*[.]jpg .*[.]png"),
        (
            "empty",
            SourceError,
            "no image files were found there .*[.]jpg .*[.]png.*Videos and bags are named one by one",
        ),
        ("notes.txt", SourceError, "neither an image nor a video by its ending .*[.]jpg .*[.]mp4"),
        ("empty.mp4", SourceError, "0 bytes"),
        ("text.mp4", SourceError, "not a video that FFmpeg can open"),
        ("nomoov.mp4", SourceError, "table of contents .moov. is missing or damaged"),
        ("blind.mov", SourceError, "not one frame can be decoded"),
        ("drawn:", UsageError, "drawn:SEED"),
        ("drawn:x", UsageError, "drawn:SEED"),
        ("drawn:-1", UsageError, "drawn:SEED"),
        ("drawn:1:0", UsageError, "at least 1 frame"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_a_sentence(spec, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("empty/notes.txt").write_text("no image")
    Path("notes.txt").write_text("no source")
    Path("empty.mp4").touch()
    Path("text.mp4").write_text("This is a text. " * 100)
    cut(write_video(Path("nomoov.mp4"), 30), 0.5)
    write_mov(Path("blind.mov"), 4, broken=range(4))

    with pytest.raises(error, match=words) as caught:
        open_source(spec)
    assert spec in str(caught.value)


@pytest.mark.parametrize("spec", ["folder", "one.jpg", "*.jpg"])
def test_a_rate_for_images_is_refused_as_they_have_no_times(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(Path("one.jpg"))
    save(Path("folder/one.jpg"))

    with pytest.raises(UsageError, match="images have no times"):
        open_source(spec, fps=2)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_senseless_rate_is_refused(fps, tmp_path):
    with pytest.raises(UsageError, match="above 0"):
        open_source("drawn:1", fps=fps)
    with pytest.raises(UsageError, match="above 0"):
        open_source(str(write_video(tmp_path / "drive.mp4", 2)), fps=fps)


@pytest.mark.parametrize("package", ["cv2", "PIL"])
def test_a_missing_package_is_a_sentence_with_the_command(package, tmp_path, monkeypatch):
    video, image = write_video(tmp_path / "drive.mp4", 2), save(tmp_path / "a.jpg")
    monkeypatch.setitem(sys.modules, package, None)
    if package == "PIL":
        monkeypatch.setitem(sys.modules, "PIL.Image", None)

    for spec in [str(video)] if package == "cv2" else [str(image), "drawn:1"]:
        with pytest.raises(MissingDependency, match=re.escape("pip install 'geal-edge[cpu]'")):
            open_source(spec)


def test_the_package_of_sources_loads_neither_opencv_nor_pillow():
    code = "import sys, geal_edge.runtime.sources; print({'cv2', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


# Fingerprints


def test_the_fingerprint_of_a_folder_changes_with_a_name_or_a_size(tmp_path):
    save(tmp_path / "a.jpg")
    prints = {open_source(str(tmp_path)).fingerprint()}
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")
    prints.add(open_source(str(tmp_path)).fingerprint())
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes() + b"\0")
    prints.add(open_source(str(tmp_path)).fingerprint())
    save(tmp_path / "c.jpg")
    prints.add(open_source(str(tmp_path)).fingerprint())
    assert len(prints) == 4


@pytest.mark.parametrize("at", [0.01, 0.99])
def test_the_fingerprint_of_a_video_changes_with_either_end(at, tmp_path):
    path = write_mov(tmp_path / "drive.mov", 12)
    before = open_source(str(path)).fingerprint()
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.write_bytes(content)

    assert VideoSource(path).fingerprint() != before


def test_the_fingerprint_of_a_drawn_drive_is_its_parameters():
    assert len({open_source(spec).fingerprint() for spec in ("drawn:1", "drawn:2", "drawn:1:20", "drawn:1:360")}) == 3


# Images that are usable


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "PNG", "webp", "bmp", "tif", "tiff", "ppm", "gif"])
def test_every_format_is_read_as_rgb(ending, tmp_path):
    path = save(tmp_path / f"a.{ending}", 5)
    assert np.abs(image_of(path).astype(int) - picture(5)).mean() < 8


def test_the_file_itself_comes_along_where_a_browser_can_show_it(tmp_path):
    for ending, encoding in (("jpg", "jpg"), ("jpeg", "jpg"), ("png", "png"), ("webp", "webp")):
        path = save(tmp_path / f"a.{ending}")
        item = only(path)
        assert isinstance(item, Frame)
        assert (item.encoded, item.encoding) == (path.read_bytes(), encoding)
    for ending in ("bmp", "tif", "ppm", "gif"):
        item = only(save(tmp_path / f"a.{ending}"))
        assert isinstance(item, Frame)
        assert (item.encoded, item.encoding) == (None, "")


def test_a_file_is_what_it_holds_not_what_it_is_called(tmp_path):
    path = save(tmp_path / "a.png", 3)
    path.rename(tmp_path / "a.jpg")
    item = only(tmp_path / "a.jpg")
    assert isinstance(item, Frame)
    assert item.encoding == "png"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_kind_of_pixel_becomes_rgb(mode, tmp_path):
    ending = "tif" if mode == "CMYK" else "png"
    Image.fromarray(picture(5)).convert(mode).save(tmp_path / f"a.{ending}")
    expected = np.asarray(Image.fromarray(picture(5)).convert(mode).convert("RGB"))
    np.testing.assert_array_equal(image_of(tmp_path / f"a.{ending}"), expected)


def test_alpha_is_dropped_and_what_lies_under_it_stays(tmp_path):
    pixels = np.dstack([picture(5), np.zeros(SIZE[::-1], np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(image_of(tmp_path / "a.png"), picture(5))


def test_a_transparent_palette_is_used_and_says_nothing(tmp_path):
    Image.fromarray(picture(5)).convert("P").save(tmp_path / "a.png", transparency=bytes(range(256)))
    assert image_of(tmp_path / "a.png").shape == picture(5).shape


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_over_their_full_range(ending, tmp_path):
    values = np.array([[0, 128, 129, 257, 12850, 32896, 65407, 65535]], np.uint16)
    if ending == "pgm":
        (tmp_path / "a.pgm").write_bytes(b"P5 8 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / f"a.{ending}")
    for channel in range(3):
        assert image_of(tmp_path / f"a.{ending}")[0, :, channel].tolist() == [0, 0, 1, 1, 50, 128, 255, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_exif_rotation_is_applied_and_the_file_kept_as_it_is(orientation, ending, tmp_path):
    upright = Image.fromarray(picture(5))
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90"}
    undo |= {7: "TRANSVERSE", 8: "ROTATE_270"}
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    stored.save(path, exif=exif)

    item = only(path)

    assert isinstance(item, Frame)
    assert np.abs(item.image.astype(int) - picture(5)).mean() < 8
    assert item.encoded == (None if ending == "tif" else path.read_bytes())
    assert open_source(str(path)).size == SIZE


def test_of_an_animation_the_first_picture_counts(tmp_path):
    for ending in ("gif", "webp", "png"):
        path = tmp_path / f"a.{ending}"
        more = [Image.fromarray(picture(number)) for number in (6, 7)]
        save(path, 5, save_all=True, append_images=more)
        assert number_of(image_of(path)) == 5


def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    path = save(tmp_path / "a.jpg", 5, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\xff\xff")
    assert number_of(image_of(path)) == 5


# Images that are lost


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def encoded(number: int, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(number)).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"This is a text that someone called a picture.", "not_an_image"),
        (b"\0" * 5000, "not_an_image"),
        (encoded(1, "JPEG")[:-200], "truncated"),
        (encoded(1, "PNG")[:-200], "truncated"),
        (encoded(1, "WEBP")[:-20], "truncated"),
        (encoded(1, "BMP")[:-200], "truncated"),
        (encoded(1, "TIFF")[:9000], "truncated"),
        (encoded(1, "PPM")[:-200], "truncated"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "truncated"),
        (b"\xff\xd8\xff\xe0", "undecodable"),
        (encoded(1, "PNG")[:60] + b"\xee" * 40 + encoded(1, "PNG")[100:], "undecodable"),
        (png_header(12_000, 9_000), "too_large"),  # Pillow itself would warn
        (png_header(60_000, 60_000), "too_large"),  # Pillow itself would refuse
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),  # PostScript would be run by a program outside
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} bytes",
)
def test_an_unusable_file_is_lost_with_its_reason(content, reason, tmp_path):
    save(tmp_path / "a.png", 1)
    (tmp_path / "b.jpg").write_bytes(content)
    save(tmp_path / "c.png", 3)

    before, lost, after = open_source(str(tmp_path)).frames()

    assert isinstance(before, Frame)
    assert isinstance(lost, LostFrame)
    assert isinstance(after, Frame)
    assert lost.reason == reason, lost
    assert lost.detail.startswith("b.jpg: ")
    assert (lost.frame_index, lost.capture_time_ns) == (1, None)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_no_cut_and_no_flipped_bit_of_a_file_stops_the_source(form, tmp_path):
    whole = encoded(5, form)
    rng = np.random.default_rng(0)
    for number, length in enumerate(rng.integers(1, len(whole), size=40).tolist()):
        (tmp_path / f"cut{number}.jpg").write_bytes(whole[:length])
        flipped = bytearray(whole)
        flipped[length] ^= 1 << number % 8
        (tmp_path / f"flipped{number}.jpg").write_bytes(flipped)

    assert len(list(open_source(str(tmp_path)).frames())) == 80


def test_a_folder_a_pipe_and_a_broken_link_with_image_names_are_unreadable_frames(tmp_path):
    save(tmp_path / "folder.jpg" / "inside.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")

    lost = list(open_source(str(tmp_path)).frames())

    assert [(item.id.split("/")[1], getattr(item, "reason", None)) for item in lost] == [
        ("folder.jpg", "unreadable"),
        ("link.jpg", "unreadable"),
        ("pipe.jpg", "unreadable"),
    ]


def test_a_file_that_goes_away_after_listing_is_unreadable(tmp_path):
    source = ImageSource(tmp_path, ["a.jpg"], name="n", spec="n")
    (lost,) = source.frames()
    assert isinstance(lost, LostFrame)
    assert lost.reason == "unreadable"
    assert source.size is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_unreadable_and_a_folder_that_may_not_be_listed_is_an_error(tmp_path):
    save(tmp_path / "a.jpg").chmod(0)
    assert reason_of(tmp_path / "a.jpg") == "unreadable"
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(SourceError, match="locked: the folder cannot be read"):
        open_source(str(tmp_path))


# Video


@pytest.mark.parametrize(
    ("name", "fourcc"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.MOV", "mp4v")]
)
def test_a_video_gives_its_frames_in_order_as_rgb_with_times(name, fourcc, tmp_path):
    source = open_source(str(write_video(tmp_path / name, 12, fourcc=fourcc, fps=20)))
    frames = [item for item in source.frames() if isinstance(item, Frame)]

    assert [number_of(frame.image) for frame in frames] == list(range(12))
    assert [frame.capture_time_ns for frame in frames] == [index * 50_000_000 for index in range(12)]
    assert frames[4].image[20, 15].tolist() == pytest.approx([230, 30, 30], abs=40)
    assert (source.frame_count, source.size, frames[0].encoded) == (12, SIZE, None)


def test_times_are_the_containers_own_where_the_rate_varies(tmp_path):
    path = write_mov(tmp_path / "a.mov", 6, milliseconds=[40, 33, 100, 20, 250, 10])
    times = [item.capture_time_ns for item in open_source(str(path)).frames()]
    assert times == [ms * 1_000_000 for ms in (0, 40, 73, 173, 193, 443)]


@pytest.mark.parametrize(
    ("fps", "taken"),
    [
        (5, [0, 5, 10, 15]),
        (25, list(range(20))),
        (400, list(range(20))),
        (0.1, [0]),
        (10, [0, 3, 5, 8, 10, 13, 15, 18]),
    ],
)
def test_a_rate_takes_the_first_frame_of_each_slot_of_time(fps, taken, tmp_path):
    source = open_source(str(write_video(tmp_path / "a.mp4", 20)), fps=fps)
    assert [item.frame_index for item in source.frames()] == taken
    assert numbers(source) == taken
    assert source.frame_count == len(taken)


def test_a_rate_goes_by_time_and_not_by_counting_where_the_rate_varies(tmp_path):
    path = write_mov(tmp_path / "a.mov", 7, milliseconds=[10, 10, 80, 10, 150, 40, 10])  # at 0 10 20 100 110 260 300
    assert [item.frame_index for item in open_source(str(path), fps=10).frames()] == [0, 3, 5, 6]


def test_frames_that_cannot_be_decoded_are_lost_in_their_places(tmp_path):
    source = open_source(str(write_mov(tmp_path / "a.mov", 9, broken=(0, 3, 4, 8))))
    assert numbers(source) == [None, 1, 2, None, None, 5, 6, 7, None]
    lost = next(item for item in source.frames() if isinstance(item, LostFrame))
    assert (lost.id, lost.reason) == ("a.mov#0", "undecodable")


def test_a_video_cut_off_loses_what_its_table_of_contents_promised(tmp_path):
    source = open_source(str(cut(write_mov(tmp_path / "a.mov", 12), 0.7)))
    found = numbers(source)
    assert len(found) == source.frame_count == 12
    assert None not in found[:6]
    assert found[-1] is None


def test_lost_frames_that_the_rate_would_have_skipped_are_not_seen(tmp_path):
    path = write_mov(tmp_path / "a.mov", 20, broken=(4, 5, 6, 12))
    found = [(item.frame_index, isinstance(item, LostFrame)) for item in open_source(str(path), fps=5).frames()]
    assert found == [(0, False), (5, True), (10, False), (15, False)]


@pytest.mark.parametrize(
    ("start", "length", "shown"), [(0, 480, range(12)), (200, 280, range(5, 12)), (200, 200, range(5, 10))]
)
def test_frames_that_an_edit_list_hides_are_not_lost(start, length, shown, tmp_path):
    source = open_source(str(write_mov(tmp_path / "a.mov", 12, edit=(start, length))))
    assert numbers(source) == list(shown)
    assert source.frame_count == len(shown)


def test_empty_chunks_of_an_avi_are_not_lost(tmp_path):
    path = write_video(tmp_path / "a.avi", 9, fourcc="MJPG")
    content = path.read_bytes()
    index = content.rindex(b"idx1")
    fifth = index + 8 + 4 * 16
    at = content.index(b"movi") + struct.unpack_from("<I", content, fifth + 8)[0]
    frame_bytes = struct.unpack_from("<I", content, at + 4)[0]
    placeholder = (
        struct.pack("<4sI", b"00dc", 0) + struct.pack("<4sI", b"JUNK", frame_bytes - 8) + bytes(frame_bytes - 8)
    )
    content = content[:at] + placeholder + content[at + 8 + frame_bytes :]
    content = content[: fifth + 12] + bytes(4) + content[fifth + 16 :]
    path.write_bytes(content)

    assert numbers(open_source(str(path))) == [0, 1, 2, 3, 5, 6, 7, 8]


def test_a_turned_video_comes_upright(tmp_path):
    source = open_source(str(write_mov(tmp_path / "a.mov", 3, turned=True)))
    first = next(source.frames())
    assert isinstance(first, Frame)
    assert source.size == (SIZE[1], SIZE[0])
    assert number_of(np.rot90(first.image)) == 0
    assert np.abs(np.rot90(first.image).astype(int) - picture(0)).mean() < 8


def test_a_video_whose_name_is_no_text_is_refused_with_a_sentence(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/dr\xffive.mov")
    write_mov(Path(path), 2)
    with pytest.raises(SourceError, match="not UTF-8"):
        open_source(path)


def test_a_video_whose_name_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mov(Path("concat:b.mov"), 3)
    assert numbers(open_source("concat:b.mov")) == [0, 1, 2]


def test_a_frame_that_cannot_be_converted_is_lost_and_the_next_one_comes(tmp_path):
    source = VideoSource(write_video(tmp_path / "a.mp4", 4))
    real, calls = source._image, []

    def failing(capture):
        calls.append(capture)
        return None if len(calls) == 2 else real(capture)

    source._image = failing  # type: ignore[method-assign]  # OpenCV gives no file whose second frame fails like this
    assert numbers(source) == [0, None, 2, 3]


def test_a_video_without_usable_times_gets_them_from_its_rate():
    from geal_edge.runtime.sources.video import _Clock

    clock = _Clock(40e6)
    assert [clock.at(stamp) for stamp in (0.0, 0.0, 0.0, 120.0, 130.0)] == [
        0,
        40_000_000,
        80_000_000,
        120_000_000,
        130_000_000,
    ]
    clock = _Clock(40e6)
    assert [clock.at(stamp) for stamp in (-50.0, 40.0, 30.0, 200.0)] == [0, 40_000_000, 80_000_000, 200_000_000]
    clock = _Clock(40e6)
    assert [clock.at(80.0), clock.lost(), clock.lost(), clock.at(200.0)] == [0, 40_000_000, 80_000_000, 120_000_000]


def test_ffmpeg_writes_nothing_between_our_lines(tmp_path):
    write_mov(tmp_path / "damaged.mov", 9, broken=(0, 3, 4, 8))
    (tmp_path / "text.mp4").write_text("This is a text. " * 100)
    code = (
        "import sys; from geal_edge.errors import SourceError; from geal_edge.runtime.sources import open_source\n"
        "print(len(list(open_source(sys.argv[1]).frames())))\n"
        "try: open_source(sys.argv[2])\n"
        "except SourceError: print('refused')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "damaged.mov"), str(tmp_path / "text.mp4")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("9\nrefused\n", "")


# Real captures

SHOWN = {
    "city_dashcam": 441,
    "elephant_on_road": 625,
    "highway_dusk": 296,
    "india_city_traffic": 297,
    "london_street_h265": 146,
    "night_rural_1080p": 157,
    "nuscenes_mini": 40,
    "potholes": 1005,
    "rural_road": 255,
    "udacity_project_video_part": 201,  # of 210 stored: 9 are hidden by an edit list
    "udacity_solidWhiteRight": 221,
    "us_freeway_1": 515,
    "us_highway_winter": 891,
    "wet_country_road": 1290,  # of 1,392 stored
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_healthy_real_drive_loses_nothing(name, shared):
    source = VideoSource(shared / "data" / "drives" / f"{name}.mp4")
    capture = source._open()
    reads = list(source._reads(capture))  # without the pixels: a tenth of the time
    capture.release()
    assert reads == [True] * SHOWN[name]
    assert source.frame_count == SHOWN[name]


def test_time_moves_forward_in_a_real_drive_whose_stamps_do_not(shared):
    source = VideoSource(shared / "data" / "drives" / "london_street_h265.mp4")
    times = [item.capture_time_ns for item, _ in zip(source.frames(), range(9), strict=False)]
    assert [round(time / 1e6) for time in times if time is not None] == [0, 100, 133, 167, 200, 234, 268, 300, 367]


def test_real_on_vehicle_images_come_with_their_bytes(shared):
    source = open_source(str(shared / "data" / "seq" / "nuscenes_drivelm_6cam"))
    items = list(source.frames(after=40))
    assert source.frame_count == 54
    assert all(
        isinstance(item, Frame) and item.encoding == "jpg" and item.image.shape == (900, 1600, 3) for item in items
    )


def test_grey_on_vehicle_images_are_used(shared):
    source = open_source(str(shared / "data" / "seq" / "kitti_odom_a"))
    first = next(source.frames())
    assert isinstance(first, Frame)
    assert (first.image[:, :, 0] == first.image[:, :, 2]).all()
    assert source.size == (first.image.shape[1], first.image.shape[0])
