import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from typer.main import get_command

from geal_edge.cli.app import app
from geal_edge.cli.demo import MARKER
from geal_edge.cli.export import parse_size, parse_triple
from geal_edge.errors import UsageError
from geal_edge.models.named import NAMED
from geal_edge.runtime import kcenter
from geal_edge.runtime.frame import usable
from geal_edge.runtime.imagefile import encode
from geal_edge.runtime.sources import open_source
from geal_edge.runtime.spoolview import open_view
from tests.tampered import nan_always, tampered
from tests.tiny import tiny_weights
from tests.web import safetensors_bytes, site
from tests.writers import FOLDER_WRITER, process

DRIVE = "drawn:1:60"


@pytest.fixture
def spool(cli, tiny_bundle, tmp_path):
    path = tmp_path / "spool"
    code, _, error = cli("run", DRIVE, "--bundle", tiny_bundle.path, "--spool", path, "--budget", 5)
    assert code == 0, error
    return path


def test_run_says_what_it_selected_and_names_the_next_command(cli, tiny_bundle, tmp_path):
    words = ("run", DRIVE, "--bundle", tiny_bundle.path, "--spool", tmp_path / "s", "--budget", 5)
    code, out, error = cli(*words)
    assert code == 0
    assert "5 of 60 frames selected, budget 5" in out
    assert "every cluster seen is within chord" in out
    assert f"geal-edge report {tmp_path / 's'}" in out
    assert "UNTRAINED" in error
    code, out, error = cli(*words)
    assert code == 0
    assert "--again" in error


def test_status_list_and_check_answer_people_and_machines(cli, spool):
    _, out, _ = cli("status", spool)
    assert "60 seen" in out
    assert "UNTRAINED" in out
    _, out, _ = cli("status", spool, "--json")
    assert json.loads(out)["frames"]["selected"] == 5
    _, out, _ = cli("list", spool, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["order"] for line in lines] == [1, 2, 3, 4, 5]
    _, out, _ = cli("list", spool, "--json", "--retained")
    assert len(out.splitlines()) >= 5
    _, out, _ = cli("list", spool)
    assert all(line["id"] in out for line in lines)
    code, out, _ = cli("check", spool)
    assert code == 0
    assert "sound" in out
    code, out, _ = cli("check", spool, "--json")
    assert json.loads(out)["sound"] is True


def test_check_ends_with_a_code_of_its_own_when_a_frame_is_gone(cli, spool):
    next((spool / "frames").iterdir()).unlink()
    code, out, _ = cli("check", spool)
    assert code == 16
    assert "NOT SOUND" in out
    code, out, _ = cli("check", spool, "--json")
    assert code == 16
    assert json.loads(out)["problems"][0]["kind"] == "missing"


def test_select_writes_picks_and_inspect_reads_all_that_was_written(cli, spool, tiny_bundle, tmp_path):
    picks = tmp_path / "picks.json"
    stored = tmp_path / "features"
    code, out, _ = cli("select", DRIVE, "--bundle", tiny_bundle.path, "-n", 4, "-o", picks, "--features", stored)
    assert code == 0
    assert "4 of 60 frames selected" in out
    assert len(json.loads(picks.read_text())["picks"]) == 4
    for path, words in (
        (tiny_bundle.path, "160 wide x 160 high"),
        (spool, "60 seen"),
        (picks, "4 selected"),
        (stored, "10 rows x 10 columns"),
    ):
        code, out, _ = cli("inspect", path)
        assert code == 0
        assert words in out
        code, out, _ = cli("inspect", path, "--json")
        assert json.loads(out)["schema"].startswith("geal-edge/")
    (stored / "features.json").write_text("{")
    code, _, error = cli("inspect", stored)
    assert (code, "not JSON" in error, "Traceback" in error) == (16, True, False)


def test_a_pool_smaller_than_the_budget_is_said(cli, tiny_bundle, tmp_path):
    code, _, error = cli("select", "drawn:1:3", "-b", tiny_bundle.path, "-n", 9, "-o", tmp_path / "p.json")
    assert code == 0
    assert "only 3 frames" in error


