"""The endpoints and the outgoing requests in OpenAPI 3.1, by drf-spectacular.

Loaded where `drf_spectacular` is in `INSTALLED_APPS`. The requests need its setting
`"OAS_VERSION": "3.1.1"`, for OpenAPI 3.0 has no place for them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _
from drf_spectacular.extensions import (
    OpenApiSerializerExtension,
    OpenApiSerializerFieldExtension,
    OpenApiViewExtension,
)
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.settings import spectacular_settings
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)

from django_webhooks.api import preconditions, serializers, views
from django_webhooks.conditions import (
    MAX_FIELD_LENGTH,
    MAX_LIST_LENGTH,
    MAX_PATTERN_LENGTH,
    MAX_TEXT_LENGTH,
    OPERATORS,
)
from django_webhooks.models import Delivery, Rule, Subscription
from django_webhooks.registry import CHALLENGE_EVENT, TEST_EVENT, EventType, registry

Schema = dict[str, Any]

PREFIX = "Webhook"
"""Of the components' names, which stand beside those of the project."""

CONDITIONS = f"{PREFIX}Conditions"

# What is refused, and the headers

REFUSALS: dict[int, Any] = {
    400: _("The body or a parameter is wrong: what is, under its name."),
    401: _("Not authenticated."),
    403: _("Not allowed to."),
    404: _("Not there, or not yours."),
    409: _("Not in this state, or one too many."),
    412: _("Changed since it was read: `If-Match` names an older one."),
    413: _("The body is too large."),
    415: _("Not JSON."),
    422: _("The `Idempotency-Key` was used with another body."),
    429: _("Too often; `Retry-After` says when."),
}

ETAG = OpenApiParameter(
    "ETag", str, "header", response=[200, 201], description=_("Send it back as `If-Match`.")
)
IF_MATCH = OpenApiParameter(
    "If-Match", str, "header", description=_("The `ETag` of what was read: only this is changed.")
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match", str, "header", description=_("The `ETag` of what is known: 304 if unchanged.")
)
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "pattern": f"^{preconditions.KEY.pattern}$"},
    "header",
    description=_("A UUID of your choice: asked twice with it, there is one, and one answer."),
)


def _operation(
    summary: Any,
    status: int,
    answer: Any,
    *refused: int,
    parameters: Iterable[Any] = (),
    also: Mapping[int, Any] = {},
    **options: Any,
) -> Callable[[Any], Any]:
    """How one action answers, and why it may refuse."""
    responses = {status: answer}
    responses |= {each: OpenApiResponse(description=text) for each, text in also.items()}
    for each in (*refused, *([413] if 415 in refused else []), 401, 403, 429):
        kind = dict[str, Any] if each == 400 else serializers.RefusalSerializer
        responses[each] = OpenApiResponse(kind, REFUSALS[each])
    decorator: Callable[[Any], Any] = extend_schema(
        summary=summary, responses=responses, parameters=list(parameters), **options
    )
    return decorator


# The views


def _subscriptions(view: Any) -> dict[str, Any]:
    one, new = view.serializer_class, view.new_serializer_class
    delivery = serializers.DeliverySerializer
    tags = [ETAG, IF_MATCH]
    return {
        "list": _operation(
            _("List subscriptions"),
            200,
            one(many=True),
            400,
            404,
            parameters=[view.filter_serializer_class],
        ),
        "create": _operation(
            _("Create a subscription"),
            201,
            new,
            400,
            409,
            415,
            422,
            parameters=[ETAG, IDEMPOTENCY_KEY],
        ),
        "retrieve": _operation(
            _("Read a subscription"),
            200,
            one,
            404,
            parameters=[ETAG, IF_NONE_MATCH],
            also={304: _("As it is known.")},
        ),
        "partial_update": _operation(
            _("Change a subscription"), 200, one, 400, 404, 409, 412, 415, parameters=tags
        ),
        "destroy": _operation(
            _("Delete a subscription"), 204, None, 404, 412, parameters=[IF_MATCH]
        ),
        "rotate_secret": _operation(
            _("Rotate the secret"),
            200,
            serializers.RotateSecretSerializer,
            400,
            404,
            412,
            415,
            parameters=tags,
        ),
        "test": _operation(
            _("Send a test event"),
            202,
            delivery,
            404,
            412,
            415,
            request=None,
            parameters=[IF_MATCH],
        ),
        "pause": _operation(
            _("Pause"), 200, one, 404, 409, 412, 415, request=None, parameters=tags
        ),
        "resume": _operation(
            _("Resume"), 200, one, 404, 409, 412, 415, request=None, parameters=tags
        ),
        "verify": _operation(
            _("Send another challenge"),
            202,
            delivery,
            404,
            409,
            412,
            415,
            request=None,
            parameters=[IF_MATCH],
        ),
        "recover": _operation(
            _("Send again what has failed"), 200, serializers.RecoverSerializer, 400, 404, 415
        ),
    }


