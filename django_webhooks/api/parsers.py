"""Request bodies: JSON, and nothing that would break further on."""

import json
from collections.abc import Mapping
from typing import IO, Any

from django.utils.translation import gettext as _
from rest_framework import parsers
from rest_framework.exceptions import ParseError

from django_webhooks.payloads import is_deeper

MAX_DEPTH = 100
"""More than the deepest conditions of a rule in a subscription."""


class JSONParser(parsers.JSONParser):
    """DRF's, but for deep nesting and halves of surrogate pairs, which it lets pass."""

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        try:
            # RFC 8259, 8.1: always UTF-8, whatever charset the content type names.
            data = super().parse(stream, media_type, {"encoding": "utf-8"})
            if is_deeper(data, MAX_DEPTH):
                raise RecursionError
            json.dumps(data, ensure_ascii=False).encode()
        except RecursionError:
            raise ParseError(_("The JSON is nested too deeply: flatten it.")) from None
        except UnicodeEncodeError:
            raise ParseError(_("The JSON has half a surrogate pair: remove it.")) from None
        return data
