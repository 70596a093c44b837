"""One embedding table for all members: against a reference with one module, and no trace of it afterwards."""

import pytest
import torch
from small import (
    CPU,
    NOISY,
    assert_same_member,
    batch,
    checkpoints,
    distance,
    make_run,
    member,
    one_line,
    rows,
    widened,
)
from test_trainer import hand_losses
from torch import nn

from ctrlib.coupling import complete
from ctrlib.errors import UserError
from ctrlib.models import MODELS, embedding_parameters
from ctrlib.training import loop as trainer
from ctrlib.training.cohort import build
from ctrlib.training.step import train_step


def shared(members, weights=None, **more):
    """A run whose members, all coupled unless told otherwise, share one table."""
    return make_run(members, weights or complete(len(members)), embeddings="shared", **more)


def fit(run, starts=None):
    return trainer.train(run, rows(), starts, device="cpu")


@pytest.mark.parametrize("clip_norm", [1e9, 0.05], ids=["no clipping", "clipped"])
def test_steps_equal_those_of_one_module_in_several_models(clip_norm) -> None:
    """The reference literally has one module in all models. Its table moves along the mean of the members' gradients,
    decay included once; each member's whole gradient, its part of the table's among it, is clipped before."""
    weights, l2, rate = ((0.0, 0.7, 0.3), (2.0, 0.0, 0.0), (0.0, 1.5, 0.0)), 0.05, 0.01
    members = [member(n, architecture=name) for n, name in enumerate(("DeepFM", "FiBiNET", "DCN"), 1)]
    run = shared(members, weights, embedding_l2=l2, clip_norm=clip_norm)
    group = widened(trainer.make_group(run, [0, 1, 2], rows(), None, CPU))
    models = [build(one, rows(), CPU).double() for one in members]
    for model, trainee in zip(models, group.trainees, strict=True):
        model.load_state_dict(trainee.model.state_dict())
        model.embedding = models[0].embedding
    table = models[0].embedding.weight
    towers = [[p for p in model.parameters() if p is not table] for model in models]
    optimizers = [torch.optim.Adam(own, lr=rate, fused=False) for own in towers]
    of_table = torch.optim.Adam([table], lr=rate, fused=False)
    for ids, labels in (batch(50 * step, double=True) for step in range(4)):
        train_step(group, ids, labels, coupled=True)
        losses = hand_losses([model(ids) for model in models], labels, weights)
        parts = []
        for n, loss in enumerate(losses):
            gradients = torch.autograd.grad(loss, [table, *towers[n]], retain_graph=True)
            decays = [l2 * p.data if any(p is one for one in embedding_parameters(models[n])) else 0 for p in towers[n]]
            full = [gradients[0] + l2 * table.data, *(g + d for g, d in zip(gradients[1:], decays, strict=True))]
            norm = float(sum((g**2).sum() for g in full).sqrt())
            full = [g * min(1.0, clip_norm / (norm + 1e-6)) for g in full]
            assert (norm > clip_norm) == (clip_norm < 1)
            parts.append(full[0])
            for parameter, gradient in zip(towers[n], full[1:], strict=True):
                parameter.grad = gradient
        table.grad = sum(parts) / len(parts)
        for optimizer in (*optimizers, of_table):
            optimizer.step()
    for trainee, model in zip(group.trainees, models, strict=True):
        for (name, found), expected in zip(
            trainee.model.named_parameters(), dict(model.named_parameters()).values(), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("noise", "start"), [(NOISY, 0.0), ({}, 0.0), (NOISY, 1.0)], ids=str)
def test_equal_members_with_one_table_are_one_model_bit_for_bit(noise, start) -> None:
    """Their mean gradient is each one's own, so decay and clipping act as for one model alone; coupled or not."""
    recipe = {"embedding_l2": 1e-3, "clip_norm": 0.3}
    run = shared([member(1, **noise)] * 2, coupling={"start": start}, **recipe)
    found, alone = fit(run), fit(make_run([member(1, **noise)], **recipe))
    for n in range(2):
        assert_same_member(found, n, alone, 0)


def test_the_table_is_one_and_all_else_is_each_members_own() -> None:
    members = [member(seed, **NOISY) for seed in (1, 2, 3)]
    found, own = fit(shared(members)), fit(make_run(members, complete(3)))
    first = found.states[0]
    for state in found.states[1:]:
        for kind in ("weights.", "adam.exp_avg.", "adam.exp_avg_sq.", "adam.step."):
            assert torch.equal(state[f"{kind}embedding.weight"], first[f"{kind}embedding.weight"])
        for name in ("weights.first_order.weight", "weights.mlp.layers.0.weight", "adam.exp_avg.first_order.weight"):
            assert not torch.equal(state[name], first[name])
    steps = 2 * len(trainer.batch_bounds(330, 50))
    assert {float(value) for name, value in first.items() if name.startswith("adam.step")} == {steps}
    assert first.keys() == own.states[0].keys()
    assert distance(first, own.states[0]) > 1e-3


def test_the_table_begins_as_the_first_members() -> None:
    group = trainer.make_group(shared([member(5), member(2)]), [0, 1], rows(), None, CPU)
    for trainee in group.trainees:
        assert torch.equal(trainee.model.embedding.weight, build(member(5), rows(), CPU).embedding.weight)
        own = build(trainee.member, rows(), CPU)
        assert torch.equal(trainee.model.first_order.weight, own.first_order.weight)


def test_tables_that_cannot_be_one_are_refused(monkeypatch) -> None:
    class Bare(nn.Module):
        def __init__(self, field_dims, embedding_dim, hidden_units, dropout, batch_norm) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))

    monkeypatch.setitem(MODELS, "Bare", Bare)
    pair = [member(1), member(2)]
    for run, starts, words in (
        (shared(pair, start=checkpoints(2, "reset")), fit(make_run(pair)).states, "bring different tables"),
        (shared([member(1), member(2, architecture="Bare")]), None, "Bare has 0 embedding tables"),
    ):
        with pytest.raises(UserError) as caught:
            fit(run, starts)
        assert words in one_line(caught)