def _deliveries(view: Any) -> dict[str, Any]:
    one = view.serializer_class
    return {
        "list": _operation(
            _("List deliveries"),
            200,
            one(many=True),
            400,
            404,
            parameters=[serializers.DeliveryFilterSerializer],
        ),
        "retrieve": _operation(
            _("Read a delivery"), 200, serializers.DeliveryDetailSerializer, 404
        ),
        "redeliver": _operation(_("Redeliver"), 202, one, 404, 409, 415, request=None),
    }


def _event_types(view: Any) -> dict[str, Any]:
    return {
        "list": _operation(_("List event types"), 200, serializers.EventTypeSerializer(many=True))
    }


def _rules(view: Any) -> dict[str, Any]:
    return {
        "preview": _operation(_("Preview a rule"), 200, serializers.PreviewSerializer, 400, 415)
    }


VIEWS: Mapping[type[Any], tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    views.SubscriptionViewSet: (Subscription, _subscriptions),
    views.DeliveryViewSet: (Delivery, _deliveries),
    views.EventTypeViewSet: (Subscription, _event_types),
    views.RuleViewSet: (Rule, _rules),
}


class ViewExtension(OpenApiViewExtension):
    """The viewsets, and a project's subclasses of them, with what their code does not say."""

    target_class = "django_webhooks.api.base.OwnedView"
    match_subclasses = True

    def view_replacement(self) -> type[Any]:
        view = self.target
        for known, (model, operations) in VIEWS.items():
            if issubclass(view, known):
                attributes = {"queryset": model._default_manager.none(), "__doc__": view.__doc__}
                described: type[Any] = type(view.__name__, (view,), attributes)
                return extend_schema_view(**operations(view))(described)
        return extend_schema(exclude=True)(type(view.__name__, (view,), {}))


# The components


class SerializerExtension(OpenApiSerializerExtension):
    """Names that say whose they are."""

    target_class = "rest_framework.serializers.Serializer"
    match_subclasses = True

    @classmethod
    def _matches(cls, target: Any) -> bool:
        return bool(super()._matches(target)) and _is_ours(target)

    def get_name(self, auto_schema: Any, direction: Any) -> str:
        return PREFIX + type(self.target).__name__.removesuffix("Serializer")

    def map_serializer(self, auto_schema: Any, direction: Any) -> Schema:
        schema: Schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return schema


class ChoiceExtension(OpenApiSerializerFieldExtension):
    """Choices as components of their own, or those of the project would share their names."""

    target_class = "rest_framework.serializers.ChoiceField"

    @classmethod
    def _matches(cls, target: Any) -> bool:
        return bool(super()._matches(target)) and _is_ours(target.parent)

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> Schema:
        field = self.target
        meta = getattr(field.parent, "Meta", None)
        kind = meta.model.__name__ if meta else type(field.parent).__name__.partition("Filter")[0]
        schema = {"type": "string", "enum": list(field.choices)}
        return _refer(auto_schema, f"{PREFIX}{kind}{field.field_name.title()}", schema)


class ConditionsExtension(OpenApiSerializerFieldExtension):
    """A tree, as a component that refers to itself."""

    target_class = "django_webhooks.api.serializers.ConditionsField"

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> Schema:
        return _refer(auto_schema, CONDITIONS, conditions_schema())


class HeadersExtension(OpenApiSerializerFieldExtension):
    """An object of texts."""

    target_class = "django_webhooks.api.serializers.HeadersField"

    def map_serializer_field(self, auto_schema: Any, direction: Any) -> Schema:
        return {"type": "object", "additionalProperties": {"type": "string"}}


def _is_ours(target: Any) -> bool:
    """Whether a serializer, or its class, is of this app; those of the project are not touched."""
    kind = target if isinstance(target, type) else type(target)
    return kind.__module__.startswith("django_webhooks.")


def _refer(auto_schema: Any, name: str, schema: Schema) -> Schema:
    """A reference to the component `name`, which is made of `schema` at the first time."""
    component = ResolvedComponent(name, ResolvedComponent.SCHEMA, schema, object=name)
    auto_schema.registry.register_on_missing(component)
    ref: Schema = component.ref
    return ref


TEXT: Schema = {"maxLength": MAX_TEXT_LENGTH}

VALUES: Mapping[str, Schema | None] = {
    "scalar": {"type": ["string", "number", "boolean"], **TEXT},
    "scalar_or_null": {"type": ["string", "number", "boolean", "null"], **TEXT},
    "number_or_text": {"type": ["string", "number"], **TEXT},
    "list": {
        "type": "array",
        "items": {"type": ["string", "number", "boolean"], **TEXT},
        "minItems": 1,
        "maxItems": MAX_LIST_LENGTH,
    },
    "pattern": {"type": "string", "format": "regex", "maxLength": MAX_PATTERN_LENGTH},
    "flag": {"type": "boolean", "default": True},
    "nothing": None,
}
"""JSON Schema of a leaf's `value`, by what its operator takes."""


