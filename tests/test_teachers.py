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
    fit,
    logits_of,
    make_run,
    member,
    rows,
    same_state,
)

from ctrlib.config import Member, StoredMember
from ctrlib.coupling import complete
from ctrlib.data.load import data_settings
from ctrlib.errors import UserError
from ctrlib.store.record import Damaged
from ctrlib.store.runs import RunStore
from ctrlib.training.loop import Trained, make_group
from ctrlib.training.step import train_step


def taught(members: list[Member], weights, teachers: list, target: str = "frozen", start=None, starts=None) -> Trained:
    """A training whose teachers are the members and states in ``teachers``."""
    names = [StoredMember(run="1" * 16, member=n) for n in range(len(teachers))]
    run = make_run(members, weights, coupling={"target": target}, teachers=names, start=start)
    return fit(run, starts, teachers=teachers)


@cache
def teachers_of_all_kinds() -> list:
    """Three trained members of other architectures and sizes than the student."""
    members = [
        member(11, architecture="DCN", **NOISY),
        member(12, architecture="FiBiNET", embedding_dim=5),
        member(13, architecture="PNN", hidden_units=(4,)),
    ]
    return list(zip(members, fit(make_run(members, epochs=1)).states, strict=True))


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
    states = fit(make_run(members)).states
    together = fit(make_run(members, weights, start=checkpoints(3), coupling={"target": target}), states)
    teachers = list(zip(members, states, strict=True))
    for n, one in enumerate(members):
        alone = taught([one], weights[n : n + 1], teachers, target, checkpoints(1), [states[n]])
        assert_same_member(together, n, alone, 0)


def test_the_ensemble_of_one_is_that_one_bit_for_bit() -> None:
    one_of_them = [member(1, **NOISY)], ((0.0, 4.0, 0.0),), teachers_of_all_kinds()
    assert_same_member(taught(*one_of_them, "frozen"), 0, taught(*one_of_them, "frozen_ensemble"), 0)


def test_teachers_at_weight_zero_change_nothing() -> None:
    found = taught([member(1, **NOISY)], ((0.0, 0.0, 0.0),), teachers_of_all_kinds())
    assert_same_member(found, 0, fit(make_run([member(1, **NOISY)])), 0)


def test_teachers_are_asked_as_they_are_and_stay_so() -> None:
    """No unit is dropped, no batch statistics are learnt, no weight moves, nor does the state they came from."""
    teachers, names = teachers_of_all_kinds(), [StoredMember(run="1" * 16, member=n) for n in range(3)]
    before = [{key: value.clone() for key, value in state.items()} for _, state in teachers]
    run = make_run([member(1)], ((1.0, 1.0, 1.0),), coupling={"target": "frozen"}, teachers=names)
    group = make_group(run, [0], rows(), None, CPU, teachers=teachers)
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
    expected = taught([member(1)], ((2.0, 2.0),), teachers, "frozen_ensemble")
    assert same_state(store.train(run, "cpu").states()[0], expected.states[0])
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
        with pytest.raises(UserError, match=words) as caught:
            store.train(run, "cpu")
        assert not isinstance(caught.value, Damaged)
