"""GDAL's settings while a file of a stranger is open."""

from __future__ import annotations

from typing import Any

from refnet_cli.system.urls import Remote

CONNECT_SECONDS, SILENT_SECONDS, REQUEST_SECONDS = 10, 30, 120  # timeouts of a server
RETRIES = 2
_SLOW = 1000  # bytes per second below which a server counts as silent

# No sidecar files, no code in files, and no network access.
_LOCAL: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_GEOREF_SOURCES": "INTERNAL",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "VRT_SHARED_SOURCE": "0",  # otherwise threads share an open source, which is not thread-safe
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    # GDAL's own threads ignore these settings and lose errors.
    "GDAL_NUM_THREADS": "1",
    "VRT_NUM_THREADS": "1",
    "GDAL_CACHEMAX": 64 * 2**20,  # bytes, for the entire process
}


def settings_for(remote: Remote | None) -> dict[str, Any]:
    """Return GDAL's settings for a local file (None), or for fetching one file and no other, with timeouts."""
    if remote is None:
        return _LOCAL
    return _LOCAL | {
        "CPL_VSIL_CURL_ALLOWED_FILENAME": f"/vsicurl/{remote.url}",
        "GDAL_HTTP_CONNECTTIMEOUT": CONNECT_SECONDS,
        "GDAL_HTTP_LOW_SPEED_TIME": SILENT_SECONDS,
        "GDAL_HTTP_LOW_SPEED_LIMIT": _SLOW,
        "GDAL_HTTP_TIMEOUT": REQUEST_SECONDS,
        "GDAL_HTTP_MAX_RETRY": RETRIES,
        "GDAL_HTTP_RETRY_DELAY": 1,
    }
