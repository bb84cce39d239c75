"""Pages by cursor: no `COUNT(*)`, and no row twice or missed while new ones come in."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ValidationError as ModelValidationError
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from rest_framework.exceptions import NotFound, ValidationError
from rest_framework.filters import BaseFilterBackend
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request


class Pages(CursorPagination):
    """Up to 100 rows a page, newest first."""

    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 100
    invalid_cursor_message: Any = gettext_lazy(
        "This is no cursor: begin without, then follow `next` and `previous`."
    )

    def get_page_size(self, request: Request) -> int | None:
        asked = request.query_params.get(self.page_size_query_param, str(self.page_size))
        if not re.fullmatch("0*[1-9][0-9]{0,99}", asked):
            problem = _("Use a whole number from 1 to %d.") % self.max_page_size
            raise ValidationError({self.page_size_query_param: [problem]})
        return min(int(asked), self.max_page_size)

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """For the OpenAPI schema."""
        parameters: list[dict[str, Any]] = super().get_schema_operation_parameters(view)
        for each in parameters:
            if each["name"] == self.page_size_query_param:
                each["description"] = _("Rows in a page; %d at the most.") % self.max_page_size
                each["schema"] = {"type": "integer", "minimum": 1, "default": self.page_size}
        return parameters

    def paginate_queryset(
        self, queryset: QuerySet[Any] | Sequence[Any], request: Request, view: Any = None
    ) -> list[Any] | None:
        if self.cursor_query_param not in request.query_params:
            return super().paginate_queryset(queryset, request, view)
        try:
            return super().paginate_queryset(queryset, request, view)
        except (ValueError, OverflowError, ModelValidationError) as error:
            # A position that was made up; DRF hands it to the database unread.
            raise NotFound(self.invalid_cursor_message) from error


class Ordering(BaseFilterBackend):
    """`ordering`: one of those that the view's `orderings` name; the first, if none is asked for.

    Few, for each needs an index that it can follow.
    """

    def get_ordering(self, request: Request, queryset: QuerySet[Any], view: Any) -> Sequence[str]:
        orderings: Mapping[str, Sequence[str]] = view.orderings
        asked = request.query_params.get("ordering", next(iter(orderings)))
        if asked not in orderings:
            problem = _("Use one of: %s.") % ", ".join(orderings)
            raise ValidationError({"ordering": [problem]})
        return orderings[asked]

    def filter_queryset(
        self, request: Request, queryset: QuerySet[Any], view: Any
    ) -> QuerySet[Any]:
        if view.action != "list":
            return queryset
        return queryset.order_by(*self.get_ordering(request, queryset, view))

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        """For the OpenAPI schema."""
        schema = {"type": "string", "enum": list(view.orderings), "default": "-created_at"}
        return [{"name": "ordering", "in": "query", "required": False, "schema": schema}]
