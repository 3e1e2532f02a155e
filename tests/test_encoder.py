"""A conversation's tokens are those of its whole text, though only what is new is encoded."""

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from mlxarch.app import guide
from mlxarch.compat import load_tokenizer
from mlxarch.encoder import Encoder

TEXTS = ["the cat ate the hat", "a  cat\n\nin the hat ", " that", "héé ⅷ", "<|end|>", "<"]


def byte_level(tmp_path):
    """As Qwen, GLM, Step and most others have it."""
    built = Tokenizer(models.BPE())
    built.normalizer = normalizers.NFC()
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    return trained(built)


def metaspace(tmp_path):
    """As Llama 2 and its kin have it: a text begins with a space that is not there."""
    built = Tokenizer(models.BPE(byte_fallback=True))
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return trained(built)


def prepended(tmp_path):
    """As older Llamas do, by a normalizer."""
    built = Tokenizer(models.BPE(byte_fallback=True))
    built.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return trained(built)


def trained(built):
    marks = ["<|start|>", "<|end|>", "<|end|>>", "<think>"]
    built.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    built.add_tokens([AddedToken("cat", normalized=True)])
    built.train_from_iterator(TEXTS * 3, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=built)


def guides(tmp_path):
    return load_tokenizer(guide.PATH)


def bytes_only(tmp_path):
    return load_tokenizer(tiny.save_tokenizer(tmp_path))


MARKS = ["<|start|>", "<|end|>", "<|end|>>", "<think>", "<|im_start|>", "<|im_end|>", "cat", " "]


@pytest.fixture(scope="module", params=[byte_level, metaspace, prepended, guides, bytes_only])
def tokenizer(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizer"))


@given(st.lists(st.sampled_from([*MARKS, *TEXTS]), max_size=12))
def test_tokens_are_those_of_the_whole_text(tokenizer, parts):
    text = "".join(parts)
    encode, whole = Encoder(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    assert encode(text) == whole
    assert encode(text) == whole


class Counting:
    """A tokenizer that counts what it encodes."""

    def __init__(self, tokenizer):
        self._tokenizer, self.letters = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def encode(self, text, **options):
        self.letters += len(text)
        return self._tokenizer.encode(text, **options)


def test_only_what_is_new_is_encoded(tmp_path):
    counting = Counting(bytes_only(tmp_path))
    encode, text = Encoder(counting), ""
    for turn in range(50):
        new = f"<|im_start|>user\nturn {turn} " + "w" * 100 + "<|im_end|>\n"
        text, counting.letters = text + new, 0
        encode(text)
        assert counting.letters <= len(new)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_markers_that_reach_into_their_surroundings_part_nothing(tmp_path, flag):
    built = byte_level(tmp_path)
    built.add_tokens([AddedToken("<x>", normalized=False, **{flag: True})])
    text = "a <x> cat<|end|> b<x>c"
    assert Encoder(built)(text) == built.encode(text, add_special_tokens=False)
