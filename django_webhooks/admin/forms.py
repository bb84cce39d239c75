"""The forms behind the subscription page. The models judge; the forms read what was typed."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import MAXYEAR, datetime
from typing import Any

from django import forms
from django.contrib.admin.widgets import AdminTextareaWidget, AdminTextInputWidget
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from django_webhooks import conditions
from django_webhooks.admin.catalogue import pattern_choices
from django_webhooks.delivery import MASKED
from django_webhooks.exceptions import ConditionError
from django_webhooks.fields import Described, Doubt, doubts, find_misfits, labels_of
from django_webhooks.models import Rule, Subscription
from django_webhooks.registry import registry

FIRST_YEAR = 2000

MAX_JSON_LENGTH = 200_000


HEADER_TEXTS = {
    "headers": _("Headers"),
    "header": _("Header %s"),
    "name": _("name"),
    "value": _("value"),
    "namePlaceholder": _("Name, such as Authorization"),
    "valuePlaceholder": _("Value"),
    "keptPlaceholder": _("%s stays as it is") % MASKED,
    "none": _("No headers of your own are sent."),
    "add": _("Add a header"),
    "added": _("Added."),
    "remove": _("Remove"),
    "removed": _("Removed."),
    "asJson": _("Edit as JSON"),
    "asForm": _("Edit as a form"),
    "notRows": _("Only an object of texts can be edited as a form: mend it, or empty it."),
}
"""What the rows of headers say."""


class Once(json.JSONDecoder):
    """Refuses a name that is there twice, of which JSON would keep the last."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, object_pairs_hook=self._once)

    def _once(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                message = _("“%(name)s” is there twice: keep one.")
                raise ValidationError(message, code="twice", params={"name": name})
            found[name] = value
        return found


class JSONObjectField(forms.JSONField):
    """A JSON object in a text area. `empty` is what nothing typed means.

    What was typed comes back as it was typed, and no text, however odd, makes it raise anything
    but a `ValidationError`.
    """

    default_error_messages = {
        "invalid": _("This is not valid JSON."),
        "no_object": _("This must be a JSON object: {…}."),
    }

    def __init__(self, *, empty: Any, rows: int = 4, **kwargs: Any) -> None:
        attrs = {"rows": rows, "class": "vLargeTextField webhooks-json", "spellcheck": "false"}
        kwargs.setdefault("widget", AdminTextareaWidget(attrs=attrs))
        super().__init__(required=False, max_length=MAX_JSON_LENGTH, decoder=Once, **kwargs)
        self.empty = empty

    def to_python(self, value: Any) -> Any:
        if isinstance(value, str) and not value.strip():
            return self.empty
        try:
            read = super().to_python(value)
            json.dumps(read)
        except (ValueError, RecursionError) as error:  # numbers of 5000 digits, 5000 brackets
            raise ValidationError(self.error_messages["invalid"], code="invalid") from error
        if not isinstance(read, dict):
            raise ValidationError(self.error_messages["no_object"], code="no_object")
        return read

    def bound_data(self, data: Any, initial: Any) -> Any:
        return initial if data is None else InvalidJSONInput(data)

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, InvalidJSONInput):
            return value
        return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


class HeadersWidget(AdminTextareaWidget):
    """The text area that rows of names and values stand in for, with what these say."""

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        texts = {key: str(text) for key, text in HEADER_TEXTS.items()}
        told = {"data-texts": json.dumps(texts), "data-masked": MASKED}
        return super().get_context(name, value, {**(attrs or {}), **told})


class ModelErrorsForm(forms.ModelForm):  # type: ignore[type-arg]
    """Leaves out what the model says of a field that could not even be read."""

    def add_error(self, field: str | None, error: Any) -> None:
        if field is None and hasattr(error, "error_dict"):
            fresh = {
                name: found for name, found in error.error_dict.items() if name not in self.errors
            }
            if not fresh:
                return
            error = ValidationError(fresh)
        super().add_error(field, error)


