"""The Trainer of the triplet stage: frames in batches, one encoder call for each, measures without heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset
from tqdm.auto import tqdm
from transformers import TrainingArguments

from qabert.data.sampling import TaskRows, column, longest_first
from qabert.evaluation.metrics import spearman
from qabert.modeling.modeling_qabert import sentence_embeddings
from qabert.modeling.triplet_losses import TRIPLET_LOSSES, distances, hinge_zero_share
from qabert.training.step_trainer import StepTrainer
from qabert.training.stopping import StopSignals

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Frames:
    """Frames and what they point to.

    Args:
        sentences: Token ids of every distinct sentence: `input_ids`, `token_type_ids` where the tokenizer makes them,
            and `length`.
        frames: By task, rows of `sentences`: `anchor`, `positive`, `negatives`.
        skipped: By task, how many sentences could not become anchors.
    """

    sentences: datasets.Dataset
    frames: Mapping[str, datasets.Dataset]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class DevFrames:
    """What the stage is measured on.

    Args:
        sentences: As in `Frames`.
        frames: By task `(frames, 2 + negatives)`, rows of `sentences`: anchor, positive, negatives.
        pairs: By regression task of sentence pairs, `(pairs, 2)` rows of `sentences` and the labels `(pairs,)`.
    """

    sentences: datasets.Dataset
    frames: Mapping[str, np.ndarray]
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]


def frame_rows(frames: datasets.Dataset) -> np.ndarray:
    """Frames `(frames, 2 + negatives)` as rows of the sentences: anchor, positive, negatives."""
    columns = frames.with_format("numpy")[:]
    return np.column_stack([columns["anchor"], columns["positive"], columns["negatives"]])


def split_frames(embeddings: torch.Tensor, frames: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Anchor `(A, h)`, positive `(A, h)`, negatives `(A, n, h)` of embeddings `(sentences, h)`, frames `(A, 2 + n)`."""
    parts = embeddings[frames]
    return parts[:, 0], parts[:, 1], parts[:, 2:]


