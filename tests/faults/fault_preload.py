"""What the fork server imports once, so that each of hundreds of runs starts in milliseconds.  Nothing is computed."""

import contextlib
import gc

import datasets
import evaluate
import torch
import transformers
import transformers.hf_argparser
import transformers.models.bert.modeling_bert

import qabert.cli
import qabert.training.run

assert datasets and evaluate and torch and transformers and qabert
with contextlib.suppress(ImportError, AttributeError):  # a table that every loaded model would build anew
    transformers.conversion_mapping.get_checkpoint_conversion_mapping("bert")
gc.freeze()  # a collection in a child would copy all of the memory that it shares
