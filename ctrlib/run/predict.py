"""Recommended models as a folder: weights, vocabulary, and how new rows are read; and what they predict."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from pydantic import ValidationError

from ctrlib.config import Data, Member
from ctrlib.data.files import parse_json, read_plain
from ctrlib.data.manifest import read_manifest
from ctrlib.data.new_rows import check_own, encode_new, kept_columns
from ctrlib.data.prepared import read_vocabulary
from ctrlib.data.sources import find
from ctrlib.errors import UserError
from ctrlib.models import SHARED_ARGUMENTS, build_model
from ctrlib.store.record import Record
from ctrlib.store.runs import RunStore
from ctrlib.training.dataset import Split
from ctrlib.training.evaluation import predict

FILE, WEIGHTS = "model.json", "weights.safetensors"


def save_models(folder: Path, store: RunStore, chosen: Sequence[tuple[Record, int]], what: str) -> Path:
    """Write members of runs, (record, member) each, that are to be averaged, into ``folder``; that folder.

    Args:
        folder: made where it is not there.
        store: has the runs.
        chosen: which members; all are of one draw of one own log.
        what: what they are, in words.

    Raises:
        UserError: the data set is not one's own log.
    """
    from safetensors.torch import save_file

    data = chosen[0][0].run.data
    prepared = find(data.name)
    manifest = read_manifest(prepared)
    check_own(manifest)
    (entry,) = (one for one in manifest["draws"] if one["draw"] == data.draw)
    weights = {}
    for place, ((_, n), record) in enumerate(zip(chosen, store.with_files([one for one, _ in chosen]), strict=True)):
        state = record.states()[n]
        weights |= {f"{place}|{name}": value for name, value in state.items() if name.startswith("weights.")}
    content = {
        "what": what,
        "runs": [[record.fingerprint, n] for record, n in chosen],
        "data": data.model_dump(mode="json"),
        "members": [record.run.members[n].model_dump(mode="json") for record, n in chosen],
        "fields": [[field["name"], field["dim"]] for field in entry["fields"]],
        "settings": manifest["settings"],
        "columns": {field["name"]: manifest["columns"][field["name"]] for field in entry["fields"]},
        "edges": entry.get("edges", {}),
        "vocabulary": {
            field: {value: code for code, value in words.items()}
            for field, words in read_vocabulary(prepared, data.draw).items()
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS)
    (folder / FILE).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def predict_file(
    folder: Path, path: Path, report: Callable[[str], None], keep: Sequence[str] = ()
) -> tuple[np.ndarray, dict[str, float], pl.DataFrame]:
    """Click probabilities (N,) of the rows of a file: the mean over the saved models; by field, the share of rows
    whose value training did not show; and the columns to ``keep``, as text.

    Raises:
        UserError: no saved model there, or the file cannot be read or lacks a column.
    """
    content, weights = _load(folder)
    kept = kept_columns(path, content["settings"], keep, report)
    ids = encode_new(path, *(content[name] for name in ("settings", "columns", "edges", "vocabulary")), report)
    report(f"scoring {len(ids):,} rows")
    rows, dims = Split(ids, np.zeros(len(ids), np.uint8)), tuple(dim for _, dim in content["fields"])
    found = []
    for place, settings in enumerate(content["members"]):
        member = Member.model_validate(settings)
        size = member.model_dump(include={*SHARED_ARGUMENTS, "options"})
        model = build_model(member.architecture, dims, member.init_seed, **size)
        start = f"{place}|weights."
        model.load_state_dict({name.removeprefix(start): w for name, w in weights.items() if name.startswith(start)})
        found.append(torch.sigmoid(predict(model, rows).double()).numpy())
    unseen = {name: float((ids[:, n] == 0).mean()) for n, name in enumerate(content["columns"])}
    return np.mean(found, axis=0), unseen, kept


def _load(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    from safetensors.torch import load

    try:
        content = parse_json(read_plain(folder / FILE))
        Data.model_validate(content["data"])
        return content, load(read_plain(folder / WEIGHTS))
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no saved model; `ctrlib decide FILE --save` makes one, in its folder model/"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UserError(f"{folder}: damaged ({' '.join(str(error).split())[:100]}); save it again") from None
