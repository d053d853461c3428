import numpy as np
import pytest

from benchmarks.faults import FAULTS
from geal_edge.runtime.frame import usable
from geal_edge.runtime.quality import Limits, fault, quality
from geal_edge.runtime.sources import open_source
from tests.guards import street

NAMES = {
    "black": "dark",
    "white": "glare",
    "half_covered": "covered",
    "block_noise": "garbled",
    "blur": "blurred",
    "channel_noise": "noise",
    "channel_dead": "discoloured",
}


@pytest.mark.parametrize("kind", NAMES)
def test_a_broken_picture_is_called_by_its_fault(kind):
    broken = FAULTS[kind](street(1), np.random.default_rng(1))
    assert fault(quality(broken)) == NAMES[kind]


@pytest.mark.parametrize("seed", range(3))
def test_a_decode_that_was_cut_off_is_broken(seed):
    assert fault(quality(FAULTS["cut_off"](street(2), np.random.default_rng(seed)))) in ("garbled", "covered")


def test_a_street_is_not_broken_by_day_or_by_night():
    day = street(3)
    night = day // 6
    night[40:44, 100:140] = 220  # lamps
    night[60:64, 220:260] = 240
    assert fault(quality(day)) is None
    assert fault(quality(night)) is None


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 9), (97, 321), (1080, 1920)])
def test_any_shape_and_any_flat_colour_has_signals_in_their_range(shape):
    for value in (0, 128, 255):
        seen = quality(np.full((*shape, 3), value, np.uint8))
        shares = (seen.light, seen.glare, seen.uniform, seen.repeated)
        assert all(0.0 <= share <= 1.0 for share in shares)
        assert seen.balance == 1.0
        assert 0.0 < seen.sharpness < 1.5


def test_a_limit_that_is_moved_moves_what_it_says():
    seen = quality(street(4))
    assert fault(seen, Limits(max_sharpness=seen.sharpness - 0.01)) == "noise"
    assert fault(seen, Limits(min_sharpness=seen.sharpness + 0.01, max_sharpness=2.0)) == "blurred"


def test_one_changed_pixel_of_the_copy_is_another_fingerprint():
    image = street(5)
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert quality(image).fingerprint == quality(image.copy()).fingerprint != quality(other).fingerprint


def test_recorded_drives_of_every_light_and_weather_are_not_called_broken(shared):
    for drive in ("night_rural_1080p", "wet_country_road", "us_highway_winter", "highway_dusk", "city_dashcam"):
        frames = open_source(str(shared / "data" / "drives" / f"{drive}.mp4"), fps=0.5).frames()
        assert {fault(quality(usable(item).image)) for item in frames} == {None}, drive
