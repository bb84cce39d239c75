"""What the pages share: actions as buttons, pages that only show, how events are found."""

import logging
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.apps import apps
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ERROR_FLAG
from django.core.paginator import Paginator
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.text import Truncator
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import display
from django_webhooks.models import Event, label_of
from django_webhooks.registry import CHALLENGE_EVENT, TEST_EVENT, registry

logger = logging.getLogger("django_webhooks")

FROM_PAGE = "_from_page"

OVERVIEW = "django_webhooks_overview_changelist"
"""The name of the overview's URL."""

OWN_TYPE_NAMES = {
    TEST_EVENT: _("test events (webhooks.test)"),
    CHALLENGE_EVENT: _("challenges (webhooks.challenge)"),
}
"""What the filters call what no rule can name."""

MOST_ROWS = 10_000
"""Rows of a list that can be paged through; beyond them, filter or search."""

SHOWN_NAME = 100
"""Characters of what an object calls itself."""


class PageActionsAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Offers actions of the list as buttons on an object's own page, too.

    A button posts to the list as if this one row were chosen there, so that permissions are
    asked in one place.
    """

    page_actions: Sequence[str] = ()

    class Media:
        css = {"all": ["django_webhooks/admin.css"]}
        js = ["django_webhooks/labels.js"]

    def get_page_actions(self, request: HttpRequest, obj: Any) -> Sequence[str]:
        """The names of those that make sense for this object."""
        return self.page_actions

    def get_page_links(self, request: HttpRequest, obj: Any) -> Sequence[tuple[str, str]]:
        """Addresses and labels of links beside the buttons."""
        return ()

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        context = {"overview_url": overview_url(self.admin_site, request), **(extra_context or {})}
        try:
            return super().changelist_view(request, context)
        except OverflowError:  # a date typed by hand that no zone can hold; Django's own answer
            return HttpResponseRedirect(f"{request.path}?{ERROR_FLAG}=1")

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
            context["page_links"] = self.get_page_links(request, original)
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

    def ask(
        self, request: HttpRequest, action: str, title: str, subtitle: str, **more: Any
    ) -> HttpResponse:
        """A page that asks whether, and how; its form posts the action once more.

        Posted to where it came from, with the filters by which all rows of a list were chosen.
        """
        across = request.POST.get("select_across") == "1"
        chosen = request.POST.getlist(ACTION_CHECKBOX_NAME)[: 1 if across else None]
        from_page = "" if across or len(chosen) > 1 else FROM_PAGE
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "subtitle": subtitle,
            "opts": self.opts,
            "media": self.media,
            "back": self.page_of(chosen[0]) if from_page else request.get_full_path(),
            "action": action,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "chosen": chosen,
            "select_across": across,
            "from_page": from_page,
            **more,
        }
        template = f"admin/django_webhooks/{self.opts.model_name}/{action}.html"
        return TemplateResponse(request, template, context)

    def page_of(self, pk: Any) -> str:
        """The address of an object's page on this very admin site."""
        name = f"admin:{self.opts.app_label}_{self.opts.model_name}_change"
        return reverse(name, args=[quote(pk)], current_app=self.admin_site.name)


class BoundedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts, and offers, the first `MOST_ROWS`: to count millions takes seconds, each time."""

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_ROWS].count())


class ReadOnlyAdmin(PageActionsAdmin):
    """Rows that nobody writes by hand, and there may be millions. Each is about an event."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count, too
    paginator = BoundedPaginator

    def event_of(self, obj: Any) -> Any:
        """The event that a row is about."""
        raise NotImplementedError

    def get_object(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Remembers what its page, which is not told who asks, calls the subject."""
        obj = super().get_object(request, *args, **kwargs)
        if obj is not None:
            event = self.event_of(obj)
            found = named_subject(self.admin_site, request, event)
            event.subject_text, event.subject_url = found
        return obj

    def get_page_links(self, request: HttpRequest, obj: Any) -> Sequence[tuple[str, str]]:
        event = self.event_of(obj)
        return [(event.subject_url, display.subject(event))] if event.subject_url else []

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

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        known = [each.type for each in registry.types]
        return [*((name, name) for name in known), *OWN_TYPE_NAMES.items()]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        value = self.value()
        return queryset.filter(type=printable(value)) if value else queryset


WITHIN: dict[str, tuple[Any, timedelta]] = {
    "15m": (_("Past 15 minutes"), timedelta(minutes=15)),
    "1h": (_("Past hour"), timedelta(hours=1)),
}
"""What the filter by time offers that is shorter than a day: its value, title and length."""


class MomentFilter(admin.DateFieldListFilter):
    """Django's, and stretches that end whenever the page is asked for, so that it can be reloaded
    and kept as a bookmark.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        recent = [
            (title, {self.lookup_kwarg_within: name}) for name, (title, _time) in WITHIN.items()
        ]
        self.links: Any = (self.links[0], *recent, *self.links[1:])

    @property
    def lookup_kwarg_within(self) -> str:
        return f"{self.field_generic}within"

    def expected_parameters(self) -> list[str | None]:
        return [*super().expected_parameters(), self.lookup_kwarg_within]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any] | None:
        self.used_parameters.pop(self.lookup_kwarg_within, None)
        if since := asked_since(request, self.field_path):
            queryset = queryset.filter(**{self.lookup_kwarg_since: since})
        return super().queryset(request, queryset)


