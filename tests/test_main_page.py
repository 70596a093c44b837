"""The page of the main comparison: what is trained for it, what is chosen, and the sentence that follows."""

import numpy as np
import pandas as pd
import pytest

from ctrlib.study import main_page
from ctrlib.study.conditions import Replicate
from ctrlib.study.finetuning import BY_RULE, CONTROLS, COUPLED, PAPERS_OWN, on_one_log
from ctrlib.study.parameters import StudyParameters

HERE = {"protocol": "early_stopping", "architecture": "DeepFM"}


def parameters(**changes) -> StudyParameters:
    small = {"rows": 400, "batch_size": 100, "architectures": ["DeepFM", "DCN", "PNN"], "instances": 3}
    rest = {"mutual_weights": [1, 20], "without_scratch": ["DCN"], "one_rate": ["PNN"], "finetune_epochs": 2}
    return StudyParameters(**{**small, **rest, "stopping_rules": ["converged", "fuxictr"], **changes})


def test_both_sides_have_as_many_candidates_but_where_peers_have_one_rate() -> None:
    counts = {}
    for protocol in ("fixed_epochs", "early_stopping"):
        for one in on_one_log(Replicate(parameters(), 1, protocol)):
            sides = counts.setdefault((one.factors["architecture"], protocol), [0, 0])
            for n, names in enumerate((CONTROLS, COUPLED)):
                sides[n] += one.name in names
    assert counts == {
        ("DeepFM", "fixed_epochs"): [6, 6],
        ("DeepFM", "early_stopping"): [8, 8],
        ("DCN", "early_stopping"): [6, 6],
        ("PNN", "early_stopping"): [4, 2],
    }


@pytest.mark.parametrize("protocol", ["fixed_epochs", "early_stopping"])
def test_the_papers_own_setting_is_one_epoch_at_weight_one_from_the_same_checkpoints(protocol) -> None:
    found = {one.labels["architecture"] + one.name: one for one in on_one_log(Replicate(parameters(), 1, protocol))}
    [mutual], alone = (found["DeepFM" + name].runs for name in PAPERS_OWN)
    assert {(run.recipe.epochs, run.recipe.patience, run.recipe.learning_rate) for run in (mutual, *alone)} == {
        (1, 0, 1e-3)
    }
    assert mutual.coupling.weights == ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
    assert [run.start[0] for run in alone] == list(mutual.start)
    assert [one.run for one in mutual.start] == [run.fingerprint for run in found["DeepFMcheckpoint"].runs]


def test_rules_of_stopping_differ_by_the_recipe_alone_and_the_studys_trains_nothing_new() -> None:
    found = on_one_log(Replicate(parameters(), 1, "early_stopping"))
    rules = {rule: [one for one in found if one.factors.get("stopping") == rule] for rule in ("converged", "fuxictr")}
    assert [one.name for one in rules["fuxictr"]] == [BY_RULE[1], BY_RULE[2], BY_RULE[0], BY_RULE[0]]
    for mine, others in zip(*rules.values(), strict=True):
        for one, other in zip(mine.runs, others.runs, strict=True):
            assert one.model_copy(update={"recipe": other.recipe}) == other
            assert other.recipe == one.recipe.model_copy(update={"cuts": None})
    usual = {run.fingerprint for one in found if "stopping" not in one.factors for run in one.runs}
    assert {run.fingerprint for one in rules["converged"] for run in one.runs} <= usual


def invented() -> pd.DataFrame:
    """A replicate table of six replicates: validation prefers another training in each half of them."""
    values = {  # condition, rate, weight: test AUC minus .7 in thousandths; the chosen ones have the best validation
        ("checkpoint", None, np.nan): 0.0,
        ("continued training", "lr", np.nan): 1.0,
        ("continued training", "lr/10", np.nan): 2.0,
        ("solo from scratch", None, np.nan): 3.0,
        ("mutual", "lr/10", 1.0): 5.0,
        ("mutual from scratch", None, 20.0): 7.0,
        (PAPERS_OWN[0], None, np.nan): 4.0,
        (PAPERS_OWN[1], None, np.nan): 3.5,
    }
    chosen = [{"continued training": 0.9, "mutual": 0.9}, {"checkpoint": 0.9, "mutual from scratch": 0.9}]
    return pd.DataFrame([
        {**HERE, "condition": name, "rate": rate, "weight": weight, "replicate": n, "auc": 0.7 + value / 1e3 + n * 1e-3,
         "valid_auc": chosen[n % 2].get(name, 0.5) + (rate == "lr/10") * 0.01, "ensemble_auc": 0.72, "overlap": 0.0}
        for (name, rate, weight), value in values.items() for n in range(6)
    ])  # fmt: skip


