"""What a run *is*: frozen, validated settings and the fingerprint that names them.

A :class:`Run` says everything that decides a training result: data, members, coupling, recipe and start. Its
fingerprint is a hash of those settings, of the data's own fingerprint and of :data:`NUMERICS_VERSION`, so two
runs with one fingerprint are one run, on any machine. Where a run is computed (device, threads, folders) is not
part of it; the run record notes it instead.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticSerializationError

from ctrlib.errors import UserError, shown, unknown

# Raise by one whenever the same settings would give other numbers, or when a default changes (a fingerprint leaves out
# what is at its default); old records then no longer count as done. A new setting whose default does what was done
# before renames no run and needs no other version.
NUMERICS_VERSION = 3

Form = Literal["mse", "mse_logit", "kl"]
Target = Literal["live", "joint", "frozen", "frozen_ensemble", "ensemble", "shuffled"]
FROZEN: tuple[Target, ...] = ("frozen", "frozen_ensemble")  # targets that no longer learn
PeerWeighting = Literal["fixed", "adaptive"]
Embeddings = Literal["own", "shared"]
Averaging = Literal["none", "ema", "swa"]
Topology = Literal["complete", "ring", "star", "pairs", "one_way"]
Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["equal_epochs", "own_end"]
Weights = tuple[tuple[float, ...], ...]
Size = Annotated[int, Field(ge=2, le=100)]


class Settings(BaseModel):
    """Base of all settings: immutable, unknown names refused, infinities and NaN refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SyntheticSettings(Settings):
    """The embedded data: clicks drawn from a known probability (see :mod:`ctrlib.data.synthetic`)."""

    train_rows: int = Field(default=100_000, ge=100, description="training rows")
    valid_rows: int = Field(default=20_000, ge=100, description="validation rows")
    test_rows: int = Field(default=50_000, ge=100, description="test rows")
    fields: int = Field(default=10, ge=3, le=200, description="number of categorical fields")
    smallest_field: int = Field(default=4, ge=2, description="ids in the smallest field")
    largest_field: int = Field(default=300, ge=2, description="ids in the largest field; sizes grow geometrically")
    zipf: float = Field(default=1.1, ge=0, le=3, description="exponent of the id frequencies")
    clusters: int = Field(default=50, ge=1, description="latent clusters that correlate the fields")
    pairs: int = Field(default=12, ge=0, description="planted field pairs")
    triples: int = Field(default=2, ge=0, description="planted field triples")
    logit_sd: float = Field(default=1.5, gt=0, le=10, description="standard deviation of the true logit")
    click_rate: float = Field(default=0.25, gt=0, lt=1, description="share of clicks")
    seed: int = Field(default=0, ge=0, description="draw d of the data uses this seed and d")


class Data(Settings):
    """A data set by name, one of its draws, and the fingerprint of the rows themselves."""

    name: str
    draw: int = Field(default=0, ge=0)
    synthetic: SyntheticSettings | None = None
    fingerprint: str


class Member(Settings):
    """One model of a cohort: its architecture, its size and its two sources of randomness."""

    architecture: str
    embedding_dim: int = Field(default=16, ge=1)
    hidden_units: tuple[Annotated[int, Field(ge=1)], ...] = (400, 400, 400)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_norm: bool = False
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    init_seed: int = Field(ge=0, description="initial weights")
    order_seed: int = Field(ge=0, description="order of the training rows")