class SubscriptionForm(ModelErrorsForm):
    headers = JSONObjectField(
        label=_("Headers"),
        empty=None,
        widget=HeadersWidget(
            attrs={
                "rows": 3,
                "class": "vLargeTextField webhooks-json webhooks-headers",
                "spellcheck": "false",
            }
        ),
        help_text=format_lazy(
            "{} {}",
            _('Sent with each request, as in {"Authorization": "Bearer …"}.'),
            _("A value is never shown again: %s stands for it, and keeps it.") % MASKED,
        ),
    )

    class Meta:
        model = Subscription
        # Without `owner`, which the admin adds: a wrong OWNER_MODEL must get as far as its check.
        fields = [
            "name",
            "url",
            "mode",
            "ordered",
            "signature",
            "headers",
            "timeout",
            "max_per_second",
        ]
        widgets = {
            "url": AdminTextInputWidget(
                attrs={"class": "vLargeTextField", "inputmode": "url", "spellcheck": "false"}
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        headers = self.instance.headers
        self.kept = headers if isinstance(headers, dict) else {}  # else they can't be read
        self.initial["headers"] = dict.fromkeys(self.kept, MASKED) or None  # written, never read

    def clean_headers(self) -> Any:
        typed = self.cleaned_data["headers"]
        if typed is None:
            return self.instance.headers
        missing = [name for name in typed if typed[name] == MASKED and name not in self.kept]
        if missing:
            message = _("Enter the value of %s: there is none yet.")
            raise ValidationError([message % name for name in missing])
        return {name: self.kept[name] if typed[name] == MASKED else typed[name] for name in typed}


class NewSubscriptionForm(SubscriptionForm):
    secret = forms.CharField(
        label=_("Secret"),
        required=False,
        widget=AdminTextInputWidget(
            attrs={"class": "vLargeTextField", "autocomplete": "off", "spellcheck": "false"}
        ),
        help_text=_("whsec_… if the receiver has one already. Empty: a new one is generated."),
    )

    def clean_secret(self) -> str:
        secret: str = self.cleaned_data["secret"]
        if secret:
            try:
                self.instance.secret = secret
            except ValidationError as error:
                raise ValidationError(
                    _(
                        "A secret starts with whsec_, and base64 of 24 to 64 bytes follows. Leave "
                        "it empty, and a new one is generated."
                    )
                ) from error
        return secret


class TriedSubscriptionForm(SubscriptionForm):
    """As much of a subscription as is posted with a trial; of the rest nothing is said."""

    def add_error(self, field: str | None, error: Any) -> None:
        if field is None and hasattr(error, "error_dict"):
            own = {name: each for name, each in error.error_dict.items() if name in self.fields}
            error = ValidationError(own)
        super().add_error(field, error)

    def problems(self) -> list[str]:
        """What is wrong, each with the label of its field."""
        return [
            f"{self.fields[name].label}: {each}"
            for name, found in self.errors.items()
            for each in found
        ]


class DisableForm(forms.Form):
    """Why staff stop a subscription; its owner, if it has one, reads it."""

    reason = forms.CharField(
        label=_("Because"),
        max_length=Subscription._meta.get_field("disabled_reason").max_length,
        widget=forms.TextInput(attrs={"class": "vTextField", "autofocus": True}),
    )


class RecoverForm(forms.Form):
    """Since when what has failed is to be sent again."""

    since = forms.DateTimeField(
        label=_("Of events since"),
        widget=forms.DateTimeInput(
            format="%Y-%m-%dT%H:%M", attrs={"type": "datetime-local", "class": "vTextField"}
        ),
    )

    def clean_since(self) -> datetime:
        since: datetime = self.cleaned_data["since"]
        if not FIRST_YEAR <= since.year < MAXYEAR:  # a zone may move others out of the calendar
            raise ValidationError(_("Enter a moment in the life of this site."))
        return since


class EventTypeSelect(forms.Select):
    """All that is published, grouped by app; what is not (any more) is kept, and shown as such."""

    def optgroups(self, name: str, value: Any, attrs: Any = None) -> Any:
        self.choices = pattern_choices(value[0] if value else "")
        return super().optgroups(name, value, attrs)


class ConditionsWidget(AdminTextareaWidget):
    """The text area that the rule builder stands in for, with what is to be said of its content."""

    judge: Callable[[], dict[str, Any]] | None = None

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        judgement = json.dumps(self.judge()) if self.judge else "{}"
        return super().get_context(name, value, {**(attrs or {}), "data-judgement": judgement})


class RuleForm(ModelErrorsForm):
    conditions = JSONObjectField(
        label=_("Conditions"),
        empty={},
        help_text=_("A tree of conditions as JSON. Empty: always."),
        widget=ConditionsWidget(
            attrs={
                "rows": 8,
                "class": "vLargeTextField webhooks-json webhooks-tree",
                "spellcheck": "false",
            }
        ),
    )

    class Meta:
        model = Rule
        fields = ["event_type", "conditions"]
        widgets = {"event_type": EventTypeSelect}
        help_texts = {"event_type": ""}
        error_messages = {"event_type": {"required": _("Choose an event type.")}}

    def __init__(self, *args: Any, described: Described | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.described = {} if described is None else described
        self.instance.label = self._label
        self.wrong: dict[str, ConditionError] = {}  # by what the page says
        self.fields["conditions"].widget.judge = self.judge

    def clean_conditions(self) -> Any:
        """Judged here as by the model, for the place of what is wrong."""
        tree = self.cleaned_data["conditions"]
        if found := conditions.problems(tree):
            raise ValidationError([self._misplaced(each) for each in found])
        return tree

    def clean(self) -> Any:
        """Refuses values that are none of their field's kind. A rule that has them already, from
        elsewhere or of an older schema, does not keep its subscription from being saved.
        """
        cleaned: Any = super().clean()
        pattern, tree = self.cleaned_data.get("event_type"), self.cleaned_data.get("conditions")
        if pattern and tree and self.has_changed():
            for error in find_misfits(tree, registry.matching(pattern), self.described):
                self.add_error("conditions", self._misplaced(error))
        return cleaned

    def _label(self, path: str) -> str:
        return labels_of(registry.matching(self.instance.event_type), self.described)(path)

    def _misplaced(self, error: ConditionError) -> str:
        self.wrong[str(error)] = error
        return str(error)

    def judge(self) -> dict[str, Any]:
        """The rule as a sentence, what is wrong with it, and what is doubtful, each at its place.

        In JSON values: `{"sentence", "problems": [{"field", "path", "message", "level"}]}`.
        """
        if not self.is_bound and not self.instance.pk:
            return {}
        problems = [
            self._problem(name, str(each)) for name, found in self.errors.items() for each in found
        ]
        rule = self.instance
        if problems:
            return {"sentence": "", "problems": problems}
        problems = [
            {**asdict(doubt), "field": "conditions", "level": "warning"}
            for doubt in self._doubts(rule)
        ]
        return {"sentence": str(rule), "problems": problems}

    def _problem(self, name: str, message: str) -> dict[str, str]:
        problem = {"field": name, "path": "", "message": message, "level": "error"}
        if error := self.wrong.get(message):
            problem |= {"path": error.path, "message": error.message}
        return problem

    def _doubts(self, rule: Rule) -> Sequence[Doubt]:
        if malformed := conditions.problems(rule.conditions):  # a row from elsewhere
            return [Doubt(each.path, each.message) for each in malformed]
        types = registry.matching(rule.event_type)
        return [*doubts(rule.event_type, rule.conditions, types, self.described)]
