"""Gather images that may be used, each with its licence, on the cluster's CPU nodes.

    ray job submit --working-dir . -- python jobs/catalog.py --recipe commoncanvas-s-c --root s3://BUCKET/commoncanvas-s-c --source table:s3://BUCKET/source.parquet

Every later job of the same root reads what this one sealed; settings given here need not be repeated.
"""

import sys

from ccray.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["catalog", *sys.argv[1:]]))
