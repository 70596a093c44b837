"""What every architecture promises, and how models are built by name."""

from inspect import signature

import pytest
import torch
from small import refused
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from ctrlib.errors import UserError
from ctrlib.models import (
    MODELS,
    SHARED_ARGUMENTS,
    architecture_name,
    build_model,
    count_parameters,
    embedding_parameters,
    model_options,
)
from ctrlib.models.layers import MLP, Dropout, inner_products, second_order_fm

FIELD_DIMS = (7, 3, 11, 5)
VARIANTS = [
    *((name, {}) for name in MODELS),
    ("FiBiNET", {"bilinear_type": "field_each", "reduction_ratio": 1}),
    ("FiBiNET", {"bilinear_type": "field_all"}),
    ("DCN", {"num_cross_layers": 1}),
    ("DCNv2", {"num_cross_layers": 1}),
    ("AutoInt", {"plus": False, "attention_dim": 16, "num_heads": 1}),
    ("AutoInt", {"attention_dim": 6, "num_heads": 3}),
    ("FinalMLP", {"num_heads": 4}),
    ("FinalMLP", {"gate_field_1": 2, "gate_field_2": 0, "gate_units": 5}),
]
NO_PAIRS = ("LR",)  # sees no two fields together, so it cannot learn labels that no rule of single ids made
every_variant = pytest.mark.parametrize(("architecture", "options"), VARIANTS)
every_architecture = pytest.mark.parametrize("architecture", MODELS)


def make(architecture, options=None, seed=1, wide=False, **sizes):
    """A small model; ``wide`` gives its tables and biases values of ordinary size, so that every part matters."""
    small = {"embedding_dim": 4, "hidden_units": (16, 8), "dropout": 0.0, "batch_norm": False}
    model = build_model(architecture, FIELD_DIMS, seed, **{**small, **sizes}, options=options or {})
    if wide:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "bias" in name or "embedding" in name or "first_order" in name:
                    parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def rows(count: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(dim, (count,), generator=generator) for dim in FIELD_DIMS], dim=1)


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


@every_variant
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradient_reaches_every_parameter(architecture, options, batch_norm):
    model = make(architecture, options, batch_norm=batch_norm, wide=True)
    model(rows(200)).square().sum().backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_variant
def test_every_field_matters(architecture, options):
    model, ids = make(architecture, options, wide=True), rows(50)
    for field, dim in enumerate(FIELD_DIMS):
        other = ids.clone()
        other[:, field] = (ids[:, field] + 1) % dim
        assert (model(other) - model(ids)).abs().max() > 1e-3, f"field {field} has no effect"


@every_variant
def test_overfits_64_rows(architecture, options):
    ids = torch.unique(rows(400), dim=0)[:64]
    labels = torch.randint(2, (64,), generator=torch.Generator().manual_seed(4)).float()
    if architecture in NO_PAIRS:
        labels = (make(architecture, wide=True)(ids) > 0).float()  # a rule of the same form
        assert 10 < labels.sum() < 54
    model = make(architecture, options, batch_norm=bool(options), hidden_units=(32, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(1000 if architecture in NO_PAIRS else 200):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(ids), labels)
        loss.backward()
        optimizer.step()
    assert ((model(ids) > 0) == labels.bool()).all()


@every_variant
def test_eval_output_does_not_depend_on_batch_mates(architecture, options):
    model = make(architecture, options, dropout=0.5, batch_norm=True, wide=True)
    for _ in range(3):
        model(rows(100))  # moves the running statistics away from their start
    model.eval()
    ids = rows(40, seed=8)
    together = model(ids)
    alone = torch.cat([model(row.unsqueeze(0)) for row in ids])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(ids.flip(0)).flip(0), together, rtol=1e-5, atol=1e-6)


@every_variant
def test_dropout_masks_follow_the_generator_of_the_member(architecture, options):
    model, ids = make(architecture, options, dropout=0.5, wide=True), rows(20)
    dropouts = [module for module in model.modules() if "Dropout" in type(module).__name__]
    assert all(type(module) is Dropout for module in dropouts)
    drawn, logits = torch.Generator(), []
    for module in dropouts:
        module.generator = drawn
    for seed in (1, 1, 2):
        drawn.manual_seed(seed)
        torch.rand(1)  # the global generator moves on and must not matter
        logits.append(model(ids))
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2]) == (not dropouts)
    model.eval()
    assert torch.equal(model(ids), model(ids))