def test_a_guard_says_how_many_frames_it_gated_and_why(cli, tiny_bundle, tmp_path):
    words = (DRIVE, "--bundle", tiny_bundle.path, "--budget", 5, "--guard", "all")
    assert " gated, 0 lost" in cli("run", *words, "--spool", tmp_path / "s")[1]
    assert "  gated     1 fleeting\n" in cli("status", tmp_path / "s")[1]
    assert " gated, 0 lost" in cli("select", *words, "-o", tmp_path / "picks.json")[1]
    assert cli("run", *words[:-1], "pixels", "--spool", tmp_path / "s")[0] == 15


def test_report_writes_a_page_from_a_spool_and_from_picks(cli, spool, tiny_bundle, tmp_path):
    picks, page = tmp_path / "picks.json", tmp_path / "report.html"
    cli("select", DRIVE, "--bundle", tiny_bundle.path, "-n", 4, "-o", picks)
    for source in (spool, picks):
        code, out, _ = cli("report", source, "-o", page)
        assert code == 0
        assert str(page) in out
        assert page.read_text().startswith("<!")


def test_compare_tells_people_and_machines_what_a_budget_buys_and_takes_from_disk_what_is_there(
    cli, tiny_bundle, tmp_path
):
    words = (
        "compare", "drawn:1:12", "-b", tiny_bundle.path, "--budgets", "2,4", "--strategies", "geal,uniform",
        "-o", tmp_path / "out", "--jobs", 1,
    )  # fmt: skip
    code, out, error = cli(*words, "--report", tmp_path / "page.html")
    assert code == 0, error
    assert "cover radius, by frames selected" in out
    assert "With geal, 2 frames cover everything seen" in out
    assert "UNTRAINED" in error
    assert (tmp_path / "page.html").read_text().startswith("<!")
    assert f"The page is {tmp_path / 'page.html'}." in out
    assert "what it found stored had taken" in cli(*words)[1]
    code, out, _ = cli(*words, "--json", "--sweep", "clusters_per_frame=3")
    assert code == 0
    assert [line["name"] for line in json.loads(out)["strategies"]] == ["geal", "uniform", "geal clusters_per_frame=3"]
    wrong = {
        "--budgets": "few",
        "--strategies": "best",
        "--sweep": "tau=1",
        "--report": tmp_path,
        "--labels": tmp_path / "no",
    }
    for more in wrong.items():
        code, out, error = cli(*words, *more)
        assert out == ""
        assert (code, more[0] in error or str(more[1]) in error) == (2, True)


def test_ctrl_c_shows_what_was_compared_so_far_and_the_command_goes_on(tiny_bundle, tmp_path):
    words = ("compare", "drawn:1:30", "-b", tiny_bundle.path, "--budgets", "5,20", "-o", tmp_path / "out")
    process = start(*words, "--jobs", 2)
    wait_for(lambda: (tmp_path / "out" / "cells").is_dir() and any((tmp_path / "out" / "cells").glob("*.json")), 120)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "cover radius" in out
    assert "goes on from" in error
    again = start(*words, "--jobs", 1, "--strategies", "uniform")
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert "not done" not in out


def test_quiet_prints_nothing_but_errors(cli, tiny_bundle, tmp_path):
    assert cli("run", DRIVE, "-b", tiny_bundle.path, "-s", tmp_path / "s", "--budget", 5, "-q") == (0, "", "")


