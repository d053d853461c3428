"""Downloads against a real server on loopback: slow, cut off, continued, wrong, silent, and two at once."""

import gc
import hashlib
import json
import os
import resource
import socket
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geal_edge.errors import DownloadError, StorageError, UsageError, WeightsError
from geal_edge.models import download as module
from geal_edge.models.download import MEGABYTE, download, only_one_writes
from geal_edge.models.named import DEFAULT, NAMED, NamedModel, Shelves, fetch, obtain_weights
from geal_edge.models.vit import Geometry
from geal_edge.models.weights import load_weights, untrained
from tests.torch_files import zip_file
from tests.web import (
    Site,
    answer,
    cut_at,
    hang_up,
    safetensors_bytes,
    serve,
    silence,
    site,
    stall_at,
    without_ranges,
)

TINY = Geometry(patch_size=4, embed_dim=64, depth=2, mlp_dim=128, trained_grid=(2, 2))
WEIGHTS = untrained(1, TINY)
FILE = safetensors_bytes(WEIGHTS.tensors)
BODY = np.random.default_rng(0).bytes(400_000)
HUB_PATH = "/timm/tiny/resolve/main/model.safetensors"
OFFICIAL_PATH = "/dino/tiny_pretrain.pth"
LONG_S = 30.0
"""For servers that answer: never waited for."""
SHORT_S = 0.3
"""For servers that are silent."""


class Watch:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int | None]] = []
        self.steps = 0
        self.warnings: list[str] = []
        self.warned = threading.Event()
        self.on_step = lambda: None

    def begin(self, what: str, total: int | None) -> None:
        self.begun.append((what, total))
        self.steps = 0

    def advance(self) -> None:
        self.steps += 1
        self.on_step()

    def warn(self, message: str) -> None:
        self.warnings.append(message)
        self.warned.set()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def web():
    with site() as server:
        server.files = {"/file.bin": BODY, HUB_PATH: FILE, OFFICIAL_PATH: zip_file(WEIGHTS.tensors)}
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir()
    return path


def get(web, folder, *, timeout_s=LONG_S, watch=None, path="/file.bin", **options):
    return download(
        web.url + path,
        folder,
        check=lambda path, _: path.read_bytes(),
        timeout_s=timeout_s,
        watch=watch or Watch(),
        **options,
    )


def digest_of(data):
    return hashlib.sha256(data).hexdigest()


# One file.


def test_a_file_arrives_under_its_digest_and_nothing_else_is_left(web, folder):
    assert get(web, folder) == BODY
    (file,) = folder.iterdir()
    assert file.name == f"{digest_of(BODY)}.bin"
    assert file.read_bytes() == BODY


def test_progress_counts_megabytes_while_they_come(web, folder):
    """The server sends each megabyte only after the last one was shown, so that nothing waits for the end."""
    body, shown = bytes(3_400_000), threading.Semaphore(0)
    watch = Watch()
    watch.on_step = shown.release

    def slowly(handler):
        handler.head(200, Content_Length=len(body))
        for start in range(0, len(body), MEGABYTE):
            if start:
                assert shown.acquire(timeout=30)
            handler.wfile.write(body[start : start + MEGABYTE])

    web.replies = [slowly]
    assert get(web, folder, watch=watch) == body
    assert watch.begun == [("downloading file.bin (MB)", 4)]
    assert watch.steps == 4


@pytest.mark.parametrize("fault", [cut_at, stall_at])
def test_a_body_that_breaks_off_is_continued_where_it_broke(web, folder, fault):
    web.replies = [fault(100_000), fault(250_000)]
    assert get(web, folder, timeout_s=SHORT_S) == BODY
    assert web.ranges == [None, "bytes=100000-", "bytes=250000-"]


