"""The main comparison by code that imports nothing of ctrlib, held against the published records.

The rule: where both have a log and a protocol, the published effect of peers beyond the best control lies in the 95 %
interval of the replication. On Criteo, whose folds are the same for both, the mean test AUC of each condition that has
all replicates is the same within the margin of a thousandth. Random numbers differ, so nothing agrees to the last
digit.
"""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_findings import settings_of

from benchmarks import replication
from ctrlib.config import Coupling
from ctrlib.coupling import complete, peer_loss
from ctrlib.models import build_model
from ctrlib.study.experiments import planned_conditions, train_conditions
from ctrlib.study.finetuning import RATES
from ctrlib.study.main_page import peers_beyond, with_sides
from ctrlib.study.tables import replicate_table
from ctrlib.study.verdicts import NEGLIGIBLE

PUBLISHED = {"criteo_100k": "main_criteo", "ml1m": "main_ml1m"}  # page and file of records
NAMES = {"second training": "solo from scratch", "continued": "continued training"}
NAMES["continued, Adam kept"] = "continued training, Adam kept"
BEYOND = "mutual minus best control"
PLAIN = {"dropout": 0.0, "batch_norm": False, "options": {}}


def scores_of(log: str) -> pd.DataFrame:
    """The rows of the replication on a log."""
    scores = pd.read_csv(replication.SCORES)
    return scores[scores["log"] == log]


def published(log: str) -> pd.DataFrame:
    """DeepFM's replicates on a log with both sides chosen, from the committed records."""
    (page,) = (replication.ROOT / "notebooks").glob(f"*_{PUBLISHED[log]}.ipynb")
    name, p, store = settings_of(page.name[:2])
    p = p.model_copy(update={"architectures": ("DeepFM",), "stopping_rules": ()})
    return with_sides(replicate_table(store, train_conditions(p, store, planned_conditions(name, p))), p)


@pytest.mark.parametrize("log", PUBLISHED)
def test_published_effects_lie_in_the_intervals_of_the_replication(log: str) -> None:
    found = replication.summary(scores_of(log))
    effects = peers_beyond(published(log))
    effects = effects[effects["treatment"] == "chosen"].set_index("protocol")["difference"]
    assert set(found["protocol"]) == set(effects.index)
    for row in found[found["quantity"] == BEYOND].to_dict("records"):
        assert row["low"] <= 1000 * effects[row["protocol"]] <= row["high"], row


def test_conditions_on_criteo_score_as_published() -> None:
    theirs, mine = published("criteo_100k"), scores_of("criteo_100k")
    theirs = theirs.assign(rate=theirs["rate"].map(RATES).fillna(1.0), weight=theirs["weight"].fillna(0.0))
    by = ["protocol", "condition", "rate", "weight", "replicate"]
    both = mine.replace({"condition": NAMES}).merge(theirs, on=by, validate="one_to_one")
    assert len(both) == len(mine)
    apart = (both["test_auc"] - both["auc"]).groupby([both[name] for name in by[:-1]]).agg(["mean", "count"])
    whole = apart[apart["count"] == theirs["replicate"].nunique()]
    assert not (whole["mean"].abs() >= NEGLIGIBLE).any(), whole


def test_the_table_of_the_book_is_the_summary_of_the_scores(tmp_path: Path) -> None:
    again = tmp_path / "again.csv"
    replication.summary(pd.read_csv(replication.SCORES)).to_csv(again, index=False, float_format="%+.2f")
    assert replication.EFFECTS.read_text() == again.read_text()


