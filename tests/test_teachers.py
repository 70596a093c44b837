"""Frozen models as peers: one's own checkpoint, copies of the start, members of other runs, alone or as an ensemble."""

from functools import cache
from pathlib import Path

import pytest
import torch
from small import (
    CPU,
    NOISY,
    SETTINGS,
    assert_same_member,
    batch,
    checkpoints,
    distance,
    logits_of,
    make_run,
    member,
    one_line,
    rows,
    same_state,
)
from test_trainer import close_models, hand_step

from ctrlib.config import Member, Run, StoredMember
from ctrlib.coupling import complete
from ctrlib.data.load import data_settings
from ctrlib.errors import UserError
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore
from ctrlib.training import loop as trainer
from ctrlib.training.cohort import build
from ctrlib.training.step import train_step


def fit(run, starts=None, teachers=None):
    return trainer.train(run, rows(), starts, device="cpu", teachers=teachers)


def taught(members: list[Member], weights, teachers: list, target: str = "frozen", **more) -> tuple[Run, list]:
    """A run from scratch whose teachers are the members and states in ``teachers``, and these."""
    names = [StoredMember(run="1" * 16, member=n) for n in range(len(teachers))]
    return make_run(members, weights, coupling={"target": target}, teachers=names, **more), teachers


@cache
def teachers_of_all_kinds() -> list:
    """Three trained members of other architectures and sizes than the student."""
    members = [
        member(11, architecture="DCN", **NOISY),
        member(12, architecture="FiBiNET", embedding_dim=5),
        member(13, architecture="PNN", hidden_units=(4,)),
    ]
    return list(zip(members, fit(make_run(members, epochs=1)).states, strict=True))


def assert_hand_steps(run: Run, starts, teachers, targets: list[torch.Tensor], weights) -> None:
    """Four steps of the run's only member, beside hand-written ones towards the logits in ``targets``."""
    group = trainer.make_group(run, [0], rows(), starts, CPU, teachers=teachers)
    model = build(run.members[0], rows(), CPU)
    model.load_state_dict(group.trainees[0].model.state_dict())
    optimizer = torch.optim.Adam(model.parameters(), lr=run.recipe.learning_rate, fused=False)
    ids, labels = batch()
    for _ in range(4):
        losses = train_step(group, ids, labels, coupled=True)
        hand_step([model], [optimizer], ids, labels, weights, 0.0, 10.0, frozen=targets)
    assert losses[1].item() > 0
    close_models(group, [model])


@pytest.mark.parametrize("target", ["frozen", "frozen_ensemble"])
def test_one_model_learns_from_its_own_checkpoint(target) -> None:
    first = fit(make_run())
    run = make_run(weights=((6.0,),), start=checkpoints(1, "reset"), coupling={"target": target})
    assert not run.coupling.is_solo
    targets = [logits_of(run.members[0], first.states[0], batch()[0])]
    assert_hand_steps(run, first.states, None, targets, ((6.0,),))
    alone = fit(make_run(start=checkpoints(1, "reset")), first.states)
    found = fit(run, first.states)
    assert distance(found.states[0], alone.states[0]) > 1e-3
    assert all(row["peer_loss"] > 0 for row in found.history)


MIXED = ((0.0, 1.0, 2.0), (0.5, 0.5, 0.0), (0.0, 3.0, 0.0))
OWN = ((1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0))  # nobody else's copy, so batches need not be the same


@pytest.mark.parametrize(
    ("target", "weights", "orders"),
    [("frozen", MIXED, (7, 7, 7)), ("frozen_ensemble", MIXED, (7, 7, 7)), ("frozen", OWN, (7, 8, 9))],
    ids=str,
)
def test_frozen_peers_are_separate_runs_with_teachers_bit_for_bit(target, weights, orders) -> None:
    """Frozen peers do not learn: K students of copies of the start are K runs whose teachers are those."""
    members = [member(n, order, **NOISY) for n, order in enumerate(orders, 1)]
    first = fit(make_run(members))
    together = fit(make_run(members, weights, start=checkpoints(3), coupling={"target": target}), first.states)
    teachers = list(zip(members, first.states, strict=True))
    for n, one in enumerate(members):
        run, given = taught([one], weights[n : n + 1], teachers, target, start=checkpoints(1))
        assert_same_member(together, n, fit(run, [first.states[n]], given), 0)


