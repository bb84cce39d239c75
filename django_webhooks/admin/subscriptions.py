"""Subscriptions with their rules: made, mended, paused, resumed, tested; their secrets rotated.

A secret is shown exactly once, on the page after it was made. Until then it waits nowhere but
in its encrypted column: the session only remembers of which subscription to show it.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db import models
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _

from django_webhooks.admin.base import FROM_PAGE, PageActionsAdmin
from django_webhooks.admin.display import badge, moment, two_lines
from django_webhooks.admin.forms import NewSubscriptionForm, SubscriptionForm
from django_webhooks.admin.rules import RuleInline, RuleViews
from django_webhooks.encryption import Unreadable
from django_webhooks.models import Subscription
from django_webhooks.outbox import publish_test

NEW_SECRET = "django_webhooks_new_secret_of"  # noqa: S105
TROUBLE = ("disabled_reason", "failing_since")
SHOWN_RULES = 5
SHOWN_SENTENCE = 160

Status = Subscription.Status


class SubscriptionAdmin(RuleViews, PageActionsAdmin):
    list_display = ["name_and_url", "rule_sentences", "status_badge", "short_mode", "owner"]
    list_filter = ["status", "mode"]
    list_select_related = ["owner"]
    search_fields = ["name", "url"]
    raw_id_fields = ["owner"]
    readonly_fields = [
        "status",
        *TROUBLE,
        "header_names",
        "secret_state",
        "public_keys",
        "created_at",
        "updated_at",
    ]
    inlines = [RuleInline]
    page_actions = ("send_test", "pause", "resume", "rotate_secret")
    actions = page_actions

    # The list

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        return super().get_queryset(request).prefetch_related("rules")

    @admin.display(description=_("subscription"), ordering="name")
    def name_and_url(self, subscription: Subscription) -> SafeString:
        return two_lines(subscription, subscription.url if subscription.name else "")

    @admin.display(description=_("mode"), ordering="mode")
    def short_mode(self, subscription: Subscription) -> str:
        return str(subscription.get_mode_display()).partition(":")[0]

    @admin.display(description=_("status"), ordering="status")
    def status_badge(self, subscription: Subscription) -> SafeString:
        return badge(subscription.status, subscription.get_status_display())

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
        status = ["status", *(name for name in TROUBLE if getattr(obj, name))]
        headers = ["header_names"]
        if self.has_change_permission(request, obj):  # else all is shown, and these must not be
            headers.append("headers")
        keys = ["signature", "secret_state", *(["public_keys"] if obj.public_keys else [])]
        return [
            (None, {"fields": [*basics, *status]}),
            (_("Requests"), {"fields": [*keys, *headers, *limits]}),
            (_("Dates"), {"fields": ["created_at", "updated_at"], "classes": ["collapse"]}),
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

    def get_page_actions(self, request: HttpRequest, obj: Subscription) -> Sequence[str]:
        verbs = {Status.ACTIVE: "pause", Status.PAUSED: "resume", Status.DISABLED: "resume"}
        offered = verbs.get(Status(obj.status))
        return [each for each in self.page_actions if each not in {*verbs.values()} - {offered}]

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
        changed = self._change_status(request, stopped, Subscription.resume, gettext("Resumed."))
        text = ngettext(
            "%(count)d subscription is active again.",
            "%(count)d subscriptions are active again.",
            changed,
        )
        self._tell(request, text, changed, gettext("None of those chosen is paused or disabled."))

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
        request.session[NEW_SECRET] = str(subscription.pk)
        return None

    def _confirm_rotation(self, request: HttpRequest, subscription: Subscription) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": gettext("Rotate the secret"),
            "subtitle": str(subscription),
            "opts": self.opts,
            "media": self.media,
            "subscription": subscription,
            "page": self.page_of(subscription.pk),
            "old_expires_at": _old_secret_expires_at(subscription),
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
            "from_page": FROM_PAGE,
        }
        template = "admin/django_webhooks/subscription/rotate_secret.html"
        return TemplateResponse(request, template, context)

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

    # The secret, once

    def response_add(
        self, request: HttpRequest, obj: Subscription, post_url_continue: str | None = None
    ) -> HttpResponse:
        if obj.signature == Subscription.Signature.V1:
            request.session[NEW_SECRET] = str(obj.pk)
        else:  # the secret signs nothing, and must not be mistaken for the key
            text = format_html(gettext("The public key of “{}” is {}."), obj, _public_keys(obj))
            messages.success(request, text)
        return super().response_add(request, obj, post_url_continue)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return self._show_new_secret(request, super().changelist_view(request, extra_context))

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return self._show_new_secret(request, super().changeform_view(request, *args, **kwargs))

    def _show_new_secret(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        """Adds a message that this very response shows: it is never put into a store."""
        if request.method == "GET" and isinstance(response, TemplateResponse):
            pk = request.session.pop(NEW_SECRET, None)
            subscription = pk and Subscription.objects.filter(pk=pk).first()
            if subscription:
                messages.success(request, _secret_message(subscription))
        return response


def _secret_message(subscription: Subscription) -> SafeString:
    message = format_html(
        gettext("The secret of “{}” is {}. Copy it now: it is not shown again."),
        subscription,
        format_html('<code class="webhooks-secret">{}</code>', subscription.secret),
    )
    expires_at = _old_secret_expires_at(subscription)
    if expires_at is None:
        return message
    return format_html("{} {}", message, gettext("Until %s the old one signs, too.") % expires_at)


def _public_keys(subscription: Subscription) -> SafeString:
    keys = ([each] for each in subscription.public_keys)
    return format_html_join(" ", '<code class="webhooks-secret">{}</code>', keys)


def _old_secret_expires_at(subscription: Subscription) -> str | None:
    """As the page writes moments; None once it is over."""
    expires_at = subscription.old_secret_expires_at()
    if expires_at is None or expires_at.timestamp() <= timezone.now().timestamp():
        return None
    return moment(expires_at)
