"""The models of a cohort in training: how they are made, what changes in them, and their states.

Shared embeddings: each model keeps an embedding module of its own, whose table is a view of one memory. So every
member's gradient has a place of its own, whatever the order in which they arrive, and every model can be used alone.
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ctrlib.config import Checkpoint, Coupling, Member, Recipe, Run
from ctrlib.errors import UserError
from ctrlib.models import SHARED_ARGUMENTS, build_model
from ctrlib.models.layers import EMBEDDING_STD, MLP, Dropout, FeatureEmbedding
from ctrlib.training.averaging import WeightAverage
from ctrlib.training.dataset import Dataset

State = dict[str, Tensor]  # a member's weights ("weights.*") and Adam state ("adam.<kind>.*"), on the CPU
Teacher = tuple[Member, State]
Step = Callable[[Tensor, Tensor, bool, Tensor | None], Tensor]
"""(ids, labels, coupled, shuffle) -> click and peer loss (2, K); trains every member of a group on one batch."""
Forward = Callable[[Tensor], Callable[[nn.Module], Tensor]]
"""ids (B, F) -> (model -> logits (B,)): what all models of a group need of a batch is computed once."""


def in_turn(function: Callable, members: Iterable) -> list:
    """The results of ``function``, one member after the other."""
    return [function(member) for member in members]


@dataclass
class Trainee:
    """A member in training."""

    index: int
    member: Member
    model: nn.Module
    parameters: list[nn.Parameter]  # that are learned, found once: to find them takes long beside a small step
    optimizer: torch.optim.Adam
    dropout_generator: torch.Generator
    best_auc: float = -1.0
    kept_epoch: int = 0
    kept_state: State | None = None
    embeddings: Tensor | None = None  # (B, F, D) of the last batch, for the gradient penalty
    hidden: Tensor | None = None  # (B, H) that the served head reads of it, for the auxiliary head


@dataclass
class SharedTable:
    """The embedding table of members that have one in common: their views of it, and the one Adam that moves it."""

    views: list[nn.Parameter]
    optimizer: torch.optim.Adam  # of the first view

    def step(self) -> None:
        """One Adam step along the mean of the members' gradients (EKTF: of the losses), added up in their order.

        Decay and clipping are in each member's gradient already, so they mean what they mean for one member.
        """
        gradient = self.views[0].grad
        for view in self.views[1:]:
            gradient.add_(view.grad)
        gradient.div_(len(self.views))
        self.optimizer.step()


@dataclass
class Group:
    """Members that train together: their part of A, their schedule, their frozen teachers."""

    trainees: list[Trainee]
    weights: Tensor  # (K, K), or (K, T) with a column for each of ``frozen``
    recipe: Recipe
    coupling: Coupling
    learning_rate: float
    each: Callable[..., list] = in_turn
    step: Step | None = None
    forward: Forward | None = None
    way: str = ""  # of computing ``forward``, in words for the record, where it is not the plain one
    frozen: list[nn.Module] = field(default_factory=list)  # teachers, or with ``refresh`` the members a while ago
    table: SharedTable | None = None
    average: WeightAverage | None = None
    base_rate: float = 0.0  # the logit of the share of clicks
    code_counts: Tensor | None = None  # (C,) how often each code of all fields is in the training rows
    continued: bool = False  # from checkpoints
    best_auc: float = -1.0
    epochs_without_gain: int = 0
    cuts: int = 0  # of the learning rate, with a way back to the best epoch
    stopped: bool = False

    @property
    def stale(self) -> list[nn.Module]:
        """The models of ``frozen`` that follow the members, one each; empty where peers are live or frozen for good."""
        return self.frozen if self.coupling.refresh > 1 else []

    def look_at_peers(self) -> None:
        """Bring stale peers up to date, in place."""
        for peer, trainee in zip(self.stale, self.trainees, strict=False):
            peer.load_state_dict(served(trainee.model.state_dict()))

    def set_learning_rate(self, learning_rate: float) -> None:
        """Change the learning rate of every member, in place where a CUDA graph reads it."""
        self.learning_rate = learning_rate
        optimizers = [trainee.optimizer for trainee in self.trainees] + ([self.table.optimizer] if self.table else [])
        for parameters in (p for optimizer in optimizers for p in optimizer.param_groups):
            if isinstance(parameters["lr"], Tensor):
                parameters["lr"].fill_(learning_rate)
            else:
                parameters["lr"] = learning_rate


def build(member: Member, dataset: Dataset, device: torch.device) -> nn.Module:
    """The model of a member with its initial weights, drawn on the CPU so that they do not depend on the device.

    Random embeddings are the initial ones, wider, for good (Allen-Zhu and Li 2023, arXiv 2012.09816); first-order
    weights are learned."""
    size = member.model_dump(include={*SHARED_ARGUMENTS, "options"})
    model = build_model(member.architecture, dataset.field_dims, member.init_seed, **size)
    for module in model.modules():
        if member.random_embeddings and isinstance(module, FeatureEmbedding):
            module.weight.requires_grad_(False).mul_(member.random_embeddings / EMBEDDING_STD)
    return model.to(device)


def make_trainee(
    index: int, run: Run, dataset: Dataset, start: State | None, checkpoint: Checkpoint | None, device: torch.device
) -> Trainee:
    """A member with a fused dense Adam; from a checkpoint its weights, and its Adam state if that is kept."""
    member = run.members[index]
    model = build(member, dataset, device)
    optimizer = make_adam(model, run.recipe.learning_rate)
    drawn = torch.Generator(device)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trainee = Trainee(index, member, model, learned, optimizer, drawn)
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


def frozen_model(
    index: int, trainees: list[Trainee], teachers: list[Teacher] | None, dataset: Dataset, device: torch.device
) -> nn.Module:
    """The model behind column ``index`` of a frozen target's A: a teacher, or a copy of a member as it starts."""
    copies = ((one.member, member_tensors(one)) for one in trainees if one.index == index)
    member, state = teachers[index] if teachers else next(copies)
    model = build(member, dataset, device)
    load_state(state, model)
    return model.eval()


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


