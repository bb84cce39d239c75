"""Each page of the admin, in both themes and at both widths: readable by all, and it fits."""

import pytest
from django.urls import reverse

from tests.browser.conftest import NARROW, WIDE, fits

PAGES = [
    "django_webhooks_subscription_changelist",
    "django_webhooks_subscription_add",
    "django_webhooks_delivery_changelist",
    "django_webhooks_event_changelist",
]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("name", PAGES)
def test_an_empty_page_is_accessible_and_fits(open_page, staff, accessible, name, width, theme):
    page = open_page(staff, width=width, theme=theme)
    page.goto(reverse(f"admin:{name}"))
    assert fits(page)
    accessible(page)
