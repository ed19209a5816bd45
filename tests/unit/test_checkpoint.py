import errno
import json
import logging
import os
import random
import shutil

import pytest
from safetensors import SafetensorError

from palimpsest.errors import InputError
from palimpsest.training import Checkpoints, resolve_checkpoint
from palimpsest.training import checkpoint as module
from palimpsest.training.checkpoint import damage_of, seal

FILES = {"model.safetensors": bytes(range(256)) * 3, "state.json": b'{"step": 1}', "config.json": b"{}\n"}


def write(directory):
    for name, content in FILES.items():
        (directory / name).write_bytes(content)
    (directory / "nested").mkdir()
    (directory / "nested" / "part.bin").write_bytes(b"\x00\x01")


def saved(tmp_path, *steps, keep=10):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep)
    for step in steps:
        checkpoints.save(step, write)
    return checkpoints


def there(checkpoints):
    return sorted(path.name for path in checkpoints.directory.iterdir())


def spoil(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_checkpoint_holds_what_was_written_and_a_manifest_of_it(tmp_path):
    checkpoints = saved(tmp_path, 7)
    assert there(checkpoints) == ["step-7"]
    directory = checkpoints.directory / "step-7"
    manifest = json.loads((directory / "manifest.json").read_text())
    assert set(manifest["files"]) == {*FILES, "nested/part.bin"}
    assert all((directory / name).read_bytes() == content for name, content in FILES.items())
    assert checkpoints.newest_valid() == (7, directory)
    assert resolve_checkpoint(directory) == directory
    assert resolve_checkpoint(tmp_path) == directory


def test_no_checkpoint_yet(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", 2)
    assert checkpoints.newest_valid() is None
    checkpoints.begin_after(0)


def test_the_newest_are_kept(tmp_path):
    assert there(saved(tmp_path, 5, 10, 15, 100, keep=2)) == ["step-100", "step-15"]


def test_every_flipped_bit_is_detected(tmp_path):
    directory = saved(tmp_path, 3).directory / "step-3"
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    random_place = random.Random(0)
    for _ in range(300):
        path = random_place.choice(files)
        content = path.read_bytes()
        place, bit = random_place.randrange(len(content)), random_place.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        assert damage_of(directory) is not None, (path.name, place, bit)
        path.write_bytes(content)
    assert damage_of(directory) is None


def test_every_truncation_and_every_missing_file_is_detected(tmp_path):
    directory = saved(tmp_path, 3).directory / "step-3"
    for path in [path for path in directory.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        for length in {0, 1, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:length])
            assert path.name in damage_of(directory)
        path.unlink()
        assert path.name in damage_of(directory)
        path.write_bytes(content)
    assert damage_of(directory) is None


def test_a_checkpoint_under_another_name_is_detected(tmp_path):
    checkpoints = saved(tmp_path, 3)
    shutil.copytree(checkpoints.directory / "step-3", checkpoints.directory / "step-9")
    assert "step 3" in damage_of(checkpoints.directory / "step-9")


def test_the_newest_whole_one_is_found_and_that_is_said(tmp_path, caplog):
    checkpoints = saved(tmp_path, 1, 2, 3)
    spoil(checkpoints.directory / "step-3" / "model.safetensors")
    (checkpoints.directory / "step-2" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest_valid().step == 1
    assert "step-3/model.safetensors is damaged" in caplog.text
    assert "Falling back to" in caplog.text


def test_damaged_ones_are_set_aside_and_never_push_out_a_whole_one(tmp_path):
    checkpoints = saved(tmp_path, 1, 2, 3, keep=2)  # leaves 2 and 3
    spoil(checkpoints.directory / "step-3" / "model.safetensors")
    newest = checkpoints.newest_valid()
    checkpoints.begin_after(newest.step)
    assert there(checkpoints) == ["step-2", "step-3.damaged"]
    checkpoints.save(3, write)
    assert there(checkpoints) == ["step-2", "step-3", "step-3.damaged"]
    assert checkpoints.newest_valid().step == 3


def test_all_damaged_is_an_error_and_loses_nothing(tmp_path):
    checkpoints = saved(tmp_path, 1, 2)
    for step in (1, 2):
        spoil(checkpoints.directory / f"step-{step}" / "model.safetensors")
    with pytest.raises(InputError, match=r"No checkpoint in .* is whole: .*step-2/model\.safetensors is damaged"):
        checkpoints.newest_valid()
    assert there(checkpoints) == ["step-1", "step-2"]


def test_leftovers_of_a_crash_are_no_checkpoints_and_are_removed(tmp_path):
    checkpoints = saved(tmp_path, 4)
    (checkpoints.directory / "step-5.tmp").mkdir()
    write(checkpoints.directory / "step-5.tmp")
    assert checkpoints.newest_valid().step == 4
    checkpoints.begin_after(4)
    assert there(checkpoints) == ["step-4"]


def fail_at(monkeypatch, number, error):
    """Let the ``number``-th sync of a file or directory fail."""
    calls = iter(range(10**6))
    original = os.fsync

    def fsync(descriptor):
        if next(calls) == number:
            raise error
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


def count_syncs(tmp_path, monkeypatch):
    calls = []
    original = os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (calls.append(1), original(descriptor))[1])
        saved(tmp_path / "count", 1)
    return len(calls)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_at_any_sync_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, number):
    syncs = count_syncs(tmp_path, monkeypatch)
    assert syncs > len(FILES)
    for place in range(syncs):
        checkpoints = saved(tmp_path / str(place), 1)
        with monkeypatch.context() as patch:
            fail_at(patch, place, OSError(number, os.strerror(number)))
            with pytest.raises(InputError, match=r"disk is full: .*step-2 could not be written"):
                checkpoints.save(2, write)
        assert checkpoints.newest_valid().step in (1, 2)  # the last sync comes after the rename: then 2 is whole
        assert not list(checkpoints.directory.glob("*.tmp"))
        assert damage_of(checkpoints.directory / "step-1") is None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # as tokenizers does
    ],
)
def test_a_full_disk_while_files_are_written(tmp_path, error):
    checkpoints = saved(tmp_path, 1)

    def fail(directory):
        (directory / "model.safetensors").write_bytes(b"half")
        raise error

    with pytest.raises(InputError, match="the same command again"):
        checkpoints.save(2, fail)
    assert there(checkpoints) == ["step-1"]