@every_architecture
def test_batch_norm_and_dropout_are_present_only_when_asked_for(architecture):
    def count(model, kind):
        return sum(isinstance(module, kind) for module in model.modules())

    plain, full = make(architecture), make(architecture, dropout=0.1, batch_norm=True)
    hidden_layers = 2 * count(full, MLP)
    assert (count(plain, nn.BatchNorm1d), count(plain, Dropout)) == (0, 0)
    assert count(full, nn.BatchNorm1d) == hidden_layers
    assert count(full, Dropout) == hidden_layers + (2 if architecture == "AutoInt" else 0)  # on attention weights too


@every_variant
def test_nothing_in_a_step_depends_on_the_numbers(architecture, options):
    """Tensors without numbers go through, so a CUDA graph can record it: no look at a value, no shape made of one."""
    with FakeTensorMode():
        model = make(architecture, options, dropout=0.5, batch_norm=True)
        logits = model(rows(20))
        logits.sum().backward()
        with pytest.raises(DataDependentOutputException):
            logits[0].item()
    assert logits.shape == (20,)
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_architecture
def test_tables_are_the_embedding_parameters(architecture):
    model = make(architecture)
    tables = embedding_parameters(model)
    assert 1 <= len(tables) <= 2
    assert all(len(table) == sum(FIELD_DIMS) for table in tables)
    ids_of_tables = {id(table) for table in tables}
    others = [p for p in model.parameters() if id(p) not in ids_of_tables]
    assert all(len(p) != sum(FIELD_DIMS) for p in others)


def fibinet(model, ids, v):
    pairs = torch.cat([model.bilinear_raw(v).flatten(1), model.bilinear_senet(model.senet(v)).flatten(1)], 1)
    return model.first_order(ids) + model.mlp(pairs)


def finalmlp(model, ids, v):
    x = v.flatten(1)
    return model.fusion(model.streams[0](x), model.streams[1](model.gates[1](ids, x)))


SUMS = {
    "LR": lambda model, ids, v: model.first_order(ids),
    "FM": lambda model, ids, v: model.first_order(ids) + second_order_fm(v),
    "DeepFM": lambda model, ids, v: model.first_order(ids) + second_order_fm(v) + model.mlp(v.flatten(1)),
    "PNN": lambda model, ids, v: model.mlp(torch.cat([v.flatten(1), inner_products(v)], 1)),
    "DCN": lambda model, ids, v: model.combine(torch.cat([model.cross(v.flatten(1)), model.mlp(v.flatten(1))], 1)),
    "AutoInt": lambda model, ids, v: model.combine(model.attention(v).flatten(1))[:, 0] + model.mlp(v.flatten(1)),
    "FiBiNET": fibinet,
    "FinalMLP": finalmlp,
}
SUMS["DCNv2"] = SUMS["DCN"]


@pytest.mark.parametrize("architecture", SUMS)
def test_models_are_the_sums_they_claim_to_be(architecture):
    model, ids = make(architecture, {"gate_field_2": 1} if architecture == "FinalMLP" else {}, wide=True), rows(30)
    v = None if architecture == "LR" else model.embedding(ids)
    torch.testing.assert_close(model(ids), SUMS[architecture](model, ids, v).view(30))


def test_twin_parts_of_a_model_are_not_one():
    model = make("FiBiNET")
    assert not torch.equal(model.bilinear_raw.weight, model.bilinear_senet.weight)
    first, second = make("FinalMLP").streams
    assert not torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert make("AutoInt", {"plus": False}).mlp is None