@pytest.mark.parametrize(
    ("from_scratch", "target"), [(True, "frozen"), (False, "frozen"), (True, "frozen_ensemble")], ids=str
)
def test_a_student_of_other_runs(from_scratch, target) -> None:
    """Classic distillation: fresh or continued student, teachers of any architecture, one of them at weight zero; of
    an ensemble the mean probability of those with a weight, each counted alike, at the sum of the weights."""
    weights, teachers = ((3.0, 0.0, 5.0),), teachers_of_all_kinds()
    own = None if from_scratch else fit(make_run(epochs=1)).states
    start = None if from_scratch else checkpoints(1, "reset")
    run, _ = taught([member(1)], weights, teachers, target, start=start)
    targets = [logits_of(*teacher, batch()[0]) for teacher in teachers]
    if target == "frozen_ensemble":
        p = [one.double().sigmoid() for one in targets]
        targets, weights = [torch.logit((p[0] + p[2]) / 2).float()], ((8.0,),)
    assert_hand_steps(run, own, teachers, targets, weights)


def test_the_ensemble_of_one_is_that_one_bit_for_bit() -> None:
    one_of_them = [member(1, **NOISY)], ((0.0, 4.0, 0.0),), teachers_of_all_kinds()
    runs = [taught(*one_of_them, target) for target in ("frozen", "frozen_ensemble")]
    alone, ensemble = (fit(run, None, teachers) for run, teachers in runs)
    assert_same_member(alone, 0, ensemble, 0)


def test_teachers_at_weight_zero_change_nothing() -> None:
    run, teachers = taught([member(1, **NOISY)], ((0.0, 0.0, 0.0),), teachers_of_all_kinds())
    assert run.coupling.is_solo
    assert_same_member(fit(run, None, teachers), 0, fit(make_run([member(1, **NOISY)])), 0)


def test_teachers_are_asked_as_they_are_and_stay_so() -> None:
    """No unit is dropped, no batch statistics are learnt, no weight moves, nor does the state they came from."""
    teachers = teachers_of_all_kinds()
    before = [{key: value.clone() for key, value in state.items()} for _, state in teachers]
    run, _ = taught([member(1)], ((1.0, 1.0, 1.0),), teachers)
    group = trainer.make_group(run, [0], rows(), None, CPU, teachers=teachers)
    ids, labels = batch()
    for _ in range(3):
        train_step(group, ids, labels, coupled=True)
    for model, teacher, state in zip(group.frozen, teachers, before, strict=True):
        assert torch.equal(model(ids), logits_of(*teacher, ids))
        assert same_state(teacher[1], state)


def test_teachers_come_from_the_store(tmp_path: Path) -> None:
    """Each with the architecture of its own run, and the member that is named."""
    store = RunStore(tmp_path)
    pair = store.train(make_run([member(11, architecture="DCN"), member(12, architecture="PNN")], complete(2)), "cpu")
    other = store.train(make_run([member(13, architecture="FiBiNET")]), "cpu")
    names = [StoredMember(run=pair.fingerprint, member=1), StoredMember(run=other.fingerprint)]
    run = make_run([member(1)], ((2.0, 2.0),), coupling={"target": "frozen_ensemble"}, teachers=names)
    teachers = [(pair.run.members[1], pair.states()[1]), (other.run.members[0], other.states()[0])]
    expected = fit(run, None, teachers)
    record = store.train(run, "cpu")
    assert same_state(record.states()[0], expected.states[0])
    assert store.open(run.fingerprint).run == run


def test_teachers_that_cannot_teach_are_said(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    there = store.train(make_run(epochs=1), "cpu").fingerprint
    data = data_settings("synthetic", 1, SETTINGS)
    elsewhere = store.train(make_run(epochs=1).model_copy(update={"data": data}), "cpu").fingerprint
    for name, words in (
        ({"run": "f" * 16}, "f" * 16),
        ({"run": there, "member": 3}, "no member 3; allowed: 0 to 0"),
        ({"run": elsewhere}, "other data"),
    ):
        run = make_run([member(2)], ((1.0,),), coupling={"target": "frozen"}, teachers=[name])
        with pytest.raises(UserError) as caught:
            store.train(run, "cpu")
        assert not isinstance(caught.value, Damaged)
        assert words in one_line(caught)
