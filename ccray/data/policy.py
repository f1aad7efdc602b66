"""What the recipe's policy says of a licence statement, before and after fetching alike."""

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.images import Unusable
from ccray.rejects import Reject


def refused(statement: str | None, config: CatalogConfig) -> Unusable | None:
    """Why an image under `statement` is not taken, or None; no-derivatives images are taken where they are kept for evaluation."""
    if statement is None:
        return Unusable(Reject.LICENSE_MISSING, "the source states no licence, and none was declared (--license)")
    license = licenses.parse(statement)
    reason = licenses.refusal(license, config.policy)
    if reason is None or (reason == Reject.LICENSE_NODERIVATIVES and config.keep_noderivatives):
        return None
    return Unusable(Reject(reason), f"{license.spdx or license.reason} under policy {config.policy}")
