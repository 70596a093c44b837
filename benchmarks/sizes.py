"""The one model size that everybody is timed at, the study's own, and what each architecture costs as it is written.

Sizes: Criteo's shape, and the paper's embedding and batch. No dropout, batch norm or L2; Adam with rate 1e-3.
"""

from dataclasses import dataclass
from itertools import pairwise

FIELDS, CODES, EMBEDDING, HIDDEN, BATCH = 39, 300_000, 16, (400, 400, 400), 4000
GPU_CODES = 1_000_000  # as many as the whole of Criteo has
LEARNING_RATE = 1e-3
CROSS_LAYERS = 3
BILINEAR = "field_each"  # what the peers offer under one name or another
ARCHITECTURES = ("DeepFM", "DCN", "PNN", "FiBiNET")
FLOAT = 4  # bytes
STUDY = {  # what the pages of the book train, without dropout, batch norm or L2: arguments of :func:`cost`
    "page 21": {"fields": 10, "codes": 400, "embedding": 8, "hidden": (64, 64), "batch": 500},
    "synthetic clicks": {"fields": 10, "codes": 400, "embedding": 8, "hidden": (64, 64), "batch": 4000},
    "Frappe": {"fields": 10, "codes": 5691, "embedding": 8, "hidden": (64, 64), "batch": 2000},
    "Criteo 100k": {"fields": 39, "codes": 40_000, "embedding": 4, "hidden": (32, 32), "batch": 1000},
}
FRAPPE_FROM = 23  # of the 39 fields, the first of ten that have about as many codes as Frappe's


@dataclass(frozen=True)
class Cost:
    """What a training step of one model needs, if every product is computed row by row."""

    flop_forward: float  # per sample; a multiplication and an addition count as two
    bytes_step: float  # memory traffic per step: Adam over all parameters, rows fetched and gradients added
    parameters: int

    @property
    def flop_training(self) -> float:
        """Per sample, forward and backward: each product has two gradients of its own size."""
        return 3 * self.flop_forward

    def floor_seconds(self, flop_rate: float, bandwidth: float, batch: int = BATCH) -> float:
        """Least time of a step without overlap of arithmetic (FLOP/s) and memory traffic (bytes/s)."""
        return batch * self.flop_training / flop_rate + self.bytes_step / bandwidth


def mlp_input(architecture: str, fields: int = FIELDS, embedding: int = EMBEDDING) -> int:
    """Width of the input of the MLP."""
    pairs = fields * (fields - 1) // 2
    flat = fields * embedding
    return {"DeepFM": flat, "DCN": flat, "PNN": flat + pairs, "FiBiNET": 2 * pairs * embedding}[architecture]


def cost(
    architecture: str,
    fields: int = FIELDS,
    codes: int = CODES,
    embedding: int = EMBEDDING,
    hidden: tuple[int, ...] = HIDDEN,
    batch: int = BATCH,
) -> Cost:
    """Arithmetic and memory traffic of one training step.

    Arithmetic counts matrix products only (2 x in x out per sample and layer); what is elementwise is memory traffic.
    Traffic: Adam reads weight, gradient and two moments and writes three of them, 28 bytes a parameter. A table's
    rows are read and written once forward and read, fetched and written once backward, and its gradient is first
    filled with zeros. Activations are left out, so the floor is somewhat low.
    """
    pairs = fields * (fields - 1) // 2
    widths = (mlp_input(architecture, fields, embedding), *hidden)
    layers = list(pairwise(widths))
    logits = widths[-1]  # inputs of the layer to one logit
    flop = sum(2 * a * b for a, b in layers)
    weights = sum(a * b + b for a, b in layers)
    tables = codes * embedding
    fetched = batch * fields * embedding
    if architecture == "DCN":
        flat = fields * embedding
        flop += 2 * flat * CROSS_LAYERS
        weights += 2 * flat * CROSS_LAYERS
        logits += flat
    if architecture == "PNN":
        flop += 2 * pairs * embedding
    if architecture == "FiBiNET":
        reduced = max(1, fields // 3)
        flop += 2 * (2 * fields * reduced) + 2 * (2 * (fields - 1) * embedding**2)
        weights += 2 * fields * reduced + 2 * (fields - 1) * embedding**2
    if architecture in ("DeepFM", "FiBiNET"):  # first-order weights
        tables += codes
        fetched += batch * fields
        weights += 1
    flop += 2 * logits
    weights += logits + 1
    parameters = tables + weights
    return Cost(float(flop), float(28 * parameters + FLOAT * (5 * fetched + tables)), parameters)