def test_a_later_call_continues_an_earlier_one(web, folder):
    web.replies = [cut_at(100_000), hang_up]
    with pytest.raises(DownloadError, match=r"0\.1 of 0\.4 MB had come; the same command goes on from there"):
        get(web, folder)
    watch = Watch()
    assert get(web, folder, watch=watch) == BODY
    assert web.ranges == [None, "bytes=100000-", "bytes=100000-"]
    assert watch.steps == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda part: part.write_bytes(bytes(100_000)),
        lambda part: part.write_bytes(BODY[:99_999]),
        lambda part: part.with_name("file.bin.part.json").write_text("{"),
        lambda part: part.with_name("file.bin.part.json").write_text('{"bytes": "7"}'),
        lambda part: part.with_name("file.bin.part.json").unlink(),
        lambda part: part.unlink(),
    ],
)
def test_a_part_that_its_record_does_not_prove_is_fetched_anew(web, folder, harm):
    web.replies = [cut_at(100_000), hang_up]
    with pytest.raises(DownloadError):
        get(web, folder)
    harm(folder / "file.bin.part")
    assert get(web, folder) == BODY
    assert web.ranges[-1] is None


def test_bytes_beyond_the_record_are_fetched_again(web, folder):
    """What a kill leaves: the part has grown since its record was written, by bytes or by holes."""
    web.replies = [cut_at(100_000), hang_up]
    with pytest.raises(DownloadError):
        get(web, folder)
    with (folder / "file.bin.part").open("ab") as part:
        part.write(bytes(500_000))
    assert get(web, folder) == BODY
    assert web.ranges[-1] == "bytes=100000-"


def test_what_was_written_long_before_a_kill_is_recorded(web, folder, monkeypatch):
    monkeypatch.setattr(module, "RECORD_EVERY", 50_000)
    seen = []

    def look(handler):
        handler.head(200, Content_Length=len(BODY), ETag='"1"')
        handler.wfile.write(BODY[:200_000])
        record = folder / "file.bin.part.json"
        while not (record.exists() and json.loads(record.read_text())["bytes"] >= 100_000):
            assert not handler.server.closing.wait(0.001)
        seen.append(True)
        handler.wfile.write(BODY[200_000:])

    web.replies = [look]
    assert get(web, folder) == BODY
    assert seen == [True]


def test_a_file_that_changed_meanwhile_is_fetched_anew(web, folder):
    web.replies = [cut_at(100_000), hang_up]
    with pytest.raises(DownloadError):
        get(web, folder)
    web.files["/file.bin"] = changed = BODY[::-1]
    assert get(web, folder) == changed
    assert web.asked[-1][1]["range"] == "bytes=100000-"
    assert web.asked[-1][1]["if-range"].startswith('"')


def test_a_server_that_continues_another_version_is_not_believed(web, folder):
    wrong_version = answer(206, BODY[100_000:], ETag='"other"', Content_Range="bytes 100000-399999/400000")
    wrong_place = answer(206, BODY[99_000:], Content_Range="bytes 99000-399999/400000")
    nowhere = answer(206, BODY[100_000:])
    for reply in (wrong_version, wrong_place, nowhere):
        web.replies = [cut_at(100_000), reply]
        assert get(web, folder) == BODY
        assert web.ranges[-2:] == ["bytes=100000-", None]


def test_a_file_that_became_shorter_is_fetched_anew(web, folder):
    web.replies = [cut_at(100_000), answer(416)]
    assert get(web, folder) == BODY
    assert web.ranges == [None, "bytes=100000-", None]


def test_a_server_without_ranges_starts_again(web, folder):
    web.replies = [without_ranges(100_000, ETag='"1"'), without_ranges(ETag='"1"')]
    assert get(web, folder) == BODY


def test_without_a_mark_of_its_version_a_file_is_not_continued(web, folder):
    for headers in ({}, {"ETag": 'W/"1"'}):
        web.replies = [without_ranges(100_000, **headers)]
        assert get(web, folder) == BODY
        assert web.ranges[-1] is None


def test_a_modification_time_is_a_mark_too(web, folder):
    when = "Sat, 08 May 2021 10:00:00 GMT"
    place = "bytes 100000-399999/400000"
    web.replies = [
        without_ranges(100_000, Last_Modified=when),
        answer(206, BODY[100_000:], Content_Range=place, Last_Modified=when),
    ]
    assert get(web, folder) == BODY
    assert web.asked[-1][1]["if-range"] == when


def test_a_server_that_always_breaks_off_at_one_place_is_given_up(web, folder):
    web.replies = [without_ranges(100_000) for _ in range(10)]
    with pytest.raises(DownloadError, match=r"the connection ended early \(0\.1 of 0\.4 MB had come\)"):
        get(web, folder)
    assert len(web.asked) == 2


