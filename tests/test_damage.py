"""Every file that ctrlib keeps, damaged in every way: noticed before it is used, named in one line, the rest used."""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from disks import PROCESSES, read_only, small, with_disk
from raw_files import criteo_lines, table_lines, write_lines
from small import assert_same_member, make_run, member, one_line, rows
from typer.testing import CliRunner

from ctrlib.cli import app
from ctrlib.config import Run, digest
from ctrlib.coupling import complete
from ctrlib.data import prepared as table
from ctrlib.data import sources, verified
from ctrlib.errors import UserError
from ctrlib.store.checkpoints import NEWEST, Checkpoints
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer

NAME = "mine – 実験 'ü'"  # every store and data folder here lies on such a path


def flipped(place: float, bit: int = 0) -> Callable[[Path], None]:
    """Flips a bit at a place: a number of bytes from the start, or a share of the file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(place * len(content)) if place < 1 else int(place)] ^= 1 << bit
        path.write_bytes(content)

    return damage


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


def to_link(path: Path) -> None:
    """The same bytes, but elsewhere: a link could lead to any file."""
    elsewhere = path.parent.parent.parent.parent / f"elsewhere {path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def to_endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut in the middle": cut(0.5),
    "last byte cut": cut(0.9999),
    "empty": cut(0.0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "missing": Path.unlink,
    "first bit flipped": flipped(0.0),
    "bit flipped in a length": flipped(6, 3),
    "bit flipped in the header": flipped(40, 1),
    "bit flipped further on": flipped(0.3, 2),
    "bit flipped in the middle": flipped(0.5, 1),
    "bit flipped near the end": flipped(0.95, 4),
    "a folder": to_folder,
    "a link": to_link,
    "a link to an endless file": to_endless,
    "a pipe": to_pipe,
}
damages = pytest.mark.parametrize("how", DAMAGES)


def command(*words: object) -> tuple[int, str]:
    """Exit code and output of a ctrlib command."""
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "10000"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def quick(seed: int) -> Run:
    return make_run([member(seed)], epochs=1, batch_size=165)


def quiet(function: Callable, *arguments):
    """What a function returns, and what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        result = function(*arguments)
    return result, out.getvalue()


# ---- run store -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory) -> Path:
    """A store with two runs."""
    store = RunStore(tmp_path_factory.mktemp("made") / NAME)
    for seed in (1, 2):
        store.train(quick(seed), "cpu")
    return store.root


@pytest.fixture
def store(two_runs: Path, tmp_path: Path) -> RunStore:
    """A copy of it for a test."""
    return RunStore(shutil.copytree(two_runs, tmp_path / "a" / NAME))


@damages
@pytest.mark.parametrize("part", ["run.json", "members.safetensors", "predictions.npz"])
def test_run_store(store: RunStore, part: str, how: str) -> None:
    """Named by verify and gc, which delete nothing; trained again by a study; the other run is used as it is."""
    run, other = quick(1), quick(2)
    path = store.root / run.fingerprint / part
    before = {name: (path.parent / name).read_bytes() for name in ("members.safetensors", "predictions.npz")}
    DAMAGES[how](path)
    if part == "run.json" and how == "longer":
        assert store.verify(run.fingerprint).run == run, "white space at the end of JSON says nothing"
        return
    with pytest.raises(Damaged) as caught:
        store.verify(run.fingerprint)
    assert str(path) in one_line(caught)
    if part != "run.json":  # what was opened before is checked again when it is read
        record = store.open(run.fingerprint)
        with pytest.raises(Damaged):
            record.states() if part == "members.safetensors" else record.logits()
    code, said = command("runs", "verify", "--store", store.root)
    assert (code, said.count(str(path))) == (1, 1)
    assert "2 runs checked, 1 damaged" in said
    code, said = command("runs", "gc", "--store", store.root)
    assert code == 0
    assert "1 folders" in said
    assert part in said
    assert path.parent.exists()
    records, said = quiet(store.ensure, [run, other], "cpu", 1)
    assert said.count(str(path)) == 1
    assert "2 runs: 1 in the store, 1 to train" in said
    assert [record.run for record in records] == [run, other]
    for name, content in before.items():
        assert (path.parent / name).read_bytes() == content
    assert not path.is_symlink()
    assert command("runs", "verify", "--store", store.root)[0] == 0


