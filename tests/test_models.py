"""What every architecture promises, and how models are built by name."""

from inspect import signature

import pytest
import torch
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


def make(
    architecture, options=None, seed=1, dropout=0.0, batch_norm=False, embedding_dim=4, hidden_units=(16, 8), wide=False
):
    """A small model; ``wide`` gives its tables and biases values of ordinary size, so that every part matters."""
    model = build_model(
        architecture,
        FIELD_DIMS,
        seed,
        embedding_dim=embedding_dim,
        hidden_units=hidden_units,
        dropout=dropout,
        batch_norm=batch_norm,
        options=options or {},
    )
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


# ---- promises of every architecture ---------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("batch_size", [1, 200])
def test_logits_have_one_number_per_row(architecture, options, batch_size):
    logits = make(architecture, options, wide=True)(rows(batch_size))
    assert logits.shape == (batch_size,)
    assert logits.dtype == torch.float32
    assert batch_size == 1 or not ((logits > 0) & (logits < 1)).all()  # no probabilities


@every_variant
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradient_reaches_every_parameter(architecture, options, batch_norm):
    model = make(architecture, options, batch_norm=batch_norm, wide=True)
    model(rows(200)).square().sum().backward()
    unreached = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_variant
def test_gradients_are_right(architecture, options):
    if architecture == "AutoInt":
        options = {**options, "attention_dim": 2 * options.get("num_heads", 2)}  # a numeric gradient costs per number
    model = make(architecture, options, embedding_dim=2, hidden_units=(4,), wide=True).double()
    names = [name for name, _ in model.named_parameters()]
    ids = rows(5)

    def call(*values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (ids,))

    assert torch.autograd.gradcheck(call, tuple(p.detach().clone().requires_grad_() for p in model.parameters()))


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


def test_models_are_the_sums_they_claim_to_be():
    ids = rows(30)
    deepfm = make("DeepFM", wide=True)
    v = deepfm.embedding(ids)
    torch.testing.assert_close(deepfm(ids), deepfm.first_order(ids) + second_order_fm(v) + deepfm.mlp(v.flatten(1)))

    pnn = make("PNN", wide=True)
    v = pnn.embedding(ids)
    torch.testing.assert_close(pnn(ids), pnn.mlp(torch.cat([v.flatten(1), inner_products(v)], 1)))

    dcn = make("DCN", wide=True)
    x = dcn.embedding(ids).flatten(1)
    torch.testing.assert_close(dcn(ids), dcn.combine(torch.cat([dcn.cross(x), dcn.mlp(x)], 1)).squeeze(1))

    fibinet = make("FiBiNET", wide=True)
    v = fibinet.embedding(ids)
    p, q = fibinet.bilinear_raw(v), fibinet.bilinear_senet(fibinet.senet(v))
    expected = fibinet.first_order(ids) + fibinet.mlp(torch.cat([p.flatten(1), q.flatten(1)], 1))
    torch.testing.assert_close(fibinet(ids), expected)
    assert not torch.equal(fibinet.bilinear_raw.weight, fibinet.bilinear_senet.weight)


def test_newer_and_simpler_models_are_the_sums_they_claim_to_be():
    ids = rows(30)
    lr = make("LR", wide=True)
    torch.testing.assert_close(lr(ids), lr.first_order(ids))

    fm = make("FM", wide=True)
    torch.testing.assert_close(fm(ids), fm.first_order(ids) + second_order_fm(fm.embedding(ids)))

    dcnv2 = make("DCNv2", wide=True)
    x = dcnv2.embedding(ids).flatten(1)
    torch.testing.assert_close(dcnv2(ids), dcnv2.combine(torch.cat([dcnv2.cross(x), dcnv2.mlp(x)], 1)).squeeze(1))

    autoint = make("AutoInt", wide=True)
    v = autoint.embedding(ids)
    attended = autoint.combine(autoint.attention(v).flatten(1)).squeeze(1)
    torch.testing.assert_close(autoint(ids), attended + autoint.mlp(v.flatten(1)))
    assert make("AutoInt", {"plus": False}).mlp is None

    finalmlp = make("FinalMLP", {"gate_field_2": 1}, wide=True)
    x = finalmlp.embedding(ids).flatten(1)
    streams = finalmlp.streams[0](x), finalmlp.streams[1](finalmlp.gates[1](ids, x))
    torch.testing.assert_close(finalmlp(ids), finalmlp.fusion(*streams))
    assert not torch.equal(finalmlp.streams[0].layers[0].weight, finalmlp.streams[1].layers[0].weight)


def test_a_gate_starts_near_one_and_follows_its_field_alone():
    model, ids = make("FinalMLP", {"gate_field_1": 2}), rows(40)
    ones = torch.ones(40, 16)
    weights = model.gates[0](ids, ones)
    torch.testing.assert_close(weights, ones, rtol=0, atol=1e-3)
    model = make("FinalMLP", {"gate_field_1": 2}, wide=True)
    weights = model.gates[0](ids, ones)
    assert weights.min() > 0
    assert weights.max() < 2
    other = ids.clone()
    other[:, [0, 1, 3]] = 0
    assert torch.equal(model.gates[0](other, ones), weights)
    other = ids.clone()
    other[:, 2] = (ids[:, 2] + 1) % FIELD_DIMS[2]
    assert not torch.isclose(model.gates[0](other, ones), weights).all(dim=1).any()


