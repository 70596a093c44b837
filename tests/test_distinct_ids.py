"""Models computed from the distinct ids of a batch, against the models as they are written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import checkpoints, make_run, member, rows, use_distinct_ids, wide_model

from ctrlib import coupling
from ctrlib.fast import distinct_ids
from ctrlib.fast.distinct_ids import DEDUP_FORWARD, from_distinct_ids, ids_repeat_enough, supports_dedup
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
    model = wide_model(architecture, batch[1], batch_norm=batch_norm)
    form = DEDUP_FORWARD[type(model)](model, distinct_ids.distinct_ids(ids, field_offsets(batch[1])))
    plain, parameters = model(ids), list(model.parameters())
    direction = torch.linspace(-1, 2, len(ids)).double()
    torch.testing.assert_close(form, plain, rtol=1e-9, atol=1e-11)
    mine, expected = (torch.autograd.grad(logits, parameters, direction) for logits in (form, plain))
    torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("target", ["live", "frozen"])
def test_a_training_is_the_same_up_to_rounding(target: str, monkeypatch) -> None:
    """All three architectures with dropout, whose masks are the same; in turn and in two threads bit for bit."""
    use_distinct_ids(monkeypatch)
    members = [member(n, architecture=name, dropout=0.3) for n, name in enumerate(ARCHITECTURES, 1)]
    starts, start = None, None
    if target == "frozen":
        starts, start = train(make_run(members, epochs=1), rows(), device="cpu").states, checkpoints(3, "reset")
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
    dims, width, dim = [30, 30], distinct_ids.SMALLEST_WIDTH, distinct_ids.SMALLEST_EMBEDDING
    sizes = {"hidden_units": (width,), "embedding_dim": dim}
    rounded, own = (wide_model("DeepFM", dims, **sizes) for _ in range(2))
    assert supports_dedup(own)
    rounded.mlp.bf16 = True
    assert not supports_dedup(rounded)
    assert not supports_dedup(wide_model("FiBiNET", dims, **sizes))
    for other in ({"embedding_dim": dim - 1}, {"hidden_units": (width - 1, width)}, {"hidden_units": ()}):
        assert not supports_dedup(wide_model("DeepFM", dims, **{**sizes, **other}))
    assert ids_repeat_enough(torch.arange(20).repeat(5)[:, None])
    assert not ids_repeat_enough(torch.arange(20).repeat(5)[:99, None])
    assert ONCE not in train(make_run(), rows(), device="cpu").products

    class Own(type(own)):
        """A reader's own model, whose forward may do anything."""

        def forward(self, ids):
            return super().forward(ids) + 1

    own.__class__ = Own
    ids = torch.zeros(4, 2, dtype=torch.long)
    assert torch.equal(from_distinct_ids(ids, field_offsets(dims))(own), own(ids))
