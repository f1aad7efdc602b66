"""Train the denoiser on the training GPUs.

    ray job submit --working-dir . -- python jobs/train.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

Submitted again, it resumes from its newest checkpoint; both phases are one run, and `train.phases.512px.steps=1000` and the like are given after the
options.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
