"""What needs a network to measure: features of picture sets, and what the VAE alone makes of true pictures.

jobs (a few hundred pictures each)  ->  Measure, on any number of machines  ->  FeatureSums, merged by set
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow.compute as pc
import torch

from ccray import storage
from ccray.config import EncodeConfig
from ccray.evaluation import choice
from ccray.evaluation.choice import REAL, REFERENCE
from ccray.evaluation.features import FeatureExtractor
from ccray.evaluation.metrics import FeatureSums
from ccray.evaluation.sampling import Pixels, decoded, pictures_at
from ccray.models.autoencoder import Autoencoder, raw_to_final
from ccray.shapes import oracle, world
from ccray.shapes.oracle import Reading
from ccray.shapes.world import Scene
from ccray.storage import Root

JOB_PICTURES = 512


@dataclass(frozen=True)
class Job:
    """Some pictures of one set: PNG files under the root, or images of one shard by key."""

    set: str
    paths: tuple[str, ...] = ()
    shard: int | None = None
    keys: tuple[int, ...] = ()


class Measure:
    """A feature extractor and the VAE on one machine."""

    def __init__(self, root: Root, features: str, batch_size: int, device: str = "cpu", threads: int | None = None) -> None:
        """Take the settings; the extractor is loaded with the first job.

        Args:
            root: where pictures lie.
            features: a transformers folder or hub name.
            batch_size: pictures at once.
            device: "cpu", "cuda".
            threads: torch threads of this process; None leaves them alone.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        self.root, self.features, self.batch_size, self.device = root, features, batch_size, device

    @cached_property
    def extractor(self) -> FeatureExtractor:
        return FeatureExtractor(self.features, self.device)

    def measure(self, job: Job) -> tuple[str, FeatureSums]:
        """The job's set and the sums of its pictures' features.

        Raises:
            Failed: when the extractor cannot be loaded.
        """
        total = FeatureSums.empty(self.extractor.width)
        pictures = iter(self._pictures(job))
        while batch := list(itertools.islice(pictures, self.batch_size)):
            total = total.add(self.extractor(batch))
        return job.set, total

    def ceiling(self, config: EncodeConfig, scenes: Sequence[Scene]) -> list[Reading]:
        """True pictures of `scenes` through the VAE and back, read by the oracle: no denoiser can be read better than this."""
        vae = Autoencoder(config.model, config.subfolder, config.precision, self.device)
        readings = []
        for start in range(0, len(scenes), config.batch_size):
            pictures = np.stack([world.draw(scene, config.size_px) for scene in scenes[start : start + config.batch_size]])
            mean, _ = vae.encode(pictures)
            readings += [oracle.read(picture) for picture in vae.decode(raw_to_final(torch.from_numpy(mean), vae.scale))]
        return readings

    def _pictures(self, job: Job) -> Iterator[Pixels]:
        if job.shard is None:
            return pictures_at(self.root, job.paths)
        table = self.root.read_table(f"images/{storage.shard_name(job.shard)}", columns=["key", "image"], filters=pc.field("key").isin(job.keys))
        return (decoded(image.as_py()) for image in table.column("image"))


def merged(results: Iterable[tuple[str, FeatureSums]]) -> dict[str, FeatureSums]:
    """Sums by set; the order of the results decides which rows the kernel distance sees."""
    totals: dict[str, FeatureSums] = {}
    for name, sums in results:
        totals[name] = totals[name].merge(sums) if name in totals else sums
    return totals


def sample_jobs(name: str, paths: Sequence[str]) -> list[Job]:
    return [Job(name, paths=tuple(paths[start : start + JOB_PICTURES])) for start in range(0, len(paths), JOB_PICTURES)]


def reference_jobs(root: Root, catalog: str, limit: int) -> list[Job]:
    """Up to `limit` real images, in two halves: `REFERENCE`, with which every set is compared, and `REAL`, whose distance is the floor.

    The validation split first, then training images, as `choice.images` chooses; neighbours in that order go to different halves.
    """
    chosen = choice.images(root, catalog, limit)
    jobs = []
    for half, name in enumerate((REFERENCE, REAL)):
        keys, shards = chosen["key"][half::2], chosen["shard"][half::2]
        for shard in np.unique(shards):
            of_shard = keys[shards == shard].tolist()
            jobs += [
                Job(name, shard=int(shard), keys=tuple(of_shard[start : start + JOB_PICTURES])) for start in range(0, len(of_shard), JOB_PICTURES)
            ]
    return jobs
