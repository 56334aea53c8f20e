"""A reverse proxy and caching gateway in front of LivePerson's Server Chat API."""

__version__ = "0.1.0"
