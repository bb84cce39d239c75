"""Subscriptions with their rules: made, mended, paused, resumed, tested; their secrets rotated;
what has failed sent again.

A secret is shown exactly once, on the page after it was made. Until then it waits nowhere but
in its encrypted column: the session only remembers of which subscription to show it.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.actions import delete_selected
from django.db import models
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin import endpoints
from django_webhooks.admin.base import PageActionsAdmin, has_any
from django_webhooks.admin.display import age, copy_button, count, moment, plain_moment, two_lines
from django_webhooks.admin.forms import (
    DisableForm,
    NewSubscriptionForm,
    RecoverForm,
    SubscriptionForm,
)
from django_webhooks.admin.rules import RuleInline, RuleViews
from django_webhooks.encryption import Unreadable
from django_webhooks.fields import Described, labels_of
from django_webhooks.models import Delivery, Subscription
from django_webhooks.outbox import (
    MOST_AT_ONCE,
    cancel_waiting,
    failed_since,
    publish_test,
    recover,
    waiting_of,
)
from django_webhooks.registry import registry

NEW_SECRET = "django_webhooks_new_secret_of"  # noqa: S105

SHOWN_SECRET = "webhooks-new-secret"  # noqa: S105
"""The id of its element."""

SHOWN_RULES = 5
SHOWN_SENTENCE = 160

Status = Subscription.Status


class EndpointFilter(admin.SimpleListFilter):
    """By what the endpoint did when it was last called."""

    title = _("endpoint")
    parameter_name = "endpoint"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [("failing", _("failing")), ("well", _("not failing"))]

    def queryset(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> models.QuerySet[Any]:
        if self.value() not in ("failing", "well"):
            return queryset
        return queryset.filter(failing_since__isnull=self.value() == "well")


class SubscriptionAdmin(RuleViews, PageActionsAdmin):
    list_display = [
        "name_and_url",
        "status_and_trouble",
        "last_deliveries",
        "rule_sentences",
        "owner",
    ]
    list_filter = ["status", EndpointFilter, "mode"]
    list_select_related = ["owner"]
    search_fields = ["name", "url"]
    raw_id_fields = ["owner"]
    readonly_fields = [
        "header_names",
        "secret_state",
        "public_keys",
        "created",
        "updated",
    ]
    inlines = [RuleInline]
    page_actions = (
        "send_test",
        "pause",
        "resume",
        "disable",
        "rotate_secret",
        "recover",
        "cancel_waiting",
    )
    actions = (*page_actions, "delete_selected")

    class Media:
        js = [
            f"django_webhooks/{name}.js"
            for name in ("rule-tree", "rule-values", "headers", "errors", "copy")
        ]

    # The list

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows = super().get_queryset(request).prefetch_related("rules")
        annotated: models.QuerySet[Any] = rows.annotate(
            succeeded_at=_last(Delivery.Status.SUCCEEDED), gave_up_at=_last(Delivery.Status.FAILED)
        )
        return annotated

    @admin.display(description=_("subscription"), ordering="name")
    def name_and_url(self, subscription: Subscription) -> SafeString:
        named = two_lines(subscription, subscription.url if subscription.name else "")
        is_usual = subscription.mode == Subscription.Mode.RECURRING
        return two_lines(named, "" if is_usual else subscription.get_mode_display())

    @admin.display(description=_("status"), ordering="status")
    def status_and_trouble(self, subscription: Subscription) -> SafeString:
        return endpoints.status_and_trouble(subscription)

    @admin.display(description=_("last delivery"))
    def last_deliveries(self, subscription: Any) -> Any:
        """Of each outcome the last one, the newer first."""
        found = {
            gettext("succeeded"): subscription.succeeded_at,
            gettext("given up"): subscription.gave_up_at,
        }
        lines = sorted(((at, label) for label, at in found.items() if at), reverse=True)
        return (
            format_html_join(mark_safe("<br>"), "{} {}", ((label, age(at)) for at, label in lines))
            or None
        )

    @admin.display(description=_("rules"))
    def rule_sentences(self, subscription: Subscription) -> Any:
        rules = list(subscription.rules.all())
        sentences = [Truncator(str(rule)).chars(SHOWN_SENTENCE) for rule in rules[:SHOWN_RULES]]
        if (more := len(rules) - SHOWN_RULES) > 0:
            sentences.append(ngettext("and %d more", "and %d more", more) % more)
        if not sentences:
            return None
        items = format_html_join("", "<li>{}</li>", ([each] for each in sentences))
        return format_html('<ul class="webhooks-rules">{}</ul>', items)

    # The page

    def get_form(
        self, request: HttpRequest, obj: Any | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        kwargs.setdefault("form", SubscriptionForm if change else NewSubscriptionForm)
        return super().get_form(request, obj, change, **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        basics = ["name", "url", "owner", "mode", "ordered"]
        limits = ["timeout", "max_per_second"]
        if obj is None:
            return [
                (None, {"fields": basics}),
                (_("Requests"), {"fields": ["signature", "secret", "headers", *limits]}),
            ]
        may_change = self.has_change_permission(request, obj)  # else all is shown as it is
        is_told = not may_change or isinstance(obj.headers, Unreadable)
        headers = [*(["header_names"] if is_told else []), *(["headers"] if may_change else [])]
        keys = ["signature", "secret_state", *(["public_keys"] if obj.public_keys else [])]
        return [
            (None, {"fields": basics}),
            (_("Requests"), {"fields": [*keys, *headers, *limits]}),
            (_("Dates"), {"fields": ["created", "updated"], "classes": ["collapse"]}),
        ]

    @admin.display(description=_("headers"))
    def header_names(self, subscription: Subscription) -> str:
        if isinstance(subscription.headers, Unreadable):
            return gettext("They can't be read: none of SECRET_KEYS fits.")
        return ", ".join(sorted(subscription.headers)) or gettext("none")

    @admin.display(description=_("secret"))
    def secret_state(self, subscription: Subscription) -> str:
        if subscription.signature != Subscription.Signature.V1:
            return gettext("Not used: the public key verifies v1a.")
        if isinstance(subscription.secrets, Unreadable):
            return gettext("It can't be read: none of SECRET_KEYS fits. Restore the key or rotate.")
        expires_at = _old_secret_expires_at(subscription)
        if expires_at is None:
            return gettext("Set. It is shown only when it is made.")
        return gettext("Set. Until %s the old one signs, too.") % expires_at

    @admin.display(description=_("public key for v1a"))
    def public_keys(self, subscription: Subscription) -> SafeString:
        return _public_keys(subscription)

    @admin.display(description=_("created"))
    def created(self, subscription: Subscription) -> str:
        return moment(subscription.created_at)

    @admin.display(description=_("changed"))
    def updated(self, subscription: Subscription) -> str:
        return moment(subscription.updated_at)

    def get_autocomplete_fields(self, request: HttpRequest) -> tuple[str, ...]:
        """The owner by name, where its own admin can be searched, by this user; else by its key."""
        model = Subscription._meta.get_field("owner").related_model
        if not self.admin_site.is_registered(model):
            return ()
        owners = self.admin_site.get_model_admin(model)
        can_search = bool(owners.get_search_fields(request))
        return ("owner",) if can_search and owners.has_view_permission(request) else ()

    def get_page_actions(self, request: HttpRequest, obj: Subscription) -> Sequence[str]:
        verbs: dict[str, list[str]] = {
            Status.ACTIVE: ["pause", "disable"],
            Status.PAUSED: ["resume", "disable"],
            Status.DISABLED: ["resume"],
            Status.COMPLETED: ["disable"],
        }
        senseless = {"pause", "resume", "disable"} - {*verbs.get(obj.status, ())}
        return [each for each in self.page_actions if each not in senseless]

    def get_page_links(self, request: HttpRequest, obj: Subscription) -> Sequence[tuple[str, str]]:
        url = endpoints.deliveries_url(self.admin_site, request, obj)
        return [(url, gettext("Deliveries"))] if url else []

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if context["original"] is not None:
            context["health"] = endpoints.of(self.admin_site, request, context["original"])
        return super().render_change_form(request, context, *args, **kwargs)

    def save_model(self, request: HttpRequest, obj: Subscription, form: Any, change: bool) -> None:
        if change:
            # Only what was typed: a worker may have written the rest since this page was read.
            obj.save(update_fields=[*form.changed_data, "updated_at"])
        else:
            obj.save()

    # Actions

    @admin.action(description=_("Send a test event"), permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        chosen = list(queryset)
        for subscription in chosen:
            publish_test(subscription)
            self.log_change(request, subscription, gettext("Sent a test event."))
        count = len(chosen)
        text = ngettext(
            "A test event is on its way.", "%(count)d test events are on their way.", count
        )
        self.message_user(request, text % {"count": count}, messages.SUCCESS)
        waiting = sum(each.status in (Status.PAUSED, Status.DISABLED) for each in chosen)
        if waiting:
            text = ngettext(
                "It waits until the subscription is resumed.",
                "%(count)d of them wait until their subscriptions are resumed.",
                waiting,
            )
            self.message_user(request, text % {"count": waiting}, messages.WARNING)

    @admin.action(description=_("Pause"), permissions=["change"])
    def pause(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        active = [each for each in queryset if each.status == Status.ACTIVE]
        changed = self._change_status(request, active, Subscription.pause, gettext("Paused."))
        text = ngettext(
            "%(count)d subscription is paused. What is due waits until it is resumed; what happens "
            "meanwhile is not sent later.",
            "%(count)d subscriptions are paused. What is due waits until they are resumed; what "
            "happens meanwhile is not sent later.",
            changed,
        )
        self._tell(request, text, changed, gettext("No active subscription was chosen."))

    @admin.action(description=_("Resume"), permissions=["change"])
    def resume(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> None:
        stopped = [each for each in queryset if each.status in (Status.PAUSED, Status.DISABLED)]
        unverified = [each for each in stopped if each.locked and each.challenge]
        resume = partial(Subscription.resume, unlock=True)
        changed = self._change_status(request, stopped, resume, gettext("Resumed."))
        text = ngettext(
            "%(count)d subscription is active again.",
            "%(count)d subscriptions are active again.",
            changed,
        )
        for each in unverified:
            self.log_change(request, each, gettext("Lifted the lock."))
            text_of_lock = gettext(
                "The lock of “%s” is lifted. Its endpoint has not answered a challenge: resume it "
                "once more to do without."
            )
            self.message_user(request, text_of_lock % each, messages.WARNING)
        if changed or not unverified:
            none = gettext("None of those chosen is paused or disabled.")
            self._tell(request, text, changed, none)

    @admin.action(description=_("Disable"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse | None:
        """Asks why. Its owner can resume what was paused, but not this."""
        subscription = self._only_one(request, queryset)
        if subscription is None:
            return None
        form = DisableForm(request.POST if "confirmed" in request.POST else None)
        if not form.is_valid():
            title = gettext("Disable")
            return self._ask(request, "disable", title, subscription, form=form)
        reason = form.cleaned_data["reason"]
        disable = partial(Subscription.disable, reason=reason, lock=True)
        told = gettext("Disabled: %s") % reason
        changed = self._change_status(request, [subscription], disable, told)
        self._tell(request, gettext("It is disabled until staff resume it."), changed, "")
        return None

    @admin.action(description=_("Rotate the secret"), permissions=["change"])
    def rotate_secret(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> HttpResponse | None:
        chosen = list(queryset[:2])
        if len(chosen) != 1:
            text = gettext("Choose one subscription: a new secret is shown only once.")
            self.message_user(request, text, messages.WARNING)
            return None
        [subscription] = chosen
        if "confirmed" not in request.POST:
            return self._confirm_rotation(request, subscription)
        if "leaked" in request.POST:
            subscription.rotate_secret(overlap=timedelta(0))
            self.log_change(request, subscription, gettext("Replaced a leaked secret."))
        else:
            subscription.rotate_secret()
            self.log_change(request, subscription, gettext("Rotated the secret."))
        _promise_secret(request, subscription)
        return None

    def _confirm_rotation(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        old_expires_at = _old_secret_expires_at(subscription)
        title = gettext("Rotate the secret")
        return self._ask(
            request, "rotate_secret", title, subscription, old_expires_at=old_expires_at
        )

    # Actions on its deliveries: who may change those may do so

    def has_redeliver_permission(self, request: HttpRequest) -> bool:
        return has_any(request, "delivery", "change")

    @admin.action(description=_("Recover what has failed"), permissions=["redeliver"])
    def recover(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> HttpResponse | None:
        """Asks since when, tells how many there are, and only then sends them again."""
        subscription = self._only_one(request, queryset)
        if subscription is None:
            return None
        form = RecoverForm(
            request.POST if "since" in request.POST else {"since": _since(subscription)}
        )
        since = form.cleaned_data["since"] if form.is_valid() else None
        if since is None or "confirmed" not in request.POST:
            title = gettext("Recover what has failed")
            rows = failed_since(subscription, since) if since else Delivery.objects.none()
            retried = waiting_of(subscription).filter(attempt_count__gt=0)
            more = {
                "form": form,
                "since": since,
                "since_text": since and plain_moment(since),
                "retried": _counted(retried),
                "is_stopped": subscription.status in endpoints.STOPPED,
            }
            return self._ask(request, "recover", title, subscription, **more, **_counted(rows))
        count = recover(subscription, since, most=MOST_AT_ONCE)
        told = ngettext(
            "Recovered %(count)d delivery that had failed since %(since)s.",
            "Recovered %(count)d deliveries that had failed since %(since)s.",
            count,
        )
        self.log_change(
            request, subscription, told % {"count": count, "since": since.isoformat(" ", "seconds")}
        )
        text = ngettext(
            "%(count)d delivery is sent again.", "%(count)d deliveries are sent again.", count
        )
        self._tell(request, text, count, gettext("Nothing has failed since then."))
        return None

    @admin.action(description=_("Cancel what waits"), permissions=["redeliver"])
    def cancel_waiting(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> HttpResponse | None:
        subscription = self._only_one(request, queryset)
        if subscription is None:
            return None
        if "confirmed" not in request.POST:
            title = gettext("Cancel what waits")
            counted = _counted(waiting_of(subscription))
            return self._ask(request, "cancel_waiting", title, subscription, **counted)
        count = cancel_waiting(subscription, gettext("Cancelled by staff."))
        told = ngettext("Cancelled %d delivery.", "Cancelled %d deliveries.", count)
        self.log_change(request, subscription, told % count)
        text = ngettext(
            "%(count)d delivery is cancelled.", "%(count)d deliveries are cancelled.", count
        )
        self._tell(request, text, count, gettext("Nothing was waiting."))
        return None

    def _only_one(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> Subscription | None:
        chosen = list(queryset[:2])
        if len(chosen) == 1:
            found: Subscription = chosen[0]
            return found
        self.message_user(request, gettext("Choose one subscription."), messages.WARNING)
        return None

    def _ask(
        self, request: HttpRequest, action: str, title: str, subscription: Subscription, **more: Any
    ) -> HttpResponse:
        return self.ask(
            request, action, title, str(subscription), subscription=subscription, **more
        )

    def _change_status(
        self,
        request: HttpRequest,
        subscriptions: Iterable[Subscription],
        verb: Callable[[Subscription], bool],
        message: str,
    ) -> int:
        changed = 0
        for subscription in subscriptions:
            if verb(subscription):
                self.log_change(request, subscription, message)
                changed += 1
        return changed

    def _tell(self, request: HttpRequest, text: str, count: int, otherwise: str) -> None:
        if count:
            self.message_user(request, text % {"count": count}, messages.SUCCESS)
        else:
            self.message_user(request, otherwise, messages.WARNING)

    # Deleting, which says what becomes of the deliveries

    def render_delete_form(self, request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
        return super().render_delete_form(request, context | _aftermath([context["object"]]))

    @admin.action(description=_("Delete selected %(verbose_name_plural)s"), permissions=["delete"])
    def delete_selected(
        self, request: HttpRequest, queryset: models.QuerySet[Any]
    ) -> HttpResponse | None:
        chosen = list(queryset)
        response = delete_selected(self, request, queryset)
        if isinstance(response, TemplateResponse) and response.context_data is not None:
            response.context_data |= _aftermath(chosen)
        return response

    # The secret, once

    def response_add(
        self, request: HttpRequest, obj: Subscription, post_url_continue: str | None = None
    ) -> HttpResponse:
        if obj.signature == Subscription.Signature.V1:
            _promise_secret(request, obj)
        else:  # the secret signs nothing, and must not be mistaken for the key
            text = format_html(gettext("The public key of “{}” is {}."), obj, _public_keys(obj))
            messages.success(request, text)
        return super().response_add(request, obj, post_url_continue)

    def response_post_save_add(self, request: HttpRequest, obj: Subscription) -> Any:
        """Who may only add, and so not see the list, comes back to a page that shows the secret."""
        if self.has_view_or_change_permission(request):
            return super().response_post_save_add(request, obj)
        name = "admin:django_webhooks_subscription_add"
        return HttpResponseRedirect(reverse(name, current_app=self.admin_site.name))

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        if cl := (getattr(response, "context_data", None) or {}).get("cl"):
            _label_rules(cl.result_list)
        return self._show_new_secret(request, response)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._show_new_secret(request, super().changeform_view(request, *args, **kwargs))

    def _show_new_secret(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Adds a message that this very response shows: it is never put into a store."""
        if request.method == "GET" and isinstance(response, TemplateResponse):
            pk, digest = request.session.pop(NEW_SECRET, None) or (None, "")
            subscription = pk and Subscription.objects.filter(pk=pk).first()
            may = self.has_change_permission(request) or self.has_add_permission(request)
            # Not one that somebody else has made meanwhile.
            if subscription and may and _digest_of(subscription) == digest:
                messages.success(request, _secret_message(subscription))
        return response


