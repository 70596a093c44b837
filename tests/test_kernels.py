"""The faster forms of :mod:`ctrlib.fast` against the plain ones: values, gradients and where a training ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import checkpoints, fit, make_run, member, use_distinct_ids, wide_model

from ctrlib import coupling
from ctrlib.config import Data, SyntheticSettings
from ctrlib.data.synthetic import fingerprint, generate
from ctrlib.fast import distinct_ids, kernels
from ctrlib.fast.distinct_ids import DEDUP_FORWARD, from_distinct_ids, ids_repeat_enough, supports_dedup
from ctrlib.models import MODELS
from ctrlib.models.layers import MLP, BilinearInteraction, CrossNetwork, field_offsets, linear
from ctrlib.models.operations import FASTER, PLAIN
from ctrlib.stats import metrics
from ctrlib.training.loop import train

BILINEAR_TYPES = ("field_all", "field_each", "field_interaction")
sizes = {"rows": st.integers(1, 6), "fields": st.integers(2, 9), "dim": st.integers(1, 5)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_()


def assert_same(fast: torch.Tensor, plain: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    """Both values, and their gradients in the leaves, along some direction."""
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    direction = torch.linspace(-1, 1, plain.numel(), dtype=plain.dtype).view_as(plain)
    mine, reference = (torch.autograd.grad(value, leaves, direction) for value in (fast, plain))
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@settings(max_examples=30)
@given(**sizes)
def test_products_of_pairs(rows: int, fields: int, dim: int) -> None:
    emb = normal(rows, fields, dim)
    assert_same(kernels.SecondOrderFM.apply(emb), PLAIN["second_order_fm"](emb), [emb])
    assert_same(kernels.inner_products(emb), PLAIN["inner_products"](emb), [emb])


@settings(max_examples=40)
@given(**sizes, kind=st.sampled_from(BILINEAR_TYPES), columns=st.sampled_from([1, 7, 20, 10_000]))
def test_an_mlp_on_pairs_that_are_never_all_there(rows, fields, dim, kind, columns) -> None:
    """For one block of columns and for many: ``columns`` = 1 makes a block of each left field."""
    interactions = [BilinearInteraction(fields, dim, kind).double() for _ in range(2)]
    blocks = [(interaction, normal(rows, fields, dim, seed=n)) for n, interaction in enumerate(interactions)]
    mlp = MLP(2 * interactions[0].num_pairs * dim, (4,), 0.0, False, True).double()
    leaves = [*(emb for _, emb in blocks), *(one.weight for one in interactions), *mlp.parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "COLUMNS", columns)
        assert_same(kernels.mlp_of_pairs(mlp, blocks), PLAIN["mlp_of_pairs"](mlp, blocks), leaves)


def test_bfloat16_operands_round_and_nothing_else() -> None:
    interaction = BilinearInteraction(6, 8, "field_interaction")
    emb, weight = normal(50, 6, 8).detach().float(), normal(20, 15 * 8, seed=1).detach().float()
    exact, rounded = (kernels.LinearOfPairs.apply(emb, interaction.matrices(), weight, bf16) for bf16 in (False, True))
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - exact).norm() / exact.norm() < 1e-2  # bfloat16 keeps 8 bits


@settings(max_examples=30)
@given(rows=st.integers(1, 6), width=st.integers(1, 9), depth=st.integers(0, 5))
def test_cross_network_in_closed_form(rows: int, width: int, depth: int) -> None:
    cross = CrossNetwork(width, depth).double()
    torch.nn.init.normal_(cross.bias)
    mlp, flat = MLP(width, (3,), 0.0, False, False).double(), normal(rows, width)
    combine = linear(width + 3, 1).double()
    leaves = [flat, *combine.parameters(), *mlp.parameters(), *(cross.parameters() if depth else [])]
    plain = PLAIN["cross_and_deep"](cross, mlp, combine, flat)
    assert_same(kernels.cross_and_deep(cross, mlp, combine, flat), plain, leaves)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    emb = normal(3, 4, 2)
    (slope,) = torch.autograd.grad(kernels.SecondOrderFM.apply(emb).square().sum(), emb, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


ONCE = "first layer once per distinct id"
ARCHITECTURES = [model.__name__ for model in DEDUP_FORWARD]


@st.composite
def batches(draw) -> tuple[torch.Tensor, list[int]]:
    """Ids (B, F) of a batch, and how many ids each field has."""
    dims = draw(st.lists(st.integers(1, 7), min_size=2, max_size=6))
    size, generator = draw(st.integers(1, 12)), torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    return torch.stack([torch.randint(dim, (size,), generator=generator) for dim in dims], dim=1), dims


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=25)
@given(batch=batches())
def test_logits_and_every_gradient_are_those_of_the_model(architecture: str, batch_norm: bool, batch) -> None:
    ids, dims = batch
    if batch_norm and len(ids) == 1:
        return
    model = wide_model(architecture, dims, batch_norm=batch_norm)
    form = DEDUP_FORWARD[type(model)](model, distinct_ids.distinct_ids(ids, field_offsets(dims)))
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
        starts, start = fit(make_run(members, epochs=1)).states, checkpoints(3, "reset")
    run = make_run(members, coupling.complete(3), start=start, coupling={"target": target})
    fast, threads = (fit(run, starts, threads=n) for n in (1, 2))
    monkeypatch.setattr(distinct_ids, "SMALLEST_WIDTH", 100)
    plain = fit(run, starts)
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
    assert ONCE not in fit(make_run()).products

    class Own(type(own)):
        """A reader's own model, whose forward may do anything."""

        def forward(self, ids):
            return super().forward(ids) + 1

    own.__class__ = Own
    ids = torch.zeros(4, 2, dtype=torch.long)
    assert torch.equal(from_distinct_ids(ids, field_offsets(dims))(own), own(ids))


