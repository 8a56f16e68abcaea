"""Results and weights: what is written comes back, what is wrong is named, and a kill leaves no half file."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from stn_helpers import files, results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "results_folder", lambda: tmp_path)
    return tmp_path


def small_net(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def test_results_lie_in_the_repository_or_in_the_installed_package(tmp_path, monkeypatch):
    assert results.results_folder() == Path(results.__file__).resolve().parents[1] / "results"
    package = tmp_path / "stn_helpers"
    (package / "results").mkdir(parents=True)
    monkeypatch.setattr(results, "__file__", str(package / "results.py"))
    assert results.results_folder() == package / "results"


def test_a_result_says_where_it_comes_from(folder):
    figures = {"accuracy": [0.1 + 0.2, 1e-17], "note": "Größe"}
    path = results.save_result("bench", figures, seeds=[0, 1], command="python bench.py")
    assert path == folder / "bench.json" and os.listdir(folder) == ["bench.json"]
    record = results.load_result("bench")
    assert record == json.loads(path.read_text(encoding="utf-8"))
    assert record["figures"] == figures and record["seeds"] == [0, 1] and record["command"] == "python bench.py"
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["python"] == platform.python_version()
    assert f"{torch.get_num_threads()} threads" in record["device"]
    assert abs(time.time() - time.mktime(time.strptime(record["date"], "%Y-%m-%d"))) < 3 * 86400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(figures=st.dictionaries(st.text(), json_values, max_size=4))
def test_figures_come_back_as_they_were(tmp_path_factory, figures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "results_folder", lambda: tmp_path_factory.getbasetemp())
        results.save_result("any", figures, seeds=[], command="")
        assert results.load_result("any")["figures"] == figures


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), torch.ones(1), {1, 2}])
def test_figures_that_json_cannot_hold_leave_the_old_file(folder, bad):
    results.save_result("bench", {"accuracy": 1}, seeds=[0], command="c")
    with pytest.raises(ValueError, match="figures"):
        results.save_result("bench", {"accuracy": bad}, seeds=[0], command="c")
    assert results.load_result("bench")["figures"] == {"accuracy": 1}


@pytest.mark.parametrize("name", ["", "../up", "a/b/c", "a/../b", "/a", "a/", ".hidden", "a b"])
def test_a_name_is_no_path(folder, name):
    for call in (lambda: results.load_result(name), lambda: results.save_result(name, {}, seeds=[], command="")):
        with pytest.raises(ValueError, match="name"):
            call()


def test_a_missing_or_damaged_result_names_the_file_and_the_way_out(folder):
    with pytest.raises(FileNotFoundError, match=r"bench\.json.*repository"):
        results.load_result("bench")
    whole = results.save_result("bench", {"a": 1}, seeds=[0], command="c").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff\xfe\x00", b"[]", b'{"a": 1}', b'{"figures": []}'):
        (folder / "bench.json").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bench\.json.*repository"):
            results.load_result("bench")
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors.*repository"):
        results.load_weights("net", torch.nn.Linear(1, 1))


def test_weights_come_back_bit_for_bit_whatever_their_memory_order(folder):
    torch.manual_seed(0)
    net, other = small_net().to(memory_format=torch.channels_last), small_net()
    net[1].running_mean.normal_()
    path = results.save_weights("net", net)
    for name, value in load_file(path).items():  # by safetensors itself
        assert torch.equal(value, net.state_dict()[name])
    results.load_weights("net", other)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_weights_can_be_rounded_to_half_the_size(folder):
    torch.manual_seed(0)
    net, other = small_net(), small_net()
    path = results.save_weights("half", net, torch.float16)
    for name, value in load_file(path).items():
        assert value.dtype == (torch.float16 if net.state_dict()[name].is_floating_point() else torch.int64)
    results.load_weights("half", other)
    for name, value in other.state_dict().items():
        assert value.dtype == net.state_dict()[name].dtype
        torch.testing.assert_close(value, net.state_dict()[name], rtol=2**-11, atol=1e-7)


def test_two_names_for_one_weight_can_be_saved(folder):
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    results.save_weights("tied", net)
    results.load_weights("tied", net)


def test_weights_that_do_not_fit_change_nothing_and_say_where(folder):
    results.save_weights("net", small_net(3))
    wider = small_net(4)
    before = {name: value.clone() for name, value in wider.state_dict().items()}
    with pytest.raises(ValueError, match=r"net\.safetensors.*0\.weight \(\(3, 2, 3, 3\).*\(4, 2, 3, 3\)"):
        results.load_weights("net", wider)
    assert all(torch.equal(value, before[name]) for name, value in wider.state_dict().items())
    with pytest.raises(ValueError, match=r"absent in the model"):
        results.load_weights("net", small_net(3)[:1])


def test_missing_truncated_and_damaged_weights_are_named(folder):
    net = small_net()
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors"):
        results.load_weights("net", net)
    path = results.save_weights("net", net)
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    turned, renamed = whole.replace(b"[3,2,3,3]", b"[2,3,3,3]"), whole.replace(b"weights", b"widgets")
    assert flipped != whole != turned and renamed != whole
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:4], b"", b"no tensors at all", flipped, turned, renamed):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"net\.safetensors.*anew"):
            results.load_weights("net", net)
    save_file({"weight": torch.ones(2)}, path)  # whole, but not ours
    with pytest.raises(ValueError, match="checksum"):
        results.load_weights("net", net)


def test_a_full_disk_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    path = files.write_atomically(folder / "a.json", b"old")

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*a\.json"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(folder) == ["a.json"]


def test_a_folder_that_is_a_file_is_named(folder):
    (folder / "plain").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*plain/a\.json; free some space"):
        files.write_atomically(folder / "plain" / "a.json", b"new")


def test_a_kill_while_writing_leaves_a_whole_file(tmp_path):
    """A process that does nothing but overwrite one file is killed, time after time."""
    path = tmp_path / "a.bin"
    program = (
        "import sys; from stn_helpers.files import write_atomically\n"
        "print('ready', flush=True); k = 0\n"
        "while True: k = (k + 1) % 256; write_atomically(sys.argv[1], bytes([k]) * 3_000_000)"
    )
    part, caught, until = tmp_path / "a.bin.part", 0, time.monotonic() + 60
    while caught < 3 and time.monotonic() < until:
        part.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout.readline() == b"ready\n"
        while not (path.exists() and part.exists()) and time.monotonic() < until:  # until the second writing, or a later one
            assert writer.poll() is None
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        data = path.read_bytes()
        assert len(data) == 3_000_000 and len(set(data)) == 1
        caught += part.exists()
    assert caught == 3, f"{caught} kills fell into a writing, wanted 3: this test shows nothing"
