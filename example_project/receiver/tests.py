"""The receiver believes whoever knows the secret, and nobody else."""

import json
import time

from django.test import TestCase
from django.urls import reverse

from django_webhooks import signing

from .models import Arrival, Secret

BODY = json.dumps({"type": "shop.order.created", "data": {"object": {"number": "Ä-1"}}})


class ReceiverTests(TestCase):
    def setUp(self):
        self.secret = signing.generate_secret()
        Secret.objects.create(value=self.secret)

    def send(self, secret, query=""):
        timestamp = int(time.time())
        headers = {
            "webhook-id": "evt_1",
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signing.sign(secret, "evt_1", timestamp, BODY),
        }
        url = reverse("receiver:hook") + query
        return self.client.post(url, BODY, content_type="application/json", headers=headers)

    def page(self):
        return self.client.get(reverse("receiver:arrivals"))

    def test_a_good_signature_is_shown_as_verified(self):
        assert self.send(self.secret).status_code == 204
        page = self.page()
        self.assertContains(page, "✓ verified")
        self.assertContains(page, "<h2>shop.order.created</h2>", html=True)
        self.assertContains(page, "webhook-signature")
        self.assertContains(page, "&quot;number&quot;: &quot;Ä-1&quot;")
        self.assertNotContains(page, "✗")

    def test_a_bad_signature_is_refused_and_kept(self):
        assert self.send(signing.generate_secret()).status_code == 401
        page = self.page()
        self.assertContains(page, "✗ refused")
        self.assertContains(page, "No signature fits")
        self.assertNotContains(page, "✓")

    def test_what_is_no_webhook_at_all_is_refused_and_kept(self):
        url = reverse("receiver:hook")
        answer = self.client.post(url, b"\xff<script>", content_type="text/plain")
        assert answer.status_code == 401
        self.assertContains(self.page(), "&lt;script&gt;")

    def test_only_the_repetition_is_marked_as_again(self):
        self.send(self.secret)
        self.assertNotContains(self.page(), "again")
        self.send(self.secret)
        self.assertContains(self.page(), "again", count=1)

    def test_it_answers_as_the_url_asks(self):
        assert self.send(self.secret, "?answer=503").status_code == 503
        assert self.send(self.secret, "?answer=nonsense").status_code == 204

    def test_programs_are_told_the_same(self):
        self.send(self.secret)
        [arrival] = self.client.get(reverse("receiver:arrivals-json")).json()["arrivals"]
        assert arrival["verified"]
        assert arrival["headers"]["webhook-id"] == "evt_1"

    def test_the_page_refreshes_itself_until_it_is_paused(self):
        self.assertContains(self.page(), 'http-equiv="refresh"')
        paused = self.client.get(reverse("receiver:arrivals"), {"pause": ""})
        self.assertNotContains(paused, 'http-equiv="refresh"')

    def test_a_secret_is_trusted_by_the_form_and_not_shown_again(self):
        url, new = reverse("receiver:secrets"), signing.generate_secret()
        self.assertRedirects(self.client.post(url, {"secret": new}), url)
        self.assertNotContains(self.client.get(url), new)
        assert self.send(new).status_code == 204
        self.assertContains(self.client.post(url, {"secret": "hunter2"}), "whsec_")
        assert Arrival.objects.count() == 1
