"""Source models of Hugging Face transformers: directories with config.json and safetensors, run and exported by PyTorch.

Nothing is fetched and no code of the directory is run. A classifier of one class a row answers with probabilities, and its
config names the classes; any other model gives its outputs as they are, such as `last_hidden_state`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegate.errors import PackageError, in_one_line
from tidegate.extras import needing
from tidegate.packaging.format.manifest import SourceFacts, Task
from tidegate.packaging.sources.head import with_head
from tidegate.packaging.sources.source import Source
from tidegate.packaging.sources.torch_model import TorchModel

_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")  # whose second axis is the text's
_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification")
_LOGITS = "logits"


def read_transformers(path: Path) -> Source:
    """Read the directory of a saved transformer.

    Raises:
        PackageError: Its config or weights cannot be loaded, it needs code of its own, or it names no architecture.
    """
    with needing("transformers"), _offline():
        import safetensors  # noqa: F401 - asked for here, since transformers would fall back to pickles without it
        import transformers
    try:
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        return wrap_transformer(_load(transformers, config, path), str(path))
    except PackageError:
        raise
    except Exception as error:  # the library raises whatever its parts raise
        raise PackageError(f"source model {path}: transformers cannot load it: {in_one_line(error)}") from error


def wrap_transformer(model: Any, name: str) -> Source:
    """Return a `transformers.PreTrainedModel` in memory as a source."""
    import transformers

    model.config.return_dict = True
    model.config.use_cache = False
    facts = SourceFacts(framework="transformers", version=transformers.__version__, kind=type(model).__name__)
    source = TorchModel(model, name, varying={token: [1] for token in _TOKENS}, facts=facts)
    task, classes = _task(model.config) if type(model).__name__.endswith(_CLASSIFIERS) else ("tensors", ())
    if task == "tensors":
        return source
    return with_head(source, task, activation="softmax", output=_LOGITS, classes=classes)


def _load(transformers: Any, config: Any, path: Path) -> Any:
    architecture = next(iter(config.architectures or ()), None)
    kind = getattr(transformers, architecture or "", None)
    if kind is None:
        said = f"{architecture!r}, which transformers does not have" if architecture else "none"
        raise PackageError(f"source model {path}: the architecture its config names is {said}; save it with save_pretrained")
    if not any(path.glob("*.safetensors")):
        raise PackageError(f"source model {path}: holds no safetensors; save it with save_pretrained, safe_serialization=True")
    with _quiet(transformers):
        model, missed = kind.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    if missed["missing_keys"]:
        named = ", ".join(sorted(missed["missing_keys"])[:3])
        raise PackageError(
            f"source model {path}: its safetensors lack weights of {architecture}: {named}; save the whole model"
        )
    return model


def _task(config: Any) -> tuple[Task, tuple[str, ...]]:
    """What a classifier's logits mean, as its config says; with one logit or several labels a row it does not."""
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        return "tensors", ()
    classes = tuple(str(config.id2label[number]) for number in range(config.num_labels))
    return ("binary-classification" if config.num_labels == 2 else "multiclass-classification"), classes


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep the library from asking the network for anything, and from importing TensorFlow beside PyTorch."""
    for variable, value in (("HF_HUB_OFFLINE", "1"), ("USE_TF", "0"), ("USE_TORCH", "1")):
        os.environ.setdefault(variable, value)
    yield


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
