"""DeepCTR-Torch 0.3.0 through ``model.fit``.

Patched: its look-up of newer versions on import, which would run beside the timing. Unlike ctrlib's: DCN has a
first-order part; the loss is a sum over the batch; ids travel as float32.
"""

import numpy as np
import requests
from torch import nn

from benchmarks import sizes
from benchmarks.table import Table


def fit(architecture: str, table: Table, batch: int, device: str) -> nn.Module:
    """One epoch; see :mod:`benchmarks.peers`."""
    requests.get = no_network
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import DCN, PNN, DeepFM, FiBiNET

    columns = [SparseFeat(f"f{f}", size, sizes.EMBEDDING) for f, size in enumerate(table.field_dims)]
    shared = {"dnn_hidden_units": sizes.HIDDEN, "l2_reg_embedding": 0, "device": device}
    if architecture == "DeepFM":
        model = DeepFM(columns, columns, l2_reg_linear=0, **shared)
    elif architecture == "DCN":
        model = DCN(columns, columns, cross_num=sizes.CROSS_LAYERS, l2_reg_linear=0, l2_reg_cross=0, **shared)
    elif architecture == "PNN":
        model = PNN(columns, **shared)
    else:
        model = FiBiNET(columns, columns, bilinear_type="each", l2_reg_linear=0, **shared)
    model.compile("adam", "binary_crossentropy", metrics=[])
    rows = {f"f{f}": np.array(table.ids[:, f]) for f in range(len(columns))}
    model.fit(rows, table.labels.astype(np.float32), batch_size=batch, epochs=1, verbose=0, shuffle=True)
    return model


def no_network(*_, **__) -> None:
    """Takes the place of ``requests.get``; DeepCTR-Torch handles the error."""
    raise OSError("no network in a benchmark")
