"""Averages of the weights against averages taken by hand; the training itself does not notice them."""

import pytest
import torch
from small import NOISY, distance, fit, make_run, member, same_state

from ctrlib.config import Recipe
from ctrlib.coupling import complete
from ctrlib.training import step as steps
from ctrlib.training.averaging import WeightAverage
from ctrlib.training.loop import has_begun


def watched(monkeypatch, run) -> tuple:
    """A training, and the floating-point state of each member after each of its steps, in float64."""
    seen: list[list[dict]] = []
    step = steps.train_step

    def watch(group, *batch):
        losses = step(group, *batch)
        seen.append([floats(trainee.model.state_dict()) for trainee in group.trainees])
        return losses

    monkeypatch.setattr(steps, "train_step", watch)
    return fit(run), seen


def floats(state: dict, prefix: str = "") -> dict:
    """The floating-point tensors of a state whose names begin with ``prefix``, without it, in float64."""
    return {
        name.removeprefix(prefix): value.double()
        for name, value in state.items()
        if name.startswith(prefix) and value.is_floating_point()
    }


@pytest.mark.parametrize(("embeddings", "decay"), [("own", 0.9), ("shared", 0.5)])
def test_ema_is_the_recursion(monkeypatch, embeddings, decay) -> None:
    """Batch-norm statistics among it."""
    members = [member(1, **NOISY), member(2, **NOISY)]
    recipe = {"averaging": "ema", "averaging_decay": decay}
    trained, seen = watched(monkeypatch, make_run(members, complete(2), embeddings=embeddings, **recipe))
    for n in range(2):
        average = seen[0][n]
        for states in seen[1:]:
            average = {name: decay * average[name] + (1 - decay) * states[n][name] for name in average}
        torch.testing.assert_close(floats(trained.states[n], "weights."), average, rtol=1e-5, atol=1e-7)
        assert (average["mlp.layers.1.running_var"] - seen[-1][n]["mlp.layers.1.running_var"]).abs().max() > 1e-4


def test_training_goes_on_from_the_plain_weights() -> None:
    """Losses and Adam's state are those of a run without averages; what is validated and kept is not."""
    members = [member(1, **NOISY), member(2, **NOISY)]
    plain, averaged = (fit(make_run(members, complete(2), epochs=3, averaging=kind)) for kind in ("none", "ema"))
    for a, b in zip(plain.history, averaged.history, strict=True):
        assert (a["click_loss"], a["peer_loss"]) == (b["click_loss"], b["peer_loss"])
    assert averaged.history[-1]["valid_logloss"] != plain.history[-1]["valid_logloss"]
    for n in range(2):
        adam = {name: value for name, value in plain.states[n].items() if name.startswith("adam.")}
        assert same_state(adam, {name: averaged.states[n][name] for name in adam})
        assert distance(plain.states[n], averaged.states[n]) > 1e-4
        counted = "weights.mlp.layers.1.num_batches_tracked"
        assert torch.equal(plain.states[n][counted], averaged.states[n][counted])


def test_the_plain_weights_come_back_whatever_happens() -> None:
    weights = [torch.tensor([1.0, 2.0]), torch.tensor([5])]
    average = WeightAverage(weights, Recipe(averaging="ema", averaging_decay=0.5))
    with average.in_place():
        assert weights[0].tolist() == [1.0, 2.0], "nothing has been averaged yet"
    average.after_step()
    weights[0].add_(2)
    average.after_step()
    with average.in_place():
        assert weights[0].tolist() == [2.0, 3.0]
        assert weights[1].tolist() == [5]
    with pytest.raises(ZeroDivisionError), average.in_place():
        1 / 0  # noqa: B018
    assert weights[0].tolist() == [3.0, 4.0]
    assert average.average[0].tolist() == [2.0, 3.0]
    average.restart()
    assert average.average[0].tolist() == [3.0, 4.0]


def test_rounding_does_not_move_a_beginning() -> None:
    for total in range(1, 200):
        for k in range(total + 1):
            assert [has_begun(at, total, k / total) for at in range(total)] == [at >= k for at in range(total)]
