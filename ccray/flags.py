"""What the status of a caption means, in words: every flag on a text, and whatever kept one from being written. Needs nothing, so that the rooms
that set a status and those that publish it share one list."""

OK = "ok"
PERSON_NAME = "person_name"
TRANSLATED = "input_"  # before the status of the caption that a translator was to translate
# What is wrong with a text that is there, the first that applies; such captions are not trained on unless `train.caption_statuses` names their flag.
FLAGS: dict[str, str] = {
    "empty": "no letter and no digit",
    "looping": "the same words, characters or sentences over and over",
    "refusal": "the model says that it cannot, or talks of itself",
    PERSON_NAME: "repeats what looks like a person's name in the picture's title, description or creator",
    "wrong_language": "not in the language that was asked for",
    "truncated": "cut off at the most tokens allowed, not ended by the model",
    "too_short": "fewer characters than the recipe asks for",
    "too_long": "more characters than the recipe allows",
}
# Why there is no text.
OUTCOMES: dict[str, str] = {
    "taken_down": "the image was taken down on request",
    "bytes_missing": "the picture's bytes are not there",
    "undecodable": "the picture cannot be decoded",
    "worker_died": "the picture or text ended the process that worked on it, again and again",
}


def meaning(status: str) -> str:
    """What a status says; details after a colon are left aside. What is in neither list is the name of an error that a model raised."""
    word = status.partition(":")[0]
    if word == OK:
        return "nothing was found wrong with it"
    if word.startswith(TRANSLATED):
        return f"not translated, for of the text to translate: {meaning(word.removeprefix(TRANSLATED))}"
    return FLAGS.get(word) or OUTCOMES.get(word) or "the model could not work on it and raised this error"
