"""Fingerprints name what a run is, no more and no less; bad settings give one line with name, value and allowed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from small import one_line

from ctrlib import config
from ctrlib.config import (
    Checkpoint,
    Coupling,
    Data,
    Member,
    Recipe,
    Run,
    SyntheticSettings,
    checked,
    derive_seed,
    digest,
)
from ctrlib.coupling import complete
from ctrlib.data import folders, synthetic
from ctrlib.errors import UserError
from ctrlib.study.parameters import StudyParameters


def base() -> dict:
    """The settings of a mutual run from checkpoints, as plain values."""
    member = {
        "architecture": "FiBiNET",
        "embedding_dim": 8,
        "hidden_units": [16, 8],
        "dropout": 0.1,
        "batch_norm": False,
        "options": {"bilinear_type": "field_all", "reduction_ratio": 2.0},
        "init_seed": 1,
        "order_seed": 7,
    }
    return {
        "data": {"name": "synthetic", "draw": 0, "fingerprint": "00ff" * 4},
        "members": [member, {**member, "init_seed": 2}],
        "coupling": {
            "weights": [[0.0, 1.0], [1.0, 0.0]],
            "form": "mse",
            "target": "live",
            "start": 0.0,
            "peer_weighting": "fixed",
            "teacher_weight": 0.0,
        },
        "recipe": {
            "learning_rate": 0.001,
            "batch_size": 100,
            "epochs": 1,
            "patience": 0,
            "plateau_factor": 0.1,
            "keep": "last",
            "embedding_l2": 0.0,
            "clip_norm": 10.0,
            "precision": "fp32",
            "averaging": "none",
            "averaging_decay": 0.999,
            "averaging_start": 0.0,
        },
        "start": [{"run": "a" * 16, "member": 0, "optimizer": "keep"}, {"run": "b" * 16, "optimizer": "reset"}],
    }


def fingerprint(settings: dict) -> str:
    return Run.model_validate(settings).fingerprint


OTHER = {
    ("recipe", "learning_rate"): 0.002,
    ("recipe", "batch_size"): 101,
    ("recipe", "epochs"): 2,
    ("recipe", "patience"): 1,
    ("recipe", "plateau_factor"): 0.2,
    ("recipe", "keep"): "best",
    ("recipe", "embedding_l2"): 1e-6,
    ("recipe", "clip_norm"): 9.0,
    ("recipe", "precision"): "bf16",
    ("recipe", "averaging"): "ema",
    ("recipe", "averaging_decay"): 0.9,
    ("recipe", "averaging_start"): 0.5,
    ("coupling", "weights"): [[0.0, 1.0], [0.5, 0.0]],
    ("coupling", "form"): "kl",
    ("coupling", "target"): "joint",
    ("coupling", "start"): 0.5,
    ("coupling", "peer_weighting"): "adaptive",
    ("coupling", "teacher_weight"): 1.0,
    ("members", 1, "architecture"): "DCN",
    ("members", 1, "embedding_dim"): 9,
    ("members", 1, "hidden_units"): [16],
    ("members", 1, "dropout"): 0.2,
    ("members", 1, "batch_norm"): True,
    ("members", 1, "options"): {"bilinear_type": "field_each", "reduction_ratio": 2.0},
    ("members", 1, "init_seed"): 3,
    ("start", 0, "run"): "c" * 16,
    ("start", 1, "member"): 1,
    ("start", 1, "optimizer"): "keep",
    ("data", "fingerprint"): "11ff" * 4,
    ("embeddings",): "shared",
}


def changed(path: tuple, value) -> dict:
    settings = base()
    place = settings
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return settings


# ---- fingerprints ----------------------------------------------------------------------------------------------------


def test_every_setting_has_an_example_below() -> None:
    """A new field must be added to OTHER, so that its place in the fingerprint is proved."""
    for name, model in {"recipe": Recipe, "coupling": Coupling, "members": Member, "start": Checkpoint}.items():
        covered = {path[-1] for path in OTHER if path[0] == name} | ({"order_seed"} if name == "members" else set())
        assert covered == set(model.model_fields)
    below = {"start", "teachers"}  # tried below
    assert {path[0] for path in OTHER} | below == set(Run.model_fields)


@pytest.mark.parametrize("path", OTHER, ids=lambda path: ".".join(map(str, path)))
def test_fingerprint_changes_with_every_setting(path) -> None:
    assert fingerprint(changed(path, OTHER[path])) != fingerprint(base())


def test_fingerprint_changes_with_order_seed_start_members_and_numerics(monkeypatch) -> None:
    other_order, scratch, swapped = base(), base(), base()
    for member in other_order["members"]:
        member["order_seed"] = 8
    scratch["start"] = None
    swapped["members"].reverse()
    names = {fingerprint(settings) for settings in (base(), other_order, scratch, swapped)}
    assert len(names) == 4
    monkeypatch.setattr(config, "NUMERICS_VERSION", config.NUMERICS_VERSION + 1)
    assert fingerprint(base()) not in names


def test_fingerprint_is_of_the_rows_not_of_their_name() -> None:
    for path, value in {("data", "name"): "other", ("data", "draw"): 3}.items():
        assert fingerprint(changed(path, value)) == fingerprint(base())


def test_fingerprint_changes_with_the_teachers() -> None:
    frozen = changed(("coupling", "target"), "frozen")
    names = [fingerprint(frozen)]
    for teacher in ({"run": "a" * 16}, {"run": "c" * 16}, {"run": "c" * 16, "member": 1}):
        names.append(fingerprint({**frozen, "teachers": [teacher, {"run": "b" * 16}]}))
    assert len(set(names)) == 4


def test_a_later_setting_at_its_default_renames_no_run(monkeypatch) -> None:
    """What a fingerprint hashes is written out: required fields always, others only where they differ."""
    hashed = []
    monkeypatch.setattr(config, "digest", lambda content: hashed.append(content) or "x")
    fingerprint(base())
    every = base()
    every["recipe"] = {"learning_rate": 0.5, "averaging": "swa"}
    every["coupling"] |= {"form": "kl", "teacher_weight": 2.0}
    every["members"] = [{"architecture": "DCN", "init_seed": 1, "order_seed": 7} for _ in range(2)]
    every["start"] = None
    fingerprint(every)
    plain, other = hashed
    assert set(plain) == {"data", "members", "coupling", "recipe", "start", "numerics"}
    assert plain["coupling"] == {"weights": [[0.0, 1.0], [1.0, 0.0]]}
    assert plain["recipe"] == {"batch_size": 100}
    assert plain["start"] == [{"run": "a" * 16, "optimizer": "keep"}, {"run": "b" * 16}]
    assert plain["members"][0].keys() == {
        "architecture", "embedding_dim", "hidden_units", "dropout", "options", "init_seed", "order_seed"
    }  # fmt: skip
    assert other["recipe"] == {"learning_rate": 0.5, "averaging": "swa"}
    assert other["coupling"] == {"weights": [[0.0, 1.0], [1.0, 0.0]], "form": "kl", "teacher_weight": 2.0}
    assert other["members"] == [{"architecture": "DCN", "init_seed": 1, "order_seed": 7}] * 2
    assert "start" not in other


def reversed_dicts(value):
    """The same content with every dict in the opposite order."""
    if isinstance(value, dict):
        return {key: reversed_dicts(value[key]) for key in reversed(value)}
    return [reversed_dicts(one) for one in value] if isinstance(value, list) else value


def test_fingerprint_does_not_depend_on_order_spelling_or_defaults() -> None:
    assert fingerprint(reversed_dicts(base())) == fingerprint(base())
    spelt = base()
    spelt["coupling"]["weights"] = [[0, 1], [1, 0]]
    spelt["recipe"] = {"batch_size": 100}  # all others are the defaults
    spelt["recipe"]["learning_rate"] = 1e-3
    del spelt["start"][0]["member"]
    assert fingerprint(spelt) == fingerprint(base())
    run = Run.model_validate(base())
    assert Run.model_validate_json(run.model_dump_json()) == run
    assert Run.model_validate_json(run.model_dump_json()).fingerprint == run.fingerprint


def test_fingerprint_is_the_same_in_other_processes() -> None:
    code = "import sys; from ctrlib.config import Run; print(Run.model_validate_json(sys.stdin.read()).fingerprint)"
    content, salt = json.dumps(reversed_dicts(base())), {**os.environ, "PYTHONHASHSEED": "1"}
    fresh = subprocess.run([sys.executable, "-c", code], input=content, env=salt, capture_output=True, text=True)
    assert fresh.stdout.strip() == fingerprint(base()), fresh.stderr


def test_hash_and_seeds_never_change() -> None:
    """Every stored run is named by these; another value here would orphan all stores."""
    assert digest({"b": [1, 2.5, None], "a": "ä"}) == digest({"a": "ä", "b": [1, 2.5, None]}) == "4b12564ba8344d19"
    assert derive_seed(7, "order", 0) == 4527540362887374998
    assert derive_seed("7", "order", 0) != derive_seed(7, "order", 0)


@given(st.lists(st.integers(0, 2**70) | st.text(max_size=5), max_size=4))
def test_derived_seeds_fit_every_generator(parts) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


def test_fingerprint_of_synthetic_data_changes_with_every_setting() -> None:
    default = SyntheticSettings()
    names = {synthetic.fingerprint(default, 0), synthetic.fingerprint(default, 1)}
    for name in SyntheticSettings.model_fields:
        value = getattr(default, name)
        other = default.model_copy(update={name: value + (1 if isinstance(value, int) else 0.01)})
        names.add(synthetic.fingerprint(other, 0))
    assert len(names) == 2 + len(SyntheticSettings.model_fields)


# ---- what makes no sense is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (((0.0, 1.0),), "row 0 has 2 weights, a 1 x 1"),
        (((0.0, 1.0), (1.0,)), "row 1 has 1 weights, a 2 x 2"),
        (((0.0, 1.0), (1.0, 0.5)), "member 1 cannot listen to itself"),
        (((0.0, -1.0), (1.0, 0.0)), "row 0 has a negative weight"),
        (((0.0, float("nan")), (1.0, 0.0)), "finite"),
        (((0.0, float("inf")), (1.0, 0.0)), "finite"),
    ],
)
def test_impossible_couplings(weights, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Coupling(weights=weights)


@pytest.mark.parametrize("target", ["frozen", "frozen_ensemble"])
def test_frozen_targets_allow_oneself_and_any_number_of_columns(target) -> None:
    for weights in (((1.0,),), ((0.5, 1.0), (1.0, 0.5)), ((1.0, 2.0, 0.0),), ((1.0,), (0.0,))):
        assert not Coupling(weights=weights, target=target).is_solo
    assert Coupling(weights=((0.0, 0.0, 0.0),), target=target).is_solo
    for weights, words in ((((1.0, 0.0), (1.0,)), "row 1 has 1 weights, row 0 has 2"), (((-1.0,),), "negative")):
        with pytest.raises(ValidationError, match=words):
            Coupling(weights=weights, target=target)


@pytest.mark.parametrize(
    ("target", "setting"),
    [
        ("frozen", {"peer_weighting": "adaptive"}),
        ("ensemble", {"teacher_weight": 1.0}),
        ("shuffled", {"teacher_weight": 1.0}),
    ],
)
def test_adaptive_peers_and_teacher_need_live_peers(target, setting) -> None:
    with pytest.raises(ValidationError, match="needs target 'live' or 'joint'"):
        Coupling(weights=complete(2), target=target, **setting)
    Coupling(weights=complete(2), target="joint", **setting)


def without_start(settings: dict) -> dict:
    return {**settings, "start": None}


def weights_of(settings: dict, weights: list) -> dict:
    return {**settings, "coupling": {**settings["coupling"], "weights": weights}}


FROZEN = changed(("coupling", "target"), "frozen")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(("coupling", "weights"), [[0.0]]), "2 members but a 1 x"),
        (changed(("start",), [{"run": "a" * 16}]), "2 members but 1 checkpoints"),
        (without_start(changed(("coupling", "target"), "frozen")), "needs checkpoints"),
        (without_start(changed(("coupling", "target"), "frozen_ensemble")), "needs checkpoints .* or teachers"),
        (changed(("teachers",), [{"run": "a" * 16}] * 2), "teachers do not learn"),
        ({**FROZEN, "teachers": [{"run": "a" * 16}]}, "1 teachers to listen to but a 2 x 2"),
        ({**FROZEN, "teachers": []}, "at least 1"),
        (weights_of(FROZEN, [[0, 1, 1], [1, 0, 1]]), "2 members to listen to but a 2 x 3"),
        ({**FROZEN, "teachers": [{"run": "a" * 16, "optimizer": "keep"}] * 2}, "Extra inputs"),
        ({**FROZEN, "embeddings": "shared"}, "needs live peers"),
        ({**weights_of(base(), [[0, 0], [0, 0]]), "embeddings": "shared"}, "member 0 is alone"),
        ({**changed(("members", 0, "embedding_dim"), 9), "embeddings": "shared"}, r"one embedding_dim, not \[8, 9\]"),
        (changed(("members", 1, "order_seed"), 8), "members 0 and 1 are coupled, so they need one order_seed"),
        (changed(("members",), []), "at least 1"),
        (changed(("recipe", "momentum"), 0.9), "Extra inputs"),
        (changed(("recipe", "learning_rate"), float("nan")), "finite"),
        (changed(("recipe", "learning_rate"), 0), "greater than 0"),
        (changed(("members", 0, "dropout"), 1.0), "less than 1"),
    ],
)
def test_impossible_runs(settings, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Run.model_validate(settings)


def test_members_that_are_not_coupled_may_have_their_own_order() -> None:
    settings = changed(("members", 1, "order_seed"), 8)
    settings["coupling"]["weights"] = [[0, 0], [0, 0]]
    Run.model_validate(settings)


def test_students_of_one_teacher_need_one_order_and_others_do_not() -> None:
    settings = {**changed(("members", 1, "order_seed"), 8), "teachers": [{"run": "a" * 16}] * 3}
    settings["coupling"]["target"] = "frozen"
    Run.model_validate(weights_of(settings, [[1, 1, 0], [0, 0, 1]]))
    with pytest.raises(ValidationError, match="members 0 and 1 are coupled"):
        Run.model_validate(weights_of(settings, [[1, 1, 0], [0, 1, 1]]))


def test_settings_cannot_be_changed_afterwards() -> None:
    run = Run.model_validate(base())
    for owner, name in ((run, "start"), (run.recipe, "epochs"), (run.members[0], "dropout"), (run.coupling, "form")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, None)


# ---- parameters of a notebook ----------------------------------------------------------------------------------------

HUGE = 10**30
BAD = [
    ("profile", 5, "string"),
    ("dataset", None, "string"),
    ("rows", 99, "greater than or equal to 100"),
    ("architecture", 3, "string"),
    ("valid_rows", 99, "greater than or equal to 100"),
    ("test_rows", 99, "greater than or equal to 100"),
    ("datasets", [], "at least 1"),
    ("fields", 2, "greater than or equal to 3"),
    ("largest_field", 3, "greater than or equal to 4"),
    ("logit_sd", 0, "greater than 0"),
    ("architectures", [], "at least 1 item"),
    ("companions", [3], "string"),
    ("instances", 0, "greater than or equal to 2"),
    ("instances", 1, "greater than or equal to 2"),
    ("seeds", [], "at least 1 item"),
    ("seeds", [1, -2], "greater than or equal to 0"),
    ("seeds", "[3, 4", "tuple"),
    ("seeds", [1, 2, 1], "repeat"),
    ("embedding_dim", 0, "greater than or equal to 1"),
    ("hidden_units", [64, 0], "greater than or equal to 1"),
    ("dropout", 1.0, "less than 1"),
    ("batch_norm", "maybe", "boolean"),
    ("embedding_l2", -1e-9, "greater than or equal to 0"),
    ("batch_size", 0, "greater than or equal to 1"),
    ("learning_rate", -0.001, "greater than 0"),
    ("learning_rate", 0, "greater than 0"),
    ("epochs", 0, "greater than or equal to 1"),
    ("finetune_epochs", 0, "greater than or equal to 1"),
    ("max_epochs", 0, "greater than or equal to 1"),
    ("protocols", ["both"], "fixed_epochs"),
    ("sizes", [1], "greater than or equal to 2"),
    ("epoch_counts", [0], "greater than or equal to 1"),
    ("l2_levels", [-1], "greater than or equal to 0"),
    ("mutual_weights", [0.0], "greater than 0"),
    ("forms", ["mae"], "mse_logit"),
    ("targets", ["dead"], "shuffled"),
    ("starts", [1.5], "less than or equal to 1"),
    ("averaging_decay", 1, "less than 1"),
    ("row_levels", [99], "greater than or equal to 100"),
    ("width_levels", [0], "greater than or equal to 1"),
    ("noise_levels", [0], "greater than 0"),
    ("mutual_weight", -1, "greater than or equal to 0"),
    ("coupling_form", "mae", "mse_logit"),
    ("coupling_target", "dead", "shuffled"),
    ("topologies", ["tree"], "one_way"),
    ("device", 3, "string"),
    ("precision", "fp64", "bf16"),
    ("benchmark", 3, "string"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD, ids=lambda value: str(value)[:20])
def test_a_bad_parameter_is_one_line_with_name_value_and_allowed(name, value, allowed) -> None:
    with pytest.raises(UserError) as caught:
        checked(StudyParameters, **{name: value})
    message = one_line(caught)
    assert name in message
    assert allowed in message
    shown = value if not isinstance(value, list) else (value[-1] if value else "")
    assert str(shown) in message


def test_every_parameter_is_tried() -> None:
    assert {name for name, _, _ in BAD} == set(StudyParameters.model_fields)


def test_several_bad_parameters_are_counted() -> None:
    with pytest.raises(UserError) as caught:
        checked(StudyParameters, instances=0, epochs=0, dropout=2)
    assert "(and 2 more)" in one_line(caught)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("instancs", "instances"), ("lr", None), ("learningrate", "learning_rate"), ("Batch_Size", "batch_size")],
)
def test_an_unknown_parameter_names_the_nearest(name, nearest) -> None:
    with pytest.raises(UserError) as caught:
        checked(StudyParameters, **{name: 1})
    message = one_line(caught)
    assert repr(name) in message
    assert "mutual_weight" in message, "all names are listed"
    if nearest:
        assert f"Did you mean {nearest!r}?" in message


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ({"seeds": "[3, 4]"}, {"seeds": (3, 4)}),
        ({"seeds": "3"}, {"seeds": (3,)}),
        ({"seeds": [3, 4]}, {"seeds": (3, 4)}),
        ({"hidden_units": "[64, 32]"}, {"hidden_units": (64, 32)}),
        ({"hidden_units": []}, {"hidden_units": ()}),
        ({"companions": "DCN"}, {"companions": ("DCN",)}),
        ({"companions": "[DCN, PNN]"}, {"companions": ("DCN", "PNN")}),
        ({"instances": "5"}, {"instances": 5}),
        ({"learning_rate": "1e-3"}, {"learning_rate": 0.001}),
        ({"batch_norm": "true"}, {"batch_norm": True}),
        ({"mutual_weight": 2}, {"mutual_weight": 2.0}),
    ],
)
def test_what_papermill_sends_is_understood(given_, expected) -> None:
    found = checked(StudyParameters, **given_)
    for name, value in expected.items():
        assert getattr(found, name) == value
        assert type(getattr(found, name)) is type(value)


@pytest.mark.parametrize("name", ["instances", "epochs", "batch_size", "learning_rate", "seeds"])
def test_true_is_no_number(name) -> None:
    with pytest.raises(UserError) as caught:
        checked(StudyParameters, **{name: True})
    assert name in one_line(caught)


def test_batch_norm_needs_batches_of_more_than_one_row() -> None:
    """torch refuses to normalise one row in the middle of a training; the settings must refuse before."""
    with pytest.raises(UserError) as caught:
        checked(StudyParameters, batch_norm=True, batch_size=1)
    assert "batch_size" in one_line(caught)


# ---- where things are ------------------------------------------------------------------------------------------------


def test_roots_follow_the_environment_then_the_project(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CTRLIB_RUNS", str(tmp_path / "r"))
    monkeypatch.setenv("CTRLIB_DATA", str(tmp_path / "d"))
    assert (folders.store_root(), folders.data_root()) == (tmp_path / "r", tmp_path / "d")
    monkeypatch.setenv("CTRLIB_RUNS", "")
    monkeypatch.delenv("CTRLIB_DATA")
    project = tmp_path / "project"
    (project / "ctrlib").mkdir(parents=True)
    (project / "notebooks" / "deep").mkdir(parents=True)
    (project / "_toc.yml").touch()
    monkeypatch.chdir(project / "notebooks" / "deep")
    assert (folders.store_root(), folders.data_root()) == (project / "runs", project / "data")
    monkeypatch.chdir(tmp_path)
    assert folders.store_root() == Path.cwd() / "runs"


def test_data_of_a_run_keeps_what_makes_the_rows() -> None:
    data = Data(name="synthetic", synthetic=SyntheticSettings(train_rows=500), fingerprint="x")
    assert Data.model_validate_json(data.model_dump_json()) == data
