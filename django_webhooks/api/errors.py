"""Why a request is refused, beyond what REST framework says itself."""

from django.utils.translation import gettext_lazy as _
from rest_framework import status
from rest_framework.exceptions import APIException


class Conflict(APIException):
    """The object is there, but not in a state for this."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class PreconditionFailed(APIException):
    """It is not what the caller has read (RFC 9110, 15.5.13)."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_code = "precondition_failed"
    default_detail = _("It was changed since you have read it: read it again, then change it.")


class TooLarge(APIException):
    """More than `DATA_UPLOAD_MAX_MEMORY_SIZE`."""

    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = _("The body is too large: send less.")


class KeyReused(APIException):
    """An `Idempotency-Key` stands for one request (draft-ietf-httpapi-idempotency-key-header)."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = "idempotency_key_reused"
    default_detail = _("This Idempotency-Key was used with another body: take a new one.")
