"""Each vectorised layer against plain loops in float64, and its initial weights against the page about the method."""

import math
import re
from fnmatch import fnmatchcase
from math import prod, sqrt
from pathlib import Path

import pandas as pd
import pytest
import torch
from small import refused
from torch import nn

from ctrlib.models import MODELS, build_model
from ctrlib.models.autoint import FieldAttention
from ctrlib.models.dcn import DCN, CrossNetworkV2
from ctrlib.models.fcn import MaskedCrossNetwork
from ctrlib.models.finalmlp import BilinearFusion, ContextGate
from ctrlib.models.finalnet import FactorizedInteraction
from ctrlib.models.gdcn import GatedCrossNetwork
from ctrlib.models.layers import (
    MLP,
    SENET,
    BilinearInteraction,
    CrossNetwork,
    Dropout,
    FeatureEmbedding,
    FirstOrder,
    inner_products,
    second_order_fm,
)
from ctrlib.models.pnn import PNN
from ctrlib.models.rankmixer import MixerBlock
from ctrlib.models.tabm import AdaptedLinear
from ctrlib.models.wukong import WukongLayer

BOOK = Path(__file__).resolve().parent.parent / "book"
METHOD = (BOOK / "method.md").read_text(encoding="utf-8")
BATCH, FIELDS, DIM = 5, 4, 3
FIELD_DIMS = (3, 1, 5, 2)
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
BILINEAR_TYPES = ("field_all", "field_each", "field_interaction")