def test_each_effect_is_given_three_times() -> None:
    """The chosen one against the same without peers: at its rate, or from scratch; counted by hand."""
    table = main_page.with_sides(invented(), parameters())
    by = table.set_index(["condition", "replicate"])["auc"]
    assert (1e3 * (by[main_page.SAME] - 0.7) - np.arange(6)).tolist() == pytest.approx([2, 3] * 3)
    found = main_page.peers_beyond(table).set_index("treatment")
    effects = 1e3 * found[["over_alone", "difference", "over_checkpoint"]]
    assert effects.loc["chosen"].tolist() == pytest.approx([3.5, 5, 6])  # (5 - 2, 7 - 3), (5 - 2, 7 - 0), (5, 7)
    assert effects.loc["paper's own"].tolist() == pytest.approx([0.5, 3, 4])
    uneven = "Each side is the best by validation in DeepFM, early stopping of 4 without peers and 2 with them."
    assert main_page.candidates(table) == uneven
    even = table.assign(candidates=table["candidates"].where(table["candidates"].isna(), 4))
    assert "validation of 4 candidates, as many without peers as with them." in main_page.candidates(even)
    shown = main_page.dumbbells(table).figure.table.groupby("what")["difference"].mean() * 1e3
    assert shown[["best without peers", "best with peers", "ensemble of the checkpoints"]].tolist() == pytest.approx(
        [1, 6, 17.5]
    )
    rivals = table[table["condition"] == "checkpoint"].assign(condition="best of the rivals")
    rivals = pd.concat([rivals.assign(auc=rivals["auc"] + 0.002), table[table["condition"] == "checkpoint"]])
    simple = main_page.simple_changes(rivals)
    shown = main_page.dumbbells(table, 3, simple).figure.table.groupby("what")["difference"].mean() * 1e3
    assert shown["best simple change"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0011, 0.003, "Yes: peers help"),
        (0.0001, 0.0009, "Yes: peers help, by less than a thousandth"),
        (-0.0009, -0.0001, "No: peers do harm, by less than a thousandth"),
        (-0.003, -0.0001, "No: peers do harm"),
        (-0.0009, 0.0009, "No: peers make no difference of a thousandth"),
        (-0.0002, 0.0011, "Inconclusive: peers are not shown to help"),
        (-np.inf, np.inf, "Inconclusive: peers are not shown to help"),
    ],
)
def test_the_answer_follows_from_the_interval(low, high, words) -> None:
    verdict = "gain" if low > 0 else "loss" if high < 0 else "no difference shown"
    row = {**HERE, "treatment": "chosen", "difference": 0.0005, "low": low, "high": high, "level": 0.975}
    row |= {"over_checkpoint": 0.002}
    row |= {"verdict": verdict, "replicates": 6}
    rows = pd.DataFrame([row, {**row, "treatment": "paper's own"}])
    found, interval = main_page.answer(rows, "DeepFM"), f"{1e3 * low:+.2f} to {1e3 * high:+.2f})"
    if verdict == "gain":
        assert found.startswith(
            f"Yes: peers add +0.50 thousandths of AUC ({interval} under early stopping. That is beyond"
        )
    else:
        assert found.startswith(f"{words} under early stopping (+0.50 thousandths, {interval}. That is beyond")
    assert words.endswith(f"peers {main_page.verb(row)}")
    assert found.endswith("without peers (DeepFM, 6 replicates, intervals of 97.5 % each, 95 % together).")
    others = rows.assign(architecture=["DeepFM", "PNN"], treatment="chosen")
    other = f"{found} Under early stopping, with PNN they {main_page.verb(row)} (+0.50)."
    assert main_page.answer(others, "DeepFM") == other


def test_the_answer_begins_with_early_stopping_and_names_data_sets_where_there_are_several() -> None:
    row = {**HERE, "treatment": "chosen", "difference": 0.002, "low": 0.001, "high": 0.003, "level": 0.95}
    row |= {"verdict": "gain", "replicates": 5, "data": "frappe"}
    fixed = {"protocol": "fixed_epochs"}
    found = main_page.answer(pd.DataFrame([row | fixed, row, row | fixed | {"data": "frappe_apart"}]), "DeepFM")
    added = [part.partition("add +2.00 thousandths of AUC (+1.00 to +3.00) under ")[2] for part in found.split("; ")]
    assert added[:2] == ["early stopping on Frappe", "fixed epochs on Frappe"]
    assert added[2].startswith("fixed epochs on Frappe, negatives drawn apart. That is")


def test_the_oracle_stands_beside_the_models_where_it_is_known() -> None:
    table = main_page.with_sides(invented().assign(oracle_auc=0.75), parameters())
    assert main_page.beside_oracle(table.assign(oracle_auc=np.nan), "DeepFM, early stopping") == ""
    said = main_page.beside_oracle(table, "DeepFM, early stopping")
    assert said.startswith(" The oracle AUC is 0.7500.")
    assert said.endswith(
        "the checkpoint 47.50, the best without peers 46.50, the best with peers 41.50, the ensemble of the "
        "checkpoints 30.00."
    )


