from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.core.links import MAX_TEXT, LinkMap, clean_text, rewrite, rewrite_url
from gateway.core.messages import Representation

PUBLIC = "https://gateway.example/chat"
LINKS = LinkMap(
    public_url=PUBLIC,
    upstreams={
        "123": frozenset({"va-a.upstream.example"}),
        "demo": frozenset({"127.0.0.1:9100", "[::1]:9100", "emulator:9100", "secure.example:443"}),
        "leAbc": frozenset(),
    },
    link_hosts=("*.liveperson.net", "Exact.example"),
)
#: A gateway that stands under the vendor's own domain.
INSIDE = LinkMap("https://gateway.liveperson.net", {"123": frozenset()}, ("*.liveperson.net",))


@pytest.mark.parametrize(
    ("url", "path"),
    [
        # The account's own upstream, in every spelling.
        (
            "https://va-a.upstream.example/api/account/123/chat/H1-2K3/info",
            "/api/account/123/chat/H1-2K3/info",
        ),
        ("http://va-a.upstream.example/api/account/123", "/api/account/123"),
        ("HTTPS://VA-A.Upstream.EXAMPLE/api/account/123/", "/api/account/123/"),
        ("https://va-a.upstream.example:443/api/account/123", "/api/account/123"),
        ("http://va-a.upstream.example:80/api/account/123", "/api/account/123"),
        ("https://va-a.upstream.example:/api/account/123", "/api/account/123"),
        ("https://va-a.upstream.example./api/account/123", "/api/account/123"),
        ("https://secure.example/api/account/demo", "/api/account/demo"),
        ("http://127.0.0.1:9100/api/account/demo/chat/H1", "/api/account/demo/chat/H1"),
        ("http://[::1]:9100/api/account/demo", "/api/account/demo"),
        ("https://user:secret@va-a.upstream.example/api/account/123", "/api/account/123"),
        # The vendor's hosts, at any port.
        ("https://lo.convep.liveperson.net/api/account/leAbc", "/api/account/leAbc"),
        ("https://lo.liveperson.net:8443/api/account/123", "/api/account/123"),
        ("https://exact.example:1/api/account/123", "/api/account/123"),
        # The malformed authorities of the vendor's samples, and relative ones.
        ("https:/va-a.upstream.example/api/account/123/chat/H1", "/api/account/123/chat/H1"),
        ("https:va-a.upstream.example/api/account/123", "/api/account/123"),
        ("https:////va-a.upstream.example/api/account/123", "/api/account/123"),
        ("va-a.upstream.example/api/account/123/chat/H1", "/api/account/123/chat/H1"),
        ("127.0.0.1:9100/api/account/demo", "/api/account/demo"),
        ("//va-a.upstream.example/api/account/123", "/api/account/123"),
        ("/api/account/123/chat/H1/events", "/api/account/123/chat/H1/events"),
        # Path, query and fragment stay as they are.
        ("/api/account/123/chat//preSurvey", "/api/account/123/chat//preSurvey"),
        ("/api/account/123/chat/H1?from=7", "/api/account/123/chat/H1?from=7"),
        ("/api/account/123?x=%2F%20é&y=a/../b#f?g", "/api/account/123?x=%2F%20é&y=a/../b#f?g"),
        ("/api/account/123#top", "/api/account/123#top"),
        ("/api/account/123?", "/api/account/123?"),
        # But not the key.
        ("/api/account/123?appKey=abc", "/api/account/123"),
        ("/api/account/123?v=1&APPKEY=abc&from=2#f", "/api/account/123?v=1&from=2#f"),
        ("/api/account/123?app%4Bey=abc&v=1&appKey", "/api/account/123?v=1"),
        # What browsers make of it.
        (" \r\nhttps://va-a.upstream.example/api/account/123\t\x00", "/api/account/123"),
        ("https://va-a.up\r\nstream.example/api/acc\tount/123", "/api/account/123"),
        ("https:\\\\va-a.upstream.example\\api\\account\\123\\x?y=\\", "/api/account/123/x?y=\\"),
        ("/api/account/123/a b\x00\x7f", "/api/account/123/a%20b%00%7F"),
        # Below a prefix of the gateway's own host, but not below the gateway.
        ("https://a@lo.liveperson.net/api/account/123/.well/..x/...", "/api/account/123/.well/..x/..."),
    ],
)
def test_a_link_of_a_configured_account_gets_the_public_address(url: str, path: str) -> None:
    assert rewrite_url(url, LINKS) == PUBLIC + path
    assert rewrite_url(PUBLIC + path, LINKS) is None