# ---- building by name -----------------------------------------------------------------------------------------------


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
    assert model_options("fibinet") == {"reduction_ratio": 3, "bilinear_type": "field_interaction"}
    assert model_options("DCN") == {"num_cross_layers": 3}
    assert model_options("PNN") == model_options("DeepFM") == model_options("FM") == model_options("LR") == {}
    assert model_options("DCNv2") == {"num_cross_layers": 3}
    assert model_options("AutoInt") == {"attention_layers": 2, "attention_dim": 32, "num_heads": 2, "plus": True}
    gates = {"gate_field_1": -1, "gate_field_2": -1, "gate_units": 64}
    assert model_options("FinalMLP") == {"num_heads": 1, **gates}


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("DCNv2", {"num_cross_layers": -1}),
        ("AutoInt", {"attention_dim": 5, "num_heads": 2}),
        ("AutoInt", {"num_heads": 0}),
        ("AutoInt", {"attention_layers": 0}),
        ("FinalMLP", {"num_heads": 3}),
        ("FinalMLP", {"num_heads": 0}),
        ("FinalMLP", {"gate_field_1": 4}),
        ("FinalMLP", {"gate_field_2": -2}),
    ],
)
def test_impossible_options_are_refused_in_one_line(architecture, options):
    with pytest.raises(UserError) as caught:
        make(architecture, options)
    name, value = next(iter(options.items()))
    assert "\n" not in str(caught.value)
    assert str(value) in str(caught.value)
    assert name.rstrip("_12").replace("gate_field", "field") in str(caught.value)


@every_architecture
def test_names_in_any_case(architecture):
    assert architecture_name(architecture.upper()) == architecture_name(architecture.lower()) == architecture
    assert type(make(architecture.lower())) is MODELS[architecture]


def test_unknown_architecture_is_one_line_with_the_allowed_ones():
    message = f"unknown architecture 'DeepFN'; allowed: {', '.join(MODELS)}. Did you mean 'DeepFM'?"
    for call in (lambda: architecture_name("DeepFN"), lambda: make("DeepFN"), lambda: model_options("DeepFN")):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == message


def test_unknown_options_are_one_line_with_the_allowed_ones():
    cases = {
        ("dcn", "num_crosslayers"): (
            "unknown option of DCN 'num_crosslayers'; allowed: num_cross_layers. Did you mean 'num_cross_layers'?"
        ),
        ("FiBiNET", "zzz"): "unknown option of FiBiNET 'zzz'; allowed: reduction_ratio, bilinear_type.",
        ("PNN", "num_cross_layers"): "unknown option of PNN 'num_cross_layers'; PNN has no options of its own.",
        ("DeepFM", "dropout"): "unknown option of DeepFM 'dropout'; DeepFM has no options of its own.",
    }
    for (architecture, option), message in cases.items():
        with pytest.raises(UserError) as caught:
            make(architecture, {option: 1})
        assert str(caught.value) == message


def test_count_parameters():
    ids, pairs, dim = sum(FIELD_DIMS), 6, 4
    mlp = {width: width * 16 + 16 + 16 * 8 + 8 for width in (16, 16 + pairs, 2 * pairs * dim)}
    assert count_parameters(make("DeepFM")) == ids * dim + (ids + 1) + mlp[16] + 9
    assert count_parameters(make("PNN")) == ids * dim + mlp[22] + 9
    assert count_parameters(make("DCN")) == ids * dim + 3 * 2 * 16 + mlp[16] + (16 + 8 + 1)
    senet, bilinear = 2 * 4 * 1, 2 * pairs * dim * dim
    assert count_parameters(make("FiBiNET")) == ids * dim + (ids + 1) + senet + bilinear + mlp[48] + 9
    assert count_parameters(make("LR")) == ids + 1
    assert count_parameters(make("FM")) == ids * dim + (ids + 1)
    assert count_parameters(make("DCNv2")) == ids * dim + 3 * (16 * 16 + 16) + mlp[16] + (16 + 8 + 1)
    attention = (3 + 1) * dim * 32 + 3 * 32 * 32  # the first layer widens, so it has a residual matrix too
    assert count_parameters(make("AutoInt", {"plus": False})) == ids * dim + attention + (4 * 32 + 1)
    assert count_parameters(make("AutoInt")) == ids * dim + attention + (4 * 32 + 1) + mlp[16] + 9
    fusion = {heads: 8 + 8 + 1 + heads * (8 // heads) ** 2 for heads in (1, 2)}
    assert count_parameters(make("FinalMLP")) == ids * dim + 2 * mlp[16] + fusion[1]
    assert count_parameters(make("FinalMLP", {"num_heads": 2})) == ids * dim + 2 * mlp[16] + fusion[2]
    gate = FIELD_DIMS[1] * dim + (dim * 64 + 64) + (64 * 16 + 16)
    assert count_parameters(make("FinalMLP", {"gate_field_1": 1})) == ids * dim + 2 * mlp[16] + fusion[1] + gate
    frozen = make("PNN")
    frozen.embedding.weight.requires_grad_(False)
    assert count_parameters(frozen) == mlp[22] + 9