class Coupling(Settings):
    """Who learns from whom: row n of ``weights`` says how much member n listens to each peer (design: A).

    The frozen targets have a column for each frozen copy, which may be the member's own (self-distillation) or, with
    ``Run.teachers``, one of any number of teachers. All others have a column for each member and a zero diagonal.
    """

    weights: Weights = Field(min_length=1)
    form: Form = "mse"
    target: Target = "live"
    start: float = Field(default=0.0, ge=0, le=1, description="share of the training after which it is on")
    peer_weighting: PeerWeighting = Field(default="fixed", description="adaptive: peers that do well are heard more")
    teacher_weight: float = Field(default=0.0, ge=0, description="weight of the members' mean, beside the peers")

    @model_validator(mode="after")
    def _rows_fit_the_target(self) -> "Coupling":
        size = len(self.weights)
        for n, row in enumerate(self.weights):
            if self.target in FROZEN:
                if len(row) != len(self.weights[0]):
                    raise ValueError(f"row {n} has {len(row)} weights, row 0 has {len(self.weights[0])}")
            elif len(row) != size:
                raise ValueError(f"row {n} has {len(row)} weights, a {size} x {size} matrix is needed")
            elif row[n] != 0:
                raise ValueError(f"member {n} cannot listen to itself (weights[{n}][{n}] = {row[n]})")
            if any(weight < 0 for weight in row):
                raise ValueError(f"row {n} has a negative weight")
        if self.target not in ("live", "joint"):
            for name, plain in (("peer_weighting", "fixed"), ("teacher_weight", 0.0)):
                if getattr(self, name) != plain:
                    raise ValueError(f"{name}={getattr(self, name)!r} needs target 'live' or 'joint'")
        return self

    @property
    def is_solo(self) -> bool:
        """True when nobody listens to anybody, not even to a frozen copy."""
        return not any(any(row) for row in self.weights)


class Recipe(Settings):
    """How members are trained (FuxiCTR's recipe; see the method page).

    ``patience`` = 0 trains all ``epochs`` at one learning rate. Otherwise the learning rate falls by
    ``plateau_factor`` after each epoch without a better validation AUC, and ``patience`` such epochs in a row end
    the training. ``keep`` chooses the weights that count: those of the best validation epoch or of the last.

    With ``averaging`` the weights that are evaluated and kept are an average along the training, which itself goes on
    from the plain ones (:mod:`ctrlib.averaging`): ``ema`` over the steps, ``swa`` over the ends of the epochs.
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    batch_size: int = Field(default=1000, ge=1)
    epochs: int = Field(default=1, ge=1, le=1000)
    patience: int = Field(default=0, ge=0)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    keep: Literal["best", "last"] = "last"
    embedding_l2: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    precision: Precision = Field(default="fp32", description="of matrix products, see ctrlib.machine.arithmetic")
    averaging: Averaging = "none"
    averaging_decay: float = Field(default=0.999, ge=0, lt=1, description="what a step leaves of the ema")
    averaging_start: float = Field(default=0.0, ge=0, le=1, description="share of the training after which it begins")


class StoredMember(Settings):
    """A member of an earlier run, with the weights that its run kept."""

    run: str
    member: int = Field(default=0, ge=0)


class Checkpoint(StoredMember):
    """Where a member starts: a member of an earlier run, with or without that run's optimizer state."""

    optimizer: Literal["keep", "reset"] = "reset"