def test_export_writes_a_bundle_and_says_its_size_in_words(cli, tmp_path):
    code, out, error = cli("export", "--weights", "untrained:0", "--size", "64x32", "--out", tmp_path / "b")
    assert code == 0
    assert "64 wide x 32 high" in out
    assert "geal-edge run" in out
    assert "UNTRAINED" in error


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on loopback, with the tiny weights under the default model's name; what lies outside meets a closed proxy."""
    weights = tiny_weights()
    model = replace(NAMED["dino_vits16"], geometry=weights.geometry)
    monkeypatch.setitem(NAMED, "dino_vits16", model)
    with site() as server:
        server.files[model.hub_url("")] = safetensors_bytes(weights.tensors)
        for name, value in {
            "HF_ENDPOINT": server.url,
            "HF_HOME": str(tmp_path / "hf"),
            "https_proxy": server.url,
            "HTTPS_PROXY": server.url,
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        yield server


def test_export_without_an_argument_fetches_dino_and_says_first_where_the_bundle_goes(cli, hub, tmp_path):
    code, out, error = cli("export")
    assert code == 0, error
    assert out.startswith("dino_vits16 -> dino_vits16-224x224, input 224 wide x 224 high\n")
    assert "dino_vits16 (file sha256 " in out
    assert "UNTRAINED" not in error
    manifest = json.loads((tmp_path / "dino_vits16-224x224" / "manifest.json").read_text())
    assert manifest["weights"]["digest"] == tiny_weights().digest
    assert manifest["weights"]["untrained"] is False

    code, out, error = cli("export", "--offline", "--size", "64x32")
    assert code == 0, error
    assert (tmp_path / "dino_vits16-64x32").is_dir()
    assert len(hub.asked) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python 3.10 forgets a refused tunnel
def test_export_without_a_way_out_names_both_addresses_and_the_next_command(cli, hub):
    official = NAMED["dino_vits16"].official_url
    hub.files.clear()
    code, out, error = cli("export", "--out", "b")
    assert code == 19
    assert out == "dino_vits16 -> b, input 224 wide x 224 high\n"
    assert f"{hub.url}/timm/vit_small_patch16_224.dino/resolve/main/model.safetensors: no such file there" in error
    assert f"{official}: cannot be reached" in error
    assert error.rstrip().endswith("geal-edge export --weights FILE")
    assert [path for path, _ in hub.asked][-1] == "dl.fbaipublicfiles.com:443"
    gc.collect()
    for words in (["--offline"], ["-q", "--offline", "-w", "dino_vitb8"]):
        code, _, error = cli("export", *words)
        assert code == 19
        assert "--weights FILE" in error
    assert len(hub.asked) == 2


def test_export_fetches_nothing_for_a_place_that_is_taken(cli, hub, tmp_path):
    (tmp_path / "notes.txt").touch()
    code, _, error = cli("export", "--out", "notes.txt")
    assert code == 7
    assert "notes.txt" in error
    assert hub.asked == []


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["run", "nowhere.mp4", "-b", "B", "-s", "S", "--budget", "5"], 9, "nowhere.mp4"),
        (["run", DRIVE, "-b", "nothing", "-s", "S", "--budget", "5"], 7, "no bundle here"),
        (["run", DRIVE, DRIVE, "--name", "x", "-b", "B", "-s", "S", "--budget", "5"], 2, "--name"),
        (["run", DRIVE, "-b", "B", "-s", "BAD", "--budget", "5"], 13, "not a spool"),
        (["select", DRIVE, DRIVE, "-b", "B", "-n", "5"], 10, "Rename"),
        (["export", "-w", "nothing.pth", "-o", "O"], 4, "nothing.pth"),
        (["export", "-w", "dino_vits61", "-o", "O"], 4, "dino_vits16"),
        (["export", "-w", "untrained:0", "-o", "O", "--sha256", "12"], 2, "64 hexadecimal digits"),
        (["export", "-w", "untrained:0", "-o", "O", "--size", "big"], 2, "WIDTHxHEIGHT"),
        (["export", "-w", "untrained:0", "-o", "O", "--size", "100x100"], 2, "96x96"),
        (["export", "-w", "untrained:0", "-o", "O", "--mean", "1,2"], 2, "--mean"),
        (["status", "S"], 13, "no spool here"),
        (["inspect", "S"], 2, "no such file"),
        (["inspect", "BAD"], 2, "no bundle"),
        (["report", "S"], 2, "S"),
    ],
)
def test_a_users_mistake_is_one_line_and_an_exit_code(cli, tiny_bundle, tmp_path, monkeypatch, words, code, sentence):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle.path, "B")
    (tmp_path / "BAD").mkdir()
    (tmp_path / "BAD" / "file").touch()
    found, _, error = cli(*words)
    assert found == code
    assert error.startswith("geal-edge: ")
    assert sentence in error
    assert "Traceback" not in error