@pytest.mark.parametrize(
    "url",
    [
        # Not configured, or not quite.
        "https://va-a.upstream.example/api/account/999",
        "https://va-a.upstream.example/api/account/1234/chat",
        "https://va-a.upstream.example/api/account/LEABC",
        "https://va-a.upstream.example/api/account/",
        "https://va-a.upstream.example/API/account/123",
        "https://va-a.upstream.example/x/api/account/123",
        "https://va-a.upstream.example/hcp/html/postmessage.html",
        # Another account's upstream, another port, another host.
        "http://127.0.0.1:9100/api/account/123",
        "http://127.0.0.1:9101/api/account/demo",
        "http://127.0.0.1/api/account/demo",
        "https://va-a.upstream.example:8443/api/account/123",
        "https://va-a.upstream.example.evil.example/api/account/123",
        "https://evil.example/va-a.upstream.example/api/account/123",
        "https://evil.example?va-a.upstream.example/api/account/123",
        "https://va-a.upstream.example@evil.example/api/account/123",
        "https://evilliveperson.net/api/account/123",
        "https://liveperson.net/api/account/123",
        "https://sub.exact.example/api/account/123",
        "https:///api/account/123",
        # Dot segments may lead out of the account.
        "https://va-a.upstream.example/api/account/123/../../../evil",
        "https://va-a.upstream.example/api/account/123/.",
        "https://va-a.upstream.example/api/account/123/%2E./x",
        "https://va-a.upstream.example\\api\\account\\123\\..\\x?y",
        # No address of the web.
        "ftp://va-a.upstream.example/api/account/123",
        "javascript:alert(1)//va-a.upstream.example/api/account/123",
        "data:text/html,https://va-a.upstream.example/api/account/123",
        "",
        "?",
        "#/api/account/123",
        "api/account/123",
    ],
)
def test_any_other_link_is_left_alone(url: str) -> None:
    assert rewrite_url(url, LINKS) is None


@pytest.mark.parametrize(
    ("url", "new"),
    [
        ("https://gateway.liveperson.net/api/account/123", None),
        ("https://gateway.liveperson.net", None),
        ("https://gateway.liveperson.net?x", None),
        ("https://gateway.liveperson.network/api/account/123", None),
        (
            "https://gateway.liveperson.net:8443/api/account/123",
            "https://gateway.liveperson.net/api/account/123",
        ),
        ("https://va.liveperson.net/api/account/123", "https://gateway.liveperson.net/api/account/123"),
    ],
)
def test_the_gateway_may_itself_be_one_of_the_link_hosts(url: str, new: str | None) -> None:
    assert rewrite_url(url, INSIDE) == new


@given(
    st.sampled_from(("https://va-a.upstream.example", "va-a.upstream.example", "")),
    st.text(st.sampled_from("/\\?#.%2e&=@: \r\n\x00'\"<>éappKey")),
)
@example("", "/..")
def test_whatever_follows_the_account_the_result_stays_below_the_public_address(
    upstream: str, rest: str
) -> None:
    new = rewrite_url(f"{upstream}/api/account/123/{rest}", LINKS)
    if new is not None:
        assert new.startswith(f"{PUBLIC}/api/account/123/")
        assert min(new) > " "
        assert "\x7f" not in new
        path = new.removeprefix(PUBLIC).replace("?", "#").partition("#")[0]
        assert "\\" not in path
        assert not {".", ".."} & set(path.lower().replace("%2e", ".").split("/"))


INFO = """{
  "info": {
    "link": [
      {
        "href": "{base}/chat/H74-608cK83/info",
        "rel": "self"
      },
      {
        "href": "{base}/chat/H74-608cK83/info/visitorName",
        "rel": "visitor-name"
      },
      {
        "href": "{base}/chat/H74-608cK83/info/visitorTyping",
        "rel": "visitor-typing"
      },
      {
        "href": "{base}/chat/H74-608cK83/info/agentTyping",
        "rel": "agent-typing"
      }
    ],
    "state": "chatting",
    "chatSessionKey": "H74-608cK83",
    "skillName": "Sales",
    "skillId": 25975313,
    "startTime": "2017-02-27T06:35:45.448-05:00",
    "duration": 0,
    "lastUpdate": "2017-02-27T06:41:10.319-05:00",
    "chatTimeout": 40,
    "visitorId": 1214701440734022,
    "visitorName": "https://va-a.upstream.example/api/account/123",
    "sharkContextId": "3"
  }
}
"""
CHAT = (
    '{"chat":{"link":[{"@href":"{base}/chat/H1","@rel":"self"},{"@rel":"next","@href":"{base}/chat/H1?from=2"}],'
    '"events":{"link":{"@href":"{base}/chat/H1/events","@rel":"self"},"event":[{"@id":"0","@type":"a2a-transfer",'
    '"domain":"va-a.upstream.example","link":[[{"@\\u0068ref":"{base}/chat"}]],"href":"/api/account/123"}]},'
    '"info":{"l\\u0069nk":{"rel":"self","more":{"href":"/api/account/123"},"href":"{base}/chat/H1/info"}}}}'
)
XML = (
    "<?xml version='1.0'?>\n<c:chat xmlns:c='u' href='/api/account/123'>"
    "<!-- <link href='/api/account/123'/> -->"
    "<link  rel = 'self'\n href\t=\n'{base}/chat/H1?a=1&amp;b=2'/><c:link c:href=\"{base}\" rel='>'></c:link>"
    "<text>&lt;link href='/api/account/123'/></text><![CDATA[<link href='/api/account/123'/>]]>"
    "<linked href='/api/account/123'/>"
    "<?x <link href='/api/account/123'/>?><c:chat/></c:chat>"
)


