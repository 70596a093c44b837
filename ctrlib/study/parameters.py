"""The parameters of notebooks: names, types, ranges and defaults."""

from typing import Annotated, Any, get_origin

import yaml
from pydantic import BaseModel, Field, model_validator

from ctrlib.config import (
    Form,
    Precision,
    Protocol,
    Settings,
    Target,
    Topology,
)
from ctrlib.errors import shown

Size = Annotated[int, Field(ge=2, le=100)]


class StudyParameters(Settings):
    """The parameters a notebook may declare, their types and their ranges, in one place."""

    profile: str = Field(default="default", max_length=1000, description="label of the settings, shown in the book")
    dataset: str = Field(
        default="synthetic", max_length=1000, description="'synthetic', a prepared data set, or a path to one"
    )
    datasets: tuple[str, ...] = Field(default=("synthetic",), min_length=1, description="several of them")
    rows: int = Field(default=100_000, ge=100, description="training rows of the synthetic data")
    valid_rows: int = Field(default=20_000, ge=100, description="validation rows of the synthetic data")
    test_rows: int = Field(default=50_000, ge=100, description="test rows of the synthetic data")
    fields: int = Field(default=10, ge=3, le=200, description="fields of the synthetic data")
    largest_field: int = Field(default=300, ge=4, le=1_000_000, description="ids of the synthetic data's largest field")
    logit_sd: float = Field(default=1.5, gt=0, le=10, description="spread of the synthetic data's true logit")
    architecture: str = Field(
        default="FiBiNET", description="FiBiNET, DCN, PNN, DeepFM, DCNv2, AutoInt, FinalMLP, FM, LR, or your own"
    )
    architectures: tuple[str, ...] = Field(default=("FiBiNET", "DCN", "PNN", "DeepFM"), min_length=1)
    companions: tuple[str, ...] = Field(default=(), description="further architectures to pair with")
    instances: int = Field(default=4, ge=2, le=100, description="models in a group (N)")
    sizes: tuple[Size, ...] = Field(default=(2, 3, 4, 5), min_length=1, description="group sizes to compare")
    seeds: tuple[Annotated[int, Field(ge=0, le=10**12)], ...] = Field(
        default=(1, 2, 3), min_length=1, description="groups"
    )
    embedding_dim: int = Field(default=8, ge=1, le=4096, description="numbers in the embedding of an id")
    hidden_units: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (64, 64)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_norm: bool = False
    embedding_l2: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=1000, ge=1, description="rows of a training step")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="step width of the optimizer")
    protocols: tuple[Protocol, ...] = Field(default=("equal_epochs", "own_end"), min_length=1)
    epochs: int = Field(default=5, ge=1, le=1000, description="epochs of pretraining under equal_epochs")
    finetune_epochs: int = Field(default=1, ge=1, le=100, description="epochs of fine-tuning under equal_epochs")
    max_epochs: int = Field(default=20, ge=1, le=1000, description="epochs at most under own_end")
    mutual_weight: float = Field(default=1.0, ge=0, le=1e6, description="total weight of the peers; 1 in the paper")
    coupling_form: Form = "mse"
    coupling_target: Target = "live"
    epoch_counts: tuple[Annotated[int, Field(ge=1, le=100)], ...] = (1, 2, 3, 4, 5)
    l2_levels: tuple[Annotated[float, Field(ge=0)], ...] = (0.0, 1e-5)
    mutual_weights: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = (0.1, 1.0, 5.0, 20.0, 100.0)
    forms: tuple[Form, ...] = ("mse", "mse_logit", "kl")
    targets: tuple[Target, ...] = ("live", "joint", "frozen", "shuffled")
    starts: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    topologies: tuple[Topology, ...] = ("complete", "ring", "star", "pairs", "one_way")
    averaging_decay: float = Field(default=0.99, ge=0, lt=1, description="what a step leaves of the averaged weights")
    row_levels: tuple[Annotated[int, Field(ge=100)], ...] = (10_000, 40_000)
    width_levels: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (16, 64)
    noise_levels: tuple[Annotated[float, Field(gt=0, le=10)], ...] = (0.75, 1.5, 3.0)
    device: str = Field(default="auto", max_length=100, description="auto, cpu, cuda or cuda:N")
    precision: Precision = Field(default="fp32", description="of matrix products; tf32 needs a GPU")
    benchmark: str = Field(default="", description="a file in benchmarks/results; empty: the newest")

    @model_validator(mode="before")
    @classmethod
    def _text_is_yaml(cls, values: dict[str, Any]) -> dict[str, Any]:
        """``papermill -p seeds '[3, 4]'`` arrives as text: read it as the list it shows."""
        values = {name: _read_list(value) if _is_list(cls, name) else value for name, value in values.items()}
        for name, value in values.items():
            entries = value if isinstance(value, list | tuple) else [value]
            if name != "batch_norm" and any(isinstance(entry, bool) for entry in entries):
                raise ValueError(f"{name}={shown(value)}: must not be true or false")
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> "StudyParameters":
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size=1: must be at least 2 with batch_norm, which compares the rows of a batch")
        for name in type(self).model_fields:
            values = getattr(self, name)
            if isinstance(values, tuple) and name != "hidden_units" and len(set(values)) != len(values):
                raise ValueError(f"{name} {shown(list(values))} repeat; each may stand there once")
        return self


def _is_list(model: type[BaseModel], name: str) -> bool:
    """Whether a setting holds several values."""
    return name in model.model_fields and get_origin(model.model_fields[name].annotation) is tuple


def _read_list(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = read_yaml(value)
        except ValueError:
            return value
    return value if isinstance(value, list | tuple) else [value]


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors: with them a few lines can stand for more than any memory, or hold themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*) is not allowed here")
        return super().compose_node(parent, index)


def read_yaml(text: str) -> Any:
    """A YAML value of plain types; ValueError with one line for any text that is none."""
    try:
        return _PlainLoader(text).get_single_data()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # besides YAMLError, whatever int() or a date makes of a strange scalar
        raise ValueError(" ".join(str(error).split())[:200]) from None
