"""Configurations, right and wrong."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from geal_edge.errors import ConfigError
from geal_edge.runtime.backends.choice import BackendOrAuto
from geal_edge.runtime.live.opened import FORMS
from geal_edge.runtime.settings import read_configuration
from geal_edge.runtime.settings.files import Said
from geal_edge.runtime.settings.reference import effective, schema
from geal_edge.runtime.settings.sections import KEYS, SECTIONS

RIGHT = """\
[source]
uris = ["rtsp://10.0.0.7/1", "watch:/data/in"]

[bundle]
path = "bundle"

[budget]
frames_per_day = 50

[spool]
path = "/var/lib/geal-edge/spool"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "geal-edge.toml").write_text(RIGHT)
    return tmp_path / "geal-edge.toml"


def fragment(file: Path, name: str, text: str) -> None:
    (file.parent / "conf.d").mkdir(exist_ok=True)
    (file.parent / "conf.d" / name).write_text(text)


def faults(file: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        read_configuration(file, environ or {})
    first, *lines = str(refused.value).splitlines()
    assert first == f"{file}: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return [line.removeprefix("  ") for line in lines]


BACKENDS = ", ".join(f'"{name}"' for name in sorted(get_args(BackendOrAuto)))
IMMEDIATE = "decides before a frame's bytes are known. Use release = paced, or cap frames alone."
CONDITION = "condition 'speed >', character 8: a number, a text in quotes, true or false was expected, and it ends"
AFTER = (
    "does not go with release = immediate, which makes a frame final when it is seen. Use paced or round_end, or "
    "context.before_s alone"
)
PORT = "must be a port from 1 to 65535, or an IP address of this machine and a port, as 127.0.0.1:9464"
SECTION_NAMES = ", ".join(SECTIONS)

WRONG = [
    # in a fragment that is read behind a right configuration: what it says, what is said of it
    (
        '[vehicle]\nid = "car 17"',
        "wrong.toml:2: vehicle.id = 'car 17': must be ASCII letters, digits and ._- alone, as in car-17",
    ),
    ('[upload]\nvehicle = "car-17"', "wrong.toml:2: upload.vehicle: no such key; did you mean [vehicle]?"),
    ("[source]\nrate_hz = 0", "wrong.toml:2: source.rate_hz = 0.0: must be a number of frames per second above 0"),
    ("[source]\nrate_hz = nan", "wrong.toml:2: source.rate_hz = nan: must be a number of frames per second above 0"),
    ('[source]\nrate_hz = "2"', 'wrong.toml:2: source.rate_hz = "2": must be a number'),
    ("[source]\nrate_hz = 1e300", "wrong.toml:2: source.rate_hz = 1e+300: must be a number, and not so large"),
    ("[source]\nrate_hz = true", "wrong.toml:2: source.rate_hz = true: must be a number"),
    ("[source]\nrate = 2", "wrong.toml:2: source.rate: no such key; did you mean [source] rate_hz?"),
    ("[source]\nuris = []", "wrong.toml:2: source.uris = []: must name a camera at least"),
    (
        '[source]\nuris = "watch:/data"',
        'wrong.toml:2: source.uris = "watch:/data": must be a list of texts, as ["..."]',
    ),
    (
        '[source]\nuris = [\n  "watch:/data",\n  "drive.mp4",\n]',
        f"wrong.toml:2: source.uris = drive.mp4: must each be a live source, {FORMS}",
    ),
    (
        '[source]\nuris = ["rtsp://cam:hunter2@10.0.0.7/1"]',
        (
            "wrong.toml:2: source.uris = rtsp://(removed)@10.0.0.7/1: a password in an address is seen by every process, and by "
            "whoever reads a configuration. Leave it out, and set GEAL_EDGE_RTSP_USER and GEAL_EDGE_RTSP_PASSWORD, or "
            "GEAL_EDGE_RTSP_CREDENTIALS=FILE with lines of HOST USER PASSWORD. Where the camera wants them within its address, "
            "write {user} and {password} there"
        ),
    ),
    (
        '[source]\nuris = ["left=/dev/video0", "left=/dev/video1"]',
        "wrong.toml:2: source.uris = left: is there twice. Give each camera once, under a name of its own, as left=ADDRESS",
    ),
    ("[source]\ngroup_s = -0.1", "wrong.toml:2: source.group_s = -0.1: must be a number of seconds from 0 to 3600"),
    ('[source]\nname = "a/b"', "wrong.toml:2: source.name = a/b: must be a name without slashes"),
    ("[metrics]\nlisten = 0", f"wrong.toml:2: metrics.listen = 0: {PORT}"),
    ("[metrics]\nlisten = 99464", f"wrong.toml:2: metrics.listen = 99464: {PORT}"),
    ('[metrics]\nlisten = ":9464"', f"wrong.toml:2: metrics.listen = :9464: {PORT}"),
    ('[metrics]\nlisten = "vehicle:9464"', f"wrong.toml:2: metrics.listen = vehicle:9464: {PORT}"),
    (
        '[metrics]\ntextfile = "/run/geal-edge.txt"',
        "wrong.toml:2: metrics.textfile = /run/geal-edge.txt: must end in .prom, or the collector does not read it",
    ),
    ("[metrics]\nevery_s = 0", "wrong.toml:2: metrics.every_s = 0.0: must be a number of seconds from 1 to 3600"),
    ('[bundle]\npath = ""', 'wrong.toml:2: bundle.path = "": must be a path'),
    (
        '[bundle]\ndigest = "abc"',
        "wrong.toml:2: bundle.digest = abc: must be sha256: and 64 hexadecimal digits",
    ),
    (
        '[bundle]\nbackend = "cuda"',
        f'wrong.toml:2: bundle.backend = "cuda": must be one of {BACKENDS}',
    ),
    (
        '[bundle]\non_engine_failure = "retry"',
        'wrong.toml:2: bundle.on_engine_failure = "retry": must be one of "cpu", "pause"',
    ),
    ("[bundle]\nallow_untrained = 1", "wrong.toml:2: bundle.allow_untrained = 1: must be true or false"),
    (
        "[budget]\nframes_per_day = 0",
        "wrong.toml:2: budget.frames_per_day = 0: must be a whole number of frames from 1 to 1000000",
    ),
    ("[budget]\nframes_per_day = 2.5", "wrong.toml:2: budget.frames_per_day = 2.5: must be a whole number"),
    (
        '[budget]\nbytes_per_day = "200MB"',
        'wrong.toml:2: budget.bytes_per_day = "200MB": must be a whole number',
    ),
    (
        "[budget]\nframes_per_week = 50",
        "wrong.toml:2: budget.frames_per_week: no such key; did you mean [budget] frames_per_day?",
    ),
    (
        '[budget]\nrelease = "soon"',
        'wrong.toml:2: budget.release = "soon": must be one of "immediate", "paced", "round_end"',
    ),
    (
        '[budget]\nrelease = "immediate"\nbytes_per_day = 1000000',
        f"geal-edge.toml: release = immediate: {IMMEDIATE}",
    ),
    (
        '[budget]\nrelease = "immediate"\n[context]\nafter_s = 3',
        f"geal-edge.toml: context.after_s: {AFTER}",
    ),
    ("[trip]\ngap_s = 0", "wrong.toml:2: trip.gap_s = 0.0: must be a number of seconds above 0"),
    (
        "[privacy]\ncommand = []",
        "wrong.toml:2: privacy.command = []: must be a program with its arguments, each a text that is not empty",
    ),
    (
        '[privacy]\ncommand = "/usr/bin/blur"',
        'wrong.toml:2: privacy.command = "/usr/bin/blur": must be a list of texts, as ["..."]',
    ),
    (
        '[privacy]\npython = "blur.py"',
        "wrong.toml:2: privacy.python = blur.py: must name a function, as package.module:function",
    ),
    (
        '[privacy]\npython = "a:b"\ncommand = ["/usr/bin/blur"]',
        "geal-edge.toml: privacy: has a command and a python function: one hook is taken, so leave one of them out",
    ),
    (
        "[privacy]\ntimeout_s = 0",
        "wrong.toml:2: privacy.timeout_s = 0.0: must be a number of seconds above 0, at most 600",
    ),
    ('[privacy]\nwhen = "later"', 'wrong.toml:2: privacy.when = "later": must be one of "append", "upload"'),
    (
        '[privacy]\nposition = "blur"',
        'wrong.toml:2: privacy.position = "blur": must be one of "coarsen", "keep", "strip"',
    ),
    ("[trip]\ngap = 60", "wrong.toml:2: trip.gap: no such key; did you mean [trip] gap_s?"),
    ("[spool]\nflush_s = 0.1", "wrong.toml:2: spool.flush_s = 0.1: must be a number of seconds from 1 to 600"),
    ("[spool]\nmax_bytes = -1", "wrong.toml:2: spool.max_bytes = -1: must be a number of bytes, 1 MB or more"),
    ('[spool]\nencoding = "webp"', 'wrong.toml:2: spool.encoding = "webp": must be one of "jpg", "png"'),
    (
        "[spool]\nmax_age_days = 30",
        "wrong.toml:2: spool.max_age_days: no such key; did you mean [retention] max_age_days?",
    ),
    ("[retention]\nmax_age_days = 0", "wrong.toml:2: retention.max_age_days = 0.0: must be a number of days above 0"),
    ("[memory]\nmax_frames = 0", "wrong.toml:2: memory.max_frames = 0: must be a whole number of frames, 1 or more"),
    (
        '[memory]\nignore = "rain.memory"',
        'wrong.toml:2: memory.ignore = "rain.memory": must be a list of paths, as ["..."]',
    ),
    ("[memory]\nknown = [1]", 'wrong.toml:2: memory.known = [1]: must be a list of paths, as ["..."]'),
    ('[gates]\nguard = "dark"', 'wrong.toml:2: gates.guard = "dark": must be one of "all", "pixels"'),
    (
        "[gates]\nmin_interval_s = -1",
        "wrong.toml:2: gates.min_interval_s = -1.0: must be a number of seconds, 0 or more",
    ),
    (
        "[gates]\nonly_if = ['speed >']",
        f'wrong.toml:2: gates.only_if = ["speed >"]: {CONDITION}',
    ),
    ("[context]\nbefore_s = 3600", "wrong.toml:2: context.before_s = 3600.0: must be a number of seconds from 0 to 60"),
    ("[limits]\nnice = -5", "wrong.toml:2: limits.nice = -5: must be a whole number from 0 to 19"),
    (
        "[upload]\nprefix = 'a'",
        'geal-edge.toml: upload.to: must be given, in [upload] as to = "s3://bucket/fleet"',
    ),
    (
        "[upload]\nto = '/mnt'\nmetered = 1",
        'wrong.toml:3: upload.metered = 1: must be text or a list of texts, as ["..."]',
    ),
    (
        "[upload]\nto = '/mnt'\nwindows = ['night']",
        "wrong.toml:3: upload.windows = 'night': must be two times of the day, as 22:00-06:00",
    ),
    ("[gate]\nguard = 'all'", "wrong.toml:2: gate: no such section; did you mean [gates]?"),
    ("[selection]\nk = 3\nj = 4", f"wrong.toml:2: selection: no such section; sections are {SECTION_NAMES}"),
    ("rate_hz = 2", "wrong.toml:1: rate_hz: stands in no section; did you mean [source] rate_hz?"),
    ("source = 2", "wrong.toml:1: source = 2: must be a section; write [source], and its keys below it"),
    (
        "[[source]]\nrate_hz = 2",
        'wrong.toml:1: source = [{"rate_hz" = 2}]: must be a section; write [source], and its keys below it',
    ),
    ("[source\nrate_hz = 2", "wrong.toml:1: is no TOML: expected ']' at the end of a table declaration"),
    ("[trip]\ngap_s = 60\ngap_s = 90", "wrong.toml:3: is no TOML: cannot overwrite a value"),
    ("[trip]\ngap_s = 10min", "wrong.toml:2: is no TOML: expected newline or end of document after a statement"),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[text.replace("\n", " ") for text, _ in WRONG])
def test_a_wrong_configuration_is_refused_with_place_key_value_and_what_is_allowed(file, text, sentence):
    fragment(file, "wrong.toml", text)
    assert faults(file) == [sentence.replace("wrong.toml", "conf.d/wrong.toml")]


def test_every_fault_is_named_at_once(file):
    file.write_text(
        RIGHT.replace("frames_per_day = 50", "frames_per_day = 0").replace("[bundle]\n", "[bundle]\nbackend = 1\n")
    )
    fragment(file, "10-car.toml", "[trip]\ngap_s = -1\n")
    fragment(file, "20-lab.toml", "[tripp]\ngap_s = 1\n[trip\n")
    found = faults(file, {"GEAL_EDGE_SPOOL__MAX_BYTES": "much", "GEAL_EDGE_SPOOL__MAXBYTES": "1"})
    assert [fault.split(": ")[0] for fault in found] == [
        "conf.d/20-lab.toml:3",
        "geal-edge.toml:5",
        "geal-edge.toml:9",
        "conf.d/10-car.toml:2",
        "GEAL_EDGE_SPOOL__MAXBYTES",
        "GEAL_EDGE_SPOOL__MAX_BYTES",
    ]


def test_of_a_list_every_wrong_item_is_named(file):
    fragment(
        file,
        "wrong.toml",
        '[gates]\nonly_if = ["a > ", "b > 1", "c /"]\n[source]\nuris = ["usb:0", "/dev/video0", "x"]',
    )
    conditions, uris = faults(file)
    assert "condition 'a > '" in conditions
    assert "condition 'c /'" in conditions
    assert "source.uris = usb:0, x: must each be a live source" in uris


@pytest.mark.parametrize(
    ("to", "sentence"),
    [("ftp://host/x", "must be a folder, or a URL of s3"), ("s3://KEY:WORD@bucket", "has a user, a password")],
)
def test_a_far_side_that_cannot_be_meant_is_a_fault_before_anything_is_sent(file, to, sentence):
    fragment(file, "wrong.toml", f'[upload]\nto = "{to}"\n')
    (fault,) = faults(file)
    assert sentence in fault
    assert "WORD" not in fault


def test_what_must_be_given_is_named_with_an_example(file):
    file.write_text("")
    assert faults(file) == [
        'geal-edge.toml: source.uris: must be given, in [source] as uris = ["watch:/data/incoming"]',
        'geal-edge.toml: bundle.path: must be given, in [bundle] as path = "/opt/geal-edge/bundle"',
        'geal-edge.toml: spool.path: must be given, in [spool] as path = "/var/lib/geal-edge/spool"',
        "geal-edge.toml: budget: must have a cap at least, as frames_per_day = 50",
    ]
    file.write_text(RIGHT.replace("frames_per_day = 50", ""))
    assert faults(file) == ["geal-edge.toml: budget: must have a cap at least, as frames_per_day = 50"]


@pytest.mark.parametrize(
    "text", ["", "x", "[", "\0", '[source]\nuris = """\n', "[" * 5000 + "]" * 5000, "a = " + "[" * 5000]
)
def test_a_file_of_any_kind_is_refused_in_sentences(file, text):
    file.write_text(text)
    assert faults(file)


def test_a_file_that_is_not_text_or_not_there_is_one_fault(file):
    file.write_bytes(b"# one\n# \xff\n")
    assert faults(file) == ["geal-edge.toml:2: is not UTF-8"]
    file.unlink()
    assert faults(file) == ["geal-edge.toml: cannot be read (No such file or directory)"]
    file.mkdir()
    assert faults(file) == ["geal-edge.toml: cannot be read (Is a directory)"]


def test_later_names_the_environment_and_then_the_command_line_win_key_by_key(file):
    fragment(file, "10-fleet.toml", "[source]\nrate_hz = 3\ngroup_s = 0.05\n[trip]\ngap_s = 60\n")
    fragment(file, "90-car.toml", "[source]\nrate_hz = 4\n")
    fragment(file, ".hidden.toml", "[source]\nrate_hz = 5\n")
    fragment(file, "notes.txt", "no TOML")
    environ = {"GEAL_EDGE_TRIP__GAP_S": "30", "GEAL_EDGE_GATES__GUARD": "pixels", "GEAL_EDGE_STATE": "/x", "HOME": "/"}
    flag = Said(section="gates", name="guard", value="all", where="--guard")
    found = read_configuration(file, environ, [flag])
    settings = found.settings
    assert (settings.source.rate_hz, settings.source.group_s, settings.trip.gap_s) == (4.0, 0.05, 30.0)
    assert settings.guard.guard == "all"
    said = {name: where for name, where in found.origins.items() if where != "default"}
    assert said == {
        "source.uris": "geal-edge.toml:2",
        "source.rate_hz": "conf.d/90-car.toml:2",
        "source.group_s": "conf.d/10-fleet.toml:3",
        "bundle.path": "geal-edge.toml:5",
        "budget.frames_per_day": "geal-edge.toml:8",
        "trip.gap_s": "GEAL_EDGE_TRIP__GAP_S",
        "spool.path": "geal-edge.toml:11",
        "gates.guard": "--guard",
    }


def test_a_value_that_is_overruled_must_be_right_all_the_same(file):
    fragment(file, "10.toml", "[trip]\ngap_s = -1\n")
    fragment(file, "20.toml", "[trip]\ngap_s = 1\n")
    assert faults(file) == ["conf.d/10.toml:2: trip.gap_s = -1.0: must be a number of seconds above 0"]


def test_a_path_that_is_not_absolute_counts_from_the_file(file):
    fragment(file, "known.toml", '[memory]\nknown = ["a.memory", "/b.memory"]\n')
    settings = read_configuration(file, {}).settings
    assert settings.bundle.path == file.parent / "bundle"
    assert settings.memory.known == (file.parent / "a.memory", Path("/b.memory"))


def test_a_variable_holds_what_would_stand_in_the_file_and_text_without_quotes(file):
    environ = {
        "GEAL_EDGE_SOURCE__URIS": '["watch:/a", "watch:/b"]',
        "GEAL_EDGE_BUNDLE__ALLOW_UNTRAINED": "true",
        "GEAL_EDGE_BUNDLE__PATH": "/opt/b",
    }
    settings = read_configuration(file, environ).settings
    assert settings.source.uris == ("watch:/a", "watch:/b")
    assert settings.bundle.allow_untrained
    assert settings.bundle.path == Path("/opt/b")
    assert faults(file, {"GEAL_EDGE_SOURCE__URIS": "watch:/a"}) == [
        'GEAL_EDGE_SOURCE__URIS: source.uris = watch:/a: must be a list of texts, as ["..."]'
    ]
    assert faults(file, {"GEAL_EDGE_TRIP__GAP_S": "1\nother = 2"})


def test_lines_are_found_in_every_form_of_toml(file):
    file.write_text(
        'source.uris = ["watch:/a"]\nbudget = { frames_per_day = 5 }\n"bundle".path = "b" # c\n'
        "trip . gap_s = 3\n[ spool ] # where\n  path = '''\ngap_s = 1'''\n"
    )
    origins = read_configuration(file, {}).origins
    assert {name: origins[name].rpartition(":")[2] for name in origins if origins[name] != "default"} == {
        "source.uris": "1",
        "budget.frames_per_day": "2",
        "bundle.path": "3",
        "trip.gap_s": "4",
        "spool.path": "6",
    }


def test_what_is_shown_is_a_configuration_of_the_same_values(file):
    fragment(file, "all.toml", '[memory]\nknown = ["/a \\"b\\".memory"]\n[gates]\nstanding_still = true\n')
    before = read_configuration(file, {})
    file.write_text("\n".join(effective(before, origin=True)))
    (file.parent / "conf.d" / "all.toml").unlink()
    assert read_configuration(file, {}).settings == before.settings


def test_passwords_in_addresses_are_never_shown(file, cli, monkeypatch):
    fragment(file, "secret.toml", '[source]\nuris = ["rtsp://cam:hunter2@10.0.0.7/1?token=abc"]\n[trip]\ngap_s = 0\n')
    shown = str(faults(file, {"GEAL_EDGE_MEMORY__KNOWN": "rtsp://cam:hunter2@10.0.0.7/1"}))
    pipeline = "gst:rtspsrc location=rtsp://10.0.0.7/1?token=abc user-pw=hunter2 ! decodebin"
    fragment(file, "secret.toml", f'[source]\nuris = ["{pipeline}"]\n')
    code, out, _ = cli("config", "show", "--origin", file)
    assert code == 0
    assert "10.0.0.7" in out
    assert "hunter2" not in out + shown
    assert "abc" not in out + shown


def test_the_schema_names_the_same_keys_and_holds_for_what_is_right(file):
    found = schema()
    names = [f"{name}.{key}" for name, section in found["properties"].items() for key in section["properties"]]
    assert names == list(KEYS)
    assert all(key["description"] for section in found["properties"].values() for key in section["properties"].values())


def test_the_commands_check_show_and_describe(cli, file):
    assert cli("config", "check", file) == (
        0,
        f"{file}: no fault; 4 keys are given, {len(KEYS) - 4} have their defaults.\n",
        "",
    )
    assert "rate_hz = 2.0" in cli("config", "show", file)[1]
    assert "# geal-edge.toml:2" in cli("config", "show", file, "--origin")[1]
    assert json.loads(cli("config", "schema")[1])["title"] == "geal-edge.toml"
    file.write_text(RIGHT + "max_bytes = 1\n")
    code, out, error = cli("config", "check", file)
    assert (code, out) == (27, "")
    assert error == (
        f"geal-edge: {file}: 1 problem\n  geal-edge.toml:12: spool.max_bytes = 1: must be a number of bytes, 1 MB or more\n"
    )


EXAMPLE = Path(__file__).parent.parent / "deploy" / "geal-edge.example.toml"


def test_the_example_is_right_and_says_every_key_with_its_default(cli):
    found = read_configuration(EXAMPLE, {})
    text = EXAMPLE.read_text()
    own = {"source.uris", "bundle.path", "budget.frames_per_day", "spool.path"}  # marked (!)
    assert {str(key) for key in KEYS.values() if not key.optional and found.value(key) != key.default} == own
    assert text.count("(!)") == len(own) + 1
    code, _, error = cli("config", "check", EXAMPLE)
    assert code == 0, error


def test_the_example_is_right_with_every_line_that_is_commented_out(tmp_path):
    every = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(every)
    found = read_configuration(tmp_path / "all.toml", {})
    assert {name for name, where in found.origins.items() if where == "default"} == {
        "privacy.python"
    }  # or privacy.command


def test_the_example_marks_what_a_reload_takes_over():
    paragraphs = re.split(r"\n(?=\[|# \(|# [A-Z])", EXAMPLE.read_text())
    section = ""
    for paragraph in paragraphs:
        if header := re.match(r"\[(\w+)\]", paragraph):
            section = header[1]
        for name in re.findall(r"^(?:# )?(\w+) = ", paragraph, flags=re.MULTILINE):
            assert KEYS[f"{section}.{name}"].reload == ("(reload)" in paragraph), f"{section}.{name}"


def test_a_section_of_another_process_may_be_left_out_and_its_variables_are_read(file):
    assert read_configuration(file, {}).settings.upload is None
    found = read_configuration(
        file, {"GEAL_EDGE_UPLOAD__TO": "/mnt/far", "GEAL_EDGE_UPLOAD__METERED": '["metered", "-q"]'}
    )
    assert found.settings.upload is not None
    assert (found.settings.upload.to, found.settings.upload.metered) == ("/mnt/far", ("metered", "-q"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"[source]\nrate_hz = {'1' * 400}", "...: must be a number, and not so large"),
        (f"[budget]\nbytes_per_day = 0x{'f' * 8000}", "...: must be a whole number, and not so large"),
        (f"[source]\nuris = [0x{'f' * 8000}]", '...: must be a list of texts, as ["..."]'),
        (f"[source]\nrate_hz = {'1' * 5000}", "is no TOML: a number in it is far too long"),
    ],
    ids=["of a float", "in hexadecimal", "in a list", "of 5000 digits"],
)
def test_a_number_that_python_itself_refuses_is_a_fault_of_the_file_in_a_short_line(file, text, words):
    fragment(file, "wrong.toml", text)
    [fault] = faults(file)
    assert fault.startswith("conf.d/wrong.toml")
    assert fault.endswith(words)
    assert len(fault) < 400
