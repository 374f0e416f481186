"""What is computed: the shared encoder, a head per task, their losses."""

from transformers import AutoConfig, AutoModel

from .configuration_qabert import QABertConfig
from .modeling_qabert import QABertModel, QABertOutput

AutoConfig.register("qabert", QABertConfig, exist_ok=True)
AutoModel.register(QABertConfig, QABertModel, exist_ok=True)

__all__ = ["QABertConfig", "QABertModel", "QABertOutput"]
