"""The models of a cohort in training: how they are made, what changes in them, and how that is put away and back."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ctrlib.config import Checkpoint, Coupling, Member, Recipe, Run
from ctrlib.data.table import Dataset
from ctrlib.errors import UserError
from ctrlib.execution import SideBySide, Step
from ctrlib.models import build_model
from ctrlib.models.layers import MLP, Dropout

State = dict[str, Tensor]  # a member's weights ("weights.*") and Adam state ("adam.<kind>.*"), on the CPU


@dataclass
class Trainee:
    """A member in training."""

    index: int
    member: Member
    model: nn.Module
    optimizer: torch.optim.Adam
    dropout_generator: torch.Generator
    best_auc: float = -1.0
    kept_epoch: int = 0
    kept_state: State | None = None


@dataclass
class Group:
    """Members that train together: the rows of A among them, their schedule, their frozen copies."""

    trainees: list[Trainee]
    weights: Tensor  # (K, K)
    recipe: Recipe
    coupling: Coupling
    learning_rate: float
    each: SideBySide
    step: Step | None = None
    frozen: list[nn.Module] = field(default_factory=list)
    best_auc: float = -1.0
    epochs_without_gain: int = 0
    stopped: bool = False

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of every member, in place where a CUDA graph reads it."""
        self.learning_rate = learning_rate
        for parameters in (p for trainee in self.trainees for p in trainee.optimizer.param_groups):
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(learning_rate)
            else:
                parameters["lr"] = learning_rate


def build(member: Member, dataset: Dataset, device: torch.device) -> nn.Module:
    """The model of a member with its initial weights, drawn on the CPU so that they do not depend on the device."""
    return build_model(
        member.architecture,
        dataset.field_dims,
        member.init_seed,
        embedding_dim=member.embedding_dim,
        hidden_units=member.hidden_units,
        dropout=member.dropout,
        batch_norm=member.batch_norm,
        options=member.options,
    ).to(device)


def make_trainee(
    index: int, run: Run, dataset: Dataset, start: State | None, checkpoint: Checkpoint | None, device: torch.device
) -> Trainee:
    """A member with a fused dense Adam; from a checkpoint its weights, and its Adam state if that is kept."""
    member = run.members[index]
    model = build(member, dataset, device)
    optimizer = make_adam(model, run.recipe.learning_rate)
    drawn = torch.Generator(device)
    trainee = Trainee(index, member, model, optimizer, drawn)
    if start is not None and checkpoint is not None:
        try:
            check_state(start, trainee)
        except ValueError as error:
            raise UserError(f"run {checkpoint.run} cannot be started from: {error}") from None
        load_state(start, model, optimizer if checkpoint.optimizer == "keep" else None)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = drawn
        if isinstance(module, MLP):
            module.bf16 = run.recipe.precision == "bf16"
    return trainee


def make_adam(model: nn.Module, learning_rate: float) -> torch.optim.Adam:
    """Fused dense Adam with its state in place from the start, ready for CUDA graphs where the model is on a GPU."""
    place = next(model.parameters()).device
    captured = place.type == "cuda"
    rate = torch.tensor(learning_rate, device=place) if captured else learning_rate
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True, capturable=captured)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=place),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def changing_tensors(trainee: Trainee) -> list[Tensor]:
    """Every tensor that training changes: weights, buffers, Adam's moments and step counts."""
    adam = [value for state in trainee.optimizer.state.values() for value in state.values()]
    return [*trainee.model.state_dict().values(), *adam]


def member_tensors(trainee: Trainee) -> State:
    """The weights and Adam's moments and step count by name, where they are."""
    state = {f"weights.{name}": value for name, value in trainee.model.state_dict().items()}
    for name, parameter in trainee.model.named_parameters():
        for kind, value in trainee.optimizer.state[parameter].items():
            state[f"adam.{kind}.{name}"] = value
    return state


def member_state(trainee: Trainee) -> State:
    """Copies of :func:`member_tensors` on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in member_tensors(trainee).items()}


def check_state(state: State, trainee: Trainee) -> None:
    """Raise ValueError unless a state has the names, shapes and types of a member's own."""
    forms = [
        {name: (value.shape, value.dtype) for name, value in tensors.items()}
        for tensors in (state, member_tensors(trainee))
    ]
    if forms[0] != forms[1]:
        raise ValueError(f"the state of member {trainee.index} is not that of a {trainee.member.architecture} like it")


def load_state(state: State, model: nn.Module, optimizer: torch.optim.Adam | None = None) -> None:
    """Put a member's weights into ``model`` and, where given, its Adam state into ``optimizer``."""
    weights = {name.removeprefix("weights."): v for name, v in state.items() if name.startswith("weights.")}
    model.load_state_dict(weights)
    if optimizer is None:
        return
    for name, parameter in model.named_parameters():
        for kind in ("step", "exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][kind] = state[f"adam.{kind}.{name}"].clone().to(parameter.device)