def test_what_a_link_leads_to_is_neither_read_nor_deleted(store: RunStore, tmp_path: Path) -> None:
    """A whole record that is a link, and a half-written one."""
    run, elsewhere = quick(1), tmp_path / "elsewhere"
    shutil.move(store.root / run.fingerprint, elsewhere)
    before = sorted(path.read_bytes() for path in elsewhere.iterdir())
    for name in (run.fingerprint, f".writing-{run.fingerprint}", f".training-{run.fingerprint}"):
        (store.root / name).symlink_to(elsewhere)
    assert "is finished" in command("runs", "gc", "--store", store.root)[1]
    assert store.find(run) is None
    store.train(run, "cpu")
    assert sorted(path.read_bytes() for path in elsewhere.iterdir()) == before
    assert command("runs", "gc", "--delete", "--store", store.root)[0] == 0
    assert sorted(path.read_bytes() for path in elsewhere.iterdir()) == before


def test_a_run_of_another_version_is_left_alone(store: RunStore) -> None:
    """Neither read nor trained over nor deleted, and the other run is used."""
    run, path = quick(1), store.root / quick(1).fingerprint / "run.json"
    content = {**json.loads(path.read_bytes()), "format": 2}
    del content["checksum"]
    path.write_text(json.dumps({**content, "checksum": digest(content)}))
    before = path.read_bytes()
    for use in (store.open, store.verify, lambda name: store.find(run), lambda name: store.train(run, "cpu")):
        with pytest.raises(UserError) as caught:
            use(run.fingerprint)
        assert "format 2; this ctrlib reads format 1" in one_line(caught)
    code, said = command("runs", "verify", "--store", store.root)
    assert code == 1
    assert "2 runs checked, 0 damaged, 1 that cannot be used" in said
    assert "0 folders" in command("runs", "gc", "--delete", "--store", store.root)[1]
    assert path.read_bytes() == before
    assert store.find(quick(2)) is not None


def test_what_is_not_of_a_store_is_left_alone(store: RunStore) -> None:
    """Folders and files that somebody else put there."""
    for name in ("my notes", "notes-1", "0123456789abcdeg"):
        (store.root / name).mkdir()
        (store.root / name / "text").write_text("mine")
    (store.root / "0123456789abcdef").write_text("a file")
    assert store.fingerprints() == sorted(quick(seed).fingerprint for seed in (1, 2))
    assert command("runs", "verify", "--store", store.root)[0] == 0
    assert "0 folders" in command("runs", "gc", "--delete", "--store", store.root)[1]
    assert (store.root / "my notes" / "text").read_text() == "mine"


# ---- states of unfinished trainings ----------------------------------------------------------------------------------


class Cut(Exception):
    """The moment at which a training is cut off."""


class CutOff(Checkpoints):
    """Stops the training once a state is put away in its second epoch."""

    def save(self, groups, at) -> None:
        super().save(groups, at)
        if at.epoch == 1:
            raise Cut


def mutual() -> Run:
    return make_run([member(1, dropout=0.3), member(2)], complete(2), epochs=2, batch_size=165)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory) -> Path:
    """A store with a training that was cut off, and how it ends if it is not."""
    root = tmp_path_factory.mktemp("cut") / NAME
    folder = root / f".training-{mutual().fingerprint}"
    with pytest.raises(Cut):
        trainer.train(mutual(), rows(), device="cpu", checkpoints=CutOff(folder, "me", 0.0))
    return root


@damages
@pytest.mark.parametrize("part", ["state", NEWEST])
def test_states_of_trainings(cut_off: Path, tmp_path: Path, part: str, how: str) -> None:
    """Said in one line; the training starts from its beginning, ends as ever, and can put its own states away."""
    root = shutil.copytree(cut_off, tmp_path / "a" / NAME)
    (folder,) = root.glob(".training-*")
    (state,) = folder.glob("state-*")
    DAMAGES[how](folder / NEWEST if part == NEWEST else state)
    gone = part == NEWEST and how == "missing"  # then there is no state, and nothing to say
    harmless = part == NEWEST and how in ("longer", "last byte cut")
    code, said = command("runs", "verify", "--store", root)
    if not harmless:
        assert (code, said.count(str(folder))) == ((0, 0) if gone else (1, 1))
    keeper = Checkpoints(folder, "me", 0.0)
    again, said = quiet(lambda: trainer.train(mutual(), rows(), device="cpu", checkpoints=keeper))
    if not harmless:
        assert said.count("\n") == said.count("damaged checkpoint") == (not gone)
    whole = trainer.train(mutual(), rows(), device="cpu")
    for n in range(2):
        assert_same_member(again, n, whole, n)
    assert len(list(folder.glob("state-*"))) == 1, "the last state of this training, and no other"


