"""How raw rows become a prepared data set: the options of ``ctrlib data prepare``, stated once."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ctrlib.config import Settings
from ctrlib.errors import UserError

Layout = Literal["criteo", "avazu", "frappe", "table"]
OWN, FRAPPE = "Own data: ", "Frappe: "  # how the help of an option begins that is for one layout alone


class PrepareOptions(Settings):
    """How raw rows become a prepared data set. Draw d divides the rows by ``split_seed`` + d."""

    layout: Layout | None = Field(
        default=None,
        description="Layout of the raw file, when NAME does not say it. (Default: table, your own CSV or Parquet.)",
    )
    label: str = Field(default="label", description="Own data: the column with 0 and 1.")
    positive: str | None = Field(
        default=None,
        description="Own data: the label that counts as a click, 'yes' or '>3'; all others do not. (Default: 1, true.)",
    )
    drop_label: tuple[str, ...] = Field(
        default=(),
        description="Own data: labels whose rows are left out, such as 3, or missing.",
    )
    drop: tuple[str, ...] = Field(
        default=(),
        description="Own data: columns to leave out; repeat it or use commas. Patterns work: 'id,debug_*'.",
    )
    numeric: tuple[str, ...] = Field(
        default=(),
        description="Own data: columns to cut into buckets. Without it: fractions, and whole numbers that look like a "
        "quantity. Patterns work: 'I*'.",
    )
    categorical: tuple[str, ...] = Field(
        default=(),
        description="Own data: columns whose every value is a category, such as ids stored as numbers: 'C*'.",
    )
    missing: tuple[str, ...] = Field(
        default=(),
        description="Own data: cells that mean nothing is there, such as -999. (Always: empty ones; and among numbers "
        "the usual marks, such as NA.)",
    )
    decimal: Literal[".", ","] | None = Field(
        default=None,
        description="Own data: the decimal mark of numbers. (Default: the one that fits.)",
    )
    separator: str | None = Field(
        default=None,
        pattern=r'^[^"\r\n]{1,8}$',
        description="Own data: what stands between columns, such as '|', '::' or tab. (Default: what divides all "
        "first lines alike.)",
    )
    buckets: int = Field(
        default=20,
        ge=2,
        le=1000,
        description="Own data: buckets of a numeric column, equally full in train.",
    )
    numeric_rule: Literal["quantile", "criteo"] = Field(
        default="quantile",
        description="Own data: quantile: buckets fitted on train. criteo: x above 2 becomes floor(ln(x)^2), for "
        "counts.",
    )
    split: Literal["random", "time"] = Field(
        default="random",
        description="random: by --split-seed. time: train is the earliest part (avazu, or with --time-column).",
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed of draw 0; draw d uses this plus d. Frappe's negatives use it too."
    )
    draws: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="How many divisions of the same rows to make, so that a study can average over them.",
    )
    shares: tuple[float, float, float] = Field(default=(0.8, 0.1, 0.1), description="Shares of train, valid and test.")
    min_count: int | None = Field(
        default=None,
        ge=1,
        description="Values seen less often than this in train share one code, with those never seen. "
        "(Default: 2; frappe: 1.)",
    )
    time_column: str | None = Field(
        default=None,
        description="Own data: the column to sort by for --split time; it is no feature.",
    )
    time_format: str | None = Field(
        default=None,
        description="Own data: how its text is written, such as '%d.%m.%Y %H:%M', or number. (Default: numbers, ISO "
        "8601, or the form that every row fits if it is one only.)",
    )
    fold_column: str | None = Field(
        default=None,
        description="Own data: the column that says the fold of a row; it is no feature. As many draws as folds: draw "
        "d tests on fold d, validates on the next and trains on the rest, so each row is tested once. Or it says "
        "train, valid and test: one draw.",
    )
    negatives: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Frappe: items drawn for each use, among those the user never used.",
    )
    negatives_stay: Literal["together", "apart"] = Field(
        default="together",
        description="Frappe: whether a use and its negatives stay in one part, or rows are divided one by one.",
    )
    rows: int | None = Field(
        default=None, ge=10, description="Use only the first so many rows, for example of the full Criteo file."
    )

    @field_validator("shares")
    @classmethod
    def _shares_are_parts_of_one(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
            raise ValueError("three shares above 0 that add up to 1 are needed")
        return shares

    @model_validator(mode="after")
    def _time_has_one_division(self) -> "PrepareOptions":
        if self.split == "time" and self.draws > 1:
            raise ValueError(f"draws={self.draws} with split 'time': a split by time has one draw only")
        return self

    @model_validator(mode="after")
    def _folds_are_the_division(self) -> "PrepareOptions":
        for option in self.divides if self.fold_column is not None else ():
            if option != "fold_column":
                problem = f"{option}={getattr(self, option)} with fold_column {self.fold_column!r}"
                raise ValueError(f"{problem}: the folds divide the rows, one draw for each")
        return self

    @property
    def divides(self) -> list[str]:
        """The options that divide the rows otherwise than by default."""
        every = ("split", "split_seed", "draws", "shares", "fold_column")
        return [one for one in every if getattr(self, one) != type(self).model_fields[one].default]

    @model_validator(mode="after")
    def _times_are_for_a_split_by_time(self) -> "PrepareOptions":
        if self.time_column is not None and self.split != "time":
            raise ValueError(f"time_column={self.time_column!r} with split 'random': must be with split 'time'")
        if self.time_format is not None and self.time_column is None:
            raise ValueError(f"time_format={self.time_format!r}: must be with time_column")
        return self

    def refuse_unused(self, layout: str) -> None:
        """Raise :class:`UserError` for an option that the layout would ignore, which is a mistake."""
        for name, one in type(self).model_fields.items():
            if getattr(self, name) == one.default:
                continue
            flag = "--" + name.replace("_", "-")
            if one.description.startswith(OWN) and layout != "table":
                raise UserError(f"{flag} is for your own CSV or Parquet; layout {layout!r} has fixed columns")
            if one.description.startswith(FRAPPE) and layout != "frappe":
                raise UserError(f"{flag} is for the Frappe log; layout {layout!r} has its own negatives")
