"""JSON files with their checksum, and what is refused as one."""

import json

import pytest

from ctrlib.config import digest
from ctrlib.data.files import BrokenSeal, Irregular, read_sealed, seal, unseal, write_sealed


def test_a_sealed_file_is_read_back_and_says_when_it_is_not_whole(tmp_path):
    path, content = tmp_path / "a.json", {"b": [1, 2.5, None], "é": "ü"}
    write_sealed(path, content, indent=1, ensure_ascii=False)
    write_sealed(path, content, indent=1, ensure_ascii=False)
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]
    assert read_sealed(path) == content
    assert json.loads(path.read_text("utf-8")) == {**content, "checksum": digest(content)}
    good = seal(content)
    for bad, words in (
        (good.replace("2.5", "2.6"), "not that of its checksum"),
        (json.dumps(content), "no checksum"),
        (good[:-5], "Unterminated"),
        ("[]", "no object"),
        (good.replace("2.5", "NaN"), "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            unseal(bad)
        assert isinstance(caught.value, BrokenSeal) == ("checksum" in words)
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(Irregular):
        read_sealed(tmp_path / "link")


def test_a_seal_may_be_of_a_part():
    def of_value(content):
        return digest([content["name"], content["value"]])

    text = seal({"name": "x", "value": 3, "more": 1}, of_value)
    assert unseal(text, of_value)["value"] == 3
    with pytest.raises(BrokenSeal):
        unseal(text)
    with pytest.raises(BrokenSeal):
        unseal(seal({"name": "x"}), of_value)
