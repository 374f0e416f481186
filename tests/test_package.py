"""The package as a whole: what importing it costs and what it registers."""

import subprocess
import sys

import pytest


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("first", ["import qabert", "from transformers import AutoModel"])
def test_automodel_knows_the_package_in_either_order_of_imports(first):
    code = f"{first}; import qabert; from transformers import AutoConfig, AutoModel; "
    code += "kind = type(AutoConfig.for_model('qabert')); print(kind.__name__, kind in AutoModel._model_mapping)"
    assert run(code) == "QABertConfig True"


def test_importing_the_package_and_its_command_line_costs_no_torch():
    code = "import sys, qabert.cli, qabert.training.arguments; "
    code += "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    assert run(code) == "set()"


def test_exports_are_found_and_others_are_not():
    import qabert

    assert all(getattr(qabert, name) is not None for name in qabert.__all__)
    with pytest.raises(AttributeError, match="Predicter"):
        qabert.Predicter  # noqa: B018
