"""The triplet stage's Trainer: its batches, its objective however a step is cut, its measures."""

from __future__ import annotations

import random

import datasets
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import set_seed

from qabert.modeling import QABertModel
from qabert.modeling.triplet_losses import TRIPLET_LOSSES
from qabert.training.arguments import RunArguments
from qabert.training.triplet_trainer import DevFrames, Frames, TripletCollator, TripletTrainer, frame_rows
from qabert.training.triplets import tokenise

TOPICS = ("ab cd ef gh", "ij kl mn op", "qr st uv wx", "yz ba dc fe")


def toy_texts(sentences: int = 60, seed: int = 0) -> tuple[list[str], list[int]]:
    """Distinct sentences and their topics, which their words tell."""
    rng = random.Random(seed)
    topics = [rng.randrange(len(TOPICS)) for _ in range(sentences)]
    texts = [
        " ".join(rng.choice(TOPICS[t].split()) for _ in range(rng.randint(4, 9))) + f" {n}"
        for n, t in enumerate(topics)
    ]
    return texts, topics


def toy_frames(tokenizer, sentences: int = 60, frames: int = 40, negatives: int = 3, seed: int = 0) -> Frames:
    """Two tasks of frames: the positive is of the anchor's topic, the negatives aren't."""
    texts, topics = toy_texts(sentences, seed)
    rng = random.Random(seed)
    rows = {"anchor": [], "positive": [], "negatives": []}
    for _ in range(frames):
        anchor = rng.randrange(sentences)
        rows["anchor"].append(anchor)
        rows["positive"].append(
            rng.choice([n for n in range(sentences) if topics[n] == topics[anchor] and n != anchor])
        )
        rows["negatives"].append(rng.sample([n for n in range(sentences) if topics[n] != topics[anchor]], negatives))
    table = tokenise(datasets.Dataset.from_dict({"text": texts}), tokenizer, 64)
    whole = datasets.Dataset.from_dict(rows)
    half = frames // 2 + 3  # uneven, so that steps are
    parts = {"one": whole.select(range(half)), "two": whole.select(range(half, frames))}
    return Frames(table, parts, {"one": 0, "two": 0})


@pytest.fixture
def make(tmp_path, encoder_path, tokenizer):
    """`make(loss, **keys)`: a trainer of a tiny encoder without dropout on toy frames."""

    def build(loss="equation1", frames=None, dropout=0.0, encoder=encoder_path, pooling="first", examples=None, **keys):
        given = {
            "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8, "num_train_epochs": 1,
            "eval_strategy": "no", "save_strategy": "no", "logging_steps": 1, "load_best_model_at_end": False,
            "per_device_eval_batch_size": 7, "seed": 0,
        } | keys  # fmt: skip
        folder = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        args = RunArguments(output_dir=str(folder), trainer=given).training_arguments()
        set_seed(0)
        model = QABertModel.from_encoder(encoder, dropout=dropout, tasks=[]).encoder
        with torch.no_grad():  # a new encoder maps all to nearly one point, where no hinge of equation 1 is open
            for weight in model.parameters():
                weight.mul_(20 if weight.dim() > 1 else 1)
            list(model.modules())[-2].weight.mul_(8)
        return TripletTrainer(
            model, args, loss=loss, train=frames or toy_frames(tokenizer), processing_class=tokenizer,
            pooling=pooling, examples_per_epoch=examples,
        )  # fmt: skip

    return build


def logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


# Batches


def test_every_sentence_is_tokenised_once_and_cut_at_max_length(tokenizer):
    texts = ["ab cd ef", "ab " * 40, ""]
    table = tokenise(datasets.Dataset.from_dict({"text": texts}), tokenizer, 12)
    assert table["length"][:] == [5, 12, 2] == [len(ids) for ids in table["input_ids"]]
    assert table["input_ids"][0] == tokenizer("ab cd ef")["input_ids"]
    assert table["input_ids"][1][-1] == tokenizer.sep_token_id


def test_a_batch_has_each_sentence_once_in_one_padded_table(tokenizer):
    frames = toy_frames(tokenizer)
    chosen = [frames.frames["one"][n] for n in (0, 1, 2, 0)]
    batch = TripletCollator(tokenizer, frames.sentences)(chosen)
    rows = np.array([[f["anchor"], f["positive"], *f["negatives"]] for f in chosen])
    assert next(iter(batch)) == "frames"
    assert batch["frames"].shape == rows.shape
    assert len(batch["input_ids"]) == len(np.unique(rows)) < rows.size
    lengths = batch["attention_mask"].sum(1)
    assert lengths.max() == batch["input_ids"].shape[1]
    for row, places in zip(rows, batch["frames"], strict=True):
        for sentence, place in zip(row.tolist(), places.tolist(), strict=True):
            ids = batch["input_ids"][place][: lengths[place]].tolist()
            assert ids == frames.sentences[sentence]["input_ids"]


