"""A full disk at every page and every file of short drives, and the command at many."""

from tests.test_full_disk import filled


def test_at_no_page_and_no_file_does_a_full_disk_lose_what_was_promised(tiny_bundle, tmp_path, tally):
    found = filled(tmp_path / "mount", tiny_bundle.path, every=1)
    assert found["faults"] == []
    assert {"frame", "database", "memory", "folder", "lock", "checkpoint", "command"} <= set(found["refused"])
    tally["writes refused by a full disk"] += sum(found["refused"].values())
    print(f"\na full disk refused: {found['refused']}")
