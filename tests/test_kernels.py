"""The faster forms against the plain ones: values, gradients, and what a whole training makes of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import make_run, member

from ctrlib import coupling
from ctrlib.config import Data, SyntheticSettings
from ctrlib.data.synthetic import fingerprint, generate
from ctrlib.fast import kernels, machine
from ctrlib.models import dcn, fibinet, layers
from ctrlib.models.layers import BilinearInteraction, CrossNetwork, second_order_fm
from ctrlib.stats import metrics
from ctrlib.training.loop import train

BILINEAR_TYPES = ("field_all", "field_each", "field_interaction")


def normal(*shape: int, seed: int = 0, requires_grad: bool = True) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.requires_grad_(requires_grad)


def plain_fm(feature_emb: torch.Tensor) -> torch.Tensor:
    total = 0
    for i in range(feature_emb.shape[1]):
        for j in range(i):
            total = total + (feature_emb[:, i] * feature_emb[:, j]).sum(1)
    return total


def plain_inner_products(feature_emb: torch.Tensor) -> torch.Tensor:
    fields = range(feature_emb.shape[1])
    return torch.stack([(feature_emb[:, i] * feature_emb[:, j]).sum(1) for i in fields for j in fields if i < j], 1)


def gradients(value: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = torch.linspace(-1, 1, value.numel(), dtype=value.dtype).view_as(value)
    return list(torch.autograd.grad((value * weights).sum(), leaves))


def assert_same(fast: torch.Tensor, plain: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-12)
    for mine, reference in zip(gradients(fast, leaves), gradients(plain, leaves), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 6), fields=st.integers(2, 9), dim=st.integers(1, 5))
def test_second_order_fm_is_the_sum_over_pairs(rows: int, fields: int, dim: int) -> None:
    emb = normal(rows, fields, dim)
    assert_same(second_order_fm(emb), plain_fm(emb), [emb])


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 6), fields=st.integers(2, 9), dim=st.integers(1, 5))
def test_pair_inner_products_are_those_of_each_pair(rows: int, fields: int, dim: int) -> None:
    emb = normal(rows, fields, dim)
    assert_same(layers.InnerProducts(fields)(emb), plain_inner_products(emb), [emb])


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 6),
    fields=st.integers(2, 9),
    dim=st.integers(1, 5),
    bilinear_type=st.sampled_from(BILINEAR_TYPES),
    columns=st.sampled_from([1, 7, 20, 10_000]),
)
def test_linear_of_pairs_is_a_linear_layer_on_the_pairs(rows, fields, dim, bilinear_type, columns) -> None:
    """For one block and for many: ``columns`` = 1 makes a block of each left field."""
    interaction = BilinearInteraction(fields, dim, bilinear_type).double()
    emb = normal(rows, fields, dim)
    weight = normal(4, interaction.num_pairs * dim, seed=1)
    before, kernels.COLUMNS = kernels.COLUMNS, columns
    try:
        fast = kernels.LinearOfPairs.apply(emb, interaction.matrices(), weight, False)
        plain = interaction(emb).flatten(1) @ weight.T
        assert_same(fast, plain, [emb, interaction.weight, weight])
    finally:
        kernels.COLUMNS = before


def test_blocks_cover_every_column_once() -> None:
    for fields, dim in ((2, 1), (3, 600), (39, 16), (10, 8)):
        blocks = kernels.blocks_of_pairs(fields, dim)
        assert [i for lefts, _ in blocks for i in lefts] == list(range(fields - 1))
        assert [columns.start for _, columns in blocks] == [0, *(columns.stop for _, columns in blocks[:-1])]
        assert blocks[-1][1].stop == fields * (fields - 1) // 2 * dim


def test_bfloat16_operands_round_and_nothing_else() -> None:
    interaction = BilinearInteraction(6, 8, "field_interaction")
    emb, weight = normal(50, 6, 8).detach().float(), normal(20, 15 * 8, seed=1).detach().float()
    exact = kernels.LinearOfPairs.apply(emb, interaction.matrices(), weight, False)
    rounded = kernels.LinearOfPairs.apply(emb, interaction.matrices(), weight, True)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-4 < error < 1e-2  # bfloat16 keeps 8 bits


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 6), width=st.integers(1, 9), depth=st.integers(0, 5))
def test_cross_network_in_closed_form(rows: int, width: int, depth: int) -> None:
    cross = CrossNetwork(width, depth).double()
    torch.nn.init.normal_(cross.bias)
    x0, vector = normal(rows, width), normal(width, seed=1)
    leaves = [x0, vector, *([cross.weight, cross.bias] if depth else [])]
    assert_same(cross.dot(x0, vector), cross(x0) @ vector, leaves)


# ---- a whole training ------------------------------------------------------------------------------------------------


def plain_fibinet(self, ids):
    emb = self.embedding(ids)
    pairs = torch.cat([self.bilinear_raw(emb), self.bilinear_senet(self.senet(emb))], dim=1)
    return self.first_order(ids) + self.mlp(pairs.flatten(1))


def plain_dcn(self, ids):
    flat = self.embedding(ids).flatten(1)
    return self.combine(torch.cat([self.cross(flat), self.mlp(flat)], dim=1)).squeeze(1)


@pytest.mark.parametrize("architecture", ["FiBiNET", "DCN", "PNN", "DeepFM"])
def test_a_training_ends_at_the_same_auc(architecture: str, monkeypatch) -> None:
    """Plain expressions and the usual products against the faster ones, the same mutual cohort: AUC within 1e-6."""
    machine_has_a_faster_path = machine.fast_products()
    world = SyntheticSettings(train_rows=4000, valid_rows=2000, test_rows=40_000, fields=6, largest_field=50)
    data = Data(name="synthetic", synthetic=world, fingerprint=fingerprint(world, 0))
    members = [member(n, architecture=architecture, embedding_dim=4, hidden_units=(16, 16)) for n in (1, 2)]
    run = make_run(members, coupling.complete(2), learning_rate=0.01, batch_size=100, epochs=1)
    run = run.model_copy(update={"data": data})
    dataset = generate(world)
    fast = train(run, dataset, device="cpu")
    monkeypatch.setattr(machine, "fast_products", lambda: False)
    monkeypatch.setattr(fibinet.FiBiNET, "forward", plain_fibinet)
    monkeypatch.setattr(dcn.DCN, "forward", plain_dcn)
    monkeypatch.setattr(layers.SecondOrderFM, "apply", plain_fm)
    monkeypatch.setattr(layers.InnerProducts, "forward", lambda self, emb: plain_inner_products(emb))
    plain = train(run, dataset, device="cpu")
    assert (fast.products == plain.products) == (not machine_has_a_faster_path)
    for mine, reference in zip(fast.test_logits, plain.test_logits, strict=True):
        assert metrics.auc(dataset.test.labels, mine) > 0.6
        difference = metrics.auc(dataset.test.labels, mine) - metrics.auc(dataset.test.labels, reference)
        assert abs(difference) <= 1e-6