def test_a_complete_part_needs_no_server(web, folder):
    def fail(path, _):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(web.url + "/file.bin", folder, check=fail, timeout_s=LONG_S, watch=Watch())
    assert get(web, folder) == BODY
    assert len(web.asked) == 1


def test_a_redirect_is_followed_with_its_range_and_the_hubs_digest_is_compared(web, folder):
    def there(status):
        return answer(status, Location=f"{web.url}/file.bin", X_Linked_Etag=f'"{digest_of(BODY)}"')

    web.replies = [there(302), cut_at(100_000), there(308)]
    assert get(web, folder, path="/elsewhere.bin") == BODY
    assert [path for path, _ in web.asked] == ["/elsewhere.bin", "/file.bin"] * 2
    assert web.ranges == [None, None, "bytes=100000-", "bytes=100000-"]

    web.files["/file.bin"] = BODY[::-1]
    web.replies = [there(307)]
    with pytest.raises(DownloadError, match=f"{digest_of(BODY)} the server announced"):
        get(web, folder, path="/elsewhere.bin")


@pytest.mark.parametrize("place", ["ftp://127.0.0.1/file.bin", "file:///etc/hostname"])
def test_a_redirect_out_of_the_web_is_refused(web, folder, place):
    web.replies = [answer(302, Location=place)]
    with pytest.raises(DownloadError):
        get(web, folder)


def test_a_file_with_another_digest_is_deleted(web, folder):
    with pytest.raises(
        DownloadError, match=rf"sha256 is {digest_of(BODY)}, and {'0' * 64} was asked for; it was deleted"
    ):
        get(web, folder, sha256="0" * 64)
    assert list(folder.iterdir()) == []
    assert get(web, folder, sha256=digest_of(BODY)) == BODY


def test_a_file_that_is_refused_when_read_is_deleted(web, folder):
    def refuse(path, _):
        raise WeightsError("no weights.")

    with pytest.raises(WeightsError, match="no weights"):
        download(web.url + "/file.bin", folder, check=refuse, timeout_s=LONG_S, watch=Watch())
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "reply, words",
    [
        (answer(200, b"<html>Log in", Content_Type="text/html; charset=utf-8"), "web page came instead.*HTTPS_PROXY"),
        (answer(200, b"\n <!DOCTYPE html><title>Welcome"), "web page came instead.*HTTPS_PROXY"),
        (answer(200), "empty file"),
        (answer(204), "HTTP 204"),
        (answer(206, b"1234", Content_Range="bytes 0-3/4"), "HTTP 206"),
        (answer(200, b"1234", Content_Encoding="gzip"), "gzip"),
        (answer(401), "refuses it.*HTTP 401"),
        (answer(403), "refuses it.*HTTP 403 Forbidden.*may not have it"),
        (answer(404), "no such file there.*HTTP 404"),
        (answer(407), "proxy wants.*HTTP 407.*HTTPS_PROXY=http://NAME"),
        (answer(418), "HTTP 418"),
        (answer(429), "too many requests"),
        (answer(500), "fault.*HTTP 500.*try again later"),
        (answer(503), "fault.*HTTP 503"),
        (answer(302, Location="/file.bin"), "infinite loop|HTTP 302|web page"),
        (hang_up, "cannot be reached"),
    ],
)
def test_what_is_no_file_is_a_clear_sentence_and_leaves_nothing(web, folder, reply, words):
    web.replies = [reply] * 20
    with pytest.raises(DownloadError, match=words) as refused:
        get(web, folder)
    assert str(refused.value).isprintable()
    assert list(folder.iterdir()) == []


def test_a_server_that_does_not_answer_is_left_in_time(web, folder):
    web.replies = [silence]
    with pytest.raises(DownloadError, match=r"nothing answered within 0\.3 seconds"):
        get(web, folder, timeout_s=SHORT_S)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes connections, and nobody is there
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/file.bin"
        with pytest.raises(DownloadError, match="nothing answered"):
            download(url, folder, check=lambda *_: None, timeout_s=SHORT_S, watch=Watch())


