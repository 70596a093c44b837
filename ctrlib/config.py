"""What a run *is*: frozen, validated settings and the fingerprint that names them.

A :class:`Run` says everything that decides a training result: data, members, coupling, recipe and start. Its
fingerprint is a hash of those settings, of the data's own fingerprint and of :data:`NUMERICS_VERSION`, so two
runs with one fingerprint are one run, on any machine. Where a run is computed (device, threads, folders) is not
part of it; the run record notes it instead.
"""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator
from pydantic_core import PydanticSerializationError

from ctrlib.errors import UserError, error_place, shown, unknown

# Raise by one when a default changes (a fingerprint leaves out what is at its default) or a library's new version gives
# other numbers; old records then no longer count as done. Of our own code each record holds a digest. A new setting
# whose default does what was done before renames no run and needs no other version.
NUMERICS_VERSION = 3

Form = Literal["mse", "mse_logit", "kl"]
Target = Literal["live", "joint", "frozen", "frozen_ensemble", "ensemble", "shuffled"]
NEGATIVE = "it needs target 'live', 'joint', 'frozen' or 'shuffled', fixed peer_weighting and no teacher_weight"
FROZEN: tuple[Target, ...] = ("frozen", "frozen_ensemble")  # targets that no longer learn
PeerWeighting = Literal["fixed", "adaptive"]
Embeddings = Literal["own", "shared"]
Head = Literal["served", "auxiliary"]
Averaging = Literal["none", "ema"]
Topology = Literal["complete", "ring", "star", "pairs", "one_way"]
Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["fixed_epochs", "early_stopping"]
Stopping = Literal["converged", "fuxictr"]
SplitKind = Literal["random", "chronological"]
Weights = tuple[tuple[float, ...], ...]


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
    rows_seed: int = Field(default=0, ge=0, description="other training and validation rows of the same planted law")
    drift: float = Field(default=0.0, ge=0, le=1, description="1 - correlation of true logits at first and last moment")
    new_codes: float = Field(default=0.0, ge=0, le=0.9, description="share of a field's ids that appear one by one")
    split: SplitKind = Field(default="random", description="chronological: the earliest rows train, the latest test")
    lag: float = Field(default=0.0, ge=0, le=1, description="share of the log by which all but test rows are earlier")

    @model_validator(mode="after")
    def _only_what_is_earlier_can_lag(self) -> "SyntheticSettings":
        if self.lag and self.split == "random":
            raise ValueError(f"lag={self.lag} needs split 'chronological'; a random split has no earlier rows")
        return self

    @model_serializer(mode="wrap")
    def _without_what_came_later(self, written: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Later settings at their default are left out, so that earlier data keep their fingerprint."""
        default = {name: type(self).model_fields[name].default for name in LATER}
        return {name: value for name, value in written(self).items() if name not in default or value != default[name]}


LATER = ("rows_seed", "drift", "new_codes", "split", "lag")  # settings that earlier records do not hold


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
    random_embeddings: float = Field(
        default=0.0, ge=0, le=100, description="spread of embeddings that are drawn and never learned; 0: learned"
    )
    init_seed: int = Field(ge=0, lt=2**64, description="initial weights")
    order_seed: int = Field(ge=0, lt=2**64, description="order of the training rows")


class Coupling(Settings):
    """Who learns from whom: row n of ``weights`` holds the weights of member n's peers (the matrix A).

    A negative weight pushes a member away from the peer (the aim of Anti-Distillation, arXiv 2010.09923).
    The frozen targets have a column for each frozen copy, which may be the member's own (self-distillation) or, with
    ``Run.teachers``, one of any number of teachers. All others have a column for each member and a zero diagonal.
    """

    weights: Weights = Field(min_length=1)
    form: Form = "mse"
    target: Target = "live"
    start: float = Field(default=0.0, ge=0, le=1, description="share of the training after which it is on")
    peer_weighting: PeerWeighting = Field(default="fixed", description="adaptive: better peers weigh more")
    teacher_weight: float = Field(default=0.0, ge=0, description="weight of the members' mean, beside the peers")
    head: Head = Field(default="served", description="auxiliary: a second head follows the peers, not the served one")
    refresh: int = Field(default=1, ge=1, description="steps from one look at the weights of live peers to the next")

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
                raise ValueError(f"member {n} cannot learn from itself (weights[{n}][{n}] = {row[n]})")
            means = "ensemble" in self.target or self.peer_weighting != "fixed" or self.teacher_weight
            if means and any(weight < 0 for weight in row):
                raise ValueError(f"row {n} has a negative weight, which no mean of peers can have: {NEGATIVE}")
        if self.target not in ("live", "joint"):
            for name, plain in (("peer_weighting", "fixed"), ("teacher_weight", 0.0)):
                if getattr(self, name) != plain:
                    raise ValueError(f"{name}={getattr(self, name)!r} needs target 'live' or 'joint'")
        if self.head == "auxiliary" and self.target == "joint":
            raise ValueError("head='auxiliary' keeps peers from the served head, which target 'joint' pulls")
        plain = self.target == "live" and self.peer_weighting == "fixed" and not self.teacher_weight
        if self.refresh > 1 and not plain:
            raise ValueError(f"refresh={self.refresh} needs target 'live', fixed peer_weighting and no teacher_weight")
        return self

    @property
    def is_solo(self) -> bool:
        """True when no member has a peer, not even a frozen one."""
        return not any(any(row) for row in self.weights)


class Recipe(Settings):
    """How members are trained (FuxiCTR's recipe; see the method page).

    ``patience`` = 0 trains all ``epochs`` at one learning rate. Otherwise training stops early, at most after
    ``epochs``, by the validation AUC (of coupled members: its mean):

    - with ``cuts`` = n, after ``patience`` epochs in a row without a better one, n times, the members go back to the
      weights and Adam state of the best epoch and the learning rate falls by ``plateau_factor``; the next such epochs
      end the training, whose best epoch counts, for all coupled members the same;
    - with ``cuts`` None the learning rate falls after every such epoch, nothing goes back, and ``patience`` of them in
      a row end the training (FuxiCTR's and BARS's rule).

    ``keep`` chooses the weights that count: those of the best validation epoch or of the last. With ``averaging`` they
    are an exponential moving average over the steps (:mod:`ctrlib.training.averaging`).

    The last ones are rivals of the peers, off by default (:mod:`ctrlib.training.rivals`, and the method page).
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    batch_size: int = Field(default=1000, ge=1)
    epochs: int = Field(default=1, ge=1, le=1000)
    patience: int = Field(default=0, ge=0)
    cuts: int | None = Field(default=None, ge=0, le=10)
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    keep: Literal["best", "last"] = "last"
    embedding_l2: float = Field(default=0.0, ge=0, le=1e6)
    clip_norm: float = Field(default=10.0, gt=0)
    precision: Precision = Field(default="fp32", description="of matrix products, see ctrlib.fast.machine.arithmetic")
    averaging: Averaging = "none"
    averaging_decay: float = Field(default=0.999, ge=0, lt=1, description="what a step leaves of the ema")
    averaging_start: Literal[0.0] = 0.0  # a former setting, which earlier records hold
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of 1/2 in the labels of the click loss")
    base_rate_weight: float = Field(default=0.0, ge=0, le=1e6, description="of the distance to the share of clicks")
    rdrop: float = Field(default=0.0, ge=0, le=1e6, description="weight of the KL between two dropout passes")
    meda: bool = Field(default=False, description="fresh tables at the start of every epoch but the very first")
    gradient_penalty: float = Field(default=0.0, ge=0, le=1e12, description="of the logit's slopes at rare codes")

    @model_validator(mode="after")
    def _cuts_go_back_to_the_best(self) -> "Recipe":
        if self.cuts is not None and not (self.patience and self.keep == "best"):
            raise ValueError(f"cuts={self.cuts} needs patience of 1 or more and keep='best'")
        return self


class StoredMember(Settings):
    """A member of an earlier run, with the weights that its run kept."""

    run: str
    member: int = Field(default=0, ge=0)


class Checkpoint(StoredMember):
    """Where a member starts: a member of an earlier run, with or without that run's optimizer state."""

    optimizer: Literal["keep", "reset"] = "reset"


class Run(Settings):
    """One training: K members on one data set under one coupling and one recipe, from scratch or checkpoints.

    Frozen targets are copies of the run's own start or, where ``teachers`` names T members of earlier runs, those: the
    coupling matrix is then K x T. ``embeddings`` says whether coupled members share one embedding table.
    """

    data: Data
    members: tuple[Member, ...] = Field(min_length=1)
    coupling: Coupling
    recipe: Recipe
    start: tuple[Checkpoint, ...] | None = None
    teachers: tuple[StoredMember, ...] | None = Field(default=None, min_length=1)
    embeddings: Embeddings = "own"

    @model_validator(mode="after")
    def _sizes_and_target_agree(self) -> "Run":
        size, rows, columns = len(self.members), len(self.coupling.weights), len(self.coupling.weights[0])
        if rows != size:
            raise ValueError(f"{size} members but a {rows} x {columns} coupling matrix")
        if self.start is not None and len(self.start) != size:
            raise ValueError(f"{size} members but {len(self.start)} checkpoints")
        peers = f"{size} members" if self.teachers is None else f"{len(self.teachers)} teachers"
        if columns != len(self.teachers or self.members):
            raise ValueError(f"{peers} to learn from but a {rows} x {columns} coupling matrix")
        target = self.coupling.target
        if target not in FROZEN and self.teachers is not None:
            raise ValueError(f"teachers do not learn, so they need target {' or '.join(map(repr, FROZEN))}")
        if target in FROZEN and not self.coupling.is_solo and self.start is None and self.teachers is None:
            raise ValueError(f"target {target!r} copies the start, so it needs checkpoints to start from, or teachers")
        return self

    @model_validator(mode="after")
    def _a_batch_has_a_spread(self) -> "Run":
        if self.recipe.batch_size == 1 and any(member.batch_norm for member in self.members):
            raise ValueError("batch norm needs batches of 2 rows or more, not batch_size 1")
        return self

    @model_validator(mode="after")
    def _two_passes_differ(self) -> "Run":
        if self.recipe.rdrop and not all(member.dropout for member in self.members):
            raise ValueError(f"rdrop={self.recipe.rdrop} compares two dropout masks, so it needs dropout above 0")
        return self

    @model_validator(mode="after")
    def _random_embeddings_stay(self) -> "Run":
        about_tables = self.recipe.meda or self.recipe.gradient_penalty or self.embeddings == "shared"
        if about_tables and any(member.random_embeddings for member in self.members):
            raise ValueError("meda, gradient_penalty and embeddings='shared' need learned ones, random_embeddings 0")
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
            raise ValueError(f"embeddings 'shared' needs live peers, not target {self.coupling.target!r}")
        for n, row in enumerate(self.coupling.weights):
            if not any(row) and not any(other[n] for other in self.coupling.weights):
                other = "a coupling with start=1 shares the table and nothing else"
                raise ValueError(f"embeddings 'shared' is among coupled members, but member {n} is alone; {other}")
        return self

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name this run: a hash of its settings, the data and the numerics version.

        Settings at their default are left out, so that a setting added later does not rename earlier runs.
        """
        settings = self.model_dump(mode="json", exclude={"data"}, exclude_defaults=True)
        return digest({**settings, "data": self.data.fingerprint, "numerics": NUMERICS_VERSION})

    def model_copy(self, **changes: Any) -> "Run":
        """As pydantic's, with a fingerprint of its own."""
        copied = super().model_copy(**changes)
        copied.__dict__.pop("fingerprint", None)
        return copied


def solo(size: int) -> Weights:
    """No peers: K separate trainings."""
    return tuple((0.0,) * size for _ in range(size))


def complete(size: int, weight: float = 1.0) -> Weights:
    """All others are peers of each member, ``weight`` shared evenly among the N - 1 of them (the paper: weight 1)."""
    if size < 2:
        return solo(size)
    return tuple(tuple(0.0 if i == n else weight / (size - 1) for i in range(size)) for n in range(size))


def ring(size: int, weight: float = 1.0) -> Weights:
    """Member n learns from member n + 1 alone, the last one from the first."""
    return tuple(tuple(weight if i == (n + 1) % size and i != n else 0.0 for i in range(size)) for n in range(size))


def star(size: int, weight: float = 1.0) -> Weights:
    """Member 0 learns from all others evenly, each of them from member 0 alone."""
    first = tuple(weight / (size - 1) if i else 0.0 for i in range(size))
    return (first, *(tuple(weight * (i == 0) for i in range(size)) for _ in range(1, size)))


def pairs(size: int, weight: float = 1.0) -> Weights:
    """Members 0 and 1 learn from each other, so do 2 and 3, and so on; the last of an odd number stays alone."""
    return tuple(tuple(weight if i != n and i // 2 == n // 2 else 0.0 for i in range(size)) for n in range(size))


def one_way(size: int, weight: float = 1.0) -> Weights:
    """Only member 0 learns, from all others evenly: distillation into one student."""
    return tuple(tuple(weight / (size - 1) if n == 0 and i else 0.0 for i in range(size)) for n in range(size))


TOPOLOGIES: dict[Topology, Callable[[int, float], Weights]] = {
    make.__name__: make for make in (complete, ring, star, pairs, one_way)
}


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
        place = error_place(first)
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
