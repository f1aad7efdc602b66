"""Word-level tokenizers of the captions' grammar, one for the captioner and one for the text encoder."""

from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from ccray.shapes.world import words

PAD, BOS, UNK, EOS = "<pad>", "<bos>", "<unk>", "<eos>"
# CLIPTextModel treats an end token of id 2 as a sign of old configurations and looks elsewhere for the end: EOS is 3.
SPECIALS = (PAD, BOS, UNK, EOS)


def word_tokenizer(template: str, max_length: int) -> PreTrainedTokenizerFast:
    """Lower-cased words and no more; a word outside the grammar is <unk>. `template` says where $A goes, e.g. "<bos> $A <eos>"."""
    vocabulary = {word: number for number, word in enumerate((*SPECIALS, *words()))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNK))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    used = [(token, vocabulary[token]) for token in template.split() if token in SPECIALS]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=used)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=max_length,
        pad_token=PAD,
        bos_token=BOS,
        unk_token=UNK,
        eos_token=EOS,
        padding_side="right",
    )
