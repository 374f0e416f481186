"""What is computed: the shared encoder, a head per task, their losses."""

from transformers import AutoConfig, AutoModel

from .configuration_qabert import QABertConfig
from .modeling_qabert import QABertModel, QABertOutput

AutoConfig.register("qabert", QABertConfig, exist_ok=True)
AutoModel.register(QABertConfig, QABertModel, exist_ok=True)
# Whatever is saved carries these modules, for those who load it with `trust_remote_code=True` and without this package.
QABertConfig.register_for_auto_class()
QABertModel.register_for_auto_class("AutoModel")

__all__ = ["QABertConfig", "QABertModel", "QABertOutput"]