@every_variant
def test_the_seed_decides_the_weights(architecture, options):
    first, again, other = (weights_of(make(architecture, options, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    random = [(a, b) for a, b in zip(first, other, strict=True) if a.any()]  # biases start at 0 under any seed
    assert len(random) >= {"LR": 1, "FM": 2}.get(architecture, 3)
    assert all(not torch.equal(a, b) for a, b in random)


@every_architecture
def test_the_callers_random_state_is_untouched_and_irrelevant(architecture):
    torch.manual_seed(11)
    expected_draw = torch.rand(3)
    torch.manual_seed(11)
    here = weights_of(make(architecture))
    assert torch.equal(torch.rand(3), expected_draw)
    torch.manual_seed(12)
    there = weights_of(make(architecture))
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_weights_are_made_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):
        model = make("FiBiNET")
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert torch.equal(model.embedding.weight, make("FiBiNET").embedding.weight)


@every_architecture
def test_shared_arguments_and_their_defaults_are_the_same_everywhere(architecture):
    """An architecture takes those it has a use for; whatever it takes has a default."""
    parameters = dict(signature(MODELS[architecture]).parameters)
    assert next(iter(parameters)) == "field_dims"
    del parameters["field_dims"]
    defaults = {"embedding_dim": 16, "hidden_units": (400, 400, 400), "dropout": 0.0, "batch_norm": False}
    assert {"field_dims", *defaults} == set(SHARED_ARGUMENTS)
    assert all(defaults.get(name, p.default) == p.default for name, p in parameters.items())
    assert not any(p.default is p.empty for p in parameters.values())


def test_options_of_each_architecture():
    expected = {
        **{name: {} for name in ("LR", "FM", "DeepFM", "PNN")},
        **{name: {"num_cross_layers": 3} for name in ("DCN", "DCNv2")},
        "FiBiNET": {"reduction_ratio": 3, "bilinear_type": "field_interaction", "bilinear_init": "per_matrix"},
        "AutoInt": {"attention_layers": 2, "attention_dim": 32, "num_heads": 2, "plus": True},
        "FinalMLP": {"num_heads": 1, "gate_field_1": -1, "gate_field_2": -1, "gate_units": 64},
    }
    assert {name: model_options(name.lower()) for name in expected} == expected


NO_OPTIONS = "unknown option of {0} {1!r}; {0} has no options of its own."


@pytest.mark.parametrize(
    ("architecture", "options", "words"),
    [
        ("DCNv2", {"num_cross_layers": -1}, ["num_cross_layers", "-1"]),
        ("AutoInt", {"attention_dim": 5, "num_heads": 2}, ["attention_dim", "5"]),
        ("AutoInt", {"num_heads": 0}, ["num_heads", "0"]),
        ("AutoInt", {"attention_layers": 0}, ["attention_layers", "0"]),
        ("FinalMLP", {"num_heads": 3}, ["num_heads", "3"]),
        ("FinalMLP", {"num_heads": 0}, ["num_heads", "0"]),
        ("FinalMLP", {"gate_field_1": 4}, ["field", "4"]),
        ("FinalMLP", {"gate_field_2": -2}, ["field", "-2"]),
        ("dcn", {"num_crosslayers": 1}, ["DCN 'num_crosslayers'; allowed: num_cross_layers.", "'num_cross_layers'?"]),
        ("FiBiNET", {"zzz": 1}, ["unknown option of FiBiNET 'zzz'; allowed: reduction_ratio, bilinear_type"]),
        ("PNN", {"num_cross_layers": 1}, [NO_OPTIONS.format("PNN", "num_cross_layers")]),
        ("DeepFM", {"dropout": 1}, [NO_OPTIONS.format("DeepFM", "dropout")]),
        ("DeepFN", {}, [f"unknown architecture 'DeepFN'; allowed: {', '.join(MODELS)}. Did you mean 'DeepFM'?"]),
    ],
)
def test_impossible_models_are_refused_in_one_line(architecture, options, words):
    said = refused(make, architecture, options)
    assert all(word in said for word in words)


@every_architecture
def test_names_in_any_case(architecture):
    assert architecture_name(architecture.upper()) == architecture
    assert type(make(architecture.lower())) is MODELS[architecture]


def test_a_model_larger_than_memory_is_one_line() -> None:
    sizes = {"embedding_dim": 2**40, "hidden_units": (4,), "dropout": 0.0, "batch_norm": False, "options": {}}
    with pytest.raises(UserError, match="DeepFM does not fit into memory: 7 ids x embedding_dim 1099511627776"):
        build_model("DeepFM", (3, 4), 1, **sizes)


def test_count_parameters():
    """Tables, first order, SENET, two bilinear blocks and an MLP; a frozen table does not count."""
    ids, dim = sum(FIELD_DIMS), 4
    mlp = {width: width * 16 + 16 + 16 * 8 + 8 + 9 for width in (22, 48)}
    assert count_parameters(make("FiBiNET")) == ids * dim + (ids + 1) + 2 * 4 + 2 * 6 * dim * dim + mlp[48]
    frozen = make("PNN")
    assert count_parameters(frozen) == ids * dim + mlp[22]
    frozen.embedding.weight.requires_grad_(False)
    assert count_parameters(frozen) == mlp[22]
