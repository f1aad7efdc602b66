"""What a chat model is asked to do, in the language that its answer shall have."""

from ccray.config import CaptionConfig

INSTRUCTIONS = {"en": "Describe this picture.", "ja": "この画像を日本語で説明してください。"}
ELSEWHERE = "Describe this picture. Answer in {language}."
HINTS = {"en": "The picture's source says: {hint}", "ja": "画像の出典にはこう書かれています：{hint}"}


def instruction_of(config: CaptionConfig, hint: str | None) -> str:
    """The words that go with a picture: the recipe's prompt or our own, and what its source says, where the model is told that."""
    language = config.language.partition("-")[0]
    words = config.prompt or INSTRUCTIONS.get(language) or ELSEWHERE.format(language=config.language)
    return f"{words}\n{HINTS.get(language, HINTS['en']).format(hint=hint)}" if hint else words