@pytest.mark.parametrize("share", [0.8, 0.5, 1 / 3, 1e-3])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("known", [True, False])
def test_dropout_masks_are_those_of_bernoulli_bit_for_bit(share: float, kind, known: bool, monkeypatch) -> None:
    if not known:
        monkeypatch.setattr(kernels, "bernoulli_compares_integers", lambda: False)
    drawn, x = [torch.Generator().manual_seed(5) for _ in range(2)], torch.ones(300, 7, dtype=kind)
    for _ in range(2):  # the second mask goes on where the first one ended
        fast, plain = (table["dropout_mask"](x, share, one) for table, one in zip((FASTER, PLAIN), drawn, strict=True))
        assert torch.equal(fast, plain)
        assert fast.dtype == kind
        assert 0 < fast.count_nonzero() < x.numel()


def test_a_bernoulli_that_draws_otherwise_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda mask, share, generator: mask.fill_(1.0))
    assert not kernels.bernoulli_compares_integers.__wrapped__()


@pytest.mark.parametrize("architecture", MODELS)
def test_logits_and_gradients_of_a_model(architecture, monkeypatch) -> None:
    dims = (5, 7, 3)
    model, ids = wide_model(architecture, dims), torch.stack([torch.arange(30) % dim for dim in dims], dim=1)
    fast = model(ids)
    for name in list(FASTER):
        monkeypatch.delitem(FASTER, name)
    assert_same(fast, model(ids), list(model.parameters()))


def test_every_operation_has_both_forms() -> None:
    """That the core does without the faster ones: test_layout.py."""
    assert FASTER.keys() == PLAIN.keys()


@pytest.mark.parametrize("architecture", ["FiBiNET", "DCN", "PNN", "DeepFM"])
def test_a_training_ends_at_the_same_auc(architecture: str, monkeypatch) -> None:
    """The same mutual cohort by plain and by faster forms, distinct ids among them: AUC within 1e-6."""
    use_distinct_ids(monkeypatch)
    world = SyntheticSettings(train_rows=4000, valid_rows=2000, test_rows=40_000, fields=6, largest_field=50)
    data = Data(name="synthetic", synthetic=world, fingerprint=fingerprint(world, 0))
    members = [member(n, architecture=architecture, embedding_dim=4, hidden_units=(16, 16)) for n in (1, 2)]
    run = make_run(members, coupling.complete(2), learning_rate=0.01, batch_size=100, epochs=1)
    run, dataset = run.model_copy(update={"data": data}), generate(world)
    fast = train(run, dataset, device="cpu")
    for name in list(FASTER):
        monkeypatch.delitem(FASTER, name)
    plain = train(run, dataset, device="cpu")
    assert (fast.test_logits != plain.test_logits).any()
    for mine, reference in zip(fast.test_logits, plain.test_logits, strict=True):
        aucs = [metrics.auc(dataset.test.labels, logits) for logits in (mine, reference)]
        assert min(aucs) > 0.6
        assert abs(aucs[0] - aucs[1]) <= 1e-6
