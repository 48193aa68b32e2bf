"""The README's Python, run against the stack."""

import re

from multitude import SamplingParams
from tests.e2e.conftest import DEMO_MODEL

README = DEMO_MODEL.parents[1] / "README.md"


def test_the_python_of_the_readme_prints_what_is_generated(stack, client, capsys):
    (snippet,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert "127.0.0.1:7000" in snippet
    assert "local/my-adapter" in snippet
    code = snippet.replace("127.0.0.1:7000", stack.address).replace("local/my-adapter", "demo/reverse")
    exec(compile(code, README, "exec"), {})
    expected = client.generate("Hello", adapter="demo/reverse", sampling=SamplingParams(temperature=0)).text
    assert expected
    assert capsys.readouterr().out == expected