# ---- prepared data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory) -> Path:
    """A data folder with two data sets and their raw file."""
    root = tmp_path_factory.mktemp("sets") / NAME
    root.mkdir()
    raw = write_lines(root / "raw.csv", table_lines(200))
    for name in ("one", "two"):
        sources.prepare(name, raw, root)
    return root


@damages
@pytest.mark.parametrize("part", ["train_ids.npy", "test_ids.npy", "valid_labels.npy", "vocabulary.parquet", "about"])
def test_prepared_data(two_sets: Path, tmp_path: Path, part: str, how: str) -> None:
    """Named by verify and when it is loaded; preparing it again mends it; the other data set is used as it is."""
    root = shutil.copytree(two_sets, tmp_path / "a" / NAME)
    good = sources.load("one", 0, root).fingerprint
    path = root / "one" / ("dataset.json" if part == "about" else f"draw-0/{part}")
    DAMAGES[how](path)
    if part == "about" and how in ("longer", "last byte cut"):
        assert sources.load("one", 0, root).fingerprint == good, "white space at the end of JSON says nothing"
        return
    if part != "vocabulary.parquet":  # which nothing reads
        for use in (sources.load, sources.describe):
            with pytest.raises(UserError) as caught:
                use("one", 0, root)
            assert str(path) in one_line(caught)
    if part == "about":
        states = {entry.name: entry.state for entry in sources.catalogue(root)}
        assert (states["one"], states["two"]) == ("damaged", "prepared")
    code, said = command("data", "verify", "--data-dir", root)
    assert (code, said.count(str(path))) == (1, 1)
    assert "2 data sets checked, 1 problems" in said
    assert sources.load("two", 0, root).fingerprint == good
    sources.prepare("one", root / "raw.csv", root)
    assert sources.load("one", 0, root).fingerprint == good
    assert command("data", "verify", "--data-dir", root)[0] == 0


def test_data_of_another_version_are_refused(two_sets: Path, tmp_path: Path) -> None:
    root = shutil.copytree(two_sets, tmp_path / NAME)
    path = root / "one" / "dataset.json"
    content = json.loads(path.read_bytes())
    del content["checksum"]
    for changes, words in (({"format": 2}, "format 2; allowed: 1"), ({"x": 1}, "earlier ctrlib")):
        sums = {"checksum": digest({**content, **changes})} if "format" in changes else {}
        path.write_text(json.dumps({**content, **changes, **sums}))
        with pytest.raises(UserError, match=words) as caught:
            sources.load("one", 0, root)
        assert str(path) in one_line(caught)


def test_codes_out_of_range_are_refused_even_with_right_checksums(two_sets: Path, tmp_path: Path) -> None:
    """As another program could write them: a model would look beyond the end of its table."""
    from ctrlib.data.manifest import fingerprint

    root = shutil.copytree(two_sets, tmp_path / NAME)
    path, ids = root / "one" / "dataset.json", root / "one" / "draw-0" / "train_ids.npy"
    content = bytearray(ids.read_bytes())
    content[-4:] = (10**6).to_bytes(4, "little")
    ids.write_bytes(content)
    about = json.loads(path.read_bytes())
    del about["checksum"]
    (entry,) = about["draws"]
    entry["sha256"][ids.name] = hashlib.sha256(content).hexdigest()
    entry["fingerprint"] = fingerprint(entry)
    path.write_text(json.dumps({**about, "checksum": digest(about)}))
    with pytest.raises(UserError, match="code 1000000; allowed: 0 to"):
        sources.load("one", 0, root)


