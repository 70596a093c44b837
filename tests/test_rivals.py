"""Rivals of the peers: each training against one written by hand, in float64, with plain autograd and torch's Adam."""

import pytest
import torch
from small import CPU, assert_same_member, distance, fit, make_run, member, rows
from test_coupling import naive_difference, naive_losses

from ctrlib.config import Run, derive_seed
from ctrlib.coupling import complete
from ctrlib.models.layers import Dropout
from ctrlib.training.cohort import build


@pytest.fixture
def double() -> None:
    """Models, gradients and Adam in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()


def by_hand(run: Run) -> list[torch.nn.Module]:
    """The members after the whole training of a run, one step after the other, as the formulas are written."""
    recipe, coupling, size = run.recipe, run.coupling, len(run.members)
    ids, clicks = torch.from_numpy(rows().train.ids).long(), torch.from_numpy(rows().train.labels).double()
    models, masks = [build(one, rows(), CPU).train() for one in run.members], [torch.Generator() for _ in range(size)]
    for model, mask in zip(models, masks, strict=True):
        for module in model.modules():
            if isinstance(module, Dropout):
                module.generator = mask
    adams = [torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=False) for model in models]
    for epoch in range(recipe.epochs):
        order = torch.Generator().manual_seed(derive_seed(run.members[0].order_seed, "order", epoch))
        for step, which in enumerate(torch.randperm(len(ids), generator=order).split(recipe.batch_size)):
            for one, mask in zip(run.members, masks, strict=True):
                mask.manual_seed(derive_seed(one.init_seed, one.order_seed, "dropout", epoch, step))
            labels = (1 - recipe.label_smoothing) * clicks[which] + recipe.label_smoothing / 2
            batch = ids[torch.cat([which, which])] if recipe.rdrop else ids[which]
            halves = [model(batch).split(len(which)) for model in models]  # one of them without R-Drop
            losses = [0.0] * size
            for part in zip(*halves, strict=True):
                for n, loss in enumerate(naive_losses(list(part), labels, coupling)):
                    pull = naive_difference(part[n], clicks.mean(), coupling.form)
                    losses[n] = losses[n] + (loss + recipe.base_rate_weight * pull) / len(halves[n])
            for n, passes in enumerate(halves):
                if recipe.rdrop:
                    p, q = (logits.sigmoid() for logits in passes)
                    losses[n] = losses[n] + recipe.rdrop * (kl(p, q) + kl(q, p)) / 2
            for adam, loss in zip(adams, losses, strict=True):
                adam.zero_grad()
                loss.backward(retain_graph=True)
            for adam in adams:
                adam.step()
    return models


DROPOUT = [member(n, dropout=0.3) for n in (1, 2)]
PLAIN = [member(1), member(2, architecture="DCN")]
RIVALS = {
    "label smoothing": (PLAIN, {"label_smoothing": 0.25}),
    "base rate": (PLAIN, {"base_rate_weight": 5.0}),
    "base rate, kl": (PLAIN, {"base_rate_weight": 5.0, "coupling": {"form": "kl"}}),
    "R-Drop": (DROPOUT, {"rdrop": 3.0}),
    "R-Drop, smoothing, base rate": (DROPOUT, {"rdrop": 0.5, "label_smoothing": 0.125, "base_rate_weight": 2.0}),
}


@pytest.mark.parametrize("weight", [0.0, 2.0])
@pytest.mark.parametrize("name", RIVALS)
def test_a_training_is_the_one_written_out(name: str, weight: float, double) -> None:
    """Alone and with peers."""
    members, settings = RIVALS[name]
    run = make_run(members, complete(2, weight), epochs=3, clip_norm=1e9, **settings)
    for state, model in zip(fit(run).states, by_hand(run), strict=True):
        for key, value in model.state_dict().items():
            torch.testing.assert_close(state[f"weights.{key}"], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("settings", [{"label_smoothing": 1e-30}, {"base_rate_weight": 1e-30}], ids=str)
def test_next_to_no_strength_is_plain_training_bit_for_bit(settings: dict) -> None:
    one, other, strong = (fit(make_run(**more)) for more in ({}, settings, dict.fromkeys(settings, 0.5)))
    for trained in (one, other):
        for row in trained.history:
            row["peer_loss"] = 0.0
    assert_same_member(one, 0, other, 0)
    assert distance(one.states[0], strong.states[0]) > 1e-4