def test_a_memory_is_filled_shown_merged_and_known(cli, spool, tiny_bundle, tmp_path):
    file, other = tmp_path / "car.memory", tmp_path / "other.memory"
    code, out, error = cli("memory", "add", file, spool)
    assert code == 0, error
    assert "5 new; 5 of at most 2000 frames" in out
    _, out, _ = cli("list", spool, "--json")
    second = json.loads(out.splitlines()[1])["id"]
    assert cli("memory", "add", other, spool, "--ignore", second, "--region", "0,0,1,1")[0] == 0
    code, out, _ = cli("memory", "merge", tmp_path / "all.memory", file, other)
    assert code == 0
    assert "5 of at most 2000 frames, regions to be ignored: 1" in out
    for words in (("memory", "show"), ("inspect",)):
        _, out, _ = cli(*words, tmp_path / "all.memory")
        assert "5 known" in out
        assert f"{second} (region 0,0,1,1)" in out
        _, out, _ = cli(*words, tmp_path / "all.memory", "--json")
        assert json.loads(out)["frames"] == {"released": 0, "known": 5, "ignore": 1}
    select = ("select", DRIVE, "--bundle", tiny_bundle.path, "-n", 2, "-o", tmp_path / "p.json", "--known", file)
    code, out, error = cli(*select)
    assert code == 0, error
    assert "2 of 60 frames selected, 5 known" in out
    for wrong in (("--region", "0,0,1,1"), ("--ignore", second, "--region", "0,0,1"), ("--ignore", second, spool)):
        assert cli("memory", "add", file, spool, *wrong)[0] == 2
    assert cli("memory", "show", tmp_path / "absent")[0] == 2
    assert cli("memory", "add", "--help")[1].count("geal-edge memory add") >= 2


def test_run_takes_what_is_known_and_selects_none_of_it_again(cli, spool, tiny_bundle, tmp_path):
    memory = tmp_path / "known.memory"
    assert cli("memory", "add", memory, spool)[0] == 0
    words = (
        "run",
        DRIVE,
        "--bundle",
        tiny_bundle.path,
        "--spool",
        tmp_path / "again",
        "--budget",
        5,
        "--known",
        memory,
    )
    code, _, error = cli(*words)
    assert code == 0, error
    first, again = (
        {json.loads(line)["id"] for line in cli("list", path, "--json")[1].splitlines()}
        for path in (spool, tmp_path / "again")
    )
    assert len(first) == 5
    assert not first & again
    assert cli("check", tmp_path / "again")[0] == 0


def test_verify_records_how_an_engine_answered_and_auto_says_why_it_takes_it(cli, tiny_bundle, tmp_path, state_folder):
    run = ("run", DRIVE, "--bundle", tiny_bundle.path, "--budget", 5, "--backend", "auto", "--spool")
    code, _, error = cli(*run, tmp_path / "before")
    assert code == 0, error
    assert f"geal-edge verify {tiny_bundle.path} --backend NAME" in error
    assert not state_folder.exists()
    code, out, error = cli("verify", tiny_bundle.path, "--backend", "ort-cpu")
    assert code == 0, error
    assert "ort-cpu: verified, onnxruntime" in out
    assert str(state_folder) in out
    code, out, _ = cli("verify", tiny_bundle.path, "--backend", "ort-cpu", "--json")
    assert (code, json.loads(out)["passed"]) == (0, True)
    for words in ((*run, tmp_path / "after"), ("select", DRIVE, "-b", tiny_bundle.path, "-n", 2, "--backend", "auto",
                                               "-o", tmp_path / "p.json")):  # fmt: skip
        code, _, error = cli(*words)
        assert code == 0, error
        assert "note: backend ort-cpu: verified with onnxruntime" in error