def test_a_large_file_is_hashed_once_and_again_when_it_was_touched(two_sets: Path, tmp_path: Path, monkeypatch) -> None:
    """Across processes: what one process noted, another believes as long as nobody wrote to the file."""
    root = shutil.copytree(two_sets, tmp_path / NAME)
    hashed, sha256 = [], verified.file_sha256
    monkeypatch.setattr(verified, "file_sha256", lambda path: hashed.append(path.name) or sha256(path))
    monkeypatch.setattr(verified, "_SETTLED", -1)

    def load() -> int:
        """Hashes that another process computes."""
        monkeypatch.setattr(verified, "_known", {})
        hashed.clear()
        table.open_draw(root / "one")
        return len(hashed)

    assert [load(), load()] == [6, 6], "small files are hashed by each process"
    monkeypatch.setattr(verified, "LARGE", 0)
    assert [load(), load(), load()] == [6, 0, 0]
    path = root / "one" / "draw-0" / "train_ids.npy"
    state = path.stat()
    os.utime(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # the time of change cannot be put back
    assert [load(), load()] == [1, 0]
    flipped(0.5)(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(UserError, match="damaged"):
        load()
    shutil.copytree(root / "two" / "draw-0", root / "one" / "draw-0", dirs_exist_ok=True)
    assert load() > 0, "a copy is another file"
    monkeypatch.setattr(verified, "_known", {})
    hashed.clear()
    assert sources.verify("one", root) == []
    assert len(hashed) == 7, "verify reads everything, the vocabulary too"


def test_a_note_cannot_be_written_is_no_trouble(two_sets: Path, tmp_path: Path, monkeypatch) -> None:
    root = shutil.copytree(two_sets, tmp_path / NAME)
    monkeypatch.setattr(verified, "LARGE", 0)
    monkeypatch.setattr(verified, "_SETTLED", -1)
    note = root / "one" / "draw-0" / verified.NOTE
    note.mkdir()
    (note / "x").touch()
    for _ in range(2):
        table.open_draw(root / "one")
    assert [path.name for path in note.parent.glob(".*")] == [verified.NOTE]


# ---- disks -----------------------------------------------------------------------------------------------------------


def refusal(function: Callable, *arguments) -> str:
    """The one line with which something is refused."""
    try:
        function(*arguments)
    except (UserError, OSError) as error:
        return f"{error}, in {1 + str(error).count(chr(10))} line"
    raise AssertionError("it was not refused")


def use_read_only(root: Path) -> list:
    store = RunStore(root)
    kept = [record.run for record in store.ensure([quick(1), quick(2)], "cpu", 1)]
    return [
        kept == [quick(1), quick(2)],
        refusal(store.ensure, [quick(3)], "cpu", 1),
        command("runs", "verify", "--store", root),
        command("runs", "gc", "--store", root),
        command("runs", "list", "--store", root)[0],
    ]


def test_a_read_only_store(store: RunStore) -> None:
    """Finished runs are used, a new one is refused in one line."""
    kept, refused, verify, gc, listed = with_disk(partial(read_only, store.root), use_read_only, store.root)
    assert kept
    assert str(store.root) in refused
    assert "Read-only" in refused
    assert verify[0] == gc[0] == listed == 0


def use_read_only_data(root: Path) -> list:
    verified.LARGE = 0
    found = [sources.load(name, 0, root).fingerprint for name in ("one", "two", "one")]
    return [found, command("data", "verify", "--data-dir", root), prepare_by_command(root)]


def prepare_by_command(root: Path, *more: str) -> tuple[int, str]:
    return command("data", "prepare", "one", "--raw", root / "raw.csv", "--out", root, *more)


def test_a_read_only_data_folder(two_sets: Path) -> None:
    found, verify, prepare = with_disk(partial(read_only, two_sets), use_read_only_data, two_sets)
    assert len(set(found)) == 1
    assert verify[0] == 0
    assert prepare[0] == 1
    assert prepare[1].count("\n") == 1
    assert "Read-only" in prepare[1]


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def fill_with_runs(folder: Path) -> list:
    """Train until the disk is full, then free some and go on."""
    store, done = RunStore(folder / "runs"), 0
    (folder / "ballast").write_bytes(bytes(60_000))
    while True:
        before = content(store.root)
        try:
            quiet(store.train, quick(done), "cpu")
        except UserError as error:
            message = str(error)
            break
        done += 1
    same = content(store.root) == before
    (folder / "ballast").unlink()
    records, _ = quiet(store.ensure, [quick(seed) for seed in range(done + 1)], "cpu", 1)
    return [done, message, same, len(records), command("runs", "verify", "--store", store.root)[0]]


def test_a_full_disk_while_records_are_written(tmp_path: Path) -> None:
    done, message, same, records, verify = with_disk(partial(small, tmp_path, 250_000), fill_with_runs, tmp_path)
    assert done >= 1
    assert "no space left" in message
    assert "\n" not in message
    assert same, "nothing half-written stays, nothing is lost"
    assert (records, verify) == (done + 1, 0)


def train_with_states(folder: Path) -> list:
    room = 14_000  # less than a state takes
    ballast = os.open(folder / "ballast", os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        while True:
            os.write(ballast, bytes(4096))
    os.truncate(folder / "ballast", (folder / "ballast").stat().st_size - room)
    keeper = Checkpoints(folder / "state", "me", 0.0)
    trained, said = quiet(lambda: trainer.train(mutual(), rows(), device="cpu", checkpoints=keeper))
    first = said.splitlines()[0]
    left = [path.name for path in (folder / "state").glob("*") if path.stat().st_size > 0]
    return [first, left, trained.test_logits.tobytes()]


def test_a_full_disk_while_states_are_put_away(tmp_path: Path) -> None:
    """Said, and the training goes on to the same end."""
    first, left, logits = with_disk(partial(small, tmp_path, 150_000), train_with_states, tmp_path)
    assert "no checkpoint written (No space left on device); the training goes on" in first
    assert left == []
    assert logits == trainer.train(mutual(), rows(), device="cpu").test_logits.tobytes()


def prepare_on_a_small_disk(folder: Path, layout: str) -> list:
    lines = criteo_lines(300) if layout == "criteo" else table_lines(300)
    write_lines(folder / "raw.csv", lines)
    first = prepare_by_command(folder, "--layout", layout)
    before = content(folder)
    lines = criteo_lines(3000) if layout == "criteo" else table_lines(40000)
    raw = write_lines(folder.parent / f"long {layout}.txt", lines)
    code, said = command("data", "prepare", "one", "--raw", raw, "--out", folder, "--layout", layout)
    known_before = code, said
    usage = shutil.disk_usage(folder)
    shutil.disk_usage = lambda _: usage._replace(free=1 << 40)  # as when others fill the disk meanwhile
    code, said = command("data", "prepare", "one", "--raw", raw, "--out", folder, "--layout", layout)
    return [first[0], known_before, (code, said), content(folder) == before]


@pytest.mark.parametrize("layout", ["criteo", "table"])
def test_a_full_disk_while_data_are_prepared(tmp_path: Path, layout: str) -> None:
    """Known before where it can be; else one line. The earlier data set stays, nothing half-made does."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    prepare = partial(small, folder, 400_000)
    first, known, late, same = with_disk(prepare, prepare_on_a_small_disk, folder, layout)
    assert first == 0
    assert known[0] == 2
    assert "are needed on this disk" in known[1]
    assert late[0] == 1
    assert "no space left on the disk" in late[1]
    assert late[1].count("\n") == known[1].count("\n") == 1
    assert same


def load_as_nobody(root: str, place: str) -> str:
    os.chdir(place)
    if os.geteuid() == 0:
        os.seteuid(65534)
    return refusal(sources.load, "one", 0, Path(root))


def _send(answer, function: Callable, *arguments) -> None:
    answer.send(function(*arguments))


@pytest.mark.parametrize("closed", ["one", "one/dataset.json", "one/draw-0", "one/draw-0/train_ids.npy"])
def test_data_that_may_not_be_read(two_sets: Path, tmp_path: Path, closed: str) -> None:
    """A closed folder or file is named in one line."""
    tmp_path.chmod(0o755)
    root = shutil.copytree(two_sets, tmp_path / NAME)
    (root / closed).chmod(0)
    receive, send = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_send, args=(send, load_as_nobody, NAME, str(tmp_path)))
    process.start()
    try:
        assert receive.poll(60)
        assert NAME in receive.recv()
    finally:
        process.join()
        (root / closed).chmod(0o755)