@pytest.mark.parametrize(
    "upstream", ["https://va-a.upstream.example", "https:/lo.liveperson.net", "va-a.upstream.example", ""]
)
@pytest.mark.parametrize(
    ("sample", "representation", "count"),
    [(INFO, Representation.JSON, 4), (CHAT, Representation.JSON, 5), (XML, Representation.XML, 2)],
)
def test_samples(sample: str, representation: Representation, count: int, upstream: str) -> None:
    body = sample.replace("{base}", f"{upstream}/api/account/123").encode()
    rewritten = rewrite(body, representation, LINKS)
    assert rewritten.body.decode() == sample.replace("{base}", f"{PUBLIC}/api/account/123")
    assert (rewritten.rewritten, rewritten.foreign) == (count, 0)


@pytest.mark.parametrize(
    "body",
    [
        b'{"link":{"href":"https://other.example/api/account/999"}}',
        b'{"link":{"href":"/api/account/999","rel":"/api/account/123"}}',
    ],
)
def test_a_link_that_leads_elsewhere_is_counted(body: bytes) -> None:
    rewritten = rewrite(body, Representation.JSON, LINKS)
    assert (rewritten.body, rewritten.rewritten, rewritten.foreign) == (body, 0, 1)


@pytest.mark.parametrize(
    "body",
    [
        b'{"link":"https://va-a.upstream.example/api/account/123"}',
        b'{"link":null,"href":"/api/account/123"}',
        b'{"link":{"href":1,"rel":"/api/account/123"}}',
        b'{"link":{"href":["/api/account/123"]}}',
        b'{"link":{"href":{"x":"/api/account/123"}}}',
        b'{"link":{"x":[{"href":"/api/account/123"}]}}',
        b'{"links":{"href":"/api/account/123"}}',
        b'{"a \\"link":{"href":"/api/account/123"}}',
        b'"link"',
        b"1",
    ],
)
def test_what_is_no_link_is_left_alone(body: bytes) -> None:
    rewritten = rewrite(body, Representation.JSON, LINKS)
    assert (rewritten.body, rewritten.rewritten, rewritten.foreign) == (body, 0, 0)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Chat session not found", "Chat session not found"),
        (
            "Cannot set visitor's typing status. Chat was ended",
            "Cannot set visitor's typing status. Chat was ended",
        ),
        ("The emulator said so.", "The emulator said so."),
        (
            "null for uri: /api/account/1/x?v=1&appKey=5ec2e7&y=2",
            "null for uri: /api/account/1/x?v=1&[removed]&y=2",
        ),
        ("see https://va-a.upstream.example/a?b c", "see [removed] c"),
        ("see https:/elsewhere.example/a, //x/y", "see [removed] [removed]"),
        ("va-a.upstream.example/api: VA-A.Upstream.Example:443.", "[removed]/api: [removed]."),
        ("at emulator:9100, [::1]:9100 or 127.0.0.1", "at [removed], [removed] or [removed]"),
        ("lo.convep.liveperson.net. exact.example", "[removed] [removed]"),
        ("u=https%3A%2F%2Flo.liveperson.net%2Fapi", "u=https%3A%2F%2F[removed]%2Fapi"),
        ('{"appKey": "5ec2e7"}', '{"[removed]'),
        ("LivePerson APPKEY=5ec2e7", "LivePerson [removed]"),
        ("appKey%3D5ec2e7", "[removed]"),
        ("a\r\nb\x00c\u2028d\ud800", "a  b c d "),
        ("é" * 500, "é" * 300),
    ],
)
def test_clean_text(text: str, cleaned: str) -> None:
    assert clean_text(text, LINKS) == cleaned


_fragments = st.sampled_from(
    (
        "https://",
        "va-a.upstream.example",
        "lo.liveperson.net:1",
        "127.0.0.1:9100",
        "appKey=",
        "CANARY",
        " ",
        "%2F",
        "/",
        "?",
        "\n",
        "ä",
    )
)


@given(st.lists(_fragments).map("".join), st.text())
def test_cleaned_text_is_short_and_printable_and_names_no_host(text: str, tail: str) -> None:
    cleaned = clean_text(text + " " + tail, LINKS)
    assert len(cleaned) <= MAX_TEXT
    assert not cleaned or cleaned.isprintable()
    assert "appKey=C" not in cleaned
    words = cleaned.replace("/", " ").replace("?", " ").split()
    assert not {"va-a.upstream.example", "lo.liveperson.net:1", "127.0.0.1:9100"}.intersection(words)