def test_an_engine_that_fails_verification_ends_with_a_code_of_its_own_and_run_refuses_it(cli, tiny_bundle, tmp_path):
    bundle = tampered(tiny_bundle, tmp_path / "bad", nan_always)
    code, out, _ = cli("verify", bundle.path, "--backend", "ort-cpu")
    assert code == 8
    assert "patch_features: FAILED, holds NaN or infinity" in out
    code, out, _ = cli("verify", bundle.path, "--backend", "ort-cpu", "--json")
    assert (code, json.loads(out)["passed"]) == (8, False)
    run = ("run", DRIVE, "--bundle", bundle.path, "--budget", 5, "--spool", tmp_path / "s", "--backend")
    code, _, error = cli(*run, "ort-cuda")
    assert code == 21
    assert f"geal-edge verify {bundle.path} --backend ort-cuda" in error
    assert cli(*run, "ort-cuda", "--unverified")[0] == 12
    select = ("select", DRIVE, "-b", bundle.path, "-n", 2, "-o", tmp_path / "p.json", "--backend", "ort-cuda")
    code, _, error = cli(*select)
    assert code == 21
    assert f"geal-edge verify {bundle.path} --backend ort-cuda" in error
    assert cli(*select, "--unverified")[0] == 12
    code, _, error = cli(*run, "ort-cpu")
    assert code == 22
    assert "the same command goes on with the frame in hand" in error


def test_build_says_what_it_built_and_leaves_a_plan_that_fits(cli, tiny_bundle, state_folder):
    pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX: pip install 'geal-edge[rtx]'", exc_type=ImportError)
    for said in ("built (there was none): ", "fits as it is: "):
        code, out, error = cli("build", tiny_bundle.path, "--compute-capability", "8.6")
        assert code == 0, error
        assert "any GPU of compute capability 8.6" in out
        assert f"{said}{state_folder}" in out


def test_every_command_has_an_example_and_a_place_in_the_help(cli):
    group: Any = get_command(app)
    assert set(group.commands) == {
        "export", "inspect", "select", "report", "extract", "run", "status", "events", "list", "check", "memory",
        "demo", "doctor", "verify", "build", "compare", "bench", "why", "config", "upload", "pin", "erase", "repair",
    }  # fmt: skip
    for name, command in group.commands.items():
        assert f"geal-edge {name}" in command.help, name
        assert command.rich_help_panel in {"Model", "Choose", "Vehicle", "Help"}
    code, out, _ = cli("--version")
    assert (code, out.startswith("geal-edge ")) == (0, True)


def test_sizes_have_names_and_are_width_by_height():
    assert parse_size("cityscapes") == (448, 224)
    assert parse_size("640X192") == (640, 192)
    for wrong in ("", "224", "x", "224x", "-1x5", "axb"):
        with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
            parse_size(wrong)


def test_means_are_three_numbers_between_zero_and_one():
    assert parse_triple("--mean", "0.5, 0.5,0.5", (0, 0, 0)) == (0.5, 0.5, 0.5)
    for wrong in ("127,127,127", "0.5", "a,b,c", "0,0,0", "nan,1,1"):
        with pytest.raises(UsageError, match="--mean"):
            parse_triple("--mean", wrong, (0, 0, 0))


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "geal_edge", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slow_folder(tmp_path, frames=400):
    """Enough real image files that a process can be caught in the middle."""
    folder = tmp_path / "images"
    folder.mkdir()
    for frame in map(usable, open_source(f"drawn:1:{frames}").frames()):
        (folder / f"{frame.frame_index:04d}.jpg").write_bytes(encode(frame.image, "jpg"))
    return folder


def test_ctrl_c_finishes_the_frame_leaves_a_sound_spool_and_the_command_goes_on(tiny_bundle, tmp_path):
    folder, spool = slow_folder(tmp_path), tmp_path / "s"
    words = ("run", folder, "-b", tiny_bundle.path, "-s", spool, "--budget", 5)
    process = start(*words)
    wait_for((spool / "frames" / "00000001.jpg").exists)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "same command goes on" in error
    check = start("check", spool)
    assert (check.wait(60), "sound" in check.communicate()[0]) == (0, True)
    again = start(*words)
    out, error = again.communicate(timeout=120)
    assert again.returncode == 0, error
    assert "5 of 400 frames selected, budget 5" in out


