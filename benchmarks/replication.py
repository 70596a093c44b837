"""What peers give beyond the best that needs no peer, by other code: ``python -m benchmarks.replication --help``.

Nothing of ctrlib is imported. What is done follows the book's pages on the data, the method and the preregistration;
sizes and recipes are those of ``notebooks/profiles/published.yaml``. Encoding, divisions (but for Criteo's folds, which
come with its rows), DeepFM, training and random numbers are its own.

A row for each condition of a replicate goes to ``benchmarks/results/replication.csv`` when the replicate is done; a run
that was interrupted goes on after the last one. ``book/results/replication.csv`` holds the :func:`summary` of them.
"""

import argparse
import time
import zlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import torch
import yaml
from scipy import stats
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
SCORES = ROOT / "benchmarks" / "results" / "replication.csv"
EFFECTS = ROOT / "book" / "results" / "replication.csv"
VERSIONS = ", ".join(f"{one.__name__} {one.__version__}" for one in (torch, np, pd, sklearn))
NAMES = ["log", "protocol", "replicate", "condition", "rate", "weight", "members", "valid_auc", "test_auc", "versions"]
BUCKETS, RARE = 20, 2  # of a number; values seen less often in training share a code with those never seen
CLIP, BETTER, PATIENCE, CUTS = 10.0, 1e-6, 2, 2
WEIGHTS, RATES = (1, 20), {"fixed_epochs": (1, 0.1), "early_stopping": (1, 0.1, 0.01)}  # parts of the learning rate
OVERLAP, PARTS = 1 / 8, ("train", "valid", "test")  # test rows over training rows
CONTROLS = ("checkpoint", "second training", "continued", "continued, Adam kept")
ALONE = {"mutual": "continued", "mutual from scratch": "second training"}  # conditions with peers, and without
State = tuple[dict, dict | None]  # weights, and Adam's state where it is kept


@dataclass(frozen=True)
class World:
    """Codes (N, F) and labels (N,) of each part of the rows, the recipe, and what makes a new model."""

    rows: dict[str, tuple[Tensor, Tensor]]
    own: dict
    made: Callable[[], "DeepFM"]


def parts_of(table: pd.DataFrame, replicate: int) -> np.ndarray:
    """The part of each row: by its fold, the next fold being validation; without folds by chance, 80/10/10."""
    if "fold" in table:
        fold, folds = table["fold"].to_numpy(), table["fold"].nunique()
        return np.select([fold == replicate, fold == (replicate + 1) % folds], ["test", "valid"], "train")
    ends = np.rint(len(table) * np.array([0, 0.8, 0.9, 1])).astype(int)
    return np.random.default_rng([2026, replicate]).permutation(np.repeat(PARTS, np.diff(ends)))


def world(table: pd.DataFrame, part: np.ndarray, own: dict) -> World:
    """All fields as categories, learnt from the training rows: a field's first code is for what is rare or unseen.
    Fields that begin with ``I`` are numbers, cut into equally full buckets first. Codes count on through the fields."""
    train, columns, codes = part == "train", [], 0
    for name in table.columns.drop(["label", "fold"], errors="ignore"):
        values = table[name]
        if name.startswith("I"):
            shares = np.arange(1, BUCKETS) / BUCKETS
            edges = np.unique(np.quantile(values[train], shares, method="inverted_cdf"))
            values = pd.Series(np.searchsorted(edges, values), index=values.index)
        counts = values[train].value_counts()
        known = counts.index[counts >= RARE]
        columns.append(codes + 1 + known.get_indexer(values))  # -1 where unknown
        codes += len(known) + 1
    ids, labels = np.stack(columns, axis=1), table["label"].to_numpy(np.float32)
    rows = {name: (torch.from_numpy(ids[part == name]), torch.from_numpy(labels[part == name])) for name in PARTS}
    sizes = len(columns), own["embedding_dim"], own["hidden_units"], own["dropout"]
    return World(rows, own, partial(DeepFM, codes, *sizes))


