"""Draw the prompts with the trained model and measure the pictures, on the captioning GPUs.

    ray job submit --working-dir . -- python jobs/evaluate.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

Figures and the contact sheet lie in evaluation/ under the root.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
