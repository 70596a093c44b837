"""The parameters of notebooks: names, types, ranges, defaults and meaning."""

import ast
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, field_validator, model_validator

from ctrlib.config import Form, Precision, Protocol, Settings, SplitKind, Stopping, Topology, checked
from ctrlib.errors import UserError
from ctrlib.errors import shown as quoted

Rate = Literal["lr", "lr/10", "lr/100"]
Rival = Literal[
    "rate cut", "embedding L2 tenfold", "gradient penalty", "label smoothing", "averaged weights", "R-Drop",
    "self-anchor", "base rate", "MEDA",
]  # fmt: skip
TUNED = ("one model", "continued training", "mutual from scratch", "mutual", "distilled", "R-Drop", "MEDA")
Way = Literal["fine-tuned", "from scratch"]
FORMER_PROTOCOLS = {"equal_epochs": "fixed_epochs", "own_end": "early_stopping"}


def value(default: Any, description: str, **limits: Any) -> Any:
    """A parameter with one value."""
    return Field(default=default, description=description, **limits)


def values(default: tuple, description: str, at_least: int = 0, at_most: int | None = None) -> Any:
    """A parameter with a list of values."""
    return Field(default=default, description=description, min_length=at_least or None, max_length=at_most)


class StudyParameters(Settings):
    """The parameters a notebook may declare, with their types, ranges and meaning, in one place."""

    profile: str = value("default", "label of the settings, shown in the book", max_length=1000)
    dataset: str = value(
        "synthetic", '"synthetic", a prepared data set (ctrlib data list), or a path to one', max_length=1000
    )
    datasets: tuple[str, ...] = values((), "several data sets, each by its name or by a name in per_dataset")
    per_dataset: dict[str, dict[str, Any]] = value({}, "by data set, the parameters that it changes")
    rows: int = value(100_000, "training rows of the synthetic data", ge=100)
    valid_rows: int = value(20_000, "validation rows of the synthetic data", ge=100)
    test_rows: int = value(50_000, "test rows of the synthetic data", ge=100)
    fields: int = value(10, "fields of the synthetic data", ge=3, le=200)
    largest_field: int = value(300, "ids in the largest field of the synthetic data", ge=4, le=1_000_000)
    drift: float = value(
        0.0, "of the synthetic data: 1 - correlation of true logits at the log's first and last moment", ge=0, le=1
    )
    new_codes: float = value(
        0.0, "share of the ids of a synthetic field that appear one by one as time goes on", ge=0, le=0.9
    )
    split: SplitKind = value("random", "of the synthetic data over time; chronological: test rows are the latest")
    splits: tuple[SplitKind, ...] = values(("random", "chronological"), "splits of the synthetic data to compare", 1)
    lag: float = value(0.0, "share of the log by which training rows are earlier, test rows not", ge=0, le=1)
    rows_seed: int = value(0, "other training and validation rows of the same synthetic law", ge=0)
    rows_seeds: tuple[Annotated[int, Field(ge=0)], ...] = values((0, 1), "several draws of rows of one law", 1)
    architecture: str = value(
        "FiBiNET",
        "FiBiNET, DCN, PNN, DeepFM, DCNv2, AutoInt, FinalMLP, FM, LR, GDCN, FinalNet, FCN, Wukong, RankMixer, "
        "TabM-DeepFM, or an added one",
    )
    architectures: tuple[str, ...] = values(
        ("FiBiNET", "DCN", "PNN", "DeepFM"), "each makes cohorts of its own; on 04, 20 and 32 also one together", 1
    )
    without_scratch: tuple[str, ...] = values(
        (), "of the architectures those fine-tuned only, under the last of the protocols"
    )
    one_rate: tuple[str, ...] = values((), "as without_scratch, and with peers at a tenth of the learning rate only")
    companions: tuple[str, ...] = values((), "further architectures to pair with; FM and LR have no MLP")
    instances: int = value(4, "models in a cohort (N)", ge=2, le=100)
    cohorts: int = value(2, "cohorts on the same rows, each with seeds of its own", ge=2, le=100)
    sizes: tuple[Annotated[int, Field(ge=2, le=100)], ...] = values((2, 3, 4, 5), "numbers of models to compare", 1)
    seeds: tuple[Annotated[int, Field(ge=0, le=10**12)], ...] = values(
        (1, 2, 3), "one replicate each; 5 or more give useful intervals", 1
    )
    embedding_dim: int = value(8, "numbers in the embedding of an id; the paper: 16", ge=1, le=4096)
    hidden_units: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = values((64, 64), "widths of the MLP")
    dropout: float = value(0.0, "after each hidden layer", ge=0, lt=1)
    batch_norm: bool = value(False, "in each hidden layer")
    embedding_l2: float = value(0.0, "weight of the L2 penalty on the whole embedding tables", ge=0)
    batch_size: int = value(1000, "rows of a training step; the paper: 4000", ge=1)
    learning_rate: float = value(1e-3, "of Adam; the paper's is not known", gt=0, le=10)
    protocols: tuple[Protocol, ...] = values(
        ("fixed_epochs", "early_stopping"), "fixed epochs, or until validation stops rising", 1
    )
    epochs: int = value(5, "epochs of pretraining under fixed_epochs", ge=1, le=1000)
    finetune_epochs: int = value(1, "epochs of fine-tuning under fixed_epochs; the paper: 1", ge=1, le=100)
    max_epochs: int = value(80, "epochs of either at most under early_stopping", ge=1, le=1000)
    stopping: Stopping = value(
        "converged",
        "converged: after two epochs without gain back to the best and on at a tenth of the rate, twice, fine-tuning "
        "at one rate; fuxictr: a tenth after each such epoch, the end after two",
    )
    stopping_rules: tuple[Stopping, ...] = values((), "rules of stopping to compare, for the first architecture")
    mutual_weight: float = value(1.0, "total weight of the peers in the loss; the paper: 1", ge=0, le=1e6)
    coupling_form: Form = value("mse", "distance of two predictions; mse of probabilities is the paper's")
    epoch_counts: tuple[Annotated[int, Field(ge=1, le=100)], ...] = values(
        (1, 2, 3, 4, 5), "epochs of fine-tuning, each trained anew from the checkpoints"
    )
    l2_levels: tuple[Annotated[float, Field(ge=0)], ...] = values(
        (0.0, 1e-5), "L2 penalties on the embedding tables to compare with embedding_l2"
    )
    mutual_weights: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = values(
        (0.1, 1.0, 5.0, 20.0, 100.0),
        "total weights of the peers to compare; a competition's runner-up used 20, one below zero pushes members apart",
    )
    ways: tuple[Way, ...] = values(("fine-tuned", "from scratch"), "how members are coupled at each weight", 1)
    refreshes: tuple[Annotated[int, Field(ge=2, le=10**6)], ...] = values(
        (10, 100), "steps from one look at stale peers to the next"
    )
    forms: tuple[Form, ...] = values((), "further distances of two predictions to compare, with live peers")
    starts: tuple[Annotated[float, Field(ge=0, le=1000)], ...] = values(
        (0.0, 1.5, 3.0, 4.5, 6.0), "coupling starts: epochs of the training from scratch after which peers count"
    )
    topologies: tuple[Topology, ...] = values(
        (), "further graphs of who learns from whom, with live peers; pairs needs an even number"
    )
    averaging_decay: float = value(0.99, "part of the averaged weights that a step leaves", ge=0, lt=1)
    rivals: tuple[Rival, ...] = values(
        get_args(Rival)[:-1], "rivals of the peers; MEDA only where one epoch trains an embedding", 1
    )
    rates: tuple[Rate, ...] = values(("lr", "lr/10"), "rates of going on, as parts of that of the pretraining", 1)
    settings: int = value(4, "settings of rate and embedding L2 among which each served model is chosen", ge=1, le=4)
    submodels: tuple[Annotated[int, Field(ge=1, le=100)], ...] = values((4, 8), "MLPs in one TabM-DeepFM (K)", 1)
    search_size: int = value(16, "settings that a search tries", ge=2, le=1000)
    search_seed: int = value(0, "draws the settings of a search", ge=0)
    search_more: dict[Literal["search_size", "search_seed", "search_l2", "search_dropouts"], Any] = value(
        {}, "what a second search changes, which is added where the first found its best at the edge of a range"
    )
    search_rates: tuple[Annotated[float, Field(gt=0, le=10)], ...] = values(
        (3e-4, 1e-2), "least and largest learning rate of a search", 2, 2
    )
    search_l2: tuple[Annotated[float, Field(ge=0)], ...] = values(
        (0.0, 1e-6, 1e-5, 1e-4, 3e-4), "L2 penalties on the embedding tables in a search", 1
    )
    search_weights: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = values(
        (0.3, 100.0), "least and largest weight of the peers in a search", 2, 2
    )
    tuning_seeds: tuple[Annotated[int, Field(ge=0, le=10**12)], ...] = values(
        (0,), "replicates that settings are searched on, compared with nothing", 1
    )
    tuned: tuple[Literal[TUNED], ...] = values(TUNED[:-1], "conditions that settings are searched for", 3)
    search_dropouts: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = values((0.0, 0.2), "dropouts in a search", 1)
    device: str = value("auto", "auto, cpu, cuda or cuda:N", max_length=100)
    precision: Precision = value("fp32", "of matrix products: fp32, bf16 (faster, less exact) or tf32 (GPU)")
    benchmark: str = value("", "a file in benchmarks/results; empty: for each part the newest")

    @model_validator(mode="before")
    @classmethod
    def _text_is_yaml(cls, given: dict[str, Any]) -> dict[str, Any]:
        """``papermill -p seeds '[3, 4]'`` arrives as text: read it as the list it shows."""
        given = {name: _read_list(value) if _is_list(cls, name) else value for name, value in given.items()}
        if type(given.get("dataset")) is int:  # papermill -p dataset 2024
            given["dataset"] = str(given["dataset"])
        if isinstance(given.get("datasets"), list | tuple):
            given["datasets"] = [str(one) if type(one) is int else one for one in given["datasets"]]
        for name, value in given.items():
            entries = value if isinstance(value, list | tuple) else [value]
            if name != "batch_norm" and any(isinstance(entry, bool) for entry in entries):
                raise ValueError(f"{name}={quoted(value)}: must not be true or false")
        return given

    def each(self) -> "dict[str, StudyParameters]":
        """By data set its parameters: these, as ``per_dataset`` changes them; where ``datasets`` is empty, by ''."""
        return {one: self.on(one) for one in self.datasets} or {"": self}

    def on(self, label: str) -> "StudyParameters":
        """These parameters for one of ``datasets``; UserError names a change that is none of a parameter."""
        try:
            changed = {"dataset": label, **self.per_dataset.get(label, {}), "datasets": (), "per_dataset": {}}
            return checked(StudyParameters, **{**self.model_dump(), **changed})
        except UserError as error:
            raise UserError(f"per_dataset, {label}: {error}") from None

    @field_validator("protocols", mode="before")
    @classmethod
    def _no_former_names(cls, protocols: Any) -> Any:
        for name in protocols if isinstance(protocols, list | tuple) else ():
            if isinstance(name, str) and name in FORMER_PROTOCOLS:
                raise ValueError(f"{name!r} is now called {FORMER_PROTOCOLS[name]!r}")
        return protocols

    @field_validator("mutual_weights")
    @classmethod
    def _no_weight_is_zero(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if 0 in weights:
            raise ValueError("must not hold 0, at which nobody has peers: that is the control, which is trained anyway")
        return weights

    @model_validator(mode="after")
    def _fit_together(self) -> "StudyParameters":
        if self.batch_norm and self.batch_size == 1:
            raise ValueError("batch_size=1: must be at least 2 with batch_norm, which compares the rows of a batch")
        if self.lag and self.split == "random":
            raise ValueError(f"lag={self.lag}: must be 0 with split 'random', which has no earlier rows")
        if strange := [name for name in self.per_dataset if name not in self.datasets]:
            raise ValueError(f"per_dataset names {strange[0]!r}, which is not among datasets {quoted(self.datasets)}")
        for name in type(self).model_fields:
            entries = getattr(self, name)
            if isinstance(entries, tuple) and name != "hidden_units" and len(set(entries)) != len(entries):
                raise ValueError(f"{name} {quoted(list(entries))} repeat; each may stand there once")
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


def literals(cell: str) -> dict[str, Any]:
    """The names and values of a cell of lines of ``name = literal``; SyntaxError or ValueError for others."""
    lines = ast.parse(cell).body
    if not all(isinstance(line, ast.Assign | ast.AnnAssign) and line.value for line in lines):
        raise ValueError("other lines than name = literal")
    targets = [line.target if isinstance(line, ast.AnnAssign) else line.targets[0] for line in lines]
    return {ast.unparse(name): ast.literal_eval(line.value) for name, line in zip(targets, lines, strict=True)}


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
