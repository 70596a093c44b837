"""What a prepared draw holds, field by field, and what looks like a mistake in it."""

from typing import Any

import numpy as np
import polars as pl

from ctrlib.training.dataset import OOV, Dataset, Split

ROWS_TOGETHER = 1 << 16  # rows looked at together
MOST_ROWS = 1_000_000  # of a part, that are searched for suspicious fields
MOST_CODES = 12  # shown of a field

Counts = list[np.ndarray]


def code_counts(split: Split, dims: tuple[int, ...], rows: int | None = None) -> Counts:
    """Per field how often each code occurs, without and with a click, (dim, 2) each; of the first so many ``rows``.

    A table on disk is read in blocks.
    """
    counts = [np.zeros((dim, 2), np.int64) for dim in dims]
    total = len(split) if rows is None else min(rows, len(split))
    for start in range(0, total, ROWS_TOGETHER):
        here = slice(start, min(start + ROWS_TOGETHER, total))
        labels = split.labels[here]
        for found, codes in zip(counts, split.ids[here].T, strict=True):
            found += np.bincount(2 * codes.astype(np.intp) + labels, minlength=found.size).reshape(found.shape)
    return counts


def auc_alone(train: np.ndarray, valid: np.ndarray) -> float:
    """AUC in validation of one field alone: each code scores its share of clicks in training, (dim, 2) counts each.

    A code that is rare there leans to the share of all; nan where validation lacks a label.
    """
    rate = train[:, 1].sum() / train.sum()
    score = (train[:, 1] + rate) / (train.sum(axis=1) + 1)
    _, place = np.unique(score, return_inverse=True)
    others, clicks = (np.bincount(place, valid[:, label]) for label in (0, 1))
    wins = (clicks * (np.cumsum(others) - others / 2)).sum()
    return float(wins / (others.sum() * clicks.sum())) if others.sum() * clicks.sum() else float("nan")


def suspicions(dataset: Dataset) -> list[str]:
    """A line for each field that is nearly one code in training, and for each that alone separates the labels."""
    train, valid = (code_counts(part, dataset.field_dims, MOST_ROWS) for part in (dataset.train, dataset.valid))
    found = []
    for name, seen, later in zip(dataset.field_names, train, valid, strict=True):
        top = seen.sum(axis=1)
        if top.max() >= 0.95 * top.sum():
            what = "rare values, which share one code" if top.argmax() == OOV else "one value"
            found.append(f"{name}: {top.max() / top.sum():.1%} of the training rows hold {what}")
        if (alone := auc_alone(seen, later)) > 0.99:
            known = "alone it tells clicks from others"
            found.append(f"{name}: {known} (validation AUC {alone:.3f}); if it is known only afterwards: --drop {name}")
    return found


def field_facts(
    dataset: Dataset, about: dict[str, Any], words: dict[str, dict[int, str]] | None
) -> list[dict[str, Any]]:
    """For each field: field, dim, numeric, why and change (how it was read, where known), shares of rows, and auc.

    ``oov_train``, ``oov_valid``, ``oov_test``: rare or unseen; ``missing`` (in train); ``top_share``: of the most
    frequent code in train. ``auc``: see :func:`auc_alone`. ``codes``: of the most frequent codes, (value, share of
    the training rows, share of clicks); None is code 0.
    """
    counts = {part: code_counts(split, dataset.field_dims) for part, split in dataset.splits().items()}
    fields = []
    for place, (name, dim) in enumerate(zip(dataset.field_names, dataset.field_dims, strict=True)):
        line = {"field": name, "dim": dim, "numeric": name in about.get("numeric_columns", ())}
        line |= {key: about.get("columns", {}).get(name, {}).get(key, "") for key in ("why", "change")}
        train, known = counts["train"][place], (words or {}).get(name, {})
        rows = train.sum(axis=1)
        if words is not None:  # the embedded data has no rare or unseen values: its code 0 is a value like any other
            for part, of_fields in counts.items():
                line[f"oov_{part}"] = float(of_fields[place][OOV].sum() / of_fields[place].sum())
            empty = [code for code, value in known.items() if value == ""]
            line["missing"] = float(rows[empty].sum() / rows.sum())
        line["top_share"] = float(rows.max() / rows.sum())
        line["auc"] = auc_alone(train, counts["valid"][place])
        often = np.argsort(-rows, kind="stable")[: dim if line["numeric"] and dim <= 25 else MOST_CODES].tolist()
        if line["numeric"]:  # in order of their numbers
            often.sort(key=lambda code, known=known: (len(known.get(code, "")), known.get(code, "")))
        line["codes"] = [
            (
                known.get(code) if known else str(code),
                float(rows[code] / rows.sum()),
                float(train[code, 1] / rows[code]),
            )
            for code in often
            if rows[code]
        ]
        fields.append(line)
    return fields


def repeated_rows(dataset: Dataset) -> dict[str, float]:
    """The share of rows of each part whose fields all equal those of a row of train; of train: of an earlier row."""

    def hashes(split: Split) -> np.ndarray:
        blocks = (split.ids[start : start + ROWS_TOGETHER] for start in range(0, len(split), ROWS_TOGETHER))
        return np.concatenate([pl.DataFrame(block).hash_rows(seed=0).to_numpy() for block in blocks])

    train = np.unique(hashes(dataset.train))
    shares = {"train": 1 - len(train) / len(dataset.train)}
    for part in ("valid", "test"):
        shares[part] = float(np.isin(hashes(dataset.splits()[part]), train).mean())
    return shares