def embeddings() -> torch.Tensor:
    return torch.randn(BATCH, FIELDS, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def random_ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    return torch.stack([torch.randint(dim, (BATCH,), generator=generator) for dim in FIELD_DIMS], dim=1)


def spread_out(module: nn.Module, seed: int = 7) -> nn.Module:
    """The module in float64 with every parameter N(0, 0.5^2), so that biases and tables matter too."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def assert_equal(vectorised: torch.Tensor, loops: list) -> None:
    torch.testing.assert_close(vectorised, torch.tensor(loops, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def dot(a, b) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def times(matrix: list, vector: list) -> list:
    return [dot(row, vector) for row in matrix]


def test_tables_read_the_rows_of_their_own_fields():
    """Vectors one by one; first-order weights as their sum and a bias."""
    vectors, weights = spread_out(FeatureEmbedding(FIELD_DIMS, DIM)), spread_out(FirstOrder(FIELD_DIMS))
    ids = random_ids()
    places = [[sum(FIELD_DIMS[:field]) + int(ids[row, field]) for field in range(FIELDS)] for row in range(BATCH)]
    assert_equal(vectors(ids), [[vectors.weight[place].tolist() for place in row] for row in places])
    sums = [sum(weights.weight[place].item() for place in row) for row in places]
    assert_equal(weights(ids), [weights.bias.item() + one for one in sums])


# ---- interactions ---------------------------------------------------------------------------------------------------


def test_products_of_all_pairs_in_order_and_their_sum():
    v = embeddings()
    products = [[dot(row[i], row[j]) for i, j in PAIRS] for row in v]
    assert_equal(inner_products(v), products)
    assert_equal(second_order_fm(v), [sum(row) for row in products])


def test_cross_networks_follow_their_recursions():
    """Scaled by one product and shifted; in the second version by a product for each number."""
    flat = embeddings().flatten(1)
    first, second = (spread_out(kind(FIELDS * DIM, num_cross_layers=3)) for kind in (CrossNetwork, CrossNetworkV2))
    expected: tuple[list, list] = ([], [])
    for row in flat.tolist():
        x = y = row
        for weight, bias in zip(first.weight.tolist(), first.bias.tolist(), strict=True):
            x = [a * dot(x, weight) + b + c for a, b, c in zip(row, bias, x, strict=True)]
        for one in second.layers:
            products = times(one.weight.tolist(), y)
            y = [a * (p + b.item()) + c for a, p, b, c in zip(row, products, one.bias, y, strict=True)]
        for found, last in zip(expected, (x, y), strict=True):
            found.append(last)
    for layer, rows in zip((first, second), expected, strict=True):
        assert_equal(layer(flat), rows)
    assert torch.equal(CrossNetworkV2(FIELDS * DIM, 0)(flat), flat)


def test_senet_squeezes_excites_and_reweights():
    layer = spread_out(SENET(FIELDS, reduction_ratio=2))
    first, second = (w.tolist() for w in layer.parameters())
    assert (len(first), len(first[0]), len(second), len(second[0])) == (2, FIELDS, FIELDS, 2)
    expected = []
    for row in embeddings().tolist():
        means = [sum(v) / DIM for v in row]
        hidden = [max(0.0, dot(w, means)) for w in first]
        field_weights = [max(0.0, dot(w, hidden)) for w in second]
        expected.append([[a * value for value in v] for a, v in zip(field_weights, row, strict=True)])
    assert any(value != 0 for row in expected for v in row for value in v)
    assert_equal(layer(embeddings()), expected)


@pytest.mark.parametrize(("ratio", "hidden"), [(3, 1), (2, 2), (100, 1), (0.5, 8)])
def test_senet_hidden_width(ratio, hidden):
    assert SENET(FIELDS, ratio).excitation[0].out_features == hidden


@pytest.mark.parametrize("bilinear_type", BILINEAR_TYPES)
def test_bilinear_multiplies_the_projected_left_field_with_the_right_one(bilinear_type):
    layer = spread_out(BilinearInteraction(FIELDS, DIM, bilinear_type))
    matrix_of = {
        "field_all": dict.fromkeys(PAIRS, 0),
        "field_each": {(i, j): i for i, j in PAIRS},
        "field_interaction": {pair: p for p, pair in enumerate(PAIRS)},
    }[bilinear_type]
    assert len(layer.weight) == max(matrix_of.values()) + 1
    matrices = layer.weight.tolist()
    expected = []
    for row in embeddings().tolist():
        products = []
        for i, j in PAIRS:
            projected = [dot(matrices[matrix_of[i, j]][d], row[i]) for d in range(DIM)]
            products.append([projected[d] * row[j][d] for d in range(DIM)])
        expected.append(products)
    assert_equal(layer(embeddings()), expected)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FeatureEmbedding((), DIM), "field_dims"),
        (lambda: FeatureEmbedding((3, 0), DIM), "field_dims"),
        (lambda: PNN((3,)), "at least 2 fields"),
        (lambda: BilinearInteraction(1, DIM, "field_all"), "at least 2 fields"),
        (lambda: BilinearInteraction(FIELDS, DIM, "field_all", "stack"), "'stack'; allowed: per_matrix, stacked"),
        (lambda: BilinearInteraction(FIELDS, DIM, "field_al"), "'field_al'; allowed: field_all, .* mean 'field_all'"),
        (lambda: DCN((3, 4), num_cross_layers=-1), "num_cross_layers"),
        (lambda: SENET(FIELDS, 0), "reduction_ratio"),
    ],
)
def test_impossible_sizes_are_refused_in_one_line(build, words):
    assert re.search(words, refused(build))


# ---- MLP ------------------------------------------------------------------------------------------------------------


def test_mlp_order_is_linear_norm_relu_dropout():
    kinds = [type(layer) for layer in MLP(4, (3, 2), 0.5, True, True).layers]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU, Dropout]
    assert kinds == [*hidden, *hidden, nn.Linear, nn.Flatten]


def test_plain_mlp_follows_its_formula():
    layer = spread_out(MLP(4, (3, 2), 0.0, False, True))
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    linears = [m for m in layer.layers if isinstance(m, nn.Linear)]
    expected = []
    for row in x.tolist():
        for depth, module in enumerate(linears):
            row = [dot(w, row) + b for w, b in zip(module.weight.tolist(), module.bias.tolist(), strict=True)]
            row = [max(0.0, value) for value in row] if depth < 2 else row
        expected.append(row[0])
    assert_equal(layer(x), expected)


def test_mlp_without_output_gives_its_last_hidden_layer():
    x = torch.zeros(6, 4)
    for units, width in (((3, 2), 2), ((), 4)):
        hidden = MLP(4, units, 0.0, False, False)
        assert hidden(x).shape == (6, width)
        assert hidden.output_dim == width


# ---- layers of single models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "heads"), [(DIM, 1), (4, 2), (6, 3)])
def test_field_attention_follows_its_formula(width, heads):
    layer, x = spread_out(FieldAttention(DIM, width, heads, 0.0)), embeddings()
    matrix = {name: getattr(layer, name).weight.tolist() for name in ("query", "key", "value")}
    residual = layer.residual.weight.tolist() if width != DIM else torch.eye(DIM).tolist()
    expected = []
    for row in x.tolist():
        query, key, value = ([times(matrix[name], v) for v in row] for name in ("query", "key", "value"))
        fields = []
        for m in range(FIELDS):
            attended = []
            for head in range(heads):
                part = slice(head * (width // heads), (head + 1) * (width // heads))
                scores = [math.exp(dot(query[m][part], key[k][part])) for k in range(FIELDS)]
                weights = [score / sum(scores) for score in scores]
                values = [v[part] for v in value]
                attended += [dot(weights, column) for column in zip(*values, strict=True)]
            kept = times(residual, row[m])
            fields.append([max(0.0, a + b) for a, b in zip(attended, kept, strict=True)])
        expected.append(fields)
    assert any(value == 0 for row in expected for v in row for value in v)
    assert_equal(layer(x), expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_bilinear_fusion_follows_its_formula(heads):
    layer, drawn = spread_out(BilinearFusion(6, 9, heads)), torch.Generator().manual_seed(2)
    x, y = (torch.randn(BATCH, width, dtype=torch.float64, generator=drawn) for width in (6, 9))
    expected = []
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        total = layer.x.bias.item() + dot(layer.x.weight[0].tolist(), a) + dot(layer.y.weight[0].tolist(), b)
        for head in range(heads):
            own, other = (slice(head * width // heads, (head + 1) * width // heads) for width in (6, 9))
            total += dot(a[own], times(layer.weight[head].tolist(), b[other]))
        expected.append(total)
    assert_equal(layer(x, y), expected)


def test_context_gate_follows_its_formula():
    layer, ids = spread_out(ContextGate(FIELD_DIMS, DIM, 2, 4)), random_ids()
    flat = embeddings().flatten(1)
    first, second = layer.gate[0], layer.gate[2]
    expected = []
    for row, values in zip(ids.tolist(), flat.tolist(), strict=True):
        context = layer.embedding.weight[row[2]].tolist()
        hidden = [
            max(0.0, a + b) for a, b in zip(times(first.weight.tolist(), context), first.bias.tolist(), strict=True)
        ]
        scores = [a + b for a, b in zip(times(second.weight.tolist(), hidden), second.bias.tolist(), strict=True)]
        expected.append([v * 2 / (1 + math.exp(-s)) for v, s in zip(values, scores, strict=True)])
    assert_equal(layer(ids, flat), expected)


# Those below were also compared with the code of others, weights copied over, in float64, logits and gradients: FuxiCTR
# 0245987 (GDCN, FinalNet with its loss, WuKong), salmon1802/FCN 1835ffe and tabm 0.0.3 (its MLPs). All agree to 6e-14.


def layer_norm(values, norm):
    """Standardized, with 1e-5 beside the variance, then scaled and shifted."""
    mean = sum(values) / len(values)
    deviation = sqrt(sum((v - mean) ** 2 for v in values) / len(values) + 1e-5)
    return [
        (v - mean) / deviation * a + b
        for v, a, b in zip(values, *map(torch.Tensor.tolist, norm.parameters()), strict=True)
    ]


def affine(layer, vector):
    """A linear layer without and with a bias."""
    products = times(layer.weight.tolist(), vector)
    return products if layer.bias is None else [a + b for a, b in zip(products, layer.bias.tolist(), strict=True)]


def test_gated_cross_network_follows_its_recursion():
    layer, flat = spread_out(GatedCrossNetwork(FIELDS * DIM, 3)), embeddings().flatten(1)
    expected = []
    for row in flat.tolist():
        x = row
        for cross, gate in zip(layer.layers, layer.gates, strict=True):
            open_by = [1 / (1 + math.exp(-v)) for v in affine(gate, x)]
            x = [a * c * g + b for a, c, g, b in zip(row, affine(cross, x), open_by, x, strict=True)]
        expected.append(x)
    assert_equal(layer(flat), expected)
    assert torch.equal(GatedCrossNetwork(FIELDS * DIM, 0)(flat), flat)


@pytest.mark.parametrize("width", [6, 5])
def test_factorized_interaction_multiplies_its_halves(width):
    layer, flat = spread_out(FactorizedInteraction(FIELDS * DIM, width)), embeddings().flatten(1)
    expected = []
    for row in flat.tolist():
        h = affine(layer.linear, row)
        expected.append(h[:3] + [h[n] * h[3 + n] for n in range(width - 3)])
    assert_equal(layer(flat), expected)


@pytest.mark.parametrize("exponential", [True, False])
@pytest.mark.parametrize("width", [12, 11])
def test_masked_cross_network_follows_its_recursion(exponential, width):
    layer = spread_out(MaskedCrossNetwork(width, 3, exponential, 0.0, False))
    flat = embeddings().flatten(1)[:, :width]
    expected = []
    for row in flat.tolist():
        x = row
        for cross, norm, bias in zip(layer.layers, layer.norms, layer.bias.tolist(), strict=True):
            c = affine(cross, x)
            masked = [a * max(0.0, b) for a, b in zip(c, layer_norm(c, norm), strict=True)]
            parts = zip(x if exponential else row, (c + masked)[:width], bias, x, strict=True)
            x = [a * (one + b) + old for a, one, b, old in parts]
        expected.append(x)
    assert_equal(layer(flat), expected)


@pytest.mark.parametrize("features", [FIELDS // 2, 3])
def test_wukong_layer_follows_its_formula(features):
    """With as many new vectors as old ones the residual is the input, else a weighted sum."""
    layer = spread_out(WukongLayer(FIELDS, features, DIM, 2, 5, 0.0))
    projection = layer.projection.T.tolist()
    expected = []
    for row in embeddings().tolist():
        gram = [[dot(a, b) for b in row] for a in row]
        products = layer_norm([dot(line, y) for line in gram for y in projection], layer.products_norm)
        hidden = [max(0.0, v) for v in affine(layer.fm[0], products)]
        crossed = [max(0.0, v) for v in affine(layer.fm[-2], hidden)]
        columns = [list(column) for column in zip(*row, strict=True)]
        sums = [list(one) for one in zip(*(affine(layer.compress, column) for column in columns), strict=True)]
        new = [crossed[n * DIM : (n + 1) * DIM] for n in range(features)] + sums
        kept = row if 2 * features == FIELDS else zip(*(affine(layer.residual, c) for c in columns), strict=True)
        vectors = [[a + b for a, b in zip(one, old, strict=True)] for one, old in zip(new, kept, strict=True)]
        expected.append([layer_norm(vector, layer.norm) for vector in vectors])
    assert_equal(layer(embeddings()), expected)


def test_mixer_block_follows_its_formula():
    tokens, width = 2, 6
    layer = spread_out(MixerBlock(tokens, width, 0.0))
    x = embeddings().view(BATCH, tokens, width)
    expected = []
    for row in x.tolist():
        new = []
        for t in range(tokens):
            mixed = [value for token in row for value in token[3 * t : 3 * t + 3]]
            s = layer_norm([a + b for a, b in zip(row[t], mixed, strict=True)], layer.norms[0])
            out = s
            for part in (layer.up, layer.down):
                products = times(part.weight[t].T.tolist(), out)
                out = [a + b for a, b in zip(products, part.bias[t, 0].tolist(), strict=True)]
                out = [v * (1 + math.erf(v / sqrt(2))) / 2 for v in out] if part is layer.up else out
            new.append(layer_norm([a + b for a, b in zip(s, out, strict=True)], layer.norms[1]))
        expected.append(new)
    assert_equal(layer(x.transpose(0, 1)).transpose(0, 1), expected)


def test_adapted_linear_follows_its_formula():
    """One input for all submodels, or one for each."""
    layer = spread_out(AdaptedLinear(DIM, 2, FIELDS, random_signs=True))
    r, s, bias, matrix = (one.tolist() for one in (layer.r, layer.s, layer.bias, layer.shared.weight))

    def adapted(k: int, v: list) -> list:
        products = times(matrix, [a * b for a, b in zip(v, r[k], strict=True)])
        return [p * a + b for p, a, b in zip(products, s[k], bias[k], strict=True)]

    for x in (embeddings(), embeddings()[:, :1]):
        rows = x.expand(-1, FIELDS, -1).tolist()
        assert_equal(layer(x), [[adapted(k, v) for k, v in enumerate(row)] for row in rows])


def test_the_first_adapters_alone_begin_at_random():
    first, second = (module for module in started("TabM-DeepFM").towers if isinstance(module, AdaptedLinear))
    assert first.r.unique().tolist() == [-1, 1]
    assert {value for one in (first.s, second.r, second.s) for value in one.unique().tolist()} == {1}


# ---- beginnings -----------------------------------------------------------------------------------------------------


def start_of(name):
    """The formula of the row of the table that a parameter belongs to; that of biases comes before all others."""
    rows = re.search(r"\| Initial weights of .*?\n\n", METHOD, re.DOTALL)[0].split("\n")[2:-2]
    cells = [row.split("|") for row in reversed(rows)]
    table = [(re.findall(r"`(\S*[.*]\S*)`", names), formula.strip(" `")) for _, names, formula, _ in cells]
    found = [formula for patterns, formula in table for one in patterns if fnmatchcase(name, one)]
    assert found, f"the table has no row for {name}"
    assert found[0] == "0" or len(found) == 1, name
    return found[0]


def deviation(formula, shape, **more):
    names = {"sqrt": sqrt, "D": shape[-1], "inputs": shape[-1], "outputs": shape[-2] if len(shape) > 1 else 1, **more}
    return eval(formula, {"__builtins__": {}}, names)


def off_by(weights, sd):
    """How many standard errors the measured standard deviation is from ``sd``."""
    return abs(weights.double().square().mean().sqrt().item() - sd) / (sd / sqrt(2 * prod(weights.shape)))


def started(architecture, **options):
    sizes = {"embedding_dim": 16, "hidden_units": (200, 100), "dropout": 0.0, "batch_norm": False}
    return build_model(architecture, [300] * 8, 1, **sizes, options=options)


BILINEAR = [("FiBiNET", {"bilinear_type": kind}) for kind in BILINEAR_TYPES]


@pytest.mark.parametrize(("architecture", "options"), [*((name, {}) for name in MODELS), *BILINEAR])
def test_every_layer_starts_as_the_page_says(architecture, options):
    model = started(architecture, **options)
    for name, weights in model.named_parameters():
        sd = deviation(start_of(name), weights.shape)
        assert (weights == 0).all() if sd == 0 else off_by(weights.detach(), sd) < 5, (name, sd)


@pytest.mark.parametrize(("kind", "matrices"), [("field_interaction", 28), ("field_each", 7), ("field_all", 1)])
def test_bilinear_matrices_may_start_as_a_stack(kind, matrices):
    model = started("FiBiNET", bilinear_type=kind, bilinear_init="stacked")
    formula = re.search(r"which gives `(.*?)`", METHOD)[1]
    sd = deviation(formula, (16, 16), matrices=matrices) if matrices > 1 else 16**-0.5  # one matrix is no stack
    assert 19 < 16**-0.5 / deviation(formula, (16, 16), matrices=39 * 38 // 2) < 20, "a twentieth, says the page"
    assert off_by(model.bilinear_raw.weight.detach(), sd) < 5


def test_what_the_page_says_of_fibinets_two_starts() -> None:
    table = pd.read_csv(BOOK / "results" / "fibinet_start.csv").set_index("bilinear_init")
    ahead = [table.loc["per_matrix", f"epoch {n}"] - table.loc["stacked", f"epoch {n}"] for n in (1, 2, 3)]
    assert ahead[0] > 0 > max(ahead[1:])