def test_batches_are_of_one_task_and_count_the_named_examples(make, tokenizer):
    trainer = make(examples={"two": 30}, num_train_epochs=1)
    first = len(toy_frames(tokenizer).frames["one"])
    assert {len({index < first for index in batch}) for batch in trainer.sampler} == {1}
    assert trainer.num_examples(trainer.get_train_dataloader()) == first + 30
    drawn = [index for batch in trainer.sampler for index in batch]
    assert sorted(index for index in drawn if index < first) == list(range(first))  # each once, not weighted
    assert len(drawn) == first + 30


def test_one_encoder_call_a_step(make):
    trainer = make()
    calls = []
    trainer.model.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == trainer.state.global_step == len(trainer.sampler)


# The objective

SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "weight_decay": 0.0, "warmup_steps": 0}


def by_hand(model, frames: Frames, rows, loss: str) -> torch.Tensor:
    """The loss of some frames, summed, each sentence encoded alone."""
    ids = [torch.tensor([frames.sentences[int(n)]["input_ids"]]) for n in rows.ravel()]
    states = torch.cat([model(one).last_hidden_state[:, 0] for one in ids]).view(*rows.shape, -1)
    return TRIPLET_LOSSES[loss](states[:, 0], states[:, 1], states[:, 2:], torch.from_numpy(rows))


@pytest.mark.parametrize("loss", TRIPLET_LOSSES)
@pytest.mark.parametrize("pieces", [1, 2])
def test_the_logged_loss_is_the_mean_per_anchor(make, tokenizer, loss, pieces):
    frames = toy_frames(tokenizer)
    # A seed whose first step isn't zero: most hinges of equation 1 are.
    trainer = make(loss, frames, **SGD | {"learning_rate": 1e-12, "gradient_accumulation_steps": pieces, "seed": 1})
    rows = np.concatenate([frame_rows(of_task) for of_task in frames.frames.values()])
    first = [rows[batch] for batch in list(trainer.sampler)[:pieces]]
    with torch.no_grad():
        parts = [by_hand(trainer.model.eval(), frames, batch, loss).item() for batch in first]
    assert parts[0] > 0
    trainer.train()
    assert logs(trainer)[0]["loss"] == pytest.approx(sum(parts) / sum(map(len, first)), rel=1e-4)
    assert 0 <= logs(trainer)[0]["hinge_zero"] <= 1


def test_equation_1_does_not_depend_on_how_a_step_is_cut(make):
    whole = make(**SGD)
    sizes = [len(batch) for batch in whole.sampler]
    assert len(set(sizes)) > 1, "steps of uneven size belong to this test"
    whole.train()
    assert any(entry["grad_norm"] > 0 for entry in logs(whole))
    anchors = [entry["hinge_zero"] * size for entry, size in zip(logs(whole), sizes, strict=True)]
    assert anchors == pytest.approx(np.round(anchors), abs=1e-4), "of this step's anchors, not of all before it"
    for size, pieces in ((4, 2), (2, 4)):
        cut = make(**SGD, per_device_train_batch_size=size, gradient_accumulation_steps=pieces)
        cut.model_accepts_loss_kwargs = False  # as with an encoder whose forward takes named arguments only
        cut.train()
        assert len(logs(cut)) == len(logs(whole)) == len(sizes)
        for a, b in zip(logs(whole), logs(cut), strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4, abs=1e-6)
            assert a["hinge_zero"] == pytest.approx(b["hinge_zero"])
        for name, value in weights(whole).items():
            assert torch.allclose(value, weights(cut)[name], atol=1e-5), name


def test_a_cut_step_of_ranking_is_the_mean_over_the_same_anchors_with_fewer_negatives(make):
    whole, cut = (
        make("ranking", **SGD),
        make("ranking", **SGD, per_device_train_batch_size=4, gradient_accumulation_steps=2),
    )
    assert [sorted(a + b) for a, b in zip(*[iter(cut.sampler)] * 2, strict=True)] == [sorted(a) for a in whole.sampler]
    whole.train(), cut.train()
    assert all(a["loss"] > b["loss"] for a, b in zip(logs(whole)[:1], logs(cut)[:1], strict=True))


