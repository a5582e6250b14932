"""`/tenants/{id}/webhooks`: endpoints, their secrets, and the addresses that are refused."""

from __future__ import annotations

import httpx2
import pytest

from app.recording.webhooks import endpoint_secret
from app.storage.outbox import MAX_ENDPOINTS

URL = "https://example.com/hooks"


async def test_an_endpoint_is_made_listed_revived_and_deleted(admin: httpx2.AsyncClient, tenant: str) -> None:
    """Its secret is shown to the administrator, here and in the listing; a deleted one is gone for every verb."""
    path = f"/tenants/{tenant}/webhooks"
    made = (await admin.post(path, json={"url": URL, "events": ["budget.reached"]})).json()
    assert (made["url"], made["events"], made["disabled_at"]) == (URL, ["budget.reached"], None)
    assert made["secret"] == endpoint_secret("", made["id"])
    assert (await admin.get(path)).json()["data"] == [made]
    assert (await admin.post(f"{path}/{made['id']}/revive")).json() == made
    assert (await admin.delete(f"{path}/{made['id']}")).status_code == 204
    assert (await admin.delete(f"{path}/{made['id']}")).status_code == 404
    assert (await admin.post(f"{path}/{made['id']}/revive")).status_code == 404


@pytest.mark.parametrize("url", ["http://example.com", "https://10.0.0.1/", "https://u:p@example.com/", "nothing"])
async def test_an_address_that_no_receiver_has_is_refused(admin: httpx2.AsyncClient, tenant: str, url: str) -> None:
    """The field is named, and nothing is kept."""
    answer = await admin.post(f"/tenants/{tenant}/webhooks", json={"url": url})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url")
    assert (await admin.get(f"/tenants/{tenant}/webhooks")).json()["data"] == []


async def test_a_tenant_has_a_bounded_number_of_endpoints(admin: httpx2.AsyncClient, tenant: str) -> None:
    """And an endpoint of an absent tenant is 404."""
    for _ in range(MAX_ENDPOINTS):
        assert (await admin.post(f"/tenants/{tenant}/webhooks", json={"url": URL})).status_code == 201
    assert (await admin.post(f"/tenants/{tenant}/webhooks", json={"url": URL})).status_code == 409
    assert (await admin.post("/tenants/nobody/webhooks", json={"url": URL})).status_code == 404
