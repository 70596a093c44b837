"""Models computed from the distinct ids of a batch, against the models as they are written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_run, member, rows
from torch.nn.functional import binary_cross_entropy_with_logits

from ctrlib import coupling
from ctrlib.config import Checkpoint
from ctrlib.fast import distinct_ids
from ctrlib.fast.distinct_ids import DEDUP_FORWARD, from_distinct_ids, ids_repeat_enough, supports_dedup
from ctrlib.models import build_model
from ctrlib.models.layers import field_offsets
from ctrlib.training.loop import train

ONCE = "first layer once per distinct id"
ARCHITECTURES = [model.__name__ for model in DEDUP_FORWARD]

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
    """Distinct ids are used however small the model and however few the repeated ids."""
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

    form = DEDUP_FORWARD[type(model)](model, distinct_ids.distinct_ids(ids, field_offsets(batch[1])))
    for mine, plain in zip(result(form), result(model(ids)), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("target", ["live", "frozen"])
def test_a_training_is_the_same_up_to_rounding(target: str, always, monkeypatch) -> None:
    """All three architectures with dropout, whose masks are the same; in turn and in two threads bit for bit."""
    members = [member(n, architecture=name, dropout=0.3) for n, name in enumerate(ARCHITECTURES, 1)]
    starts, start = None, None
    if target == "frozen":
        starts = train(make_run(members, epochs=1), rows(), device="cpu").states
        start = [Checkpoint(run="0" * 16, member=n) for n in range(3)]
    run = make_run(members, coupling.complete(3), start=start, coupling={"target": target})
    fast, threads = (train(run, rows(), starts, device="cpu", threads=n) for n in (1, 2))
    monkeypatch.setattr(distinct_ids, "SMALLEST_WIDTH", 100)
    plain = train(run, rows(), starts, device="cpu")
    assert fast.products == f"{plain.products}, {ONCE}"
    assert (fast.test_logits == threads.test_logits).all()
    assert (fast.test_logits != plain.test_logits).any()
    torch.testing.assert_close(torch.tensor(fast.test_logits), torch.tensor(plain.test_logits), rtol=1e-3, atol=1e-4)


def test_where_it_does_not_pay_a_model_is_computed_as_it_is_written() -> None:
    """Narrow layers, short embeddings, rounded operands, no hidden layer, another model, ids that hardly repeat."""
    dims = [30, 30]
    width, dim = distinct_ids.SMALLEST_WIDTH, distinct_ids.SMALLEST_EMBEDDING

    def model(architecture: str = "DeepFM", hidden_units: tuple[int, ...] = (width,), embedding_dim: int = dim):
        return wide(architecture, dims, hidden_units=hidden_units, embedding_dim=embedding_dim)

    assert supports_dedup(model())
    assert not supports_dedup(model(embedding_dim=dim - 1))
    assert not supports_dedup(model(hidden_units=(width - 1, width)))
    assert not supports_dedup(model(hidden_units=()))
    assert not supports_dedup(model("FiBiNET"))
    rounded = model()
    rounded.mlp.bf16 = True
    assert not supports_dedup(rounded)

    assert ids_repeat_enough(torch.arange(20).repeat(5)[:, None])
    assert not ids_repeat_enough(torch.arange(20).repeat(5)[:99, None])

    class Own(type(model())):
        """A reader's own model, whose forward may do anything."""

        def forward(self, ids):
            return super().forward(ids) + 1

    own = model()
    own.__class__ = Own
    ids = torch.zeros(4, 2, dtype=torch.long)
    assert torch.equal(from_distinct_ids(ids, field_offsets(dims))(own), own(ids))


def test_a_run_that_gains_nothing_looks_up_nothing(monkeypatch) -> None:
    """The usual small models: no batch is searched for its distinct ids, and the record does not say so."""
    monkeypatch.setattr(distinct_ids, "from_distinct_ids", lambda *_, **__: 1 / 0)
    assert ONCE not in train(make_run(), rows(), device="cpu").products