@pytest.mark.parametrize("loss", TRIPLET_LOSSES)
def test_every_weight_of_the_encoder_moves_and_there_are_no_heads(make, tokenizer, loss):
    trainer = make(loss, learning_rate=1e-2)
    before = weights(trainer)
    trainer.train()
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    assert still == []
    assert not [name for name in before if "head" in name or "pooler" in name]


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_loss_is_of_the_pooled_states_in_float32_under_bf16(make, monkeypatch, pooling):
    seen = []

    def spy(anchor, positive, negatives, texts):
        seen.append((anchor, torch.is_autocast_enabled("cpu")))
        return anchor.sum()

    monkeypatch.setitem(TRIPLET_LOSSES, "equation1", spy)
    trainer = make(bf16=True, pooling=pooling, max_steps=1)
    states, inside = [], []
    trainer.model.register_forward_hook(lambda _, inputs, output: states.append(output.last_hidden_state))
    trainer.model.encoder.layer[1].output.dense.register_forward_hook(lambda *seen: inside.append(seen[-1].dtype))
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.train()
    ((anchor, autocast),) = seen
    assert anchor.dtype == torch.float32 and not autocast
    assert inside == [torch.bfloat16], "the encoder itself runs in bf16"
    mask = batch["attention_mask"][..., None].float()
    both = {"first": states[0][:, 0].float(), "mean": (states[0].float() * mask).sum(1) / mask.sum(1)}
    expected = both[pooling][batch["frames"][:, 0]]
    assert torch.allclose(anchor, expected, atol=1e-5)

    kept = make(pooling=pooling)
    kept.model.bfloat16()  # as an encoder that is kept in bf16
    kept.compute_loss(kept.model, batch)
    assert seen[-1][0].dtype == torch.float32


def test_several_gpus_are_not_fed_by_data_parallel(make, monkeypatch):
    build = RunArguments.training_arguments

    def two(self):
        args = build(self)
        args._n_gpu = 2
        return args

    monkeypatch.setattr(RunArguments, "training_arguments", two)
    assert make().args.n_gpu == 1


# What is measured, and that training raises it


def test_measures_are_those_of_the_frames_computed_one_by_one(make, tokenizer):
    frames = toy_frames(tokenizer)
    rows = frame_rows(frames.frames["one"])[:11]
    pairs, labels = rows[:, :2], np.arange(11.0)
    trainer = make("equation1", frames, dropout=0.2)
    before = {name: value.clone() for name, value in weights(trainer).items()}
    measured = trainer.measure(
        DevFrames(frames.sentences, {"one": rows}, {"one": (pairs, labels), "pair": (pairs, -labels)})
    )
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())

    model = trainer.model.eval()
    with torch.no_grad():
        one = lambda n: model(torch.tensor([frames.sentences[int(n)]["input_ids"]])).last_hidden_state[0, 0].numpy()  # noqa: E731
        vectors = np.array([[one(n) for n in row] for row in rows], dtype=np.float64)
    near = np.linalg.norm(vectors[:, 0] - vectors[:, 1], axis=-1)
    far = np.linalg.norm(vectors[:, :1] - vectors[:, 2:], axis=-1)
    hinge = near - np.log(np.exp(far).sum(1))
    unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    rank = stats.spearmanr((unit[:, 0] * unit[:, 1]).sum(-1), labels).statistic
    expected = {
        "positive_distance": near.mean(), "negative_distance": far.mean(), "nearer": (near < far.min(1)).mean(),
        "hinge_zero": (hinge <= 0).mean(), "loss": np.maximum(hinge, 0).mean(), "cosine_spearman": rank,
    }  # fmt: skip
    assert 0 < expected["nearer"] < 1
    assert measured["one"] == pytest.approx(expected, abs=1e-5)
    assert measured["pair"] == pytest.approx({"cosine_spearman": -rank}, abs=1e-5)


def test_measures_before_and_after_are_taken_in_the_same_precision(make, tokenizer):
    frames = toy_frames(tokenizer)
    trainer = make("ranking", frames, bf16=True, max_steps=1, learning_rate=1e-12)
    seen = []
    trainer.model.encoder.layer[1].output.dense.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    before = trainer.embed(frames.sentences)
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert torch.equal(trainer.embed(frames.sentences), before)
    assert before.dtype == torch.float32


def test_ranking_brings_positives_nearer(make, tokenizer):
    """Topics are told by the words alone, and the dev sentences are other ones: learnable, and not by heart."""
    other = toy_frames(tokenizer, seed=5)
    dev = DevFrames(other.sentences, {"toy": frame_rows(other.frames["one"])}, {})
    trainer = make("ranking", toy_frames(tokenizer, 120, 160), learning_rate=3e-3, num_train_epochs=4, logging_steps=50)
    before = trainer.measure(dev)["toy"]
    trainer.train()
    after = trainer.measure(dev)["toy"]
    assert before["nearer"] < 0.6
    assert after["nearer"] > before["nearer"] + 0.3
    assert after["loss"] < before["loss"] / 2
