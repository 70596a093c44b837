"""Do two states of the code give the same bits? A small battery of trainings, made under both on one machine.

It has every architecture, form, target and kind of recipe; those that the earlier code does not know are in no record
of it. Only what agrees in every bit is written to :data:`ctrlib.store.code.SAME`, after which records of either count
for the other.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from ctrlib.errors import UserError

SETTINGS = dict(
    train_rows=700, valid_rows=200, test_rows=200, fields=5, largest_field=20, pairs=4, triples=1, clusters=5
)
RECIPES = (
    dict(averaging="ema", averaging_decay=0.9),
    dict(embedding_l2=1e-4, clip_norm=0.5),
    dict(epochs=4, patience=1, keep="best"),
    dict(epochs=4, patience=2, keep="last"),
    dict(label_smoothing=0.1),
    dict(base_rate_weight=5.0),
    dict(rdrop=1.0),
    dict(meda=True),
    dict(gradient_penalty=100.0),
)
COUPLINGS = (
    dict(form="mse_logit"),
    dict(form="kl"),
    dict(start=0.5),
    dict(weights=((0.0, -2.0, -2.0), (-2.0, 0.0, -2.0), (-2.0, -2.0, 0.0))),
    dict(refresh=3),
    dict(head="auxiliary"),
    dict(peer_weighting="adaptive"),
    dict(teacher_weight=0.5),
    *(dict(target=target) for target in ("joint", "ensemble", "shuffled", "frozen", "frozen_ensemble")),
)


def battery() -> Iterator[tuple[str, str]]:
    """The trainings, each with the SHA-256 of its weights, Adam's state and predictions."""
    import ctrlib

    data = ctrlib.data_settings("synthetic", 0, ctrlib.SyntheticSettings(**SETTINGS))
    rows, starts = ctrlib.load_data(data), None
    recipe = dict(learning_rate=1e-2, batch_size=100, epochs=3)
    jobs = [(name, name, {}, {}) for name in ctrlib.MODELS]
    jobs += [(name, "DeepFM", {}, {}) for name in ("dropout", "shared")]
    jobs += [(str(coupling), "DeepFM", coupling, {}) for coupling in COUPLINGS]
    jobs += [(str(settings), "DeepFM", {}, settings) for settings in RECIPES]
    for title, architecture, coupling, settings in jobs:
        noisy = dict(dropout=0.2, batch_norm=True) if title == "dropout" or "rdrop" in settings else {}
        sizes = dict(embedding_dim=4, hidden_units=(12, 8), **noisy)
        try:
            coupled = ctrlib.Coupling(**{"weights": ctrlib.complete(3, 5.0), **coupling})
            settings = ctrlib.Recipe(**{**recipe, **settings})
        except ValidationError:
            continue
        run = ctrlib.Run(
            data=data,
            members=[ctrlib.Member(architecture=architecture, init_seed=n, order_seed=7, **sizes) for n in (1, 2, 3)],
            coupling=coupled,
            recipe=settings,
            start=[ctrlib.Checkpoint(run="0" * 16, member=n) for n in range(3)]
            if "target" in coupling and starts
            else None,
            embeddings="shared" if title == "shared" else "own",
        )
        trained = ctrlib.train(run, rows, starts if run.start else None, device="cpu")
        if title == "DeepFM":
            starts = trained.states
        total = hashlib.sha256(trained.test_logits.tobytes() + trained.valid_logits.tobytes())
        for state in trained.states:
            for name in sorted(state):
                total.update(name.encode() + state[name].numpy().tobytes())
        yield title, total.hexdigest()


def settle(commit: str, root: Path) -> tuple[list[str], list[str]]:
    """Train the battery under the code of a commit and under that on disk.

    Returns:
        The trainings that differ and, if there are none, the parts of the code that were written to ``SAME``.

    Raises:
        UserError: no such commit, or its code cannot train the battery.
    """
    from ctrlib.store.code import PACKAGE, all_parts, remember_same

    with tempfile.TemporaryDirectory() as folder:
        for command in (["clone", "-q", "--shared", str(root), folder], ["-C", folder, "checkout", "-q", commit, "--"]):
            done = subprocess.run(["git", *command], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"commit {commit!r}: {done.stderr.strip() or 'cannot be read'}")
        before, now = _run(Path(folder), commit), _run(PACKAGE.parent, "the code on disk")
        differ = [title for title in now if before.get(title, now[title]) != now[title]]
        return differ, [] if differ else remember_same(all_parts(Path(folder) / "ctrlib"), all_parts(PACKAGE))


def _run(folder: Path, what: str) -> dict[str, str]:
    """The battery under the package in a folder, in a process of its own."""
    code = f"import runpy, json; print(json.dumps(dict(runpy.run_path({str(Path(__file__))!r})['battery']())))"
    command = [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{what} cannot train the battery: {last}")
    return json.loads(done.stdout.splitlines()[-1])