def _label_rules(subscriptions: Iterable[Subscription]) -> None:
    """Lets their sentences call fields what people call them; each type is described once."""
    described: Described = {}
    for subscription in subscriptions:
        for rule in subscription.rules.all():  # as they were fetched with the list
            rule.label = labels_of(registry.matching(rule.event_type), described)


def _promise_secret(request: HttpRequest, subscription: Subscription) -> None:
    """The next page shows the secret that was made just now."""
    request.session[NEW_SECRET] = [str(subscription.pk), _digest_of(subscription)]


def _digest_of(subscription: Subscription) -> str:
    return str(salted_hmac(NEW_SECRET, subscription.secret).hexdigest())


def _secret_message(subscription: Subscription) -> SafeString:
    message = format_html(
        gettext("The secret of “{}” is {}. Copy it now: it is not shown again."),
        subscription,
        format_html(
            '<code class="webhooks-secret" id="{}">{}</code> {}',
            SHOWN_SECRET,
            subscription.secret,
            copy_button(SHOWN_SECRET),
        ),
    )
    expires_at = _old_secret_expires_at(subscription)
    if expires_at is None:
        return message
    return format_html("{} {}", message, gettext("Until %s the old one signs, too.") % expires_at)


def _public_keys(subscription: Subscription) -> SafeString:
    keys = ([each] for each in subscription.public_keys)
    return format_html_join(" ", '<code class="webhooks-secret">{}</code>', keys)


