"""What the status of a caption means, in words: every flag on a text, and whatever kept one from being written. Needs nothing, so that the rooms
that set a status and those that publish it share one list."""

OK = "ok"
PERSON_NAME = "person_name"
TRANSLATED = "input_"  # before the status of the caption that a translator was to translate
# What is wrong with a text that is there; such captions are not trained on unless `train.caption_statuses` names their flag.
FLAGS: dict[str, str] = {
    "empty": "the model gave no text",
    "too_short": "shorter than the captioner's `min_characters`",
    "too_long": "longer than the captioner's `max_characters`",
    "looping": "it says the same words over and over",
    "truncated": "the model did not end it within the most tokens allowed",
    "refusal": "the model declined to describe the picture, or spoke of itself",
    "wrong_language": "it is not in the captioner's language",
    PERSON_NAME: "it holds a person's name that the source's words gave away",
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
