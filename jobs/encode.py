"""Turn every image into a latent of the recipe's VAE, on the captioning GPUs.

    ray job submit --working-dir . -- python jobs/encode.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

Reads the catalog only: it may run before, after or beside the caption job.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
