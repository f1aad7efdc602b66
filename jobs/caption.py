"""Telephone every image through BLIP-2, one actor on each captioning GPU.

    ray job submit --working-dir . -- python jobs/caption.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c

Killed at any time, the same command continues: sealed shards are not read again.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["caption", *sys.argv[1:]]))
