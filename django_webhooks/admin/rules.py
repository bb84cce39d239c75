"""The rules of a subscription: written in the builder, tried before they are saved.

The builder is `static/django_webhooks/rule-builder.js`; the words and the judgement are made here.
Nothing that is tried is saved or sent.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models
from django.forms.models import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.urls import path, reverse
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_POST

from django_webhooks import fanout
from django_webhooks.admin import display
from django_webhooks.admin.base import has_any, printable
from django_webhooks.admin.catalogue import describe_catalogue
from django_webhooks.admin.forms import RuleForm, TriedSubscriptionForm
from django_webhooks.admin.rehearsal import rehearse
from django_webhooks.admin.why import show, show_conditions
from django_webhooks.fields import ENTER, Described, Doubt, doubts, labels_of
from django_webhooks.models import Event, Rule, Subscription
from django_webhooks.registry import EventType, registry

SHOWN_EVENTS = 10
OFFERED_OBJECTS = 20
SHOWN_LABEL = 100
SHOWN_DOUBTS = 3
SHOWN_SENTENCE = 160
NO_URL = "https://…"
TRIED_FIELDS = ("url", "owner", "signature", "headers")
"""What of a subscription decides about a request."""

NAMED = 5
"""Objects that an answer names."""

VIEWS = {
    "check": "django_webhooks_rule_check",
    "try": "django_webhooks_rule_try",
    "object": "django_webhooks_rule_object",
    "objects": "django_webhooks_rule_objects",
}
"""What the builder asks for, and the names of the URLs."""

READ_FIELDS = ("shown_conditions", "conditions_json")
"""What those see of a rule's conditions who may not change them."""

CONNECTIVES = {
    "all": _("All of these hold"),
    "any": _("At least one of these holds"),
    "not": _("This does not hold"),
}

TEXTS = {
    "conditions": _("Conditions"),
    "always": _("No conditions: each event of this type is sent."),
    "condition": _("Condition %s"),
    "group": _("Group %s"),
    "field": _("field"),
    "operator": _("operator"),
    "value": _("value"),
    "valueType": _("type of the value"),
    "path": _("path, such as customer.email"),
    "choose": _("Choose…"),
    "chooseField": _("Choose a field…"),
    "chooseType": _("Choose an event type first: it decides which fields there are."),
    "missingField": _("Choose a field."),
    "otherPath": _("Another path…"),
    "notPublished": _("(not a field of %s)"),
    "notOffered": _("(not one of the choices)"),
    "noOperator": _("(not an operator)"),
    "true": _("true"),
    "false": _("false"),
    "empty": _("(empty)"),
    "asText": _("text"),
    "asNumber": _("number"),
    "asBoolean": _("true or false"),
    "utc": _("UTC"),
    "onePerLine": _("One value per line."),
    "add": _("Add a condition"),
    "addGroup": _("Add a group"),
    "up": _("Move up"),
    "down": _("Move down"),
    "wrap": _("Put into a group"),
    "remove": _("Remove"),
    "added": _("Added."),
    "removed": _("Removed."),
    "wrapped": _("Put into a group."),
    "movedUp": _("Moved up."),
    "movedDown": _("Moved down."),
    "asJson": _("Edit as JSON"),
    "asForm": _("Edit as a form"),
    "notJson": _("This is not valid JSON: mend it, or empty it."),
    "tryIt": _("Try it, before it is saved"),
    "tryEvents": _("Try it on the last events"),
    "tryObject": _("Show what would be sent"),
    "asType": _("What happens to the object"),
    "object": _("Key or name of an object"),
    "result": _("Result"),
    "wait": _("One moment…"),
    "noAnswer": _("There was no answer. Reload the page, and try again."),
}
"""What the scripts say."""