def _counted(rows: models.QuerySet[Delivery]) -> dict[str, Any]:
    """How many a page is to ask about; more than `MOST_AT_ONCE` are not counted."""
    number = rows.order_by()[:MOST_AT_ONCE].count()
    return {"count": number, "count_text": count(number, MOST_AT_ONCE), "most": MOST_AT_ONCE}


def _aftermath(subscriptions: Sequence[Subscription]) -> dict[str, Any]:
    """What becomes of their deliveries when they are deleted, for `aftermath.html`."""
    rows = Delivery.objects.filter(subscription__in=subscriptions)
    pending = rows.pending()
    return {
        "waiting": _counted(pending.filter(lease_token__isnull=True)),
        "flying": _counted(pending.in_flight()),
        "history": _counted(rows),
    }


def _last(status: str) -> models.Subquery:
    """When the last delivery with that outcome ended: one look into an index."""
    rows = Delivery.objects.filter(subscription=models.OuterRef("pk"), status=status)
    ended = rows.filter(completed_at__isnull=False).order_by("-completed_at")
    return models.Subquery(ended.values("completed_at")[:1])


def _since(subscription: Subscription) -> datetime:
    """Since when it probably has to be recovered: events occur before they fail."""
    return (subscription.failing_since or timezone.now()) - timedelta(days=1)


def _old_secret_expires_at(subscription: Subscription) -> str | None:
    """As the page writes moments; None once it is over."""
    expires_at = subscription.old_secret_expires_at()
    if expires_at is None or expires_at.timestamp() <= timezone.now().timestamp():
        return None
    return plain_moment(expires_at)
