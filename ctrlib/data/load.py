"""The rows a run is defined on: their fingerprint before training, the rows themselves when it starts."""

from functools import lru_cache
from pathlib import Path

from ctrlib.config import Data, SyntheticSettings
from ctrlib.data.folders import data_root
from ctrlib.errors import UserError

ROWS_OF_A_LAW = {"rows_seed": 0, "lag": 0.0}  # settings that choose the rows of a planted law, at their default


def data_settings(name: str, draw: int, synthetic: SyntheticSettings | None = None) -> Data:
    """The :class:`Data` of a run: looks up (synthetic: computes) the fingerprint of the rows."""
    if name == "synthetic":
        from ctrlib.data.synthetic import fingerprint

        synthetic = synthetic or SyntheticSettings()
        return Data(name=name, draw=draw, synthetic=synthetic, fingerprint=fingerprint(synthetic, draw))
    found = _load_cached(name, draw, None, str(data_root()))
    return Data(name=name, draw=draw, fingerprint=found.fingerprint)


def same_codes(a: Data, b: Data) -> bool:
    """Whether a code means the same in both: they are the same rows, or rows of one planted law."""
    laws = [one.synthetic and (one.draw, one.synthetic.model_copy(update=ROWS_OF_A_LAW)) for one in (a, b)]
    return a.fingerprint == b.fingerprint or (laws[0] is not None and laws[0] == laws[1])


def load_data(data: Data):
    """The rows that ``data`` names (the last two are kept in memory).

    Raises:
        UserError: there is no such data set, or the rows of that name are others than those of the fingerprint.
    """
    found = _load_cached(data.name, data.draw, data.synthetic, str(data_root()))
    if found.fingerprint != data.fingerprint:
        raise UserError(
            f"data set {data.name!r} (draw {data.draw}) now holds other rows ({found.fingerprint}) than those that the "
            f"runs saw ({data.fingerprint}); if they lie under another name, ask for that: dataset=NAME"
        )
    return found


@lru_cache(maxsize=2)
def _load_cached(name: str, draw: int, synthetic: SyntheticSettings | None, root: str):
    from ctrlib.data.sources import load

    return load(name, draw=draw, data_dir=Path(root), synthetic=synthetic)