def test_ctrl_c_while_choosing_writes_the_picks_so_far_and_says_so(cli, tiny_bundle, tmp_path, monkeypatch):
    picks, pick = tmp_path / "picks.json", kcenter._LazyPool.take

    def interrupted(pool, unit=None):
        pick(pool, unit)
        if len(pool.picks) == 3:
            signal.raise_signal(signal.SIGINT)

    words = ("select", "drawn:1:20", "-b", tiny_bundle.path, "-n", 10, "--clusters-per-frame", 3)
    assert cli(*words, "-o", tmp_path / "whole.json")[0] == 0
    monkeypatch.setattr(kcenter._LazyPool, "take", interrupted)
    code, _, error = cli(*words, "-o", picks)
    assert code == 130
    assert "Stopped after 3 of 10 picks" in error
    cut, whole = json.loads(picks.read_text()), json.loads((tmp_path / "whole.json").read_text())
    assert cut["cut"] is True
    assert cut["picks"] == whole["picks"][:3]


def test_a_reader_that_goes_away_is_no_mistake(tiny_bundle, spool):
    listing = start("list", spool, "--retained")
    listing.stdout.close()
    listing.wait(60)
    assert "Traceback" not in listing.stderr.read()
    listing.stderr.close()


def test_the_demo_leaves_a_folder_alone_that_is_not_its_own(cli, spool):
    before = sorted(spool.rglob("*"))
    code, _, error = cli("demo", "--folder", spool.parent)
    assert code == 2
    assert "--folder" in error
    assert sorted(spool.rglob("*")) == before


def test_the_demo_shows_the_whole_way_and_compares_with_uniform_sampling(tmp_path, tiny_bundle):
    # The tiny bundle stands in for the demo's own, which takes a minute: `make demo` runs that one.
    shutil.copytree(tiny_bundle.path, tmp_path / "demo" / "bundle")
    (tmp_path / "demo" / MARKER).touch()
    environment = {**os.environ, "NO_COLOR": "1"}
    demo = subprocess.run(
        [sys.executable, "-m", "geal_edge", "demo", "--folder", str(tmp_path / "demo")],
        capture_output=True, text=True, env=environment, check=True,
    )  # fmt: skip
    assert "20 of 360 frames selected, budget 20" in demo.stdout
    assert "uniform sampling" in demo.stdout
    assert (tmp_path / "demo" / "report.html").exists()
    assert "UNTRAINED" in demo.stdout


def test_export_in_a_lower_precision_prints_what_each_layer_costs(cli, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(safetensors_bytes(tiny_weights().tensors))
    code, out, error = cli(
        *("export", "--weights", tmp_path / "w.safetensors", "--size", "64x64", "--precision", "fp16"),
        *("--calibrate", "drawn:0:12", "--sensitivity", "--out", tmp_path / "b"),
    )
    assert code == 0, error
    assert "lowered alone" in out
    assert "of the exact picks'" in out


def test_run_takes_a_backend_by_name_and_names_them_where_there_is_none_of_that_name(cli, tiny_bundle, tmp_path):
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'geal-edge[openvino]'")
    words = ("run", DRIVE, "--bundle", tiny_bundle.path, "--spool", tmp_path / "s", "--budget", 5)
    assert cli(*words, "--backend", "openvino")[0] == 21
    assert cli(*words, "--backend", "openvino", "--unverified")[0] == 0
    code, _, error = cli(*words, "--backend", "tensorflow")
    assert code == 2
    assert "openvino" in error


def test_a_live_folder_is_run_for_a_while_under_a_budget_per_day(cli, tiny_bundle, tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    words = ["run", f"watch:{folder}", "--bundle", tiny_bundle.path, "--spool", tmp_path / "s", "--budget", "50/day"]
    with process(FOLDER_WRITER, folder, 1000, 20):
        wait_for(lambda: any(folder.iterdir()))
        code, out, error = cli(*words, "--budget", "1MB/day", "--fps", 10, "--for", "2s")
    assert code == 0, error
    code, out, _ = cli("status", tmp_path / "s")
    assert " of 50 frames per day selected, 0 spent, refills in 24.0 h" in out
    assert "0 of 1000000 bytes per day spent" in out
    assert json.loads(cli("status", tmp_path / "s", "--json")[1])["frames"]["seen"] > 0
    assert cli("check", tmp_path / "s")[0] == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["watch:.", "--budget", "50"], "say how often: 50/day, 50/trip, 20/hour, 200MB/day"),
        ([DRIVE, "--budget", "50/day"], "recorded sources have one budget in all"),
        ([DRIVE, "--budget", "50", "--for", "10min"], "--for: is for live sources"),
        (["watch:.", DRIVE, "--budget", "50/day"], "is no live source"),
        (["watch:.", "--budget", "50/day", "--again"], "--again: is for recorded sources"),
        (["watch:.", "--budget", "50/day", "--name", "a/b"], "without slashes"),
        (["watch:.", "--budget", "50/day", "--for", "soon"], "as 90s, 10min or 2h"),
    ],
)
def test_what_only_live_or_only_recorded_sources_can_have_is_said(cli, tiny_bundle, tmp_path, words, sentence):
    code, _, error = cli("run", *words, "--bundle", tiny_bundle.path, "--spool", tmp_path / "s")
    assert code == 2
    assert sentence in error


