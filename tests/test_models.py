"""What every architecture promises, and how models are built by name."""

from inspect import signature

import pytest
import torch
from small import refused
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from ctrlib.models import (
    MODELS,
    SHARED_ARGUMENTS,
    architecture_name,
    build_model,
    count_parameters,
    embedding_parameters,
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
    ("FinalNet", {"feature_gating": False, "self_distillation": False}),
    ("FCN", {"num_cross_layers": 1}),
    ("Wukong", {"wukong_layers": 1, "num_features": 2, "rank": 3, "fm_units": 16}),
    ("RankMixer", {"num_tokens": 3, "token_dim": 24, "mixer_layers": 1}),
    ("TabM-DeepFM", {"num_submodels": 1}),
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


OUTSIDE_OF_MLPS = {  # batch norms and dropouts of two layers of each kind, three in each of FCN's two networks
    "AutoInt": (0, 2),
    "FinalNet": (4, 4),
    "FCN": (6, 6),
    "Wukong": (0, 2),
    "RankMixer": (0, 2),
    "TabM-DeepFM": (2, 2),
}


@every_architecture
def test_batch_norm_and_dropout_are_present_only_when_asked_for(architecture):
    def count(model, kind):
        return sum(isinstance(module, kind) for module in model.modules())

    plain, full = make(architecture), make(architecture, dropout=0.1, batch_norm=True)
    assert (count(plain, nn.BatchNorm1d), count(plain, Dropout)) == (0, 0)
    norms, dropouts = OUTSIDE_OF_MLPS.get(architecture, (0, 0))
    assert count(full, nn.BatchNorm1d) == 2 * count(full, MLP) + norms
    assert count(full, Dropout) == 2 * count(full, MLP) + dropouts


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


def finalnet(model, ids, v):
    gated = v + v * torch.einsum("fg,bgd->bfd", model.gating.weight, v) + v * model.gating.bias[:, None]
    inputs = torch.cat([v, gated], 1).flatten(1), v.flatten(1)
    return sum(model.combine[n](model.blocks[n](x)) for n, x in enumerate(inputs)) / 2


def fcn(model, ids, v):
    x = torch.cat([v[:, :, :2].flatten(1), v[:, :, 2:].flatten(1)], 1)
    return (model.combine[0](model.exponential(x)) + model.combine[1](model.linear(x))) / 2


def rankmixer(model, ids, v):
    """Five tokens of 16 numbers: 4, 4, 4, 4 and none but zeros."""
    cut = F.pad(v.flatten(1), (0, 4)).split(4, 1)
    tokens = [x @ w + b for x, w, b in zip(cut, model.tokens.weight, model.tokens.bias, strict=True)]
    return model.combine(sum(model.mixer(torch.stack(tokens))) / 5)


def tabm(model, ids, v):
    hidden = model.towers(v.flatten(1)[:, None]).unbind(1)
    logits = [h @ w + b for h, w, b in zip(hidden, model.heads["weight"], model.heads["bias"], strict=True)]
    return model.first_order(ids) + second_order_fm(v) + sum(logits) / 8


SUMS = {
    "LR": lambda model, ids, v: model.first_order(ids),
    "FM": lambda model, ids, v: model.first_order(ids) + second_order_fm(v),
    "DeepFM": lambda model, ids, v: model.first_order(ids) + second_order_fm(v) + model.mlp(v.flatten(1)),
    "PNN": lambda model, ids, v: model.mlp(torch.cat([v.flatten(1), inner_products(v)], 1)),
    "DCN": lambda model, ids, v: model.combine(torch.cat([model.cross(v.flatten(1)), model.mlp(v.flatten(1))], 1)),
    "AutoInt": lambda model, ids, v: model.combine(model.attention(v).flatten(1))[:, 0] + model.mlp(v.flatten(1)),
    "FiBiNET": fibinet,
    "FinalMLP": finalmlp,
    "FinalNet": finalnet,
    "FCN": fcn,
    "Wukong": lambda model, ids, v: model.mlp(model.wukong(v).flatten(1)),
    "RankMixer": rankmixer,
    "TabM-DeepFM": tabm,
}
SUMS["DCNv2"] = SUMS["GDCN"] = SUMS["DCN"]
CHOSEN = {"FinalMLP": {"gate_field_2": 1}, "RankMixer": {"num_tokens": 5, "token_dim": 10}}


@pytest.mark.parametrize("architecture", SUMS)
def test_models_are_the_sums_they_claim_to_be(architecture):
    model, ids = make(architecture, CHOSEN.get(architecture), wide=True), rows(30)
    v = None if architecture == "LR" else model.embedding(ids)
    torch.testing.assert_close(model(ids), SUMS[architecture](model, ids, v).view(30))


def mean_of_losses(model, ids, labels):
    """TabM's loss: the mean of the click losses of its submodels."""
    each = model.submodels(ids).unbind(1)
    return sum(F.binary_cross_entropy_with_logits(logits, labels) for logits in each) / len(each)


def distilled_loss(model, ids, labels):
    """FinalNet's loss: of the mean, and of each block against the mean, held constant."""
    blocks = model.combine[0], model.combine[1]
    found = []
    hooks = [one.register_forward_hook(lambda *given: found.append(given[2][:, 0])) for one in blocks]
    mean = model.eval()(ids)
    for hook in hooks:
        hook.remove()
    told = [F.binary_cross_entropy_with_logits(one, mean.detach().sigmoid()) for one in found]
    return F.binary_cross_entropy_with_logits(mean, labels) + told[0] + told[1]


OWN_LOSSES = {"TabM-DeepFM": mean_of_losses, "FinalNet": distilled_loss}


@pytest.mark.parametrize("architecture", OWN_LOSSES)
def test_a_step_goes_down_the_models_own_loss(architecture):
    """From the logits alone, as a trainer sees them; outside of training there is no such term."""
    model, ids = make(architecture, wide=True).double(), rows(30)
    labels = torch.randint(2, (30,), generator=torch.Generator().manual_seed(4)).double()

    def gradients(loss):
        return torch.autograd.grad(loss, list(model.parameters()))

    click = F.binary_cross_entropy_with_logits(model.train()(ids), labels)
    found, expected = gradients(click), gradients(OWN_LOSSES[architecture](model, ids, labels))
    plain = F.binary_cross_entropy_with_logits(model.eval()(ids), labels)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert max((a - b).abs().max() for a, b in zip(found, gradients(plain), strict=True)) > 1e-3
    loss = F.binary_cross_entropy_with_logits(model.train()(ids), labels)
    (first,) = torch.autograd.grad(loss, model.embedding.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_without_its_own_loss_finalnet_has_the_click_loss_alone():
    for distilled in (True, False):
        model = make("FinalNet", {"self_distillation": distilled}, wide=True)
        trained, plain = (
            torch.autograd.grad(model.train(training)(rows(30)).sum(), model.combine[0].weight)[0]
            for training in (True, False)
        )
        assert torch.equal(trained, plain) != distilled


def test_submodels_begin_apart_and_their_mean_probability_is_predicted():
    each = make("TabM-DeepFM", wide=True).submodels(rows(30))
    assert each.shape == (30, 8)
    assert each.std(1).min() > 1e-3
    torch.testing.assert_close(make("TabM-DeepFM", wide=True).eval()(rows(30)).sigmoid(), each.sigmoid().mean(1))
    alone = make("TabM-DeepFM", {"num_submodels": 1})
    assert torch.equal(alone(rows(30)), alone.submodels(rows(30))[:, 0])


def test_twin_parts_of_a_model_are_not_one():
    model = make("FiBiNET")
    assert not torch.equal(model.bilinear_raw.weight, model.bilinear_senet.weight)
    first, second = make("FinalMLP").streams
    assert not torch.equal(first.layers[0].weight, second.layers[0].weight)
    assert make("AutoInt", {"plus": False}).mlp is None
    first, second = make("FinalNet", {"feature_gating": False}).blocks
    assert not torch.equal(first[0].linear.weight, second[0].linear.weight)


@every_variant
def test_the_seed_decides_the_weights(architecture, options):
    first, again, other = (weights_of(make(architecture, options, seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    random = [(a, b) for a, b in zip(first, other, strict=True) if a.min() < a.max()]  # biases start at 0, scales at 1
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
        ("FCN", {"num_cross_layers": 0}, ["num_cross_layers", "0"]),
        ("Wukong", {"rank": 0}, ["rank", "0"]),
        ("Wukong", {"wukong_layers": 0}, ["wukong_layers", "0"]),
        ("RankMixer", {"token_dim": 12}, ["token_dim", "12 and 8"]),
        ("RankMixer", {"num_tokens": 0}, ["num_tokens", "32 and 0"]),
        ("RankMixer", {"mixer_layers": 0}, ["mixer_layers", "0"]),
        ("TabM-DeepFM", {"num_submodels": 0}, ["num_submodels", "0"]),
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
    said = refused(build_model, "DeepFM", (3, 4), 1, **sizes)
    assert "DeepFM does not fit into memory: 7 ids x embedding_dim 1099511627776" in said


def test_a_frozen_table_does_not_count():
    """The counts themselves: test_benchmarks.py."""
    model = make("PNN")
    every = count_parameters(model)
    model.embedding.weight.requires_grad_(False)
    assert count_parameters(model) == every - 4 * sum(FIELD_DIMS)
