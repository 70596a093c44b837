"""Models computed from the distinct ids of a batch, against the models as they are written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_run, member, rows
from torch.nn.functional import binary_cross_entropy_with_logits

from ctrlib import coupling
from ctrlib.config import Checkpoint, Data, SyntheticSettings
from ctrlib.data.synthetic import fingerprint, generate
from ctrlib.fast import distinct_ids
from ctrlib.fast.distinct_ids import FORMS, has_form, model_logits, repeat_enough
from ctrlib.models import build_model
from ctrlib.models.layers import field_offsets
from ctrlib.stats import metrics
from ctrlib.training import step
from ctrlib.training.loop import ONCE, train

ARCHITECTURES = [model.__name__ for model in FORMS]

batches = st.tuples(
    st.integers(1, 12), st.lists(st.integers(1, 7), min_size=2, max_size=6), st.integers(0, 1000)
)  # rows, ids of each field, seed


def draw(batch: tuple[int, list[int], int]) -> torch.Tensor:
    """Ids (B, F) of a batch."""
    size, dims, seed = batch
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(dim, (size,), generator=generator) for dim in dims], dim=1)


def wide(architecture: str, dims: list[int], **settings) -> torch.nn.Module:
    """A model in float64 with embeddings of a size at which every part of it matters."""
    sizes = {"embedding_dim": 3, "hidden_units": (6, 4), "dropout": 0.0, "batch_norm": False, **settings}
    model = build_model(architecture, dims, 0, options={}, **sizes).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


@pytest.fixture
def always(monkeypatch) -> None:
    """Forms are used however small the model and however few the repeated ids."""
    monkeypatch.setattr(distinct_ids, "SMALLEST_EMBEDDING", 1)
    monkeypatch.setattr(distinct_ids, "SMALLEST_WIDTH", 1)
    monkeypatch.setattr(distinct_ids, "LARGEST_SHARE", 1.0)


@settings(deadline=None, max_examples=60)
@given(batches)
def test_distinct_ids_say_which_they_are_and_where(batch) -> None:
    ids, offsets = draw(batch), field_offsets(batch[1])
    found = distinct_ids.distinct_ids(ids, offsets)
    assert torch.equal(found.rows, (ids + offsets).unique())
    assert torch.equal(found.rows[found.which], ids + offsets)
    ends = [*found.begins.tolist(), ids.numel()]
    for field in range(ids.shape[1]):
        at = found.of_field(field)
        assert torch.equal(found.rows[at] - offsets[field], ids[:, field].unique())
        for place in range(at.start, at.stop):
            holders = found.samples.flatten()[ends[place] : ends[place + 1]]
            assert torch.equal(holders, (found.which[:, field] == place).nonzero().flatten())


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(deadline=None, max_examples=25)
@given(batch=batches)
def test_logits_and_every_gradient_are_those_of_the_model(architecture: str, batch_norm: bool, batch) -> None:
    ids = draw(batch)
    if batch_norm and len(ids) == 1:
        return
    model = wide(architecture, batch[1], batch_norm=batch_norm)
    labels = (torch.arange(len(ids)) % 2).double()

    def result(logits: torch.Tensor) -> list[torch.Tensor]:
        loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        return [logits, *torch.autograd.grad(loss, list(model.parameters()))]

    form = FORMS[type(model)](model, distinct_ids.distinct_ids(ids, field_offsets(batch[1])))
    for mine, plain in zip(result(form), result(model(ids)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_ends_at_the_same_auc(architecture: str, always, monkeypatch) -> None:
    """A mutual cohort that also hears frozen models, in turn and in two threads: AUC within 1e-6 of the plain one."""
    world = SyntheticSettings(train_rows=4000, valid_rows=2000, test_rows=40_000, fields=6, largest_field=50)
    dataset = generate(world)
    data = Data(name="synthetic", synthetic=world, fingerprint=fingerprint(world, 0))
    members = [member(n, architecture=architecture, embedding_dim=4, hidden_units=(16, 16)) for n in (1, 2)]
    alone = make_run(members, batch_size=100, epochs=1).model_copy(update={"data": data})
    starts = train(alone, dataset, device="cpu").states
    for target, begins in (("live", None), ("frozen", starts)):
        run = make_run(
            members,
            coupling.complete(2),
            start=begins and [Checkpoint(run=alone.fingerprint, member=n) for n in range(2)],
            coupling={"target": target},
            batch_size=100,
            epochs=1,
        ).model_copy(update={"data": data})
        fast, threads = (train(run, dataset, begins, device="cpu", threads=n) for n in (1, 2))
        with monkeypatch.context() as patch:
            patch.setattr(distinct_ids, "SMALLEST_WIDTH", 17)
            plain = train(run, dataset, begins, device="cpu")
        assert fast.products == f"{plain.products}, {ONCE}"
        assert (fast.test_logits == threads.test_logits).all()
        assert (fast.test_logits != plain.test_logits).any()
        for mine, reference in zip(fast.test_logits, plain.test_logits, strict=True):
            aucs = [metrics.auc(dataset.test.labels, logits) for logits in (mine, reference)]
            assert min(aucs) > 0.6
            assert abs(aucs[0] - aucs[1]) <= 1e-6


def test_members_have_their_own_dropout_whatever_the_form(always, monkeypatch) -> None:
    """Dropout draws the same masks: the same training up to rounding."""
    run = make_run([member(1, dropout=0.5), member(2, dropout=0.5)], coupling.complete(2))
    fast = train(run, rows(), device="cpu")
    assert ONCE in fast.products
    monkeypatch.setattr(distinct_ids, "SMALLEST_WIDTH", 100)
    plain = train(run, rows(), device="cpu")
    torch.testing.assert_close(torch.tensor(fast.test_logits), torch.tensor(plain.test_logits), rtol=1e-4, atol=1e-5)


def test_where_it_does_not_pay_a_model_is_computed_as_it_is_written() -> None:
    """Narrow layers, short embeddings, rounded operands, no hidden layer, another model, ids that hardly repeat."""
    dims = [30, 30]
    width, dim = distinct_ids.SMALLEST_WIDTH, distinct_ids.SMALLEST_EMBEDDING

    def model(architecture: str = "DeepFM", hidden_units: tuple[int, ...] = (width,), embedding_dim: int = dim):
        return wide(architecture, dims, hidden_units=hidden_units, embedding_dim=embedding_dim)

    assert has_form(model())
    assert not has_form(model(embedding_dim=dim - 1))
    assert not has_form(model(hidden_units=(width - 1, width)))
    assert not has_form(model(hidden_units=()))
    assert not has_form(model("FiBiNET"))
    rounded = model()
    rounded.mlp.bf16 = True
    assert not has_form(rounded)

    assert repeat_enough(torch.arange(20).repeat(5)[:, None])
    assert not repeat_enough(torch.arange(20).repeat(5)[:99, None])

    class Own(type(model())):
        """A reader's own model, whose forward may do anything."""

        def forward(self, ids):
            return super().forward(ids) + 1

    own = model()
    own.__class__ = Own
    ids = torch.zeros(4, 2, dtype=torch.long)
    torch.testing.assert_close(
        model_logits(own, ids, distinct_ids.distinct_ids(ids, field_offsets(dims))), own(ids), rtol=0, atol=0
    )


def test_a_run_that_gains_nothing_looks_up_nothing(monkeypatch) -> None:
    """The usual small models: no batch is searched for its distinct ids, and the record does not say so."""
    monkeypatch.setattr(step, "model_logits", lambda model, ids, distinct: model(ids) if distinct is None else 1 / 0)
    assert ONCE not in train(make_run(), rows(), device="cpu").products
