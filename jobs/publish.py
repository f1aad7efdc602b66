"""Write the model and dataset folders, their cards and the attribution of every image.

    ray job submit --working-dir . -- python jobs/publish.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

The folder published/model/ loads in stock diffusers, published/dataset/ in stock datasets. `--to hf://ORG/NAME` sends both to a hub.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
