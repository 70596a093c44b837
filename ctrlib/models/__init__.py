"""The architectures by name. To add one: write its file, import it here, add a line to ``MODELS``."""

from collections.abc import Mapping, Sequence
from inspect import signature

import torch
from torch import nn

from ctrlib.errors import UserError, unknown
from ctrlib.models.autoint import AutoInt
from ctrlib.models.dcn import DCN, DCNv2
from ctrlib.models.deepfm import DeepFM
from ctrlib.models.fcn import FCN
from ctrlib.models.fibinet import FiBiNET
from ctrlib.models.finalmlp import FinalMLP
from ctrlib.models.finalnet import FinalNet
from ctrlib.models.fm import FM
from ctrlib.models.gdcn import GDCN
from ctrlib.models.layers import embedding_parameters as embedding_parameters
from ctrlib.models.lr import LR
from ctrlib.models.pnn import PNN
from ctrlib.models.rankmixer import RankMixer
from ctrlib.models.tabm import TabMDeepFM
from ctrlib.models.wukong import Wukong

MODELS: dict[str, type[nn.Module]] = {
    "FiBiNET": FiBiNET,
    "DCN": DCN,
    "PNN": PNN,
    "DeepFM": DeepFM,
    "DCNv2": DCNv2,
    "AutoInt": AutoInt,
    "FinalMLP": FinalMLP,
    "FM": FM,
    "LR": LR,
    "GDCN": GDCN,
    "FinalNet": FinalNet,
    "FCN": FCN,
    "Wukong": Wukong,
    "RankMixer": RankMixer,
    "TabM-DeepFM": TabMDeepFM,
}

SHARED_ARGUMENTS = ("field_dims", "embedding_dim", "hidden_units", "dropout", "batch_norm")
"""Constructor arguments that any architecture may have, see :func:`build_model`; others are options of its own."""


def architecture_name(name: str) -> str:
    """The name as ``MODELS`` spells it, whatever the case of ``name``."""
    by_lower = {known.lower(): known for known in MODELS}
    try:
        return by_lower[str(name).lower()]
    except KeyError:
        raise unknown("architecture", name, MODELS) from None


def register_model(model: type[nn.Module]) -> type[nn.Module]:
    """Add a class, from a notebook or another package, under its name; also as a decorator.

    Only this process knows it, so it trains all runs of it. The class's source is part of what a record says.

    Raises:
        UserError: ctrlib has an architecture of this name.
    """
    known = MODELS.get(model.__name__)
    if known is not None and known.__module__.startswith("ctrlib."):
        raise UserError(f"there is an architecture {model.__name__!r} already; give the class another name")
    MODELS[model.__name__] = model
    return model


def model_options(architecture: str) -> dict[str, object]:
    """The options that only this architecture has, name -> default value."""
    parameters = signature(MODELS[architecture_name(architecture)]).parameters
    return {name: p.default for name, p in parameters.items() if name not in SHARED_ARGUMENTS}


def build_model(
    architecture: str,
    field_dims: Sequence[int],
    init_seed: int,
    *,
    embedding_dim: int,
    hidden_units: Sequence[int],
    dropout: float,
    batch_norm: bool,
    options: Mapping[str, object],
) -> nn.Module:
    """A fresh model on the CPU whose initial weights depend on ``init_seed`` and the settings alone.

    Random state of the caller is left as it was, on every device: only the CPU generator is seeded, inside a fork.
    (``torch.manual_seed`` would reseed the GPU generators too, which the fork does not restore.)

    Args:
        architecture: a name in ``MODELS``, in any case.
        field_dims: number of ids of each field, F entries.
        init_seed: seed of the initial weights.
        embedding_dim: D.
        hidden_units: widths of the MLP's hidden layers.
        dropout: dropout after each hidden layer.
        batch_norm: batch norm in each hidden layer.
        options: arguments of this architecture alone, see :func:`model_options`.
    """
    architecture = architecture_name(architecture)
    allowed = model_options(architecture)
    for name in options:
        if name not in allowed:
            none = UserError(f"unknown option of {architecture} {name!r}; {architecture} has no options of its own.")
            raise unknown(f"option of {architecture}", name, allowed) if allowed else none
    sizes = dict(embedding_dim=embedding_dim, hidden_units=hidden_units, dropout=dropout, batch_norm=batch_norm)
    taken = signature(MODELS[architecture]).parameters
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(init_seed)
        try:
            return MODELS[architecture](field_dims, **{k: v for k, v in sizes.items() if k in taken}, **options)
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            numbers = f"{sum(field_dims):,} ids x embedding_dim {embedding_dim}"
            raise UserError(f"{architecture} does not fit into memory: {numbers}; lower embedding_dim") from None


def count_parameters(model: nn.Module) -> int:
    """Number of trainable numbers in ``model``; a tensor used twice counts once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
