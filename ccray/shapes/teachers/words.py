"""Word-level tokenizers of the captions' grammar, for the captioner, for the text encoder, and of two languages for the translator."""

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ccray.shapes.world import japanese_words, words

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"
# CLIPTextModel treats an end token of id 2 as a sign of old configurations and looks elsewhere for the end: EOS is 3.
SPECIALS = (PAD, BOS, UNK, EOS)


def word_tokenizer(template: str, max_length: int) -> PreTrainedTokenizerFast:
    """Lower-cased words and no more; a word outside the grammar is <unk>. `template` says where $A goes, e.g. "<bos> $A <eos>"."""
    backend = _words_backend(words(), template)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
        padding_side="right",
    )


def translation_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """English words and the pieces of Japanese captions, each followed by <eos>; what it decodes has no spaces, as Japanese has none."""
    pieces = japanese_words()
    backend = _words_backend((*words(), *pieces), "$A <eos>")
    longest_first = "|".join(sorted(pieces, key=len, reverse=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(longest_first), "isolated"), pre_tokenizers.Whitespace()])
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=EOS,
        padding_side="right",
        model_input_names=["input_ids", "attention_mask"],
    )


def _words_backend(known: tuple[str, ...], template: str) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate((*SPECIALS, *known))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizers.Lowercase()
    used = [(token, vocabulary[token]) for token in template.split() if token in SPECIALS]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return backend