@dataclass
class TripletCollator:
    """Frames to one batch for one encoder call: each distinct sentence once.

    Returns `frames` `(A, 2 + n)`, rows of the batch's sentences, and `input_ids`, `attention_mask` and, where the
    tokenizer makes them, `token_type_ids`, all `(sentences, longest)`.
    """

    tokenizer: Any
    sentences: datasets.Dataset
    pad_to_multiple_of: int | None = None

    def __call__(self, frames: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Build the batch; its frames must have the same number of negatives, as those of one task do."""
        rows = np.array([[frame["anchor"], frame["positive"], *frame["negatives"]] for frame in frames])
        distinct, places = np.unique(rows, return_inverse=True)
        return {"frames": torch.from_numpy(places.reshape(rows.shape)), **self.pad(distinct)}

    def pad(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """Encoder inputs of some of the sentences."""
        tokens = self.sentences[rows.tolist()]
        return dict(
            self.tokenizer.pad(
                {key: tokens[key] for key in ("input_ids", "token_type_ids") if key in tokens},
                padding=True,
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_attention_mask=True,
                return_tensors="pt",
                verbose=False,
            )
        )


class TripletTrainer(StepTrainer):
    """A `Trainer` of an encoder on frames.  Batches hold one task, as in `QABertTrainer`.

    A step's loss is the mean over the anchors of the step: the paper's sum divided by their number, which Adam doesn't
    notice and which keeps `max_grad_norm` and the logged numbers independent of the batch size.  How a step is cut into
    processes and accumulated batches changes nothing for `equation1`.  `ranking` takes its negatives from the anchors
    that share an encoder call, so it sees fewer of them when a step is cut; the mean over anchors is the same.

    Args:
        model: An encoder whose output has `last_hidden_state`.
        args: The Trainer's arguments; `per_device_train_batch_size` counts frames.
        loss: A key of `TRIPLET_LOSSES`; computed in float32, whatever the encoder runs in.
        train: Frames to train on.
        processing_class: The tokenizer.
        pooling: How token states become a sentence's embedding, see `modeling_qabert.pool`.
        order, examples_per_epoch: See `TaskBatchSampler`.
        stop: See `StepTrainer`.

    Raises:
        InputError: The launcher started another number of processes than the Trainer sees.
    """

    row_key = "frames"

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        *,
        loss: str,
        train: Frames,
        processing_class: Any,
        pooling: str = "first",
        order: str = "interleaved",
        examples_per_epoch: Mapping[str, int] | None = None,
        stop: StopSignals | None = None,
    ) -> None:
        self.loss, self.pooling = loss, pooling
        self._zeros = torch.zeros(2)
        self.collator = TripletCollator(
            processing_class, train.sentences, pad_to_multiple_of=8 if args.device.type == "cuda" else None
        )
        frames = {name: of_task for name, of_task in train.frames.items() if len(of_task)}
        super().__init__(
            model,
            args,
            data_collator=self.collator,
            train_dataset=ConcatDataset(list(frames.values())),  # type: ignore[arg-type]
            processing_class=processing_class,
            stop=stop,
        )
        lengths = column(train.sentences["length"])
        rows = {
            name: TaskRows(
                lengths=lengths[frame_rows(of_task)].max(axis=1),
                strata=np.zeros(len(of_task), dtype=np.uint8),
                examples=(examples_per_epoch or {}).get(name),
            )
            for name, of_task in frames.items()
        }
        self.sample_from(rows, order, weighted=False)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Mean loss over a step's anchors: this batch's part of it, times the processes that DDP will average over."""
        inputs = dict(inputs)
        frames = inputs.pop("frames")
        encoder = self.accelerator.unwrap_model(model)
        embeddings = sentence_embeddings(encoder, inputs, self.pooling, wrapped=model)
        # Mixed precision ends where the encoder does: Accelerate runs nothing but its forward under autocast.
        parts = split_frames(embeddings.float(), frames)
        loss = TRIPLET_LOSSES[self.loss](*parts, frames)
        zero = hinge_zero_share(*(part.detach() for part in parts))
        anchors = len(frames)
        self._zeros = self._zeros.to(zero.device) + torch.stack([zero * anchors, torch.full_like(zero, anchors)])
        loss = loss * self.args.world_size / num_items_in_batch if num_items_in_batch is not None else loss / anchors
        return (loss, embeddings) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the share of anchors since the last log at which equation 1 is zero."""
        if "loss" in logs:
            zeros, anchors = self.accelerator.reduce(self._zeros.to(self.args.device), reduction="sum").tolist()
            logs["hinge_zero"] = zeros / anchors
            self._zeros = torch.zeros(2)
        super().log(logs, start_time)

    def sums(self) -> dict[str, Any]:
        """The anchors since the last log, and those at which equation 1 was zero."""
        return {"zeros": self._zeros}

    def restore_sums(self, sums: dict[str, Any]) -> None:
        """Go on counting them."""
        self._zeros = sums["zeros"]

    @torch.no_grad()
    def embed(self, sentences: datasets.Dataset) -> torch.Tensor:
        """Embeddings `(sentences, hidden)` of tokenised sentences, float32, in their order, without dropout."""
        model: Any = self.model
        model.eval()
        collator = dataclasses.replace(self.collator, sentences=sentences)
        order = longest_first(sentences["length"])
        parts = []
        quiet = bool(self.args.disable_tqdm) or not self.is_world_process_zero()
        size = self.args.per_device_eval_batch_size
        for first in tqdm(range(0, len(order), size), desc="dev sentences", delay=2, disable=quiet):
            inputs = self._prepare_inputs(collator.pad(order[first : first + size]))
            with self.accelerator.autocast():  # the encoder does that itself only once it has been trained
                states = sentence_embeddings(model, inputs, self.pooling)  # type: ignore[arg-type]
            parts.append(states.float().cpu())
        embeddings = torch.cat(parts)
        return torch.empty_like(embeddings).index_copy_(0, torch.from_numpy(order), embeddings)

    def measure(self, dev: DevFrames) -> dict[str, dict[str, float]]:
        """How near the right sentences are, by task, without any head.

        Returns:
            `positive_distance` and `negative_distance` (mean Euclidean distances to the anchor), `nearer` (share of
            anchors whose positive is nearer than every negative), `hinge_zero` (share at which equation 1 is zero),
            `loss` (mean per anchor, in batches of the training's size) and, for regressions of sentence pairs,
            `cosine_spearman` (of the two embeddings' cosine against the labels).
        """
        embeddings = self.embed(dev.sentences)
        measures: dict[str, dict[str, float]] = {}
        for name, frames in dev.frames.items():
            anchor, positive, negatives = split_frames(embeddings, frames)
            near, far = distances(anchor, positive[:, None])[:, 0], distances(anchor, negatives)
            batches = np.array_split(frames, -(-len(frames) // self.args.per_device_train_batch_size))
            losses = [
                TRIPLET_LOSSES[self.loss](*split_frames(embeddings, batch), torch.from_numpy(batch))
                for batch in batches
            ]
            measures[name] = {
                "positive_distance": near.mean().item(),
                "negative_distance": far.mean().item(),
                "nearer": (near < far.amin(dim=1)).float().mean().item(),
                "hinge_zero": hinge_zero_share(anchor, positive, negatives).item(),
                "loss": torch.stack(losses).sum().item() / len(frames),
            }
        for name, (pairs, labels) in dev.pairs.items():
            cosines = torch.cosine_similarity(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
            measures.setdefault(name, {})["cosine_spearman"] = spearman(cosines.numpy(), labels)
        return measures
