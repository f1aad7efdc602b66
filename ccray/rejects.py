"""Why an image that a source lists is not in the catalog: one word for each reason. Needs nothing, so that a decoding process may load it."""

from enum import StrEnum


class Reject(StrEnum):
    """Why a listed image is not in the catalog: the words of `rejects/`."""

    LICENSE_MISSING = "license_missing"
    LICENSE_UNKNOWN = "license_unknown"
    LICENSE_NONCOMMERCIAL = "license_noncommercial"
    LICENSE_NODERIVATIVES = "license_noderivatives"
    LICENSE_SHAREALIKE = "license_sharealike"  # policy `permissive`
    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_MANY_BYTES = "too_many_bytes"
    TOO_SMALL = "too_small"
    BAD_ASPECT = "bad_aspect"
    ANIMATED = "animated"  # more than one picture in the file
    DUPLICATE_EXACT = "duplicate_exact"
    DUPLICATE_NEAR = "duplicate_near"
    KEY_COLLISION = "key_collision"
    OPTED_OUT = "opted_out"
    TAKEN_DOWN = "taken_down"
    BLOCKLISTED = "blocklisted"
    CREATOR_MISSING = "creator_missing"
    FILTER_WATERMARK = "filter_watermark"
    FILTER_TEXT = "filter_text"
    FILTER_NSFW = "filter_nsfw"
    DOWNLOAD_FAILED = "download_failed"  # no connection, no answer, a broken one
    DOWNLOAD_TIMEOUT = "download_timeout"
    DOWNLOAD_NOT_FOUND = "download_not_found"  # 404, 410
    DOWNLOAD_REFUSED = "download_refused"  # any other 4xx
    DOWNLOAD_THROTTLED = "download_throttled"  # 429, 503 after all attempts
    DOWNLOAD_SERVER_ERROR = "download_server_error"
    DOWNLOAD_REDIRECTS = "download_redirects"
    DOWNLOAD_BAD_URL = "download_bad_url"  # not http(s), no host
    BLOCKED_ADDRESS = "blocked_address"  # private, loopback, link-local
    FILE_MISSING = "file_missing"
    FILE_UNREADABLE = "file_unreadable"
    BLOCKED_PATH = "blocked_path"  # leads out of the source's folder
    NO_IMAGE = "no_image"  # the row names none
    MALFORMED_ROW = "malformed_row"
    WORKER_DIED = "worker_died"  # twice alone, on this row