class DeepFM(nn.Module):
    """First order, second-order FM and MLP; FM and MLP read the same vectors."""

    def __init__(self, codes: int, fields: int, size: int, hidden: list[int], dropout: float) -> None:
        super().__init__()
        self.vectors, self.first = (nn.Parameter(1e-4 * torch.randn(codes, n)) for n in (size, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        layers, widths = [], [fields * size, *hidden]
        for wide, narrow in zip(widths, hidden, strict=False):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(dropout)]
        self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], 1))
        for layer in self.mlp[::3]:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Codes (B, F) to logits (B,)."""
        vectors = self.vectors.index_select(0, ids.flatten()).view(*ids.shape, -1)  # (B, F, D)
        first = self.first.flatten().index_select(0, ids.flatten()).view(ids.shape).sum(1) + self.bias
        pairs = 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)).sum(1)
        return first + pairs + self.mlp(vectors.flatten(1)).squeeze(1)


def aucs(models: list[DeepFM], ids: Tensor, labels: Tensor) -> np.ndarray:
    """The AUC of each model on rows."""
    found = []
    for model in models:
        model.eval()
        with torch.no_grad():
            found.append(roc_auc_score(labels, torch.cat([model(some) for some in ids.split(4096)])))
    return np.array(found)


def peer_loss(logits: Tensor, weight: float) -> Tensor:
    """``weight`` times the mean over peers of the mean squared difference of probabilities, (K,), of logits (K, B).
    Peers are constants to the gradient."""
    p = torch.sigmoid(logits)
    apart = (p[:, None] - p.detach()[None]).square().mean(2)  # (K, K), 0 on the diagonal
    return weight / (len(p) - 1) * apart.sum(1)


def step(models: list[DeepFM], adams: list, ids: Tensor, labels: Tensor, weight: float, l2: float) -> None:
    """One step of all members on one batch."""
    logits = torch.stack([model(ids) for model in models])
    loss = F.binary_cross_entropy_with_logits(logits, labels.expand_as(logits), reduction="none").mean(1)
    if weight:
        loss = loss + peer_loss(logits, weight)
    loss.sum().backward()
    for model, adam in zip(models, adams, strict=True):
        for table in (model.vectors, model.first):
            table.grad.add_(table.detach(), alpha=l2)  # of half the squared norm
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        adam.step()
        adam.zero_grad()


def train(
    at: World, starts: list[State], rate: float, weight: float, epochs: int | None, cuts: int, order: str
) -> tuple[list[State], np.ndarray, np.ndarray]:
    """Train a cohort together on the same batches, or one model; with ``epochs`` None until validation stops rising.
    Gives the members' states, validation AUC and test AUC at the epoch that counts. What follows a bar in ``order``
    changes the dropout alone."""
    torch.manual_seed(zlib.crc32(f"{order} dropout".encode()))
    shuffled = torch.Generator().manual_seed(zlib.crc32(order.split("|")[0].encode()))
    models, (ids, labels) = [at.made() for _ in starts], at.rows["train"]
    adams = [torch.optim.Adam(model.parameters(), lr=rate, fused=True) for model in models]

    def go_to(states: list[State]) -> None:
        for model, adam, (weights, moments) in zip(models, adams, states, strict=True):
            model.load_state_dict(weights)
            if moments is not None:
                adam.load_state_dict(deepcopy(moments))  # it would go on with the very tensors that it is given
            adam.param_groups[0]["lr"] = rate

    go_to(starts)
    kept, scores, waited = [], np.array(-1.0), 0
    for epoch in range(1, 1 + (epochs or at.own["max_epochs"])):
        for model in models:
            model.train()
        for batch in torch.randperm(len(labels), generator=shuffled).split(at.own["batch_size"]):
            step(models, adams, ids[batch], labels[batch], weight, at.own["embedding_l2"])
        if epochs and epoch < epochs:
            continue
        valid = aucs(models, *at.rows["valid"])
        if epochs or valid.mean() > scores.mean() + BETTER:
            kept = [deepcopy((one.state_dict(), adam.state_dict())) for one, adam in zip(models, adams, strict=True)]
            scores, waited = valid, 0
            continue
        waited += 1
        if waited == PATIENCE:
            if not cuts:
                break
            rate, cuts, waited = rate / 10, cuts - 1, 0
            go_to(kept)
    go_to(kept)
    return kept, scores, aucs(models, *at.rows["test"])


def conditions(at: World, members: int, protocol: str, seed: str) -> Iterator[tuple]:
    """Every condition of one replicate: its name, rate, weight, and the members' validation and test AUC."""

    def fit(cohorts: list[list[State]], rate: float, weight: float, epochs: int, cuts: int, orders: list[str]) -> tuple:
        pace = rate * at.own["learning_rate"], weight, epochs if protocol == "fixed_epochs" else None, cuts
        done = [train(at, one, *pace, order) for one, order in zip(cohorts, orders, strict=True)]
        states, valid, test = zip(*done, strict=True)
        return [*chain(*states)], np.concatenate(valid), np.concatenate(test)

    torch.manual_seed(zlib.crc32(f"{seed} start".encode()))
    fresh, scratch = [[(at.made().state_dict(), None)] for _ in range(members)], at.own["epochs"] + 1
    alone, shared = ([f"{seed} {name}{n}" for n in range(members)] for name in ("own ", "shared|"))
    checkpoints, *scores = fit(fresh, 1, 0, at.own["epochs"], CUTS, alone)
    yield "checkpoint", 1, 0, *scores
    yield "second training", 1, 0, *fit(fresh, 1, 0, scratch, CUTS, shared)[1:]
    for weight in WEIGHTS:
        yield "mutual from scratch", 1, weight, *fit([[*chain(*fresh)]], 1, weight, scratch, CUTS, shared[:1])[1:]
    reset = [(weights, None) for weights, _ in checkpoints]
    for rate in RATES[protocol]:
        for name, states in (("continued", reset), ("continued, Adam kept", checkpoints)):
            yield name, rate, 0, *fit([[one] for one in states], rate, 0, 1, 0, shared)[1:]
        for weight in WEIGHTS:
            yield "mutual", rate, weight, *fit([reset], rate, weight, 1, 0, shared[:1])[1:]


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Effects on test AUC in thousandths, a row per log, protocol and quantity: mean over replicates with a 95 % t
    interval whose variance allows for shared rows (Nadeau and Bengio 2003). Each side is the best of its conditions by
    validation, replicate by replicate."""
    found = []
    for (log, protocol), block in scores.groupby(["log", "protocol"], sort=False):
        effects = []
        for _, one in block.groupby("replicate"):
            rows = (one[one["condition"].isin(names)] for names in (CONTROLS, ALONE))
            control, mutual = (side.loc[side["valid_auc"].idxmax()] for side in rows)
            same = one[(one["condition"] == ALONE[mutual["condition"]]) & (one["rate"] == mutual["rate"])].iloc[0]
            sides = {"best control": control, "same without peers": same, "checkpoint": one.iloc[0]}
            effects.append({f"mutual minus {of}": mutual["test_auc"] - side["test_auc"] for of, side in sides.items()})
        for quantity, values in (1000 * pd.DataFrame(effects)).items():
            n, mean = len(values), values.mean()
            half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 / n + OVERLAP) if n > 1 else np.inf
            found.append([log, protocol, quantity, n, mean, mean - half, mean + half])
    return pd.DataFrame(found, columns=["log", "protocol", "quantity", "replicates", "effect", "low", "high"])


def replicate(log: str, path: Path, protocol: str, members: int) -> None:
    """All replicates of one log under one protocol that are not in the file yet."""
    profile = yaml.safe_load((ROOT / "notebooks" / "profiles" / "published.yaml").read_text(encoding="utf-8"))
    own = {"dropout": 0.0, **profile["all"], **profile["data"][log]}
    table, began, done = pd.read_parquet(path), time.monotonic(), 0
    known = pd.read_csv(SCORES) if SCORES.exists() else pd.DataFrame(columns=NAMES)
    there = known[(known["log"] == log) & (known["protocol"] == protocol)]["replicate"]
    left = [seed for seed in own["seeds"] if seed not in set(there)]
    steps = len(left) * (4 + 4 * len(RATES[protocol]))
    for seed in left:
        added, at = [], world(table, parts_of(table, seed), own)
        for *what, valid, test in conditions(at, members, protocol, f"{log} {protocol} {seed}"):
            added.append([log, protocol, seed, *what, members, f"{valid.mean():.6f}", f"{test.mean():.6f}", VERSIONS])
            done, gone = done + 1, (time.monotonic() - began) / 60
            print(*added[-1][:-1], f"{gone:.1f} min, about {gone / done * (steps - done):.0f} to go", flush=True)
        pd.DataFrame(added, columns=NAMES).to_csv(SCORES, mode="a", header=not SCORES.exists(), index=False)
        summary(pd.read_csv(SCORES)).to_csv(EFFECTS, index=False, float_format="%+.2f")


def main() -> None:
    """Train what is missing, and sum up."""
    parser = argparse.ArgumentParser(description="The main comparison once more, without ctrlib.")
    parser.add_argument("--criteo_100k", type=Path, help="criteo_100k.parquet")
    parser.add_argument("--ml1m", type=Path, help="ml1m_265k.parquet")
    parser.add_argument("--protocols", nargs="+", choices=RATES, default=list(RATES), help="(both)")
    parser.add_argument("--members", type=int, default=4, help="models of a replicate (4, as published)")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for log in ("criteo_100k", "ml1m"):
        for protocol in asked.protocols if getattr(asked, log) else ():
            replicate(log, getattr(asked, log), protocol, asked.members)


if __name__ == "__main__":
    main()
