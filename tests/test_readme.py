"""The Python of the README: short, and it does what it says."""

import ast
import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_trains_three_models_alone_and_together(capsys) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    exec(compile(example, README.name, "exec"), {})
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    found = {name: ast.literal_eval(aucs) for name, aucs in lines}
    assert list(found) == ["alone", "together"]
    assert all(len(aucs) == 3 and min(aucs) > 0.55 for aucs in found.values())
    assert found["alone"] != found["together"]
