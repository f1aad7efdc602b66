"""What is wrong with a caption, as its row's `status`; "ok" when nothing is.

Of several faults the most telling is named, and those that a recipe may choose to train on nevertheless (`train.caption_statuses`) come last: a caption
that was cut off and names a person is "person_name".
"""

import re

from ccray.config import CaptionConfig
from ccray.data.captioning.languages import is_in
from ccray.data.captioning.looping import is_looping
from ccray.data.captioning.names import Hints, names_in, names_of
from ccray.data.pictures.pixels import OK
from ccray.interfaces import Caption

# What refusals begin with, by language, after any quotation mark.
_OPENINGS = (
    r"i(?:'m| am) (?:so |very |really |truly )?(?:sorry|afraid)\b",
    r"(?:sorry|apologies|my apologies|i apologi[sz]e)\b(?=[,.:;!]| (?:but|for|i|that)\b)",
    r"(?:unfortunately,? )?i(?:'m| am) (?:unable|not able|an ai|a(?: large)? language model|just an? (?:ai|language))\b",
    r"(?:unfortunately,? )?i (?:can ?not|can't|could not|couldn't|won't|will not|do not have|don't have|do not see|don't see)\b",
    r"(?:as|being) an? (?:ai|artificial intelligence|(?:large )?language model|text-based)\b(?!-)",
    r"(?:there is|i see|it (?:seems|appears|looks)(?: like)?(?: that)?(?: there is)?) no (?:image|picture|photo)\b(?! of| on| in)",
    r"no (?:image|picture|photo)(?: was| has been)? (?:provided|attached|uploaded|given|included)\b",
    r"please (?:provide|upload|share|attach) (?:an?|the|your) (?:image|picture|photo)\b",
    r"申し?訳(?:あり|ござい|な)",
    r"(?:すみません|すいません|ごめんなさい|恐れ入ります|恐縮ですが|残念ながら)",
    r"(?:私|わたし)は(?:ai|人工知能|大規模言語モデル|言語モデル)",
    r"(?:ai|人工知能|言語モデル)(?:アシスタント|言語モデル|モデル)?(?:として|である(?:私|ため)|なので|ですので)",
    r"(?:画像|写真)が(?:提供|添付|アップロード)されて(?:い)?(?:ません|ない)",
    r"(?:很)?抱歉|对不起|對不起|我(?:无法|無法|不能)|作为(?:一个)?(?:ai|人工智能)",
    r"죄송(?:합니다|하지만)|저는 (?:ai|인공지능)",
    r"(?:es )?tut mir leid\b|als (?:ki|sprachmodell)\b|ich kann (?:leider|das|dieses|diese|nicht|keine)\b",
    r"je suis (?:vraiment )?désolée?\b|désolée?\b[, ]|en tant qu(?:'ia|e mod[eè]le)\b|je ne peux pas\b",
    r"lo siento\b|como (?:modelo de lenguaje|una? ia)\b|no puedo\b",
)
# What is a refusal wherever it stands.
_ANYWHERE = (
    r"\bas an ai (?:language )?model\b|\bi (?:can ?not|can't) (?:assist|help) with (?:that|this)\b",
    r"(?:お答え|お手伝い|説明|描写|記述|識別|特定|判断|生成|対応|提供)(?:する)?(?:こと)?(?:は|が)?(?:でき(?:ません|かねます)|いたしかねます)",
)
_OPENING = re.compile(rf"[\s\"'“”‘’「『(*#>-]*(?:{'|'.join(_OPENINGS)})")
_WITHIN = re.compile("|".join(_ANYWHERE))
REFUSED_WITHIN = 2_000  # characters that are searched


def status_of(caption: Caption, config: CaptionConfig, hints: Hints | None = None) -> str:
    """ "ok", or the first of `ccray.flags.FLAGS` that applies.

    Args:
        caption: as the model gave it.
        config: its captioner's settings: language, bounds, whether names may be kept.
        hints: what the source says of the picture, where the model was told any of it: its title, alt_text and creator.
    """
    text = caption.text.strip()
    if not any(map(str.isalnum, text)):
        return "empty"
    if is_looping(text):
        return "looping"
    if is_refusal(text):
        return "refusal"
    if hints and not config.keep_names and names_in(text, names_of(hints)):
        return "person_name"
    if not is_in(text, config.language):
        return "wrong_language"
    return _bounds(text, caption.ended, config)


def _bounds(text: str, ended: bool, config: CaptionConfig) -> str:
    if not ended:
        return "truncated"
    if len(text) < config.min_characters:
        return "too_short"
    if config.max_characters is not None and len(text) > config.max_characters:
        return "too_long"
    return OK


def is_refusal(text: str) -> bool:
    """Whether a text is a model's excuse rather than a description."""
    plain = " ".join(text[:REFUSED_WITHIN].casefold().replace("’", "'").split())
    return _OPENING.match(plain) is not None or _WITHIN.search(plain) is not None
