"""What becomes of a trained model: evaluate, publish, serve."""

from typing import Literal

from pydantic import Field

from ccray.config.base import Config, Precision


class EvaluateConfig(Config):
    """Prompts, how they are drawn, and what the pictures are compared with."""

    prompts: str | None = None  # JSONL or TSV: id, prompt, language, category; None = the recipe's own (held-out scenes of the shapes world)
    count: int = Field(256, ge=1)  # of the shapes world's own prompts
    seed: int = 0
    steps: int = Field(20, ge=1)
    guidance: float = Field(3.0, ge=0)
    batch_size: int = Field(32, ge=1)
    features: str = "shapes:captioner"  # folder or hub name whose vision tower gives the features of the distances
    reference_images: int = Field(1024, ge=2)


PublishPart = Literal["model", "dataset"]


class PublishConfig(Config):
    """The published folders: the model, the dataset, and what their cards say."""

    parts: tuple[PublishPart, ...] = Field(("model", "dataset"), min_length=1)  # a dataset alone needs neither latents nor a trained model
    model_license: str = "Apache-2.0"
    description: str = ""  # of the model
    default_steps: int = Field(20, ge=1)
    default_guidance: float = Field(3.0, ge=0)
    dataset_description: str = ""
    provider: str = ""  # who answers for both: a person or an organisation
    contact: str = ""  # where people ask for a takedown: a mail address or URL
    homepage: str = ""  # URL of the dataset's page
    images: bool = False  # the dataset carries the images' bytes
    rows_per_file: int | None = Field(None, ge=1)  # of the dataset, in whole shards; None = 100,000, with images 10,000
    page_rows: int = Field(4000, ge=1)  # images in one file of the attribution page
    # Images up to which the attribution page is also written as plain HTML, for readers without JavaScript.
    plain_pages_up_to: int = Field(50_000, ge=0)


class ServeConfig(Config):
    """Bounds of the endpoint."""

    width: int = Field(4, ge=1)  # pictures drawn together: the fixed batch width
    max_images: int = Field(10, ge=1)
    max_steps: int = Field(100, ge=1)
    max_prompt_characters: int = Field(32_000, ge=1)
    max_waiting: int = Field(64, ge=1)  # pictures that one engine queues before it answers 503
    precision: Precision = "fp32"
