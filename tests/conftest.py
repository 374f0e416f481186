"""Tiny encoders and rows, built in-process: no test needs a network or a downloaded model."""

from __future__ import annotations

import os
import tempfile

# Before torch and the hub's client are imported: one thread a test process, and no network by mistake.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What tests tokenise goes to no cache of the user's.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="qabert-tests-")

import csv
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORDS = [chr(a) + chr(b) for a in range(97, 123) for b in range(97, 123)]


@pytest.fixture(scope="session")
def torchrun():
    """A function that runs a script in two processes, from the repository's folder unless `cwd` says another."""

    def run(*words, cwd=ROOT, timeout=200):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [*launcher, *map(str, words)]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout)

    return run


def build_tokenizer():
    """A BERT tokenizer of two-letter words and single letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = [chr(n) for n in range(97, 123)]
    marks = list(".,?!:'-")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *marks, *WORDS]
    tokenizer = Tokenizer(models.WordPiece({token: n for n, token in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def tokenizer():
    """A fast tokenizer with BERT's special tokens and token types."""
    return build_tokenizer()


def tiny_config(kind: str = "bert"):
    """A random encoder's configuration of a few thousand weights."""
    import transformers

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    vocab = {"vocab_size": 800, "pad_token_id": 0}
    if kind == "bert":
        return transformers.BertConfig(**sizes, **vocab, max_position_embeddings=128)
    if kind == "mpnet":
        return transformers.MPNetConfig(**sizes, **vocab, max_position_embeddings=130)
    ends = {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    return transformers.ModernBertConfig(**sizes, **vocab, **ends, max_position_embeddings=128)


@pytest.fixture(scope="session")
def encoder_path(tmp_path_factory, tokenizer) -> str:
    """A folder with a tiny random BERT and its tokenizer."""
    import torch
    from transformers import AutoModel

    path = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    AutoModel.from_config(tiny_config()).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def sentence(rng: random.Random, low: int = 3, high: int = 12) -> str:
    """A sentence of the tiny tokenizer's words."""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high))) + "."


def write_course_folder(folder: Path, train: int = 48, dev: int = 20, test: int = 10, seed: int = 0) -> Path:
    """Files of the course's format with random rows; sizes differ a little by task."""
    rng = random.Random(seed)
    columns = {
        "ids-sst": (["sentence"], "sentiment", lambda: str(rng.randrange(5))),
        "sts": (["sentence1", "sentence2"], "similarity", lambda: f"{rng.random() * 5:.1f}"),
        "quora": (["sentence1", "sentence2"], "is_duplicate", lambda: f"{rng.randrange(2)}.0"),
    }
    for number, (prefix, (texts, label, draw)) in enumerate(columns.items()):
        for split, rows in (("train", train + 3 * number), ("dev", dev + number), ("test-student", test)):
            with (folder / f"{prefix}-{split}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, delimiter="\t")
                labelled = split != "test-student"
                writer.writerow(["", "id", *texts, *([label] if labelled else [])])
                for row in range(rows):
                    cells = [str(row), f"{prefix}{split}{row}", *(sentence(rng) for _ in texts)]
                    writer.writerow([*cells, *([draw()] if labelled else [])])
    return folder


@pytest.fixture(scope="session")
def course_folder(tmp_path_factory) -> Path:
    """A folder of the course's files, read-only for tests."""
    return write_course_folder(tmp_path_factory.mktemp("course"))


@pytest.fixture(scope="session")
def plain_tokenizer():
    """A fast byte-level tokenizer without token types, as RoBERTa's and ModernBERT's are: one token for each byte."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({token: n for n, token in enumerate(vocab)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> $B </s>",
        special_tokens=[("<s>", 1), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


@pytest.fixture(scope="session")
def make_config():
    """`tiny_config`, for tests that need several encoders."""
    return tiny_config


@pytest.fixture(scope="session")
def course_features(tokenizer, course_folder):
    """Features of the course's rows in the `separate` format, by task and split; read-only for tests."""
    from qabert.data.prompts import PromptEncoder
    from qabert.data.sources import load_data
    from qabert.tasks import PAPER_TASKS

    rows = load_data(PAPER_TASKS, course_folder)
    return {
        name: {
            split: used.map(PromptEncoder("separate", tokenizer, task, 64), batched=True, remove_columns=["id"])
            for split, used in rows[name].splits.items()
        }
        for name, task in PAPER_TASKS.items()
    }


@pytest.fixture
def make_trainer(tmp_path, encoder_path, tokenizer, course_features):
    """`make_trainer(trainer={...}, model={...}, **more)`: a trainer of the paper's tasks, without dropout."""
    from transformers import set_seed

    from qabert.modeling import QABertModel
    from qabert.tasks import PAPER_TASKS
    from qabert.training.arguments import RunArguments
    from qabert.training.trainer import QABertTrainer

    def make(trainer=None, model=None, folder="out", seed=0, **rest):
        keys = {
            "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8, "num_train_epochs": 1,
            "per_device_eval_batch_size": 8, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1,
            "load_best_model_at_end": False, "seed": seed,
        }  # fmt: skip
        args = RunArguments(output_dir=str(tmp_path / folder), trainer=keys | (trainer or {})).training_arguments()
        set_seed(seed)
        fields = {"input_format": "separate", "max_length": 64, "head_blocks": 1, "head_dropout": 0.0, "dropout": 0.0}
        built = QABertModel.from_encoder(
            encoder_path, tasks=[task.to_dict() for task in PAPER_TASKS.values()], **(fields | (model or {}))
        )
        train = {name: splits["train"] for name, splits in course_features.items()}
        dev = {name: splits["dev"] for name, splits in course_features.items()}
        given = {"tasks": PAPER_TASKS, "train_dataset": train, "eval_dataset": dev, "processing_class": tokenizer}
        return QABertTrainer(built, args, **(given | rest))

    return make


@pytest.fixture(scope="session")
def save_checkpoint(encoder_path, tokenizer):
    """A function that writes an untrained checkpoint into a folder and returns its path."""

    def save(folder: Path, tasks=None, encoder: str = encoder_path, **config) -> str:
        import torch

        from qabert.modeling import QABertModel
        from qabert.tasks import PAPER_TASKS

        torch.manual_seed(1)
        declared = [task.to_dict() for task in tasks or PAPER_TASKS.values()]
        settings = {"input_format": "qa", "max_length": 128, "head_blocks": 1} | config
        model = QABertModel.from_encoder(encoder, tasks=declared, **settings)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if weights.dim() > 1:
                    weights.mul_(10 if name.startswith("heads") else 25)  # answers that differ between rows
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def trained(tmp_path_factory, save_checkpoint) -> str:
    """A checkpoint of the paper's three tasks in the format `qa`, read-only for tests."""
    return save_checkpoint(tmp_path_factory.mktemp("trained"))