def add_head(trainee: Trainee, learning_rate: float) -> None:
    """Give a model a second linear layer beside the last one of its MLP, as which it begins (ExFM, arXiv 2502.17494).

    Raises:
        UserError: an architecture whose MLP does not end in a logit. DCN's last layer reads its cross network too and
            is computed with it in closed form.
    """
    mlp = getattr(trainee.model, "mlp", None)
    if not isinstance(mlp, MLP) or mlp.hidden_depth in (0, len(mlp.layers)):
        raise UserError(f"head='auxiliary': {trainee.member.architecture} has no hidden units that end in a logit")
    head = mlp.layers[mlp.hidden_depth]
    trainee.model.auxiliary_head = deepcopy(head)
    trainee.parameters += trainee.model.auxiliary_head.parameters()
    head.register_forward_pre_hook(lambda module, given: setattr(trainee, "hidden", given[0]))
    adam = make_adam(trainee.model.auxiliary_head, learning_rate)
    trainee.optimizer.param_groups[0]["params"] += adam.param_groups[0]["params"]
    trainee.optimizer.state.update(adam.state)


def served(state: State) -> State:
    """A state without the auxiliary head."""
    return {name: value for name, value in state.items() if "auxiliary_head." not in name}


def share_table(trainees: list[Trainee], learning_rate: float, from_scratch: bool) -> SharedTable:
    """Let all models use the first one's embedding table, with its Adam state; first-order weights stay their own.

    EKTF's students are MLPs on one embedding layer and have no first-order weights, so it does not say whose those are.

    Raises:
        UserError: an architecture without exactly one embedding table, or checkpoints whose tables differ.
    """
    tables = [the_table(trainee, "embeddings='shared'") for trainee in trainees]
    first = tables[0].weight
    if not from_scratch and not all(torch.equal(table.weight, first) for table in tables):
        other = "start from scratch, or from the members of one run that shared a table to its last epoch (keep='last')"
        raise UserError(f"embeddings='shared': the checkpoints bring different tables; {other}")
    optimizer = make_adam(tables[0], learning_rate)
    optimizer.state[first] = trainees[0].optimizer.state[first]
    for trainee, table in zip(trainees, tables, strict=True):
        table.weight.data = first.data
        own = trainee.optimizer.param_groups[0]
        own["params"] = [parameter for parameter in own["params"] if parameter is not table.weight]
        trainee.optimizer.state[table.weight] = optimizer.state[first]  # so that each member's state is complete
    return SharedTable([table.weight for table in tables], optimizer)


def the_table(trainee: Trainee, setting: str) -> FeatureEmbedding:
    """The embeddings of a model that has exactly one table of them, as a setting needs; else :class:`UserError`."""
    found = [module for module in trainee.model.modules() if isinstance(module, FeatureEmbedding)]
    if len(found) != 1:
        what = f"{trainee.member.architecture} has {len(found)} embedding tables"
        raise UserError(f"{setting}: {what}, exactly one is needed")
    return found[0]


def unshare_table(table: SharedTable) -> None:
    """Give each model a table of its own again, when the training is over: members may keep different epochs."""
    for view in table.views[1:]:
        view.data = view.data.clone()


def model_tensors(trainees: list[Trainee]) -> list[Tensor]:
    """All weights and buffers of the models; a table that they share is there once."""
    return drop_aliases([tensor for trainee in trainees for tensor in trainee.model.state_dict().values()])


def drop_aliases(tensors: list[Tensor]) -> list[Tensor]:
    """``tensors`` without those that are a view of an earlier one's memory."""
    return list({tensor.data_ptr(): tensor for tensor in tensors if tensor.numel()}.values())


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
            optimizer.state[parameter][kind].copy_(state[f"adam.{kind}.{name}"])  # in place: a CUDA graph reads it
