"""What the recipe's policy says of a licence, before fetching and in the index alike."""

from functools import lru_cache

from ccray import licenses
from ccray.config import CatalogConfig
from ccray.data.pictures.images import Unusable
from ccray.licenses import License
from ccray.rejects import Reject

STATES_NONE = License(None, reason="the source states no licence, and none was declared (--license)")


@lru_cache(maxsize=1 << 16)
def license_of(statement: str | None) -> License:
    """The licence that a listed row states; `STATES_NONE` for a row that states none."""
    return STATES_NONE if statement is None else licenses.parse(statement)


def refusal(license: License, config: CatalogConfig) -> Unusable | None:
    """Why an image under this licence is not taken, or None; with `keep_noderivatives`, ND licences are, for evaluation alone."""
    if license is STATES_NONE:
        return Unusable(Reject.LICENSE_MISSING, license.reason)
    reason = licenses.refusal(license, config.policy)
    if reason is None or (reason == Reject.LICENSE_NODERIVATIVES and config.keep_noderivatives):
        return None
    return Unusable(Reject(reason), license.reason if license.id is None else f"{license.id} under policy {config.policy}")
