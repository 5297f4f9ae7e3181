"""A small BERT with random weights: what is measured is speed and agreement, and neither needs training."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.optimization.cases.case import Feeds, Own, write_case
from tidegate.packaging.inputs import tensor_column
from tidegate.packaging.sources.opening import open_source

_MODEL = "bert"
_HIDDEN, _HEADS, _LAYERS, _TOKENS, _LENGTH = 128, 2, 4, 2_000, 32
_TRAINING, _HOLDOUT = 300, 800  # fewer labelled rows than 598 cannot show a loss below 0.005


class Transformer:
    """Four layers of 128 (BERT-mini is twice as wide) that put 32 tokens into one of three classes."""

    name = "small-transformer"
    framework = "transformers"
    label_column = "label"
    bert = (_HIDDEN, _HEADS)

    def prepare(self, folder: Path) -> None:
        """Make the model; its own answers are the labels, so that accuracy says how many of them a variant changes."""
        import torch
        from transformers import BertConfig, BertForSequenceClassification

        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=_TOKENS,
            hidden_size=_HIDDEN,
            num_hidden_layers=_LAYERS,
            num_attention_heads=_HEADS,
            intermediate_size=4 * _HIDDEN,
            max_position_embeddings=_LENGTH,
            num_labels=3,
            initializer_range=0.3,  # with the usual 0.02 all rows are answered alike
        )
        BertForSequenceClassification(config).eval().save_pretrained(folder / _MODEL)
        source = open_source(folder / _MODEL)
        rng = np.random.default_rng(0)
        tokens = rng.integers(5, _TOKENS, (_TRAINING + _HOLDOUT, _LENGTH))
        columns = {"input_ids": tensor_column(tokens), "attention_mask": tensor_column(np.ones_like(tokens))}
        if "token_type_ids" in source.columns:
            columns["token_type_ids"] = tensor_column(np.zeros_like(tokens))
        table = pa.table(columns)
        labels = self.own(folder)({"input_ids": tokens, "attention_mask": np.ones_like(tokens)})()
        names = np.array(source.classes)[np.asarray(labels).argmax(axis=1)]
        labelled = table.append_column("label", pa.array(names.tolist()))
        write_case(folder, source, labelled.slice(0, _TRAINING), labelled.slice(_TRAINING), "label")

    def own(self, folder: Path) -> Own:
        """Call the module in inference mode, with its softmax."""
        import torch
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(folder / _MODEL, local_files_only=True).eval()

        def ready(feeds: Feeds) -> Any:
            tensors = {name: torch.from_numpy(array) for name, array in feeds.items()}

            def call() -> object:
                with torch.inference_mode():
                    return model(**tensors).logits.softmax(dim=1).numpy()

            return call

        return ready