class RuleFormSet(BaseInlineFormSet):  # type: ignore[type-arg]
    """Describes what is published once for all its forms."""

    describe_builder: Callable[[Described], dict[str, Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.described: Described = {}

    def get_form_kwargs(self, index: int | None) -> dict[str, Any]:
        return {**super().get_form_kwargs(index), "described": self.described}

    @property
    def builder(self) -> str:
        """What the scripts know, in JSON."""
        return json.dumps(self.describe_builder(self.described), default=str)


class RuleInline(admin.StackedInline):  # type: ignore[type-arg]
    """A rule belongs to its subscription: who may write the one may write the other."""

    model = Rule
    form = RuleForm
    formset = RuleFormSet
    template = "admin/django_webhooks/subscription/rules.html"

    class Media:
        js = [
            f"django_webhooks/{name}.js"
            for name in ("rule-tree", "rule-values", "rule-trial", "rule-builder")
        ]
        css = {"all": ["django_webhooks/rules.css"]}

    def get_extra(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> int:
        return 0 if obj else 1

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        assert issubclass(formset, RuleFormSet)  # made anew for each request
        formset.describe_builder = staticmethod(partial(self._describe_builder, request, obj))
        return formset

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return has_any(request, "subscription", "view", "change")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return has_any(request, "subscription", "change" if obj else "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request, obj)

    # For whom the builder is not

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if self.has_change_permission(request, obj):
            return super().get_fields(request, obj)
        return ["event_type", *READ_FIELDS]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        return () if self.has_change_permission(request, obj) else READ_FIELDS

    @admin.display(description=_("conditions"))
    def shown_conditions(self, rule: Rule) -> Any:
        return show_conditions(rule.conditions) if rule.conditions else TEXTS["always"]

    @admin.display(description=_("the same as JSON"))
    def conditions_json(self, rule: Rule) -> SafeString:
        return display.pretty(rule.conditions)

    # The builder

    def _describe_builder(
        self, request: HttpRequest, obj: Any, described: Described
    ) -> dict[str, Any]:
        """All that the builder knows."""
        offered = VIEWS if _may_see_events(request) else {"check": VIEWS["check"]}
        site = self.admin_site.name
        return {
            **describe_catalogue(described),
            "texts": {**TEXTS, "connectives": CONNECTIVES, "enter": ENTER},
            "urls": {
                each: reverse(f"admin:{name}", current_app=site) for each, name in offered.items()
            },
            "subscription": str(obj.pk) if obj else "",
        }


class RuleViews(admin.ModelAdmin):  # type: ignore[type-arg]
    """The pages of a subscription answer the builder, too."""

    def get_urls(self) -> list[Any]:
        answers = {
            "check": self.check_rule,
            "try": self.try_rule,
            "object": self.try_object,
            "objects": self.offer_objects,
        }
        own = [
            path(
                f"rules/{each}/",
                require_POST(self.admin_site.admin_view(view)),
                name=VIEWS[each],
            )
            for each, view in answers.items()
        ]
        return [*own, *super().get_urls()]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        # Asked anew: the instance remembers the rules as they were before.
        for rule in Rule.objects.filter(subscription=form.instance).order_by("pk"):
            types = registry.matching(rule.event_type)
            found = [*doubts(rule.event_type, rule.conditions, types)]
            rule.label = labels_of(types)
            if found:
                messages.warning(request, self._warning(rule, found))

    def _warning(self, rule: Rule, found: Sequence[Doubt]) -> str:
        """Short, however long the rule is: messages are kept in the session."""
        said = " ".join(each.message for each in found[:SHOWN_DOUBTS])
        if (more := len(found) - SHOWN_DOUBTS) > 0:
            said += " " + ngettext("And %d more.", "And %d more.", more) % more
        return f"“{Truncator(str(rule)).chars(SHOWN_SENTENCE)}”: {said}"

    def check_rule(self, request: HttpRequest) -> HttpResponse:
        """The rule as a sentence, and what is wrong with it or doubtful."""
        _require(_may_write(request))
        return JsonResponse(RuleForm(request.POST).judge())

    def try_rule(self, request: HttpRequest) -> HttpResponse:
        """Which of the last events it would have fired on, and which it nearly would have."""
        _require(_may_write(request) and _may_see_events(request))
        form = RuleForm(request.POST)
        if not form.is_valid():
            return self._show_trial(request, {"problems": form.judge()["problems"]})
        rule = form.save(commit=False)
        subscription, _problems = self._subscription(request, "owner")
        found = fanout.preview(
            rule.event_type, rule.conditions, owner=subscription.owner_id, using=_database()
        )
        matched = ngettext(
            "%(matched)d of the last %(checked)d event would have matched.",
            "%(matched)d of the last %(checked)d events would have matched.",
            found.checked,
        )
        context = {
            "rule": rule,
            "checked": found.checked,
            "count": matched % {"matched": found.matched, "checked": found.checked},
            "matching": self._verdicts(rule, found.events[:SHOWN_EVENTS]),
            "more": max(found.matched - SHOWN_EVENTS, 0),
            "near": self._verdicts(rule, found.near),
        }
        return self._show_trial(request, context)

    def try_object(self, request: HttpRequest) -> HttpResponse:
        """What would be sent for an object as it is now."""
        event_type = self._published(request)
        form = RuleForm(request.POST)
        if not form.is_valid():
            return self._show_trial(request, {"problems": form.judge()["problems"]})
        found = self._find(request, event_type)
        if len(found) != 1:
            message = self._why_not_one(request, event_type, found)
            return self._show_trial(request, {"problems": [{"message": message}]})
        [instance] = found
        rule = form.save(commit=False)
        subscription, doubts = self._subscription(request, *TRIED_FIELDS)
        rehearsal = rehearse(event_type, instance, rule, subscription)
        verdict = show([rehearsal.verdict]) if rehearsal.verdict else ""
        context = {
            "rehearsal": rehearsal,
            "rule": rule,
            "verdict": verdict,
            "object": instance,
            "subscription_problems": doubts,
        }
        return self._show_trial(request, context)

    def offer_objects(self, request: HttpRequest) -> HttpResponse:
        """Keys and names of the objects that an event type is about: those that a text means, or
        the newest.
        """
        event_type = self._published(request)
        if request.POST.get("object"):
            found = self._find(request, event_type)
        else:
            found = list(self._objects(request, event_type).order_by("-pk")[:OFFERED_OBJECTS])
        objects = [(str(each.pk), str(each)[:SHOWN_LABEL]) for each in found]
        return JsonResponse({"objects": objects})

    def _show_trial(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        return render(request, "admin/django_webhooks/subscription/trial.html", context)

    def _verdicts(self, rule: Rule, events: Any) -> list[Any]:
        verdicts = fanout.judge(rule.conditions, events)
        return [
            (event, display.subject(event), display.moment(event.occurred_at), show([verdict]))
            for event, verdict in zip(events, verdicts, strict=True)
        ]

    def _published(self, request: HttpRequest) -> EventType:
        """The type that is asked for, if its objects may be seen."""
        _require(_may_write(request) and _may_see_events(request))
        found = registry.get_type(request.POST.get("type", ""))
        _require(found is not None and found.webhook is not None)
        assert found is not None
        assert found.webhook is not None
        options = found.webhook.model._meta
        names = [f"{options.app_label}.{verb}_{options.model_name}" for verb in ("view", "change")]
        _require(any(request.user.has_perm(name) for name in names))
        own = self._admin_of(found)
        _require(own is None or own.has_view_or_change_permission(request))
        return found

    def _admin_of(self, event_type: EventType) -> Any:
        """The admin of the model that it is about; None if there is none."""
        assert event_type.webhook is not None
        model = event_type.webhook.model
        known = self.admin_site.is_registered(model)
        return self.admin_site.get_model_admin(model) if known else None

    def _objects(self, request: HttpRequest, event_type: EventType) -> models.QuerySet[Any]:
        """Those that the model's own admin shows to this user, where there is one."""
        assert event_type.webhook is not None
        own = self._admin_of(event_type)
        return own.get_queryset(request) if own else event_type.webhook.model._default_manager.all()

    def _find(self, request: HttpRequest, event_type: EventType) -> list[Any]:
        """The object whose key was typed; else the first of those that the search of the model's
        own admin finds.
        """
        typed = printable(request.POST.get("object", "").strip())
        objects = self._objects(request, event_type)
        return _rows(lambda: objects.filter(pk=typed)) or _rows(
            lambda: self._search(request, event_type, objects, typed)
        )

    def _search(
        self, request: HttpRequest, event_type: EventType, objects: Any, typed: str
    ) -> models.QuerySet[Any]:
        if not typed or not self._is_searched(request, event_type):
            return objects.none()  # type: ignore[no-any-return]
        own = self._admin_of(event_type)
        found, has_doubles = own.get_search_results(request, objects, typed)
        found = found.order_by("-pk")
        return found.distinct() if has_doubles else found  # type: ignore[no-any-return]

    def _is_searched(self, request: HttpRequest, event_type: EventType) -> bool:
        own = self._admin_of(event_type)
        return bool(own and own.get_search_fields(request))

    def _why_not_one(self, request: HttpRequest, event_type: EventType, found: list[Any]) -> str:
        assert event_type.webhook is not None
        options = event_type.webhook.model._meta
        if found:
            shown = ", ".join(f"{str(each)[:SHOWN_LABEL]} ({each.pk})" for each in found[:NAMED])
            more = "…" if len(found) > NAMED else ""
            names = {"names": options.verbose_name_plural, "found": shown + more}
            return gettext("Several %(names)s are meant: %(found)s. Give the key of one.") % names
        if self._is_searched(request, event_type):
            text = gettext("There is no %s with this key or name.")
        else:
            text = gettext("There is no %s with this key. By name none can be found.")
        return text % options.verbose_name

    def _subscription(self, request: HttpRequest, *fields: str) -> tuple[Subscription, list[str]]:
        """The one whose page this is, or a new one, with those fields as they are posted; and what
        is wrong with them. It is not to be saved.
        """
        key = request.POST.get("subscription")
        found = self.get_object(request, key) if key else None
        if found is None or not self.has_view_or_change_permission(request, found):
            found = Subscription(url=NO_URL)
        posted = [name for name in fields if name in request.POST]
        made = self.get_form(request, found, form=TriedSubscriptionForm, fields=posted)
        form = made({name: request.POST[name] for name in posted}, instance=found)
        assert isinstance(form, TriedSubscriptionForm)
        problems = form.problems()
        if not request.POST.get("url", NO_URL).strip():
            found.url = NO_URL
        return found, problems


def _rows(ask: Callable[[], models.QuerySet[Any]]) -> list[Any]:
    """Some of the rows that are asked for; none for what can't be asked, as a word for a number."""
    try:
        return list(ask()[:OFFERED_OBJECTS])
    except (ValueError, ValidationError, OverflowError):
        return []


def _database() -> str:
    return Event.objects.db


def _may_write(request: HttpRequest) -> bool:
    return has_any(request, "subscription", "add", "change")


def _may_see_events(request: HttpRequest) -> bool:
    """Trying a rule shows what they hold."""
    return has_any(request, "event", "view", "change")


def _require(allowed: bool) -> None:
    if not allowed:
        raise PermissionDenied
