"""The whole corridor as one job: catalog, caption, encode, train, evaluate, publish, and one picture over HTTP.

    ray job submit --working-dir . -- python jobs/run.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c --source table:s3://BUCKET/source.parquet

Stages finished before are passed over; nodes of a kind start when their stage begins and leave when it ends.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
