"""The endpoints for the project's own customers; the only package that needs DRF."""
