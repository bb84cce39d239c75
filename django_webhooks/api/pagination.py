"""Pages by cursor: no `COUNT(*)`, and no row twice or missed while new ones come in."""

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class Pages(CursorPagination):
    """Up to 100 rows a page, newest first."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 100
    ordering: str | tuple[str, ...] = ("-created_at", "-id")

    def paginate_queryset(
        self, queryset: QuerySet[Any] | Sequence[Any], request: Request, view: Any = None
    ) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, OverflowError, ValidationError) as error:
            # A position that was made up; DRF hands it to the database unread.
            raise NotFound(self.invalid_cursor_message) from error


class DeliveryPages(Pages):
    ordering = "-id"