def asked_since(request: HttpRequest, field_path: str) -> datetime | None:
    """When the stretch begins that the address names; None if it names none."""
    name = request.GET.get(f"{field_path}__within")
    if not name:
        return None
    if name not in WITHIN:
        raise IncorrectLookupParameters
    return timezone.now() - WITHIN[name][1]


# Where things are, for whom


def has_any(request: HttpRequest, model: str, *verbs: str) -> bool:
    """Whether the user may do one of these with our `model`: view, change, add, delete."""
    return any(request.user.has_perm(f"django_webhooks.{verb}_{model}") for verb in verbs)


def may_see_overview(request: HttpRequest) -> bool:
    """It tells of all subscriptions and deliveries: who may see both may see it."""
    return all(has_any(request, model, "view", "change") for model in ("subscription", "delivery"))


def overview_url(site: Any, request: HttpRequest) -> str:
    """The address of the overview; empty for those who may not see it, and on a site without."""
    try:
        url = reverse(f"admin:{OVERVIEW}", current_app=site.name)
    except NoReverseMatch:
        return ""
    return url if may_see_overview(request) else ""


def subject_url(site: Any, request: HttpRequest, event: Event) -> str:
    """The admin page of the object that an event is about; empty if this user has none.

    Nothing is looked up: the object may be gone.
    """
    try:
        model = apps.get_model(event.subject_type) if event.subject_type else None
        if model is None or not site.is_registered(model):
            return ""
        if not site.get_model_admin(model).has_view_or_change_permission(request):
            return ""
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}_change"
        return reverse(name, args=[quote(event.subject_id)], current_app=site.name)
    except (LookupError, ValueError, NoReverseMatch):
        return ""


def named_subject(site: Any, request: HttpRequest, event: Event) -> tuple[str, str]:
    """ "order 7: A-100" and its address, as far as this user may see it; "order 7 (deleted)"."""
    text, url = display.subject(event), subject_url(site, request, event)
    if not url:
        return text, ""
    own = site.get_model_admin(apps.get_model(event.subject_type))
    try:
        # Should a query of the project fail, it must not take that of the page with it.
        with transaction.atomic(using=event._state.db):
            if found := own.get_object(request, event.subject_id):
                return f"{text}: {Truncator(str(found)).chars(SHOWN_NAME)}", url
            return (text if event.subject else gettext("%s (deleted)") % text), ""
    except Exception:  # what its own admin and its name do is the project's code
        logger.exception("The subject of %s can't be named.", event.pk)
        return text, url


# How events are found


def printable(value: str) -> str:
    """A value of the address, without what PostgreSQL takes in no text: NUL."""
    return value.replace("\0", "�")


FOUND_EVENTS = 1000
"""Events that a search finds at most, the newest of them."""

OBJECT = re.compile(r"(\w+\.\w+)(?::|\s+)(\S.*)")

SEARCH_HELP = _(
    "An event's id (evt_…), an object (order 7, or shop.order:7), or an object's key alone (7)."
)


def find_events(term: str) -> models.QuerySet[Event]:
    """The events that a search for `term` means, newest first: each way is along an index."""
    events = Event.objects.order_by("-pk")
    if found := OBJECT.fullmatch(term):
        return events.filter(subject_type=found[1].lower(), subject_id=found[2])
    if term.startswith("evt_"):
        return events.filter(pk=term)
    return events.filter(_named(term) | models.Q(subject_id=term))


def _named(term: str) -> models.Q:
    """The objects that lists would show as `term`: "order 7" is that of each model so called."""
    found = models.Q(pk__in=[])
    for model in apps.get_models():
        name = f"{model._meta.verbose_name} "
        if term.lower().startswith(name.lower()):
            found |= models.Q(subject_type=label_of(model), subject_id=term[len(name) :].strip())
    return found
