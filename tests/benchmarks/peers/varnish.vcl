vcl 4.1;

# Varnish with grace: what is past its second is served while one request fetches anew. No authentication.
backend chat_service {
    .host = "127.0.0.1";
    .port = "@UPSTREAM@";
    .first_byte_timeout = 5s;
}

sub vcl_recv {
    unset req.http.Authorization;
    if (req.method != "GET") {
        return (pass);
    }
    return (hash);
}

sub vcl_backend_fetch {
    set bereq.http.Authorization = "LivePerson appKey=@APP_KEY@";
}

sub vcl_backend_response {
    if (beresp.status >= 500 && bereq.is_bgfetch) {
        return (abandon);
    }
    # Errors too: else those who wait would ask for them one after the other.
    unset beresp.http.Cache-Control;
    set beresp.ttl = 1s;
    set beresp.grace = 0s;
    if (beresp.status == 200) {
        set beresp.grace = 10s;
    }
    return (deliver);
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.Cache-Status = "varnish; hit";
    }
}
