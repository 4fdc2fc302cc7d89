"""What changes something comes from our own pages: no form and no script of another site does."""

from __future__ import annotations

import pytest

from tests.serving import Site, csrf_of, signs_in, site


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({}, 303),
    ],
    ids=str,
)
async def test_a_form_is_taken_from_our_own_pages_only(bare: Site, headers: dict[str, str], status: int) -> None:
    csrf = await csrf_of(bare)
    (one,) = await bare.parts.store.connections.all()
    answer = await bare.client.post(f"/connections/{one.id}/pause", data={"csrf": csrf}, headers=headers)
    (after,) = await bare.parts.store.connections.all()
    assert (answer.status_code, after.is_active) == (status, status == 403)


@pytest.mark.parametrize("origin", ["{base}", "https://sync.example.com"])
async def test_an_origin_of_ours_is_known(sqlite_url: str, origin: str) -> None:
    async with site(sqlite_url, public_url="https://sync.example.com") as one:
        headers = {"Origin": origin.format(base=one.base)}
        csrf = await csrf_of(one)
        (known,) = await one.parts.store.connections.all()
        answer = await one.client.post(f"/connections/{known.id}/pause", data={"csrf": csrf}, headers=headers)
        assert answer.status_code == 303


@pytest.mark.parametrize("csrf", ["", "0" * 64, "ö"])
async def test_a_form_without_its_text_changes_nothing(bare: Site, csrf: str) -> None:
    (connection_id,) = await bare.connect("acme")
    answer = await bare.client.post(f"/connections/{connection_id}/pause", data={"csrf": csrf})
    (one,) = await bare.parts.store.connections.all()
    assert (answer.status_code, one.is_active) == (403, True)


async def test_a_form_of_another_session_changes_nothing(locked: Site) -> None:
    await signs_in(locked)
    csrf = await csrf_of(locked)
    await signs_in(locked)
    (one,) = await locked.parts.store.connections.all()
    assert (await locked.client.post(f"/connections/{one.id}/pause", data={"csrf": csrf})).status_code == 403


async def test_a_form_in_another_shape_is_refused(bare: Site) -> None:
    (one,) = await bare.connect("acme")
    for content_type in ("text/plain", "application/x-www-form-urlencoded; charset=nonsense", "multipart/form-data"):
        answer = await bare.client.post(
            f"/connections/{one}/pause", content="csrf=x", headers={"Content-Type": content_type}
        )
        assert answer.status_code == 415


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}], ids=str)
async def test_no_page_of_another_site_reaches_the_api(bare: Site, headers: dict[str, str]) -> None:
    (one,) = await bare.connect("acme")
    assert (await bare.send("POST", f"/api/v1/connections/{one}/pause", **headers)).status_code == 403
    assert (await bare.send("DELETE", f"/api/v1/connections/{one}", **headers)).status_code == 403


async def test_a_page_of_ours_reaches_the_api_with_its_session(locked: Site) -> None:
    (one,) = await locked.connect("acme")
    await signs_in(locked)
    here = {"Sec-Fetch-Site": "same-origin"}
    assert (await locked.send("POST", f"/api/v1/connections/{one}/pause", **here)).status_code == 200
    assert (await locked.get("/api/v1/status")).status_code == 200


async def test_what_a_foreign_page_may_send_unasked_is_no_json(bare: Site) -> None:
    (one,) = await bare.connect("acme")
    for headers in ({"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}, {}):
        answer = await bare.client.post(f"/api/v1/connections/{one}/pause", content="{}", headers=headers)
        assert answer.status_code == 415