def conditions_schema() -> Schema:
    """JSON Schema of a rule's conditions; what it can't say is said by the answer 400."""
    tree = {"$ref": f"#/components/schemas/{CONDITIONS}"}
    group = {"type": "array", "minItems": 1, "items": tree}
    return {
        "anyOf": [
            {"type": "object", "maxProperties": 0, "description": str(_("Always."))},
            _object({"all": group}),
            _object({"any": group}),
            _object({"not": tree}),
            *(_leaf(takes) for takes in VALUES),
        ]
    }


def _leaf(takes: str) -> Schema:
    properties: dict[str, Schema] = {
        "field": {"type": "string", "minLength": 1, "maxLength": MAX_FIELD_LENGTH},
        "op": {
            "oneOf": [
                {"const": name, "title": str(each.phrase)}
                for name, each in OPERATORS.items()
                if each.takes == takes
            ]
        },
    }
    value = VALUES[takes]
    if value is None:
        return _object(properties)
    optional = {"value": value} if "default" in value else {}
    required = {} if optional else {"value": value}
    return _object(properties | required, optional)


def _object(required: Mapping[str, Schema], optional: Mapping[str, Schema] = {}) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


# The requests that are sent

HEADERS: Mapping[str, Any] = {
    "webhook-id": _("The event's id: the same on each retry and redelivery."),
    "webhook-timestamp": _("When it was sent, in seconds since 1970."),
    "webhook-signature": _("Signatures, separated by spaces: Standard Webhooks 1.0."),
    "webhook-hops": _("Pass it on if this makes you call the sender."),
}

ANSWERS: Mapping[str, Any] = {
    "2XX": _("It has arrived."),
    "410": _("Nothing more is wanted: the subscription is disabled."),
    "default": _("It is sent again, by the schedule; `Retry-After` is honoured."),
}

OWN_DATA: dict[str, tuple[Any, Schema]] = {
    TEST_EVENT: (
        _("Sent on demand, past the rules."),
        {
            "type": "object",
            "properties": {"message": {"type": "string"}, "subscription": {"type": "string"}},
            "required": ["message", "subscription"],
        },
    ),
    CHALLENGE_EVENT: (
        _("A new endpoint answers with the same `challenge`, as JSON or as plain text."),
        {
            "type": "object",
            "properties": {"challenge": {"type": "string"}},
            "required": ["challenge"],
        },
    ),
}
"""What the app sends itself: the description, and the schema of `data`."""


def add_webhooks(result: Schema, generator: Any, request: Any, public: bool) -> Schema:
    """A postprocessing hook: `webhooks` with a request for each event type that reaches owners.

    Its body is a component of its own, of which a generator makes a model. Only in a schema that
    has the endpoints, too.
    """
    components = result.get("components", {}).get("schemas", {})
    if result["openapi"].startswith("3.0") or CONDITIONS not in components:
        return result
    offered: dict[str, tuple[Any, Schema]] = {
        each.type: (each.description, data_schema(each))
        for each in registry.offered(for_owner=True)
    }
    webhooks = result.setdefault("webhooks", {})
    named: Counter[str] = Counter()
    for name, (description, data) in sorted((offered | OWN_DATA).items()):
        component = component_of(name)
        named[component] += 1
        if (number := named[component]) > 1:  # "billing.invoice_paid" beside "billing.invoice.paid"
            component += str(number)
        components[component] = body_schema(name, data)
        webhooks[name] = {"post": _request(component, str(description))}
    return result


# Nobody should have to name it in the settings.
if add_webhooks not in spectacular_settings.POSTPROCESSING_HOOKS:
    spectacular_settings.POSTPROCESSING_HOOKS.append(add_webhooks)


def component_of(event_type: str) -> str:
    """`shop.order.updated` → `WebhookPayloadShopOrderUpdated`."""
    words = event_type.replace("_", ".").split(".")
    return f"{PREFIX}Payload" + "".join(word[:1].upper() + word[1:] for word in words)


def data_schema(event_type: EventType) -> Schema:
    """JSON Schema (2020-12) of `data` in the body, as far as it is known."""
    if event_type.webhook is None:
        return dict(event_type.schema)
    described = dict(serializers.described(event_type.webhook.schema))
    return {
        "type": "object",
        "properties": {"object": described, "previous": described},
        "required": ["object", "previous"],
    }


def body_schema(event_type: str, data: Schema) -> Schema:
    """JSON Schema (2020-12) of the body of each request for an event of this type."""
    return {
        "type": "object",
        "properties": {
            "type": {"type": "string", "const": event_type},
            "timestamp": {"type": "string", "format": "date-time"},
            "data": data,
        },
        "required": ["type", "timestamp", "data"],
    }


def _request(component: str, description: str) -> Schema:
    content = {"schema": {"$ref": f"#/components/schemas/{component}"}}
    return {
        "operationId": component.replace("Payload", "Request", 1),
        "description": description,
        "tags": ["events"],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": str(text),
                "schema": {"type": "string"},
            }
            for name, text in HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {status: {"description": str(text)} for status, text in ANSWERS.items()},
    }
