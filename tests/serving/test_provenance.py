"""Every file says that it was generated, and by which model; a folder that does not say where it comes from is not made to."""

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image

from ccray.serving import provenance
from ccray.serving.provenance import Mark

MARK = Mark(model='modèle "<&>"', license="Apache-2.0", seed=7, steps=20, guidance=3.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)


def xmp(picture: Image.Image) -> dict[str, str]:
    """The attributes of the picture's one XMP description, without their namespaces."""
    description = next(ElementTree.fromstring(picture.info["xmp"]).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"))
    return {name.partition("}")[2]: value for name, value in description.attrib.items()}


def test_png_keeps_every_pixel_and_carries_its_mark() -> None:
    picture = Image.open(io.BytesIO(provenance.encode(PIXELS, MARK)))
    picture.load()
    assert np.array_equal(np.asarray(picture), PIXELS)
    assert picture.text["Description"] == MARK.sentence()
    assert json.loads(picture.text["ccray"]) == MARK.__dict__
    assert xmp(picture) == {
        "about": "",
        "DigitalSourceType": provenance.SOURCE_TYPE,
        "AISystemUsed": MARK.model,
        "CreatorTool": provenance.SOFTWARE,
    }


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_lossy_formats_carry_their_mark(format: provenance.PictureFormat) -> None:
    mark = Mark(model="tiny", license="Apache-2.0", seed=7, steps=20, guidance=3.0)
    picture = Image.open(io.BytesIO(provenance.encode(PIXELS, mark, format)))
    assert picture.format == format.upper()
    assert picture.size == (24, 16)
    assert picture.getexif()[ExifTags.Base.ImageDescription] == mark.sentence()
    assert picture.getexif()[ExifTags.Base.Software] == provenance.SOFTWARE
    assert xmp(picture)["DigitalSourceType"] == provenance.SOURCE_TYPE


def test_the_same_picture_is_the_same_file() -> None:
    assert provenance.encode(PIXELS, MARK) == provenance.encode(PIXELS.copy(), MARK)


OURS = '{"recipe": "tiny", "licenses": [{"license": "CC0-1.0", "images": 4000}, {"license": "CC-BY-4.0", "images": 14}], "components": []}'


@pytest.mark.parametrize(
    ("card", "components", "owned_by", "license", "provenance_starts"),
    [
        ("", "", "unknown", "unknown: the model folder has no card", "unknown: the model folder does not say"),
        ("# A model\n\nlicense: mit\n", "", "unknown", "unknown: ", "unknown: "),
        ("---\nlicense: [\n---\n", "", "unknown", "unknown: ", "unknown: "),
        ("---\njust text\n---\n", "", "unknown", "unknown: ", "unknown: "),
        ("---\nlicense: mit\n", "", "unknown", "unknown: ", "unknown: "),
        ("---\nlicense: openrail++\n---\n# A model", "", "unknown", "openrail++", "unknown: "),
        ("---\nlicense: other\nlicense_name: house-1\n---\n", "", "unknown", "house-1", "unknown: "),
        ("---\nlicense: mit\ndatasets:\n- a/b\n- c\n---\n", "", "unknown", "mit", "its card names a/b, c as training data"),
        ("---\nlicense: mit\n---\n", "{", "unknown", "mit", "unknown: "),
        ("---\nlicense: mit\n---\n", '{"licenses": 3}', "unknown", "mit", "unknown: "),
        (
            "---\nlicense: apache-2.0\n---\n# ours",
            OURS,
            "ccray",
            "apache-2.0",
            "trained by ccray (recipe tiny) on 4,014 images (CC0-1.0 4,000, CC-BY-4.0 14)",
        ),
    ],
)
def test_origin_says_what_the_folder_says(card: str, components: str, owned_by: str, license: str, provenance_starts: str) -> None:
    found = provenance.origin(card, components)
    assert found.owned_by == owned_by
    assert found.license.startswith(license)
    assert found.provenance.startswith(provenance_starts)
