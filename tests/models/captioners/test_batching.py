from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from ccray.interfaces import Caption, Subject
from ccray.models.captioners.batching import Batches, Inputs
from ccray.models.captioners.blip2 import Blip2Captioner
from tests import folders
from tests.models.captioners.test_blip2 import config, pictures, subjects


class Cramped(Blip2Captioner):
    """A real captioner whose device holds `most` pictures."""

    most = 2

    def _captions(self, inputs: Inputs) -> list[Caption]:
        self.asked = [*getattr(self, "asked", []), len(inputs["pixels"])]
        if len(inputs["pixels"]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._captions(inputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folders.blip2_folder(tmp_path_factory.mktemp("blip2"))


def test_a_batch_too_large_is_halved_and_says_the_same(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = pictures(7)
    cramped = Cramped(config(folder, batch_size=8))
    answers = cramped.caption(subjects(images))
    expected = Blip2Captioner(config(folder, batch_size=2)).caption(subjects(images))
    assert answers == expected
    assert cramped.asked == [8, 4, 2, 2, 2, 2]
    assert cramped.batches.width == 2
    assert "from now on 4" in caplog.text
    assert "from now on 2" in caplog.text
    cramped.caption(subjects(images[:3]))
    assert cramped.asked[6:] == [2, 2]  # it stays so


def test_what_was_captioned_before_memory_ran_out_is_kept(folder: Path) -> None:
    class Shrinking(Cramped):
        most = 4

        def _captions(self, inputs: Inputs) -> list[Caption]:
            answer = super()._captions(inputs)
            self.most = 2  # the next batch finds less memory
            return answer

    images = pictures(7)
    shrinking = Shrinking(config(folder, batch_size=4))
    answers = shrinking.caption(subjects(images))
    assert shrinking.asked == [4, 4, 2, 2]
    assert [one.text for one in answers] == [one.text for one in Blip2Captioner(config(folder, batch_size=4)).caption(subjects(images))]


def test_memory_for_not_even_one_ends_the_attempt(folder: Path) -> None:
    cramped = Cramped(config(folder, batch_size=4))
    cramped.most = 0
    with pytest.raises(torch.OutOfMemoryError, match="single subject"):
        cramped.caption(subjects(pictures(2)))


def test_another_error_is_not_taken_for_lack_of_memory(folder: Path) -> None:
    with pytest.raises(ValueError, match="without a picture"):
        Blip2Captioner(config(folder)).caption([Subject(text="words")])


def test_subjects_of_one_length_share_a_batch_and_come_back_in_their_order() -> None:
    seen: list[list[int]] = []

    def prepare(some: Sequence[Subject]) -> Inputs:
        return {"lengths": torch.tensor([len(one.text or "") for one in some])}

    def generate(inputs: Inputs) -> list[Caption]:
        seen.append(inputs["lengths"].tolist())
        return [Caption(str(length), 0.0) for length in inputs["lengths"].tolist()]

    batches = Batches(2, "cpu", prepare, generate, lambda subject: len(subject.text or ""))
    words = ["aaa", "b", "ccc", "dd", "e", "fff"]
    assert [caption.text for caption in batches.caption([Subject(text=word) for word in words])] == ["3", "1", "3", "2", "1", "3"]
    assert seen == [[1, 1], [2, 2], [3, 3], [3, 3]]  # the odd ones with copies of themselves
