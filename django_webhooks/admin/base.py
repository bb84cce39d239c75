"""What the pages share: actions as buttons, pages that only show, the filter by event type."""

from collections.abc import Sequence
from typing import Any

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import quote
from django.core.paginator import Paginator
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from django_webhooks.registry import TEST_EVENT, registry

FROM_PAGE = "_from_page"

MOST_ROWS = 10_000
"""Rows of a list that can be paged through; beyond them, filter or search."""


class PageActionsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Offers actions of the list as buttons on an object's own page, too.

    A button posts to the list as if this one row were chosen there, so that permissions are
    asked in one place.
    """

    page_actions: Sequence[str] = ()

    class Media:
        css = {"all": ["django_webhooks/admin.css"]}

    def get_page_actions(self, request: HttpRequest, obj: Any) -> Sequence[str]:
        """The names of those that make sense for this object."""
        return self.page_actions

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        original = context.get("original")
        if original is not None:
            allowed = dict(self.get_action_choices(request))
            context["page_actions"] = [
                (name, allowed[name])
                for name in self.get_page_actions(request, original)
                if name in allowed
            ]
        context["from_page"] = FROM_PAGE
        context["action_checkbox_name"] = ACTION_CHECKBOX_NAME
        return super().render_change_form(request, context, *args, **kwargs)

    def response_action(
        self, request: HttpRequest, queryset: models.QuerySet[Any], *args: Any, **kwargs: Any
    ) -> HttpResponse | None:
        response = super().response_action(request, queryset, *args, **kwargs)
        chosen = request.POST.get(ACTION_CHECKBOX_NAME)
        if FROM_PAGE in request.POST and chosen and isinstance(response, HttpResponseRedirect):
            return HttpResponseRedirect(self.page_of(chosen))
        return response

    def page_of(self, pk: Any) -> str:
        """The address of an object's page on this very admin site."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[quote(pk)], current_app=self.admin_site.name)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts, and offers, the first `MOST_ROWS`: to count millions takes seconds, each time."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows[:MOST_ROWS].count())


class ReadOnlyAdmin(PageActionsAdmin):
    """Rows that nobody writes by hand, and there may be millions."""

    show_full_result_count = False
    paginator = BoundedPaginator

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class EventTypeFilter(admin.SimpleListFilter):
    """By the types that are published; asks the registry, not a table of millions of events."""

    title = _("event type")
    parameter_name = "event_type"
    lookup = "type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        known = [each.type for each in registry.types]
        return [(name, name) for name in (*known, TEST_EVENT)]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        value = self.value()
        return queryset.filter(**{self.lookup: value}) if value else queryset