def test_why_answers_for_selected_evicted_and_not_new_frames_and_names_where_ids_are(cli, spool):
    with open_view(spool) as view:
        states = {line["state"]: line["id"] for line in view.list_lines(retained=True)}
        known = {frame.id for frame in view.retained()} | {frame.id for frame in view.evicted()}
    not_new = next(f"drawn-1#{i}" for i in range(60) if f"drawn-1#{i}" not in known)
    for id_, words in ((states["selected"], "selected, number"), (not_new, "not new; novelty")):
        code, out, error = cli("why", spool, id_)
        assert code == 0, error
        assert f"{id_}: {words}" in out
    facts = json.loads(cli("why", spool, not_new, "--json")[1])
    assert facts["novelty"] <= facts["radius"]
    assert facts["nearest"] in known
    code, _, error = cli("why", spool, "drawn-1#9999")
    assert code == 2
    assert "--retained` shows ids" in error


def test_a_spool_is_limited_pinned_erased_checked_and_repaired(cli, tiny_bundle, tmp_path):
    spool = tmp_path / "s"
    words = ("run", DRIVE, "-b", tiny_bundle.path, "-s", spool, "--budget", 5)
    code, _, error = cli(*words, "--max-disk", "2 cars")
    assert (code, "as 2GB" in error) == (2, True)
    code, _, error = cli(*words, "--max-disk", "1kB")
    assert (code, "1 MB or more" in error) == (2, True)
    assert not spool.exists()
    assert cli(*words, "--max-disk", "50MB")[0] == 0
    assert " of 50.0 MB used" in cli("status", spool)[1]
    assert json.loads(cli("status", spool, "--json")[1])["disk"]["max_bytes"] == 50_000_000
    seen = [json.loads(line) for line in cli("list", spool, "--json")[1].splitlines()]
    first, second = seen[0]["id"], seen[1]["id"]
    assert cli("pin", spool, first)[:2] == (
        0,
        f"{first}: pinned; its files stay until the pin is removed, or until they are sent\n",
    )
    assert json.loads(cli("list", spool, "--json")[1].splitlines()[0])["pinned"] is True
    assert ", pinned; " in cli("why", spool, first)[1]
    assert cli("pin", spool, first, "--remove")[0] == 0
    assert cli("pin", spool, first, "--remove")[0] == 2
    code, _, error = cli("erase", spool, "--id", second)
    assert (code, "say --yes" in error) == (2, True)
    code, out, _ = cli("erase", spool, "--id", second, "--yes")
    assert (code, "1 frames in 1 units" in out) == (0, True)
    assert cli("erase", spool, "--yes")[0] == 2
    assert cli("erase", spool, "--between", "yesterday", "now", "--yes")[0] == 2
    code, _, error = cli("erase", spool, "--between", "2026-03-02", "2026-03-01", "--yes")
    assert (code, "ends before it begins" in error) == (2, True)
    assert cli("check", spool)[0] == 0
    next((spool / "frames").iterdir()).unlink()
    code, out, _ = cli("check", spool)
    assert (code, "DAMAGE  missing" in out) == (16, True)
    code, out, _ = cli("repair", spool, "--json")
    assert (code, json.loads(out)["sound"], [m["kind"] for m in json.loads(out)["mended"]]) == (0, True, ["missing"])
    assert cli("check", spool)[0] == 0
