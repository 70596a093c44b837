"""What the files of a run record must hold; anything else is a ValueError before it is used.

A checksum says that a file is the one that was written. It does not say by whom: a store can be handed on. So nothing
is unpacked, set aside in memory or looked up on the word of a file alone.
"""

import io
import math
import struct
import zipfile
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ctrlib.config import Run
from ctrlib.data.files import read_npy_header


class _Strict(BaseModel):
    """Exact types; what is not named here may be there too."""

    model_config = ConfigDict(strict=True)


class Epoch(_Strict):
    """A row of a history: one member after one epoch."""

    epoch: int
    member: int
    learning_rate: float
    click_loss: float
    peer_loss: float
    valid_auc: float
    valid_logloss: float
    seconds: float


class Test(_Strict):
    """Test metrics of one member."""

    auc: float
    logloss: float
    calibration: float


class RowCounts(_Strict):
    """Rows of each part."""

    train: int = Field(ge=1)
    valid: int = Field(ge=1)
    test: int = Field(ge=1)


class Origin(_Strict):
    """What of ``run.json`` decides whether the record counts: whose it is, of which code, from which weights."""

    format: int
    fingerprint: str
    code: dict[str, str] = {}  # neither in records made before there were digests of the code
    weights: dict[str, str] = {}
    files: dict[str, str]


class Content(Origin):
    """``run.json`` beside the settings of the run, which :class:`ctrlib.config.Run` judges."""

    numerics: int
    history: list[Epoch]
    kept_epochs: list[int]
    test: list[Test]
    rows: RowCounts
    seconds: float
    finished: str
    environment: dict[str, Any]


class Summary(_Strict):
    """What a list of many records shows of each ``run.json``; the rest is passed over."""

    run: Run
    kept_epochs: list[int]
    test: list[Test]
    seconds: float


HISTORY = TypeAdapter(list[Epoch])


def validate_content(content: dict[str, Any], members: int, files: tuple[str, ...]) -> None:
    """Raise ValueError unless ``content`` is that of a ``run.json`` of so many members and with these files."""
    checked = Content.model_validate(content)
    if len(checked.test) != members or len(checked.kept_epochs) != members:
        raise ValueError(f"{members} members are needed")
    if not all(0 <= row.member < members for row in checked.history):
        raise ValueError("a row of the history is of no member")
    if set(checked.files) != set(files):
        raise ValueError(f"checksums of {files} are needed")


def read_logits(content: bytes, split: str, shape: tuple[int, int]) -> np.ndarray:
    """The float32 array ``split`` of a ``predictions.npz``. It must lie there unpacked, so a bomb has no place."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = archive.getinfo(f"{split}.npy")
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                raise ValueError(f"{split} is packed")
            raw = archive.read(member)
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError, NotImplementedError, struct.error) as error:
        raise ValueError(f"no array {split} ({' '.join(str(error).split())[:100]})") from None
    file = io.BytesIO(raw)
    if read_npy_header(file) != (shape, np.dtype("<f4")) or len(raw) - file.tell() != 4 * math.prod(shape):
        raise ValueError(f"{split} is no float32 array {shape}")
    return np.frombuffer(raw, "<f4", offset=file.tell()).reshape(shape).copy()


def read_states(content: bytes, members: int) -> list[dict]:
    """Weights and Adam state (:data:`ctrlib.training.cohort.State`) of each member, from ``members.safetensors``."""
    from safetensors.torch import load

    states: list[dict] = [{} for _ in range(members)]
    try:
        tensors = load(content)
    except Exception as error:  # a Rust panic of any kind arrives as its own exception
        raise ValueError(f"no safetensors ({' '.join(str(error).split())[:100]})") from None
    for name, tensor in tensors.items():
        member, _, key = name.partition("|")
        if not member.isdecimal() or not member.isascii() or int(member) >= members:
            raise ValueError(f"{name[:100]!r} is a tensor of no member")
        states[int(member)][key] = tensor
    return states
