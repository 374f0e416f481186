"""Fine-tune one encoder on several sentence tasks at once.

`import qabert` is instant.  What needs torch is imported when it is first used, and transformers'
`AutoModel.from_pretrained` and `pipeline("qabert")` know this package's checkpoints from then on, in whichever order
qabert and transformers were imported.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qabert.errors import InputError as InputError
    from qabert.hub.push import push_to_hub as push_to_hub
    from qabert.inference import Predictor as Predictor
    from qabert.modeling import QABertConfig as QABertConfig
    from qabert.modeling import QABertModel as QABertModel
    from qabert.tasks import Task as Task
    from qabert.training.api import train as train
    from qabert.training.trainer import QABertTrainer as QABertTrainer

_EXPORTS = {
    "InputError": "qabert.errors",
    "Predictor": "qabert.inference",
    "QABertConfig": "qabert.modeling",
    "QABertModel": "qabert.modeling",
    "QABertTrainer": "qabert.training.trainer",
    "Task": "qabert.tasks",
    "push_to_hub": "qabert.hub.push",
    "train": "qabert.training.api",
}
__all__ = ["InputError", "Predictor", "QABertConfig", "QABertModel", "QABertTrainer", "Task", "push_to_hub", "train"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'qabert' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


class _ImportAfter:
    """Import a module of ours, which registers itself, as soon as the module of transformers that it extends is."""

    def __init__(self, watched: str, own: str) -> None:
        self.watched, self.own = watched, own

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.watched:
            return None
        sys.meta_path.remove(self)  # once is enough, and the look-up below must not come back here
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                importlib.import_module(self.own)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


for _watched, _own in (
    ("transformers.models.auto.modeling_auto", "qabert.modeling"),
    ("transformers.pipelines", "qabert.pipeline"),
):
    if _watched in sys.modules:
        importlib.import_module(_own)
    else:
        sys.meta_path.insert(0, _ImportAfter(_watched, _own))