def test_headers_that_trickle_do_not_count_as_an_answer(web, folder):
    def trickle(handler):
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
        while not handler.server.closing.wait(0.01):
            handler.wfile.write(b"X-Slow: 1\r\n")

    web.replies = [trickle]
    with pytest.raises(DownloadError, match=r"nothing answered|cannot be reached"):
        get(web, folder, timeout_s=SHORT_S)


def test_nobody_there_is_a_clear_sentence(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, words in {
        f"http://127.0.0.1:{port}/x.bin": "Connection refused",
        "http://geal-edge.invalid/x.bin": "cannot be reached",
        "http://127.0.0.1:99999/x.bin": "cannot be reached",
        "nonsense": "cannot be reached",
    }.items():
        with pytest.raises(DownloadError, match=words):
            download(url, folder, check=lambda *_: None, timeout_s=LONG_S, watch=Watch())


def test_a_disk_that_is_full_is_said_and_the_download_goes_on_later(web, folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        with pytest.raises(StorageError, match=r"file\.bin\.part: cannot be written.*HF_HOME"):
            get(web, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [path for path in folder.iterdir() if path.suffix == ".bin"]
    assert get(web, folder) == BODY
    assert web.ranges[-1] is not None


def test_a_cache_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="HF_HOME"), only_one_writes(tmp_path / "file" / "cache", Watch()):
        pass


# Proxies.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python 3.10 forgets a refused tunnel
def test_a_proxy_is_asked_for_what_lies_outside(web, folder, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", web.url)
    monkeypatch.setenv("http_proxy", web.url)
    web.files["http://weights.example/file.bin"] = BODY
    url = "http://weights.example/file.bin"
    assert download(url, folder, check=lambda path, _: path.read_bytes(), timeout_s=LONG_S, watch=Watch()) == BODY

    monkeypatch.setenv("HTTPS_PROXY", web.url)
    monkeypatch.setenv("https_proxy", web.url)
    web.replies = [answer(502)]
    with pytest.raises(DownloadError, match="502"):
        download(url.replace("http:", "https:"), folder, check=lambda *_: None, timeout_s=LONG_S, watch=Watch())
    assert web.asked[-1][0] == "weights.example:443"
    gc.collect()

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(web, folder) == BODY
    assert web.asked[-1][0] == "/file.bin"


# Models with a name.


@pytest.fixture
def model(web) -> NamedModel:
    return NamedModel(name="tiny", repo="timm/tiny", official_url=web.url + OFFICIAL_PATH, geometry=TINY)


@pytest.fixture
def shelves(web, tmp_path) -> Shelves:
    return Shelves.of(
        {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": web.url + "/"},
    )


def paths(web: Site) -> list[str]:
    return [path for path, _ in web.asked]


def test_a_model_comes_from_the_hub_and_then_from_the_cache(web, model, shelves):
    weights = fetch(model, shelves, watch=Watch())
    assert weights.digest == WEIGHTS.digest
    assert weights.origin == f"tiny (file sha256 {digest_of(FILE)})"
    assert not weights.untrained
    for offline in (False, True):
        assert fetch(model, replace(shelves, offline=offline), watch=Watch()).origin == weights.origin
    assert paths(web) == [HUB_PATH]
    assert {path.name for path in (shelves.cache / "tiny").iterdir()} == {"lock", f"{digest_of(FILE)}.safetensors"}


@pytest.mark.parametrize(
    "reply, words",
    [
        (answer(404), "404"),
        (answer(200, b"<html>", Content_Type="text/html"), "web page"),
        (answer(200, b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
        (answer(200, FILE[:-1]), "cut off"),
        (answer(200, safetensors_bytes(untrained(1, replace(TINY, patch_size=8)).tensors)), "not the ViT-64x2/4"),
        (silence, "nothing answered"),
    ],
)
def test_where_the_hub_fails_the_official_address_is_asked(web, model, shelves, reply, words):
    web.replies, watch = [reply], Watch()
    weights = fetch(model, replace(shelves, timeout_s=1.0), watch=watch)
    assert weights.digest == WEIGHTS.digest
    assert paths(web) == [HUB_PATH, OFFICIAL_PATH]
    (warning,) = watch.warnings
    assert words in warning
    assert warning.startswith(web.url + HUB_PATH)
    assert fetch(model, shelves, watch=Watch()).digest == WEIGHTS.digest
    assert len(web.asked) == 2


def test_without_a_way_out_both_addresses_and_the_next_command_are_said(web, model, shelves):
    web.replies = [answer(403), answer(503)]
    with pytest.raises(DownloadError) as refused:
        fetch(model, shelves, watch=Watch())
    message = str(refused.value)
    assert f"{web.url}{HUB_PATH}: the server refuses it (HTTP 403" in message
    assert f"{web.url}{OFFICIAL_PATH}: the server, or a proxy before it, has a fault (HTTP 503" in message
    assert message.endswith("geal-edge export --weights FILE")
    assert refused.value.exit_code == 19


def test_where_nothing_answers_the_addresses_share_the_time(web, model, shelves):
    web.replies = [silence, silence]
    with pytest.raises(DownloadError) as refused:
        fetch(model, replace(shelves, timeout_s=2.0), watch=Watch())
    assert str(refused.value).count("nothing answered within 1 seconds") == 2
    assert paths(web) == [HUB_PATH, OFFICIAL_PATH]


def test_offline_nothing_is_asked_for(web, model, shelves):
    with pytest.raises(DownloadError, match=r"--offline or HF_HUB_OFFLINE(.|\n)*--weights FILE") as refused:
        fetch(model, replace(shelves, offline=True), watch=Watch())
    assert web.url + HUB_PATH in str(refused.value)
    assert web.url + OFFICIAL_PATH in str(refused.value)
    assert web.asked == []
    assert not shelves.cache.exists()


def test_a_digest_that_was_asked_for_chooses_the_file(web, model, shelves):
    official = digest_of(web.files[OFFICIAL_PATH])
    assert fetch(model, shelves, sha256=official, watch=Watch()).digest == WEIGHTS.digest
    assert paths(web) == [HUB_PATH, OFFICIAL_PATH]
    assert fetch(model, shelves, sha256=official, watch=Watch()).origin.endswith(f"{official})")
    assert len(web.asked) == 2
    with pytest.raises(DownloadError, match=f"{'0' * 64} was asked for"):
        fetch(model, shelves, sha256="0" * 64, watch=Watch())
    assert fetch(model, replace(shelves, offline=True), sha256=official, watch=Watch()).digest == WEIGHTS.digest
    with pytest.raises(DownloadError, match="with sha256 1111"):
        fetch(model, replace(shelves, offline=True), sha256="1" * 64, watch=Watch())


def test_a_digest_in_the_table_is_compared(web, model, shelves):
    with pytest.raises(DownloadError, match=f"{'2' * 64} was asked for"):
        fetch(replace(model, hub_sha256="2" * 64, official_sha256="3" * 64), shelves, watch=Watch())
    known = replace(model, hub_sha256=digest_of(FILE))
    assert fetch(known, shelves, watch=Watch()).digest == WEIGHTS.digest


def test_a_cached_file_that_was_damaged_is_fetched_again(web, model, shelves):
    fetch(model, shelves, watch=Watch())
    (file,) = (shelves.cache / "tiny").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"\1\2\3\4")
    watch = Watch()
    assert fetch(model, shelves, watch=watch).digest == WEIGHTS.digest
    (warning,) = watch.warnings
    assert "changed or damaged" in warning
    assert file.read_bytes() == FILE


def test_what_huggingface_hub_has_fetched_is_used(web, model, shelves):
    pytest.importorskip("huggingface_hub")
    repo, commit = shelves.hub_cache / "models--timm--tiny", "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs" / digest_of(FILE)).write_bytes(FILE)
    (repo / "snapshots" / commit / "model.safetensors").symlink_to(f"../../blobs/{digest_of(FILE)}")
    assert fetch(model, replace(shelves, offline=True), watch=Watch()).digest == WEIGHTS.digest

    (repo / "blobs" / digest_of(FILE)).write_bytes(FILE[:1000])
    watch = Watch()
    assert fetch(model, shelves, watch=watch).digest == WEIGHTS.digest
    assert "cannot be read" in watch.warnings[0]
    assert paths(web) == [HUB_PATH]


def test_two_at_once_fetch_it_once(web, model, shelves):
    first, second = Watch(), Watch()
    digests = []

    def when_the_other_waits(handler):
        assert second.warned.wait(30)
        serve(handler)

    def work(watch):
        digests.append(fetch(model, shelves, watch=watch).digest)

    web.replies = [when_the_other_waits]
    threads = [threading.Thread(target=work, args=(watch,)) for watch in (first, second)]
    threads[0].start()
    while not web.asked:
        threads[0].join(0.001)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert digests == [WEIGHTS.digest] * 2
    assert "another process" in second.warnings[0]
    assert paths(web) == [HUB_PATH]


def test_the_environment_says_where_files_are_and_come_from(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    plain = Shelves.of({})
    assert (str(plain.cache), str(plain.hub_cache)) == (
        "/home/somebody/.cache/geal-edge",
        "/home/somebody/.cache/huggingface/hub",
    )
    assert (plain.endpoint, plain.offline, plain.timeout_s) == ("https://huggingface.co", False, 10)
    moved = Shelves.of({"HF_HOME": "~/big", "HF_ENDPOINT": "https://mirror.example/hf/", "HF_HUB_OFFLINE": "1"})
    assert (str(moved.cache), str(moved.hub_cache)) == ("/home/somebody/big/geal-edge", "/home/somebody/big/hub")
    assert (moved.endpoint, moved.offline) == ("https://mirror.example/hf", True)
    assert str(Shelves.of({"XDG_CACHE_HOME": "/c"}).cache) == "/c/geal-edge"
    assert str(Shelves.of({"HF_HOME": "/h", "HF_HUB_CACHE": "/e"}).hub_cache) == "/e"
    assert Shelves.of({"HF_HUB_OFFLINE": "0"}, offline=True).offline
    for wrong in ("mirror.example", "ftp://mirror.example", "https://"):
        with pytest.raises(UsageError, match=r"HF_ENDPOINT.*huggingface\.co"):
            Shelves.of({"HF_ENDPOINT": wrong})


def test_the_table_names_each_model_with_both_addresses():
    assert set(NAMED) == {"dino_vits16", "dino_vits8", "dino_vitb16", "dino_vitb8"}
    assert DEFAULT in NAMED
    assert [f"{model.geometry.name}" for model in NAMED.values()] == ["ViT-S/16", "ViT-S/8", "ViT-B/16", "ViT-B/8"]
    for model in NAMED.values():
        p, (rows, _) = model.geometry.patch_size, model.geometry.trained_grid
        assert p * rows == 224
        assert f"patch{p}_224.dino" in model.repo
        assert model.official_url.startswith("https://dl.fbaipublicfiles.com/dino/dino_")
        assert model.official_url.endswith(f"{p}_pretrain.pth")
    assert NAMED["dino_vits16"].hub_url("https://huggingface.co") == (
        "https://huggingface.co/timm/vit_small_patch16_224.dino/resolve/main/model.safetensors"
    )


def test_a_file_a_seed_and_a_name_are_told_apart(web, model, shelves, tmp_path, monkeypatch):
    monkeypatch.setitem(NAMED, "tiny", model)
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes(FILE)
    Path("tiny").write_bytes(FILE)

    def obtain(spec, **options):
        return obtain_weights(spec, shelves, watch=Watch(), **options)

    assert obtain("w.safetensors").origin == "w.safetensors"
    assert web.asked == []
    assert obtain("tiny").origin.startswith("tiny (file sha256")
    assert obtain("./tiny").origin == "tiny"
    assert obtain("untrained:1").untrained
    for spelled in (digest_of(FILE), digest_of(FILE).upper(), f"sha256:{digest_of(FILE)}"):
        assert obtain("w.safetensors", sha256=spelled).digest == load_weights("w.safetensors").digest
        assert obtain("tiny", sha256=spelled).digest == WEIGHTS.digest
    with pytest.raises(WeightsError, match=r"w\.safetensors: its sha256 is .*, and 0000"):
        obtain("w.safetensors", sha256="0" * 64)
    with pytest.raises(UsageError, match="64 hexadecimal digits"):
        obtain("w.safetensors", sha256="0" * 63)
    with pytest.raises(UsageError, match="no file"):
        obtain("untrained:1", sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"dino_vits61: no such file, and no model of that name.*dino_vits16"):
        obtain("dino_vits61")
