"""Signed webhooks for Django: a committed model change becomes an HTTP request."""

__version__ = "0.1.0"
