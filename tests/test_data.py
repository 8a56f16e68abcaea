"""The digits: every way in which MNIST can be there, be damaged or not be had; and the stand-in.

Most tests make a small MNIST of their own (random pixels, the real file format and checksums to match) and serve it
from this machine; no test reaches for the network. Those that want the real one find it in $STN_DATA or skip.
"""

import contextlib
import errno
import gzip
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torchvision.datasets import utils as torchvision_utils
from torchvision.transforms.functional import to_tensor

from stn_helpers import data
from stn_helpers.data import DataError, Digits, load_digits, split_validation

REAL_MNIST = os.environ.get("STN_DATA", "")
needs_mnist = pytest.mark.skipif(
    not (Path(REAL_MNIST) / "MNIST" / "raw" / "train-images-idx3-ubyte").exists(),
    reason="STN_DATA does not hold MNIST",
)
NAMES = list(data.MNIST_FILES)


# A small MNIST, a small mirror, a small repository -----------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX format: two zero bytes, 8 for unsigned bytes, the number of dimensions, their sizes, the values."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


class Small:
    """30 training and 20 test images of random pixels; enough that a gzip file has a middle to be cut in."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.arrays = {}
        for part, n in (("train", 30), ("t10k", 20)):
            self.arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
            self.arrays[f"{part}-labels-idx1-ubyte"] = rng.integers(0, 10, n, dtype=np.uint8)
        self.files = {name: idx(self.arrays[name]) for name in NAMES}
        self.table = {name: (len(f), hashlib.sha256(f).hexdigest()) for name, f in self.files.items()}
        self.packed = {name + ".gz": gzip.compress(f, mtime=0) for name, f in self.files.items()}
        self.resources = [(name, hashlib.md5(f).hexdigest()) for name, f in self.packed.items()]

    def write(self, folder: Path) -> Path:
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name, content in self.files.items():
            (raw / name).write_bytes(content)
        return raw

    def is_in(self, loaded) -> bool:
        train, test = loaded.train, loaded.test
        pairs = zip(
            NAMES, (train.images[:, 0] * 255, train.labels, test.images[:, 0] * 255, test.labels), strict=True
        )
        return all(np.array_equal(self.arrays[name], tensor.round().numpy()) for name, tensor in pairs)


@pytest.fixture
def small(monkeypatch):
    made = Small()
    monkeypatch.setattr(data, "MNIST_FILES", made.table)
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", made.resources)
    return made


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    """A repository of its own for each test, no variables, and mirrors that nobody listens at."""
    for variable in (
        "STN_DATA",
        "STN_SOURCE",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(variable, raising=False)
    package = tmp_path / "repository" / "stn_helpers"
    package.mkdir(parents=True)
    (package.parent / "pyproject.toml").write_text('[project]\nname = "stn_helpers"\n')
    monkeypatch.setattr(data, "__file__", str(package / "data.py"))
    monkeypatch.setattr(data, "_said", set())
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    return package.parent


class Mirror:
    """Serves the packed files; `manner` says how: whole, cut (closed half-way), stall (silent half-way) or slow."""

    def __init__(self, packed: dict[str, bytes]) -> None:
        mirror, self.manner, self.gets, self.done = self, "whole", [], threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(200 if self.path[1:] in packed else 404)
                self.end_headers()

            def do_GET(self):
                content = packed[self.path[1:]]
                mirror.gets.append(self.path[1:])
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                half = len(content) // 2
                self.wfile.write(content[:half])
                self.wfile.flush()
                if mirror.manner == "cut":
                    return
                if mirror.manner != "whole":
                    mirror.done.wait(60 if mirror.manner == "stall" else 0.3)
                self.wfile.write(content[half:])

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *args: None  # a client that was killed is part of the tests
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.done.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def mirror(small, monkeypatch):
    made = Mirror(small.packed)
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [made.url])
    yield made
    made.close()


@contextlib.contextmanager
def stepped_down():
    """Permissions do not bind root: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that everybody may enter and read (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def everything_under(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_complete(folder: Path, small: Small) -> None:
    """The four files, whole, and nothing beside them: no .gz, no temporary folder."""
    assert everything_under(folder) == sorted(f"MNIST/raw/{name}" for name in NAMES)
    assert {name: (folder / "MNIST" / "raw" / name).read_bytes() for name in NAMES} == small.files
    assert [path.name for path in folder.iterdir()] == ["MNIST"]


# Found ------------------------------------------------------------------------------------------------------------


def test_format(small, tmp_path):
    small.write(tmp_path / "here")
    loaded = load_digits(root=tmp_path / "here")
    assert loaded.source == "mnist" and small.is_in(loaded)
    for part, n in ((loaded.train, 30), (loaded.test, 20)):
        assert part.images.shape == (n, 1, 28, 28) and part.images.dtype == torch.float32
        assert part.images.is_contiguous() and part.images.min() == 0 and part.images.max() == 1
        assert part.labels.shape == (n,) and part.labels.dtype == torch.int64


@needs_mnist
def test_equals_torchvisions_mnist():
    loaded = load_digits("mnist", REAL_MNIST)
    for part, is_train in ((loaded.train, True), (loaded.test, False)):
        theirs = torchvision.datasets.MNIST(REAL_MNIST, train=is_train)
        assert torch.equal(part.images[:, 0], theirs.data.float() / 255)
        assert torch.equal(part.labels, theirs.targets)
        assert torch.equal(part.images[7], to_tensor(theirs[7][0]))
    assert len(loaded.train.labels) == 60_000 and len(loaded.test.labels) == 10_000
    # The constants with which everybody standardises MNIST.
    assert loaded.train.images.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert loaded.train.images.std().item() == pytest.approx(0.3081, abs=5e-5)


@needs_mnist
def test_files_are_the_published_ones():
    """The table of SHA-256 stands for the MD5 that the archives of MNIST are listed with, unpacked."""
    published = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }
    for name, (size, checksum) in data.MNIST_FILES.items():
        content = (Path(REAL_MNIST) / "MNIST" / "raw" / name).read_bytes()
        assert hashlib.md5(content).hexdigest() == published[name]
        assert (len(content), hashlib.sha256(content).hexdigest()) == (size, checksum)


def test_search_order(small, repository, tmp_path, monkeypatch, capsys):
    small.write(repository / "data")
    assert data._load(None, None)[1] == str(repository / "data")
    small.write(tmp_path / "elsewhere")
    monkeypatch.setenv("STN_DATA", str(tmp_path / "elsewhere"))
    assert data._load(None, None)[1] == str(tmp_path / "elsewhere")
    small.write(tmp_path / "third")
    assert data._load(None, tmp_path / "third")[1] == str(tmp_path / "third")
    assert capsys.readouterr().out == ""  # nothing amiss, nothing said


def test_without_a_repository_the_current_folder_is_used(small, repository, tmp_path, monkeypatch):
    (repository / "pyproject.toml").write_text('[project]\nname = "something_else"\n')
    monkeypatch.chdir(tmp_path)
    small.write(tmp_path / "data")
    assert data._load(None, None)[1] == str(tmp_path / "data")


def test_stn_data_without_mnist_is_said_once(small, repository, tmp_path, monkeypatch, capsys):
    small.write(repository / "data")
    monkeypatch.setenv("STN_DATA", str(tmp_path / "empty"))
    assert small.is_in(load_digits()) and small.is_in(load_digits())
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.startswith("STN_DATA: ") and str(tmp_path / "empty") in said
    assert "missing" in said and str(repository / "data") in said


# Damaged ----------------------------------------------------------------------------------------------------------


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def make_a_folder(path):
    path.unlink()
    path.mkdir()


DAMAGES = [
    pytest.param(Path.unlink, "is missing", id="missing"),
    pytest.param(cut_off, "bytes, not", id="cut-off"),
    pytest.param(lambda path: path.write_bytes(b""), "0 bytes, not", id="empty"),
    pytest.param(flip_a_bit, "SHA-256", id="corrupted"),
    pytest.param(make_a_folder, "cannot be read", id="folder"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_damaged_file_is_named(small, tmp_path, damage, words, name):
    raw = small.write(tmp_path)
    damage(raw / name)
    with pytest.raises(DataError) as caught:
        load_digits("mnist", tmp_path)
    message = str(caught.value)
    assert str(raw / name) in message and words in message
    assert "python -m stn_helpers.data" in message and "STN_DATA" in message  # the way out
    assert "\n" not in message


def test_unreadable_file(small, open_folder):
    raw = small.write(open_folder)
    (raw / NAMES[0]).chmod(0)
    with stepped_down(), pytest.raises(DataError, match="cannot be read .*Permission denied") as caught:
        load_digits("mnist", open_folder)
    assert str(raw / NAMES[0]) in str(caught.value)


@pytest.mark.parametrize(("damage", "words"), DAMAGES[:-1])
def test_damaged_file_is_downloaded_anew(small, mirror, repository, capsys, damage, words):
    raw = small.write(repository / "data")
    damage(raw / NAMES[2])
    assert small.is_in(load_digits())
    assert_complete(repository / "data", small)
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_damaged_stn_data_falls_through(
    small, mirror, repository, tmp_path, monkeypatch, capsys, damage, words
):
    raw = small.write(tmp_path / "theirs")
    damage(raw / NAMES[1])
    before = everything_under(tmp_path / "theirs")
    monkeypatch.setenv("STN_DATA", str(tmp_path / "theirs"))
    assert small.is_in(load_digits())
    said = capsys.readouterr().out
    assert "STN_DATA: " in said and words in said
    assert_complete(repository / "data", small)
    assert everything_under(tmp_path / "theirs") == before  # not ours to mend


# Downloaded -------------------------------------------------------------------------------------------------------


def test_download(small, mirror, repository, capsys):
    assert small.is_in(load_digits())
    assert_complete(repository / "data", small)
    assert set(mirror.gets) == set(small.packed)
    out, err = capsys.readouterr()
    assert f"Downloading MNIST (11.6 MB) to {repository / 'data'}" in out and "%" in err  # progress
    mirror.gets.clear()
    assert small.is_in(load_digits("mnist"))
    assert mirror.gets == []  # downloaded once


def test_download_to_root(small, mirror, repository, tmp_path):
    assert small.is_in(load_digits(root=tmp_path / "new" / "place"))
    assert_complete(tmp_path / "new" / "place", small)
    assert not (repository / "data").exists()


def test_second_mirror_serves_where_the_first_is_silent(small, mirror, repository, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/", mirror.url])
    assert small.is_in(load_digits("mnist"))


def test_download_cut_in_the_middle(small, mirror, repository):
    mirror.manner = "cut"
    with pytest.raises(DataError, match="download to .* failed") as caught:
        load_digits("mnist")
    assert str(repository / "data") in str(caught.value) and "\n" not in str(caught.value)
    assert everything_under(repository / "data") == []
    mirror.manner = "whole"
    assert small.is_in(load_digits("mnist"))
    assert_complete(repository / "data", small)


def test_download_that_stalls(small, mirror, repository, monkeypatch):
    monkeypatch.setattr(data, "NETWORK_SECONDS", 0.5)
    mirror.manner = "stall"
    start = time.monotonic()
    with pytest.raises(DataError, match="timed out"):
        load_digits("mnist")
    assert time.monotonic() - start < 5
    assert everything_under(repository / "data") == []
    assert socket.getdefaulttimeout() is None  # put back


def test_download_of_something_else(small, mirror, repository, monkeypatch):
    """Whole by the archive's own checksum, but not MNIST: never moved into place."""
    wrong = {**small.table, NAMES[0]: (small.table[NAMES[0]][0], "0" * 64)}
    monkeypatch.setattr(data, "MNIST_FILES", wrong)
    with pytest.raises(DataError, match="SHA-256"):
        load_digits("mnist")
    assert everything_under(repository / "data") == []


def test_failed_download_leaves_what_was_there(small, mirror, repository):
    raw = small.write(repository / "data")
    cut_off(raw / NAMES[0])
    before = everything_under(repository / "data")
    mirror.manner = "cut"
    with pytest.raises(DataError) as caught:
        load_digits("mnist")
    assert "bytes, not" in str(caught.value) and "download" in str(caught.value)  # both reasons
    assert everything_under(repository / "data") == before


# A process of its own: the small MNIST and its mirror, given as JSON; prints what went wrong, if anything.
CHILD = """
import json, sys
import torchvision
from stn_helpers import data
given = json.loads(sys.argv[1])
torchvision.datasets.MNIST.mirrors = given["mirrors"]
torchvision.datasets.MNIST.resources = [tuple(pair) for pair in given["resources"]]
data.MNIST_FILES = {name: tuple(pair) for name, pair in given["table"].items()}
sys.exit(data.main(["--source", "mnist", "--root", given["root"]]))
"""


def start_child(small: Small, mirror: Mirror, root: Path) -> subprocess.Popen:
    given = {"mirrors": [mirror.url], "resources": small.resources, "table": small.table, "root": str(root)}
    command = [sys.executable, "-c", CHILD, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once(small, mirror, tmp_path):
    mirror.manner = "slow"
    children = [start_child(small, mirror, tmp_path / "shared") for _ in range(2)]
    for child in children:
        out, err = child.communicate(timeout=120)
        assert child.returncode == 0, err
        assert out.splitlines()[-1] == f"mnist: 30 training and 20 test digits from {tmp_path / 'shared'}"
    assert_complete(tmp_path / "shared", small)


def test_killed_in_the_middle(small, mirror, tmp_path):
    mirror.manner = "stall"
    child = start_child(small, mirror, tmp_path / "data")
    deadline = time.monotonic() + 60
    while not mirror.gets and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert mirror.gets and not (tmp_path / "data" / "MNIST").exists()
    (leftover,) = (tmp_path / "data").iterdir()
    assert leftover.name.startswith(".mnist-")
    os.utime(leftover, (0, 0))  # long ago: no process can still be at it
    mirror.manner = "whole"
    assert small.is_in(load_digits("mnist", tmp_path / "data"))
    assert_complete(tmp_path / "data", small)


# Not to be had ----------------------------------------------------------------------------------------------------


def assert_stands_in(said: str, *words: str) -> None:
    assert said.count("\n") == 1, said
    for word in ("scikit-learn", "1,797", "python -m stn_helpers.data", "STN_DATA", *words):
        assert word in said


def test_no_network(repository, capsys):
    assert load_digits().source == "sklearn"
    load_digits()  # a second time the same is not said again
    assert_stands_in(capsys.readouterr().out, "127.0.0.1:9", "Connection refused")
    assert not (repository / "data").exists()
    with pytest.raises(DataError, match="no mirror to download from") as caught:
        load_digits("mnist")
    assert "STN_DATA" in str(caught.value)


def test_network_that_swallows_packets(monkeypatch):
    """Connections are taken up and never answered."""
    monkeypatch.setattr(data, "NETWORK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        mirrors = [f"http://127.0.0.1:{hole.getsockname()[1]}/{i}/" for i in range(4)]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", mirrors)
        start = time.monotonic()
        with pytest.raises(DataError, match="timed out|no answer"):
            load_digits("mnist")
    assert time.monotonic() - start < 2


def test_name_server_that_hangs(monkeypatch):
    """No socket's timeout covers the look-up of a name."""
    release = threading.Event()
    monkeypatch.setattr(data, "NETWORK_SECONDS", 0.5)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: release.wait(30) and [])
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer in 0.5 s"):
        load_digits("mnist")
    release.set()
    assert time.monotonic() - start < 2


def test_fails_within_15_seconds():
    """The tests above shorten the wait; this is the real one, of which there is one, whatever the number of mirrors."""
    assert data.NETWORK_SECONDS < 15


def test_read_only_folder(small, mirror, open_folder):
    with stepped_down(), pytest.raises(DataError, match="Permission denied") as caught:
        load_digits("mnist", open_folder)
    assert str(open_folder) in str(caught.value)
    assert everything_under(open_folder) == []


def test_data_is_a_file(small, mirror, repository, capsys):
    (repository / "data").write_text("not a folder")
    assert load_digits().source == "sklearn"
    assert_stands_in(capsys.readouterr().out, str(repository / "data"))


@pytest.fixture
def tiny_disk(tmp_path):
    """A disk with room for some of the files, not for all."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=36k,mode=777", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a disk here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(small, mirror, tiny_disk):
    with pytest.raises(DataError, match="No space left on device") as caught:
        load_digits("mnist", tiny_disk)
    assert str(tiny_disk) in str(caught.value)
    assert mirror.gets and everything_under(tiny_disk) == [] and os.listdir(tiny_disk) == []


def test_disk_that_fills_while_writing(small, mirror, repository, monkeypatch):
    """The same where no disk may be mounted."""

    def write_half(url, filename, *args):
        Path(filename).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(filename))

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", write_half)
    with pytest.raises(DataError, match="No space left on device"):
        load_digits("mnist")
    assert everything_under(repository / "data") == []


def test_torchvision_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert load_digits().source == "sklearn"
    assert_stands_in(
        capsys.readouterr().out, "torchvision cannot be imported", "pip install --force-reinstall"
    )


def test_torchvision_of_another_torch(tmp_path):
    """As it fails in earnest: at the import, with a RuntimeError."""
    fake = tmp_path / "fake" / "torchvision"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")\n')
    root = str(tmp_path / "data")
    code = f"import sys; from stn_helpers import data; sys.exit(data.main(['--source', 'mnist', '--root', {root!r}]))"
    paths = os.pathsep.join([str(fake.parent), str(Path(__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "operator torchvision::nms does not exist" in done.stderr
    assert "pair" in done.stderr


@needs_mnist
def test_broken_torchvision_does_not_matter_where_mnist_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert load_digits("mnist", REAL_MNIST).source == "mnist"


def test_neither_to_be_had(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="no mirror .* scikit-learn"):
        load_digits()


# Forced -----------------------------------------------------------------------------------------------------------


def test_forced(small, repository, monkeypatch, capsys):
    small.write(repository / "data")
    assert load_digits("sklearn").source == "sklearn"
    assert_stands_in(capsys.readouterr().out, "source asks for it")
    monkeypatch.setenv("STN_SOURCE", "sklearn")
    assert load_digits().source == "sklearn"
    assert_stands_in(capsys.readouterr().out, "STN_SOURCE asks for it")
    assert load_digits("mnist").source == "mnist"  # the argument outdoes the variable
    monkeypatch.setenv("STN_SOURCE", "mnist")
    assert load_digits().source == "mnist"


def test_forced_to_something_else(monkeypatch):
    with pytest.raises(ValueError, match="^source: wanted 'mnist' or 'sklearn', got 'emnist'"):
        load_digits("emnist")
    monkeypatch.setenv("STN_SOURCE", "MNIST")
    with pytest.raises(ValueError, match="^STN_SOURCE: wanted 'mnist' or 'sklearn', got 'MNIST'"):
        load_digits()


def test_variable_forces_mnist(monkeypatch):
    monkeypatch.setenv("STN_SOURCE", "mnist")
    with pytest.raises(DataError, match="MNIST cannot be had"):
        load_digits()


# The command ------------------------------------------------------------------------------------------------------


def run_command(**variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **variables}
    return subprocess.run(
        [sys.executable, "-m", "stn_helpers.data"], env=environment, capture_output=True, text=True
    )


def test_command():
    done = run_command(STN_SOURCE="sklearn")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "sklearn: 1,437 training and 360 test digits from scikit-learn"


def test_command_fails_in_one_line(capsys):
    assert data.main(["--source", "mnist"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("MNIST cannot be had: ")
    done = run_command(STN_SOURCE="wrong")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "STN_SOURCE: wanted 'mnist' or 'sklearn', got 'wrong'\n"


def test_command_stopped_by_hand(small, mirror, repository, monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(torchvision_utils, "_urlretrieve", interrupt)
    assert data.main([]) == 130
    assert "Stopped" in capsys.readouterr().err
    assert everything_under(repository / "data") == []


# The validation split ---------------------------------------------------------------------------------------------


def numbered(n: int) -> Digits:
    return Digits(torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1).expand(n, 1, 28, 28), torch.arange(n))


@given(total=st.integers(2, 300), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_split_is_disjoint_and_complete(total, share, seed):
    size = 1 + int(share * (total - 2))
    train, validation = split_validation(numbered(total), size, seed)
    assert len(validation.labels) == size and len(train.labels) == total - size
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == list(range(total))
    for part in (train, validation):  # images stay with their labels
        assert torch.equal(part.images[:, 0, 3, 5].long(), part.labels)
    again = split_validation(numbered(total), size, seed)
    assert torch.equal(again[0].labels, train.labels) and torch.equal(again[1].labels, validation.labels)


def test_split_draws_from_everywhere_and_by_seed():
    _, first = split_validation(numbered(1000), 500, seed=1)
    _, second = split_validation(numbered(1000), 500, seed=2)
    assert not torch.equal(first.labels, second.labels)
    # The mean of 500 numbers drawn from 0…999 without replacement has a standard deviation of 9.1.
    assert abs(first.labels.float().mean() - 499.5) < 46


@pytest.mark.parametrize("size", [0, -1, 10, 11, 0.1, None, "5"])
def test_split_of_a_bad_size(size):
    with pytest.raises(ValueError, match="^size: wanted a whole number of images from 1 to 9, got"):
        split_validation(numbered(10), size)
