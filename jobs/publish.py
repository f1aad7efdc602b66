"""Write the model folder, its card and the attribution of every image that it saw.

    ray job submit --working-dir . -- python jobs/publish.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

The folder published/model/ loads in stock diffusers.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