def test_effects_by_hand() -> None:
    def rows(replicate: int, *aucs: tuple[float, float]) -> list[tuple]:
        names = [("checkpoint", 1), ("continued", 0.1), ("mutual", 1), ("mutual", 0.1), ("continued", 1)]
        return [("log", "p", replicate, *name, *auc) for name, auc in zip(names, aucs, strict=True)]

    columns = ["log", "protocol", "replicate", "condition", "rate", "valid_auc", "test_auc"]
    made = rows(0, (0.7, 0.71), (0.8, 0.81), (0.6, 0.99), (0.9, 0.83), (0.5, 0.5))
    made += rows(1, (0.8, 0.71), (0.7, 0.81), (0.9, 0.75), (0.6, 0.99), (0.5, 0.5))
    found = replication.summary(pd.DataFrame(made, columns=columns)).set_index("quantity")
    np.testing.assert_allclose(found["effect"], [30, 135, 80])
    half = 12.7062047 * np.sqrt(200) * np.sqrt(1 / 2 + 1 / 8)  # t with one degree of freedom; sd of 20 and 40
    np.testing.assert_allclose(found.loc[BEYOND, ["low", "high"]].astype(float), [30 - half, 30 + half])


def test_it_goes_on_after_the_last_replicate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "SCORES", tmp_path / "scores.csv")
    monkeypatch.setattr(replication, "EFFECTS", tmp_path / "effects.csv")
    rng, folds = np.random.default_rng(0), np.arange(400) % 10
    table = pd.DataFrame({"label": folds % 2, "I1": rng.integers(0, 99, 400), "C1": folds // 3, "fold": folds})
    table.to_parquet(tmp_path / "rows.parquet")
    trained = []

    def conditions(at: replication.World, members: int, protocol: str, seed: str):
        trained.append(seed)
        assert [len(at.rows[part][1]) for part in replication.PARTS] == [320, 40, 40]
        assert (at.rows["test"][1] == int(seed[-1]) % 2).all()  # its own fold
        for name in ("checkpoint", "continued", "mutual"):
            yield name, 1, 0, *rng.random((2, members))

    monkeypatch.setattr(replication, "conditions", conditions)
    replication.replicate("criteo_100k", tmp_path / "rows.parquet", "fixed_epochs", 2)
    whole = pd.read_csv(tmp_path / "scores.csv")
    whole[whole["replicate"] < 7].to_csv(tmp_path / "scores.csv", index=False)
    replication.replicate("criteo_100k", tmp_path / "rows.parquet", "fixed_epochs", 2)
    assert [int(seed[-1]) for seed in trained] == [*range(10), 7, 8, 9]
    assert len(pd.read_csv(tmp_path / "scores.csv")) == len(whole) == 30


def test_both_codes_compute_one_loss_and_one_model() -> None:
    logits = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), requires_grad=True)
    theirs = peer_loss(logits, Coupling(weights=complete(4, 20.0)))
    np.testing.assert_allclose(replication.peer_loss(logits, 20.0).detach(), theirs.detach(), rtol=1e-5)
    slopes = [torch.autograd.grad(one.sum(), logits)[0] for one in (replication.peer_loss(logits, 20.0), theirs)]
    np.testing.assert_allclose(*slopes, rtol=1e-4, atol=1e-7)
    model = build_model("DeepFM", (5, 7, 3), 1, embedding_dim=4, hidden_units=(6, 6), **PLAIN).eval()
    mine = replication.DeepFM(15, 3, 4, [6, 6], 0.0).eval()
    weights = [
        one.detach() for one in (model.embedding.weight, model.first_order.weight[:, None], model.first_order.bias)
    ]
    linear = {f"mlp.{name.partition('layers.')[2]}": one for name, one in model.mlp.named_parameters(prefix="mlp")}
    mine.load_state_dict({"vectors": 100 * weights[0], "first": weights[1], "bias": weights[2], **linear})
    model.embedding.weight.data *= 100
    ids = torch.tensor([[0, 6, 2], [4, 0, 1]])
    np.testing.assert_allclose(mine(ids + torch.tensor([0, 5, 12])).detach(), model(ids).detach(), rtol=1e-5)


def test_it_imports_nothing_of_ctrlib() -> None:
    tree = ast.parse(Path(replication.__file__).read_text(encoding="utf-8"))
    modules = [one.module for one in ast.walk(tree) if isinstance(one, ast.ImportFrom)]
    modules += [name.name for one in ast.walk(tree) if isinstance(one, ast.Import) for name in one.names]
    assert "torch" in modules
    assert not [name for name in modules if name.partition(".")[0] in ("ctrlib", "benchmarks")]