class Run(Settings):
    """One training: K members on one data set under one coupling and one recipe, from scratch or checkpoints.

    The frozen targets listen to copies of the run's own start or, where ``teachers`` names T members of earlier runs,
    to those: the coupling matrix is then K x T. ``embeddings`` says whether coupled members share one embedding table.
    """

    data: Data
    members: tuple[Member, ...] = Field(min_length=1)
    coupling: Coupling
    recipe: Recipe
    start: tuple[Checkpoint, ...] | None = None
    teachers: tuple[StoredMember, ...] | None = Field(default=None, min_length=1)
    embeddings: Embeddings = "own"

    @model_validator(mode="after")
    def _sizes_agree(self) -> "Run":
        size, rows, columns = len(self.members), len(self.coupling.weights), len(self.coupling.weights[0])
        if rows != size:
            raise ValueError(f"{size} members but a {rows} x {columns} coupling matrix")
        if self.start is not None and len(self.start) != size:
            raise ValueError(f"{size} members but {len(self.start)} checkpoints")
        heard = size if self.teachers is None else len(self.teachers)
        if columns != heard:
            whom = "members" if self.teachers is None else "teachers"
            raise ValueError(f"{heard} {whom} to listen to but a {rows} x {columns} coupling matrix")
        return self

    @model_validator(mode="after")
    def _somebody_is_frozen(self) -> "Run":
        target = self.coupling.target
        if target not in FROZEN and self.teachers is not None:
            raise ValueError(f"teachers do not learn, so they need target {' or '.join(map(repr, FROZEN))}")
        if target in FROZEN and not self.coupling.is_solo and self.start is None and self.teachers is None:
            raise ValueError(f"target {target!r} copies the start, so it needs checkpoints to start from, or teachers")
        return self

    @model_validator(mode="after")
    def _coupled_members_see_the_same_batches(self) -> "Run":
        for i in range(len(self.coupling.weights[0])):
            together = [n for n, row in enumerate(self.coupling.weights) if row[i]]
            if together and self.teachers is None:
                together = sorted({i, *together})
            for n in together[1:]:
                if self.members[n].order_seed != self.members[together[0]].order_seed:
                    pair = f"members {together[0]} and {n}"
                    raise ValueError(f"{pair} are coupled, so they need one order_seed (the same batches)")
        return self

    @model_validator(mode="after")
    def _one_table_fits_all(self) -> "Run":
        if self.embeddings == "own":
            return self
        dims = sorted({member.embedding_dim for member in self.members})
        if len(dims) > 1:
            raise ValueError(f"embeddings 'shared' needs one embedding_dim, not {dims}")
        if self.coupling.target in FROZEN:
            raise ValueError(
                f"embeddings 'shared' needs members that hear each other, not target {self.coupling.target!r}"
            )
        for n, row in enumerate(self.coupling.weights):
            if not any(row) and not any(other[n] for other in self.coupling.weights):
                raise ValueError(
                    f"embeddings 'shared' is among coupled members, but member {n} is alone; "
                    "a coupling with start=1 shares the table and nothing else"
                )
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name this run: a hash of its settings, the data and the numerics version.

        Settings at their default are left out, so that a setting added later does not rename earlier runs.
        """
        settings = self.model_dump(mode="json", exclude={"data"}, exclude_defaults=True)
        return digest({**settings, "data": self.data.fingerprint, "numerics": NUMERICS_VERSION})


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


S = TypeVar("S", bound=Settings)


def checked(model: type[S], **values: Any) -> S:
    """Build settings; a bad value becomes one :class:`UserError` line with name, value and what is allowed."""
    for name in values:
        if name not in model.model_fields:
            raise unknown("parameter", name, model.model_fields)
    try:
        made = model(**values)
        made.model_dump_json()
        return made
    except PydanticSerializationError as error:  # half a character, which no file can hold
        raise UserError(f"settings are not Unicode text: {shown(str(error))}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = " ".join(".".join(str(part) for part in first["loc"])[:100].split())
        what = f"{place}={shown(first['input'])}: " if place else ""
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(f"{what}{message}{more}") from None


def digest(content: Any) -> str:
    """16 hex digits of the SHA-256 of ``content`` as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part; used wherever one seed must give many independent ones."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def project_root() -> Path:
    """The folder that holds this project's ``_toc.yml``, looked for upwards from here; else the current folder."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "_toc.yml").exists() and (folder / "ctrlib").is_dir():
            return folder
    return here


def data_root() -> Path:
    """Where prepared data sets are: ``CTRLIB_DATA``, else ``data/`` in the project."""
    return Path(os.environ.get("CTRLIB_DATA") or project_root() / "data")


def store_root() -> Path:
    """Where run records are: ``CTRLIB_RUNS``, else ``runs/`` in the project."""
    return Path(os.environ.get("CTRLIB_RUNS") or project_root() / "runs")