def test_the_answer_over_logs_groups_data_sets_that_say_the_same() -> None:
    row = {"difference": 0.0012, "low": 0.001, "high": 0.003, "verdict": "gain", "over_checkpoint": 0.001}
    less = row | {"difference": -0.0002, "low": -0.0009, "high": 0.0005, "verdict": "no difference shown"}
    rows = [row | {"setting": name, "treatment": "chosen", "ensemble": gain} for name, gain in (("A", 0.003), ("B", 0))]
    rows[1]["difference"] = 0.0008
    rows.append(less | {"setting": "C", "treatment": "chosen", "ensemble": 0.002})
    none = pd.DataFrame()
    found = main_page.answer_over_logs(pd.DataFrame(rows), none)
    assert found.startswith(
        "Peers help on A and B (+0.80 to +1.20); they make no difference of a thousandth on C (-0.20)"
    )
    assert "paper" not in found
    assert found.endswith("gains more than peers on A and C, but serves all its models.")
    own = row | {"setting": "A", "treatment": "paper's own", "over_checkpoint": -0.003, "over_alone": 0.001}
    for alone, why in ((0.001, True), (-0.001, False)):
        said = main_page.answer_over_logs(pd.DataFrame([*rows, own | {"over_alone": alone}]), none)
        assert ("at weight 1, costs more, on average, than its peers give back." in said) == why
        assert ("at weight 1, is on average -3.00 over the checkpoint." in said) != why
    assert main_page.answer_over_logs(none, none) == "No records."
    verdicts = [("A", "loss"), ("B", "no difference shown"), ("synthetic clicks", "gain")]
    found = main_page.answer_over_logs(pd.DataFrame(rows[:2]), pd.DataFrame(verdicts, columns=["setting", "verdict"]))
    assert found.startswith("Yes, a little: peers add +0.80 to +1.20 thousandths of test AUC to the best further")
    assert (
        "model gives more than peers on A, gives less than peers on synthetic clicks and is not shown to differ"
        in found
    )


def test_the_table_over_logs_counts_from_the_checkpoint_and_a_line_says_what_was_trained() -> None:
    """On A the best without peers is below the checkpoint."""
    row = {"difference": 0.0013, "low": 0.001, "high": 0.003, "over_checkpoint": 0.001, "ensemble": 0.003}
    row |= {"setting": "A", "treatment": "chosen", "checkpoint": 0.7, "architecture": "DeepFM"}
    row |= {"models": 4, "rows": 2000, "replicates": 3}
    other, own = row | {"setting": "B", "rows": 1000}, {"treatment": "paper's own", "over_checkpoint": -0.002}
    effects, rivals = (
        pd.DataFrame([row, row | own, other, other | own]),
        pd.DataFrame([{"setting": "A", "rival": 9e-4}]),
    )
    assert [cell.replace("\u00a0", " ") for cell in main_page.logs_table(effects, rivals).iloc[0]] == [
        "A (0.700)", "-0.30", "+1.00", "+1.30 (+1.00 to +3.00)", "+0.90", "+3.00", "-2.00",
    ]  # fmt: skip
    assert main_page.logs_table(effects, rivals).iloc[1, 4] == "–"
    criteo = main_page.page_of("Criteo\u00a0(0.700)")
    assert criteo == '<a href="../notebooks/14_main_criteo.html">Criteo</a>\u00a0(0.700)'
    assert main_page.page_of("A <b>\u00a0(0.7)") == "A &lt;b&gt;\u00a0(0.7)", "only names of this study have a page"
    chosen = ["mutual, rate lr/10, weight 20", "mutual from scratch, weight 1", "mutual, rate lr/10, weight 20"]
    table = pd.DataFrame([{"condition": "best mutual", "chosen": one} for one in chosen])
    assert main_page.trained_over_logs(table, effects) == (
        "4 DeepFM with early stopping, each with 3 peers; 1,000 to 2,000 training rows, 3 replicates. Validation chose "
        "most often weight 20 from the checkpoint at 1/10 of the learning rate."
    )
    assert main_page.setting_words(chosen[1]) == "weight 1 from scratch"


def test_when_when_not_and_why_follow_from_the_effects() -> None:
    row = {"setting": "A", "treatment": "chosen", "verdict": "gain", "difference": 0.001, "ensemble": 0.003}
    own = {"treatment": "paper's own", "over_checkpoint": -0.003, "over_alone": 0.001}
    found = main_page.reasons(pd.DataFrame([row, row | {"difference": 0.0016}, row | own]))
    assert found["when"].startswith("After convergence")
    assert found["when_not"].endswith(
        "epoch costs 4.0 thousandths of the checkpoint's AUC, and peers give back 1.0 of that."
    )
    assert found["why"].endswith("Beyond further training peers add 33% to 53% of what averaging gains.")
    none = main_page.reasons(pd.DataFrame([row | {"verdict": "loss"}, row | own | {"over_checkpoint": 0.002}]))
    assert none["when"] == "No such setting is shown here."
    assert none["when_not"].endswith("changes AUC by +1.00 thousandths, and peers add +1.00.")
