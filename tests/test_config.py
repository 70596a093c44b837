"""Fingerprints name what a run is, no more and no less; bad settings give one line with name, value and allowed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import answer_of
from pydantic import ValidationError
from small import refused

from ctrlib import config
from ctrlib.config import Checkpoint, Coupling, Member, Recipe, Run, SyntheticSettings, checked, derive_seed, digest
from ctrlib.coupling import complete
from ctrlib.data import synthetic
from ctrlib.data.load import data_settings
from ctrlib.study.parameters import StudyParameters


def base() -> dict:
    """The settings of a mutual run from checkpoints, as plain values."""
    bilinear = {"bilinear_type": "field_all", "reduction_ratio": 2.0}
    member = {"architecture": "FiBiNET", "embedding_dim": 8, "hidden_units": [16, 8], "dropout": 0.1}
    return {
        "data": {"name": "synthetic", "draw": 0, "fingerprint": "00ff" * 4},
        "members": [{**member, "options": bilinear, "init_seed": seed, "order_seed": 7} for seed in (1, 2)],
        "coupling": {"weights": [[0.0, 1.0], [1.0, 0.0]]},
        "recipe": {"batch_size": 100},
        "start": [{"run": "a" * 16, "member": 0, "optimizer": "keep"}, {"run": "b" * 16, "optimizer": "reset"}],
    }


def fingerprint(settings: dict) -> str:
    return Run.model_validate(settings).fingerprint


OTHER_VALUES = [
    (("recipe",), {"learning_rate": 0.002, "batch_size": 101, "epochs": 2, "patience": 1, "plateau_factor": 0.2}),
    (("recipe",), {"keep": "best", "embedding_l2": 1e-6, "clip_norm": 9.0, "precision": "bf16"}),
    (("recipe",), {"averaging": "ema", "averaging_decay": 0.9}),
    (("recipe",), {"label_smoothing": 0.1, "base_rate_weight": 2.0, "rdrop": 1.0, "meda": True}),
    (("recipe",), {"gradient_penalty": 10.0}),
    (("coupling",), {"weights": [[0.0, 1.0], [0.5, 0.0]], "form": "kl", "target": "joint", "start": 0.5}),
    (("coupling",), {"peer_weighting": "adaptive", "teacher_weight": 1.0, "refresh": 10}),
    (("coupling",), {"head": "auxiliary"}),
    (("members", 1), {"architecture": "DCN", "embedding_dim": 9, "hidden_units": [16], "dropout": 0.2}),
    (("members", 1), {"batch_norm": True, "options": {"bilinear_type": "field_each"}, "init_seed": 3}),
    (("members", 1), {"random_embeddings": 1.0}),
    (("start", 0), {"run": "c" * 16}),
    (("start", 1), {"member": 1, "optimizer": "keep"}),
    (("data",), {"fingerprint": "11ff" * 4}),
    ((), {"embeddings": "shared"}),
]
OTHER = {(*place, name): value for place, values in OTHER_VALUES for name, value in values.items()}


def changed(path: tuple, value) -> dict:
    settings = base()
    place = settings
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return settings


RANDOM = changed(("members", 0, "random_embeddings"), 1.0)
FROZEN = changed(("coupling", "target"), "frozen")
OTHER_ORDER = changed(("members", 1, "order_seed"), 8)
TEACHERS = [{"run": "a" * 16}] * 3


# ---- fingerprints ----------------------------------------------------------------------------------------------------


def test_every_setting_has_an_example_below() -> None:
    """A new field must be added to OTHER, so that its place in the fingerprint is proved."""
    for name, model in {"recipe": Recipe, "coupling": Coupling, "members": Member, "start": Checkpoint}.items():
        below = {"members": {"order_seed"}, "recipe": {"averaging_start", "cuts"}}.get(name, set())  # tried below
        assert {path[-1] for path in OTHER if path[0] == name} | below == set(model.model_fields)
    below = {"start", "teachers"}
    assert {path[0] for path in OTHER} | below == set(Run.model_fields)


def test_each_rule_of_early_stopping_is_another_run_and_going_back_needs_a_best_epoch() -> None:
    stops = {"patience": 2, "keep": "best"}
    named = {fingerprint(changed(("recipe",), {**stops, **cuts})) for cuts in ({}, {"cuts": 0}, {"cuts": 2})}
    assert len(named) == 3
    for lacking in stops:
        given = {name: value for name, value in stops.items() if name != lacking}
        assert "cuts=1 needs patience of 1 or more and keep='best'" in refused(checked, Recipe, cuts=1, **given)


@pytest.mark.parametrize("path", OTHER, ids=lambda path: ".".join(map(str, path)))
def test_fingerprint_changes_with_every_setting(path) -> None:
    assert fingerprint(changed(path, OTHER[path])) != fingerprint(base())


@pytest.mark.parametrize(("name", "value"), [("name", "other"), ("draw", 3)])
def test_fingerprint_is_of_the_rows_not_of_their_name(name, value) -> None:
    assert fingerprint(changed(("data", name), value)) == fingerprint(base())


def test_fingerprint_changes_with_order_seed_start_members_teachers_and_numerics(monkeypatch) -> None:
    other_order, swapped = base(), base()
    for member in other_order["members"]:
        member["order_seed"] = 8
    swapped["members"].reverse()
    taught = [
        {**FROZEN, "teachers": [teacher, {"run": "b" * 16}]}
        for teacher in ({"run": "a" * 16}, {"run": "c" * 16}, {"run": "c" * 16, "member": 1})
    ]
    names = {fingerprint(one) for one in (base(), other_order, swapped, {**base(), "start": None}, FROZEN, *taught)}
    assert len(names) == 8
    monkeypatch.setattr(config, "NUMERICS_VERSION", config.NUMERICS_VERSION + 1)
    assert fingerprint(base()) not in names


def test_a_later_setting_at_its_default_renames_no_run(monkeypatch) -> None:
    """What a fingerprint hashes is written out: required fields always, others only where they differ."""
    hashed = []
    monkeypatch.setattr(config, "digest", lambda content: hashed.append(content) or "x")
    fingerprint(Run.model_validate(base()).model_dump(mode="json"))
    every = {
        "data": base()["data"],
        "members": [{"architecture": "DCN", "init_seed": 1, "order_seed": 7}] * 2,
        "coupling": {"weights": [[0.0, 1.0], [1.0, 0.0]], "form": "kl", "teacher_weight": 2.0},
        "recipe": {"learning_rate": 0.5, "averaging": "ema"},
    }
    fingerprint(every)
    plain, other = hashed
    assert set(plain) == {"data", "members", "coupling", "recipe", "start", "numerics"}
    start = [{"run": "a" * 16, "optimizer": "keep"}, {"run": "b" * 16}]
    assert plain == {**base(), "start": start, "data": plain["data"], "numerics": plain["numerics"]}
    assert other == {**every, "data": other["data"], "numerics": other["numerics"]}


def test_fingerprint_does_not_depend_on_order_spelling_or_defaults() -> None:
    assert Run.model_validate_json(json.dumps(base(), sort_keys=True)).fingerprint == fingerprint(base())
    assert fingerprint(changed(("coupling", "weights"), [[0, 1], [1, 0]])) == fingerprint(base())
    run = Run.model_validate(base())
    again = Run.model_validate_json(run.model_dump_json())  # every default is written out
    assert again == run
    assert again.fingerprint == run.fingerprint


def test_fingerprint_is_the_same_in_other_processes() -> None:
    assert answer_of(fingerprint, base()) == fingerprint(base())


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
        changed = "chronological" if name == "split" else value + (1 if isinstance(value, int) else 0.01)
        other = default.model_copy(update={name: changed})
        names.add(synthetic.fingerprint(other, 0))
    assert len(names) == 2 + len(SyntheticSettings.model_fields)


def test_settings_of_the_data_that_came_later_rename_nothing_at_their_default() -> None:
    """The fingerprints are those of the version before; what a record holds has no later name."""
    assert synthetic.fingerprint(SyntheticSettings(), 0) == "cf8d2e0b2fb0d855"
    data = data_settings("synthetic", 1, SyntheticSettings(train_rows=400, drift=0, split="random"))
    assert digest(data.model_dump(mode="json")) == "ac7a6b84c4454305"
    assert not set(config.LATER) & set(data.model_dump()["synthetic"])
    for name, value in (("drift", 0.1), ("new_codes", 0.1), ("split", "chronological")):
        again = SyntheticSettings(**{name: value})
        assert SyntheticSettings.model_validate_json(again.model_dump_json()) == again != SyntheticSettings()


# ---- what makes no sense is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": [[0, 1]]}, "row 0 has 2 weights, a 1 x 1"),
        ({"weights": [[0, 1], [1]]}, "row 1 has 1 weights, a 2 x 2"),
        ({"weights": [[0, 1], [1, 0.5]]}, "member 1 cannot learn from itself"),
        ({"weights": [[0, -1], [1, 0]], "target": "ensemble"}, "row 0 has a negative weight"),
        ({"weights": [[0, 1], [-1, 0]], "peer_weighting": "adaptive"}, "row 1 has a negative weight.* needs target"),
        ({"weights": [[0, -1], [1, 0]], "teacher_weight": 1}, "negative"),
        ({"weights": [[0, float("nan")], [1, 0]]}, "finite"),
        ({"weights": [[0, float("inf")], [1, 0]]}, "finite"),
        ({"weights": [[1, 0], [1]], "target": "frozen"}, "row 1 has 1 weights, row 0 has 2"),
        ({"weights": [[-1]], "target": "frozen_ensemble"}, "negative"),
        ({"target": "frozen", "peer_weighting": "adaptive"}, "needs target 'live' or 'joint'"),
        ({"target": "ensemble", "teacher_weight": 1}, "needs target 'live' or 'joint'"),
        ({"target": "frozen", "refresh": 2}, "refresh=2 needs target 'live'"),
        ({"target": "joint", "head": "auxiliary"}, "keeps peers from the served head"),
        ({"teacher_weight": 1, "refresh": 2}, "refresh=2 needs"),
        ({"target": "shuffled", "teacher_weight": 1}, "needs target 'live' or 'joint'"),
    ],
    ids=str,
)
def test_impossible_couplings(settings, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Coupling(**{"weights": complete(2), **settings})


def weights_of(settings: dict, weights: list) -> dict:
    return {**settings, "coupling": {**settings["coupling"], "weights": weights}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(("coupling", "weights"), [[0.0]]), "2 members but a 1 x"),
        (changed(("start",), [{"run": "a" * 16}]), "2 members but 1 checkpoints"),
        ({**FROZEN, "start": None}, "needs checkpoints .* or teachers"),
        (changed(("teachers",), [{"run": "a" * 16}] * 2), "teachers do not learn"),
        ({**FROZEN, "teachers": [{"run": "a" * 16}]}, "1 teachers to learn from but a 2 x 2"),
        ({**FROZEN, "teachers": []}, "at least 1"),
        (weights_of(FROZEN, [[0, 1, 1], [1, 0, 1]]), "2 members to learn from but a 2 x 3"),
        ({**FROZEN, "teachers": [{"run": "a" * 16, "optimizer": "keep"}] * 2}, "Extra inputs"),
        ({**FROZEN, "embeddings": "shared"}, "needs live peers"),
        ({**weights_of(base(), [[0, 0], [0, 0]]), "embeddings": "shared"}, "member 0 is alone"),
        ({**changed(("members", 0, "embedding_dim"), 9), "embeddings": "shared"}, r"one embedding_dim, not \[8, 9\]"),
        (OTHER_ORDER, "members 0 and 1 are coupled, so they need one order_seed"),
        (
            {**weights_of(FROZEN, [[1, 1, 0], [0, 1, 1]]), "members": OTHER_ORDER["members"], "teachers": TEACHERS},
            "members 0 and 1 are coupled",  # students of one teacher
        ),
        (changed(("members",), []), "at least 1"),
        (changed(("recipe", "momentum"), 0.9), "Extra inputs"),
        (changed(("recipe", "learning_rate"), float("nan")), "finite"),
        (changed(("recipe", "learning_rate"), 0), "greater than 0"),
        (changed(("members", 0, "dropout"), 1.0), "less than 1"),
        (changed(("members", 0, "init_seed"), 2**64), "less than 18446744073709551616"),
        (changed(("recipe", "embedding_l2"), 1e300), "less than or equal to 1000000"),
        ({**changed(("members", 0, "dropout"), 0.0), "recipe": {"rdrop": 1.0}}, "rdrop=1.0 compares .* dropout"),
        ({**RANDOM, "recipe": {"meda": True}}, "meda, .* need learned ones"),
        ({**RANDOM, "recipe": {"gradient_penalty": 1.0}}, "random_embeddings 0"),
        ({**RANDOM, "embeddings": "shared"}, "need learned ones"),
        ({**changed(("members", 0, "batch_norm"), True), "recipe": {"batch_size": 1}}, "batches of 2 rows or more"),
    ],
)
def test_impossible_runs(settings, words) -> None:
    with pytest.raises(ValidationError, match=words):
        Run.model_validate(settings)


def test_a_changed_copy_has_a_fingerprint_of_its_own() -> None:
    run = Run.model_validate(base())
    first = run.fingerprint
    other = run.model_copy(update={"recipe": run.recipe.model_copy(update={"epochs": 77})})
    assert other.fingerprint != first == run.fingerprint == Run.model_validate(base()).fingerprint
    assert run == Run.model_validate(base()) == run.model_copy()
    assert hash(run.recipe) == hash(Run.model_validate(base()).recipe)


def test_settings_cannot_be_changed_afterwards() -> None:
    run = Run.model_validate(base())
    for owner, name in ((run, "start"), (run.recipe, "epochs"), (run.members[0], "dropout"), (run.coupling, "form")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, None)


# ---- parameters of a notebook ----------------------------------------------------------------------------------------

BAD = [
    ("string", {"profile": 5, "dataset": None, "device": 3, "benchmark": 3}),
    ("string", {"architecture": 3, "companions": [3], "without_scratch": [3], "one_rate": [3]}),
    ("greater than or equal to 100", {"rows": 99, "valid_rows": 99, "test_rows": 99}),
    ("greater than or equal to 4", {"largest_field": 3}),
    ("greater than or equal to 3", {"fields": 2}),
    ("greater than or equal to 2", {"instances": 1, "sizes": [1], "cohorts": 1}),
    ("greater than or equal to 1", {"embedding_dim": 0, "hidden_units": [64, 0], "batch_size": 0, "epochs": 0}),
    ("greater than or equal to 1", {"finetune_epochs": 0, "max_epochs": 0, "epoch_counts": [0]}),
    ("greater than or equal to 0", {"rows_seed": -1, "rows_seeds": [-1], "seeds": [1, -2], "starts": [-1]}),
    ("greater than or equal to 0", {"embedding_l2": -1e-9, "l2_levels": [-1], "mutual_weight": -1}),
    ("greater than 0", {"learning_rate": 0}),
    ("must not hold 0", {"mutual_weights": [0.0]}),
    ("from scratch", {"ways": ["both"]}),
    ("greater than or equal to 2", {"refreshes": [1]}),
    ("less than or equal to 1", {"drift": 1.5, "lag": 1.5}),
    ("less than or equal to 0.9", {"new_codes": 1}),
    ("less than 1", {"dropout": 1.0, "averaging_decay": 1}),
    ("greater than or equal to 1", {"settings": 0, "submodels": [0]}),
    ("at least 1", {"architectures": [], "seeds": [], "search_l2": [], "search_dropouts": [], "tuning_seeds": []}),
    ("at least 2", {"search_rates": [0.1], "search_weights": [1]}),
    ("at least 3", {"tuned": ["mutual"]}),
    ("greater than or equal to 2", {"search_size": 1}),
    ("greater than or equal to 0", {"search_seed": -1}),
    ("dictionary", {"search_more": [1]}),
    ("boolean", {"batch_norm": "maybe"}),
    ("tuple", {"seeds": "[3, 4"}),
    ("repeat", {"seeds": [1, 2, 1], "datasets": ["one", "one"]}),
    ("dictionary", {"per_dataset": [3]}),
    ("fixed_epochs", {"protocols": ["both"]}),
    ("fuxictr", {"stopping": "never", "stopping_rules": ["never"]}),
    ("mse_logit", {"forms": ["mae"], "coupling_form": "mae"}),
    ("one_way", {"topologies": ["tree"]}),
    ("R-Drop", {"rivals": ["r-drop"]}),
    ("lr/100", {"rates": ["lr/2"]}),
    ("bf16", {"precision": "fp64"}),
    ("chronological", {"split": "weekly", "splits": ["weekly"]}),
]
BAD_VALUES = [(name, value, allowed) for allowed, values in BAD for name, value in values.items()]


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_VALUES, ids=lambda value: str(value)[:20])
def test_a_bad_parameter_is_one_line_with_name_value_and_allowed(name, value, allowed) -> None:
    message = refused(checked, StudyParameters, **{name: value})
    shown = value if not isinstance(value, list) else (value[-1] if value else "")
    assert all(words in message for words in (name, allowed, str(shown)))


def test_every_parameter_is_tried() -> None:
    assert {name for name, _, _ in BAD_VALUES} == set(StudyParameters.model_fields)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"instances": 0, "epochs": 0, "dropout": 2}, ["(and 2 more)"]),
        ({"lag": 0.1}, ["lag=0.1", "must be 0 with split 'random'"]),
        # torch refuses to normalise one row in the middle of a training; the settings must refuse before
        ({"batch_norm": True, "batch_size": 1}, ["batch_size"]),
        ({"lr": 1}, ["'lr'", "mutual_weight"]),  # all names are listed
        ({"learningrate": 1}, ["'learningrate'", "mutual_weight", "Did you mean 'learning_rate'?"]),
        ({"Batch_Size": 1}, ["'Batch_Size'", "mutual_weight", "Did you mean 'batch_size'?"]),
        *(({name: True}, [name]) for name in ("instances", "epochs", "batch_size", "learning_rate", "seeds")),
    ],
    ids=str,
)
def test_other_bad_parameters(settings, words) -> None:
    """Several are counted, some do not go together, unknown ones name the nearest, and True is no number."""
    said = refused(checked, StudyParameters, **settings)
    assert all(word in said for word in words)


@pytest.mark.parametrize(
    ("name", "sent", "expected"),
    [
        ("seeds", "[3, 4]", (3, 4)),
        ("seeds", "3", (3,)),
        ("seeds", [3, 4], (3, 4)),
        ("hidden_units", [], ()),
        ("companions", "DCN", ("DCN",)),
        ("companions", "[DCN, PNN]", ("DCN", "PNN")),
        ("instances", "5", 5),
        ("learning_rate", "1e-3", 0.001),
        ("batch_norm", "true", True),
        ("mutual_weight", 2, 2.0),
    ],
)
def test_what_papermill_sends_is_understood(name, sent, expected) -> None:
    found = getattr(checked(StudyParameters, **{name: sent}), name)
    assert found == expected
    assert type(found) is type(expected)