def test_another_failure_is_not_called_a_full_disk(tmp_path):
    checkpoints = saved(tmp_path, 1)

    def fail(directory):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        checkpoints.save(2, fail)
    assert there(checkpoints) == ["step-1"]


def test_nothing_is_published_before_it_is_synced(tmp_path, monkeypatch):
    order = []
    original_sync, original_rename = module.sync, os.rename

    def rename(old, new):
        order.append(("rename", os.path.basename(new)))
        original_rename(old, new)

    def sync(path):
        order.append(("sync", path.name))
        original_sync(path)

    monkeypatch.setattr(module, "sync", sync)
    monkeypatch.setattr(os, "rename", rename)
    saved(tmp_path, 1)
    published = order.index(("rename", "step-1"))
    assert {name for kind, name in order[:published] if kind == "sync"} >= {*FILES, "part.bin", "nested", "step-1.tmp"}
    assert order[published - 1] == ("sync", "step-1.tmp")
    assert order[published + 1] == ("sync", "checkpoints")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is no checkpoint: there is no config\.json"):
        resolve_checkpoint(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="a run directory without a checkpoint"):
        resolve_checkpoint(tmp_path / "run")
    directory = saved(tmp_path, 1).directory / "step-1"
    (directory / "manifest.json").unlink()
    with pytest.raises(InputError, match="has no manifest"):
        resolve_checkpoint(directory)


def test_a_directory_of_another_maker_is_taken_as_it_is(tmp_path):
    write(tmp_path)
    assert resolve_checkpoint(tmp_path) == tmp_path
    seal(tmp_path, 1)
    spoil(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        resolve_checkpoint(tmp_path)
