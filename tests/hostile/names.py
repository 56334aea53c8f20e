"""Names of header fields and of query parameters that servers, frameworks and caches are known to listen to.

Those that people try by hand and with tools, and what follows from them by rule.
"""

from __future__ import annotations

import itertools

#: What the gateway reads or frames by (docs/decisions/0004-build-dont-copy.md); these may matter.
READ = frozenset(
    [
        "accept",
        "access-control-request-method",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "if-none-match",
        "last-event-id",
        "origin",
        "prefer",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-for",
        "x-http-method-override",
        "x-request-id",
    ]
)

_FIELDS = """
a-im accept-charset accept-datetime accept-encoding accept-language accept-ranges
access-control-request-headers age alt-svc alt-used authentication-info baggage cache-control cache-status
cdn-cache-control cdn-loop content-disposition content-encoding content-language content-location
content-md5 content-range content-security-policy cookie cookie2 date deflate destination device-memory
dnt downlink dpr early-data ect etag expires forwarded from front-end-https http2-settings if if-match
if-modified-since if-range if-unmodified-since keep-alive last-event-id last-modified link location
max-forwards mime-version negotiate nel overwrite p3p ping-from ping-to pragma prefer priority proxy
proxy-authenticate proxy-authorization proxy-connection public range referer referrer-policy refresh
report-to request-id rtt save-data sec-ch-prefers-color-scheme sec-ch-ua sec-ch-ua-arch sec-ch-ua-bitness
sec-ch-ua-full-version sec-ch-ua-mobile sec-ch-ua-model sec-ch-ua-platform sec-ch-viewport-width
sec-fetch-dest sec-fetch-mode sec-fetch-site sec-fetch-user sec-gpc sec-purpose sec-websocket-accept
sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version server
server-timing service-worker set-cookie soapaction sourcemap status strict-transport-security
surrogate-capability surrogate-control tenant timeout timing-allow-origin traceparent tracestate ua-cpu
upgrade-insecure-requests user-agent vary via viewport-width want-digest warning width wwww-authenticate
x-requested-with x-csrf-token x-xsrf-token x-ua-compatible x-uidh x-wap-profile true-client-ip client-ip
cf-connecting-ip cf-connecting-ipv6 cf-ipcountry cf-ray cf-visitor cf-worker cf-ew-via
cloudfront-viewer-country cloudfront-forwarded-proto cloudfront-is-mobile-viewer fastly-client-ip
fastly-ff fastly-ssl fastly-debug fastly-client fastly-orig-accept-encoding fastly-soc-x akamai-origin-hop
akamai-grn akamai-user-risk pragma-akamai x-akamai-edgescape x-akamai-config-log-detail edge-control
x-azure-clientip x-azure-fdid x-azure-ref x-azure-socketip x-fd-healthprobe x-appengine-city
x-appengine-country x-appengine-inbound-appid x-appengine-user-ip x-cloud-trace-context
x-goog-iap-jwt-assertion x-goog-authenticated-user-email x-amz-cf-id x-amz-date x-amz-security-token
x-amz-website-redirect-location x-amzn-trace-id x-amzn-oidc-data x-amzn-oidc-identity
x-amzn-oidc-accesstoken x-ms-client-principal x-ms-client-principal-name x-ms-token-aad-id-token
x-vercel-id x-vercel-ip-country x-nf-request-id x-nf-client-connection-ip x-now-route-matches
x-matched-path x-middleware-subrequest x-middleware-prefetch x-middleware-rewrite x-invoke-path
x-invoke-query x-invoke-status x-nextjs-data x-next-cache-tags rsc next-action next-router-state-tree
next-url next-router-prefetch x-inertia x-inertia-version x-livewire turbo-frame hx-request hx-target
x-pjax x-remix-redirect x-sveltekit-action x-nuxt-no-ssr x-astro-path x-dtpc x-dtreferer newrelic
x-newrelic-id x-newrelic-transaction x-b3-traceid x-b3-spanid x-b3-parentspanid x-b3-sampled x-b3-flags b3
uber-trace-id x-datadog-trace-id x-datadog-parent-id x-datadog-sampling-priority sentry-trace
x-ot-span-context x-cloud-trace grpc-timeout grpc-trace-bin grpc-encoding x-envoy-original-path
x-envoy-original-host x-envoy-original-dst-host x-envoy-internal x-envoy-external-address
x-envoy-decorator-operation x-envoy-max-retries x-envoy-retry-on x-envoy-upstream-rq-timeout-ms
x-envoy-upstream-alt-stat-name x-envoy-force-trace x-envoy-peer-metadata x-envoy-attempt-count l5d-dtab
l5d-ctx-trace x-istio-attributes x-kong-debug x-kong-request-id x-consumer-username x-consumer-id
x-credential-identifier x-anonymous-consumer x-tyk-authorization x-varnish x-varnish-debug x-cache
x-cache-debug x-cache-key x-cache-hits x-cache-lookup x-cache-bypass x-cache-tags x-get-cache-key
x-no-cache x-purge x-purge-method x-ban x-refresh x-drupal-cache x-esi surrogate-key x-litespeed-tag
x-litespeed-purge x-litespeed-vary x-accel-buffering x-accel-charset x-accel-expires x-accel-limit-rate
x-accel-redirect x-accel-internal x-sendfile x-lighttpd-send-file x-reproxy-url x-nginx-proxy
x-proxy-cache x-wp-nonce x-wp-total x-pingback x-joomla x-magento-vary x-shopify-shop-domain x-sap-client
x-oracle-dms-ecid x-litmus x-mod-rewrite x-original-url x-original-uri x-original-host x-original-method
x-original-remote-addr x-original-forwarded-for x-original-http-command x-original-cookie x-rewrite-url
x-rewrite-uri x-rewrite-path x-rewritten-url x-http-path-override x-path x-path-info x-url x-uri
x-url-scheme x-url-prefix base-url request-uri path-info path-translated x-script-name script-name
script-url x-forward x-forward-for x-forward-proto x-forwarded x-forwarder-for forwarded-for
forwarded-for-ip forwarded-host forwarded-proto forwarded-server x-http-method x-http-methodoverride
x-method x-method-override x-httpmethod http-method _method x-action x-http-host-override
x-http-destinationurl x-http-status-code-override x-destination x-host x-hosts x-server x-server-name
x-backend-server x-backend-host x-upstream x-upstream-host x-route x-router x-target x-target-host
x-proxy-url x-proxy-host x-proxyuser-ip x-gateway x-gateway-host x-cluster-client-ip
x-custom-ip-authorization x-originating-ip x-originating-host x-remote-ip x-remote-addr x-remote-host
x-remote-user x-real-ip x-real-host x-client-ip x-client-host x-client-cert x-client-dn x-ssl-client-cert
x-ssl-client-dn x-ssl-client-verify ssl-client-cert x-ssl x-https x-scheme x-ssl-offload front-end-ssl
x-user x-user-id x-username x-user-email x-user-role x-role x-roles x-groups x-scopes x-account
x-account-id x-tenant x-tenant-id x-org x-organization-id x-customer x-client x-client-id x-app x-app-id
x-api-key x-api-token x-api-version x-apikey x-auth x-auth-token x-auth-user x-auth-request-user
x-auth-request-email x-authenticated-user x-authorization x-access-token x-admin x-is-admin x-internal
x-internal-request x-bypass x-debug x-debug-token x-debug-mode x-debug-id x-test x-dev x-env x-stage
x-version x-feature x-features x-experiment x-ab-test x-variant x-locale x-lang x-language x-country
x-region x-city x-timezone x-currency x-device x-device-id x-mobile x-platform x-os x-browser x-screen
x-theme x-site x-domain x-subdomain x-brand x-channel x-partner x-source x-referer x-referrer x-origin
x-callback x-redirect x-return-url x-next x-continue x-timeout x-delay x-retry x-priority x-queue x-trace
x-trace-id x-correlation-id x-request-start x-transaction-id x-session x-session-id x-sessionid x-csrf
x-csrftoken x-nonce x-signature x-hmac x-hash x-checksum x-content-type x-content-length
x-content-encoding x-content-range x-transfer-encoding x-accept x-accept-encoding x-accept-language
x-accept-version x-format x-response-format x-output x-pretty x-fields x-include x-exclude x-expand
x-filter x-sort x-page x-limit x-offset x-count x-total x-cursor x-cookie x-set-cookie x-user-agent
x-device-user-agent x-operamini-phone-ua x-operamini-features x-purpose x-moz purpose x-att-deviceid
x-wtf-ip x-coming-from coming-from x-arr-log-id x-arr-ssl x-iisnode-request-id x-rack-cache x-rails-cache
x-runtime x-powered-by x-aspnet-version x-aspnetmvc-version x-php-ob-level x-symfony-cache x-laravel-cache
x-django-debug x-flask-debug x-werkzeug-debug x-springframework x-java-class x-tomcat x-jetty
x-zuul-filter-executions x-hystrix x-eureka appkey x-appkey x-lp-app-key x-liveperson-appkey lp-url lpurl
x-lp-host x-lp-account x-lp-site x-le-site liveperson-account
"""

_STEMS = """
host proto port scheme server prefix path uri url query method user email groups access-token for-ip by
ssl client-cert preferred-username tls-version tls-client-cert cookie country ip
"""
_BEFORE = """
x-forwarded x-original x-rewrite x-override x-real x-client x-proxy x-remote x-backend x-origin x-upstream
x-http x-gateway x-request x-envoy x-nginx x-varnish x-cdn x-edge x-cache x-true x-amz x-azure x-goog
forwarded proxy http original
"""

HEADERS: tuple[str, ...] = tuple(
    sorted(
        {*_FIELDS.split(), *(f"{a}-{b}" for a, b in itertools.product(_BEFORE.split(), _STEMS.split()))}
        - READ
    )
)

#: What says nothing, and what an info takes (docs/decisions/0004-build-dont-copy.md, docs/configuration.md).
DROPPED = ("_", "__d", "appKey", "cb")
KNOWN = frozenset({"v", "NC", *DROPPED})

_QUERY = """
a access_token action admin ajax amp api api_key apikey app appkey APPKEY area article attachment auth
author auth_token b back base batch body branch bust bypass c cache cachebuster cache_key callback cat
category cfg cgi channel chat charset class clear client cmd code color column command comment component
conf config content continue controller cookie copy count country create csrf css currency cursor d data
database date db debug default delete desc dest destination dev dir direction disable display dl do doc
domain download draft dry_run e echo edit email embed enable encoding end entry env error event exclude
exec expand expires export ext extension f feed fetch field fields file filename files filter filters flag
flush folder force form format fragment from full function g get global go group groups guest h hash head
header headers height help hide home host html http https i id ids image img include index info init
inline input insert instance ip item items j join js json jsonp k key keys keyword kind l label lang
language last lat layout length level limit lin line link list load local locale location lock log login
logout m mail max message meta method min mobile mode model module month move msg n name nav nc Nc new
next no node nocache nonce note num number o object off offset ok op open operation option options order
origin out output override owner p page pageSize param params parent pass password patch path pattern
permission phone php pid ping plugin port post prefix pretty preview print private process profile project
proto proxy public purge put q query r random range raw read rec redirect redirect_uri ref referer
referrer refresh region reload remove render replace report req request reset resource response return
returnTo return_url rev role root route row rss rt run s save scheme scope search secret section select
serialize server service session sessionid set shop show sid sign signature site size skill skip slug sort
source sql src start state static status step stream string style sub subdomain submit suffix sync system
t table tag tags target task template term test text theme thumb time timeout timestamp timezone title to
token top topic total trace track trim ts tx type u ua uid unit update upload uri url user userid username
utf8 uuid V value var variant verbose version view visible w web widget width with word x xml y year z zip
zone utm_source utm_medium utm_campaign utm_term utm_content utm_id gclid gclsrc dclid fbclid msclkid
yclid twclid ttclid igshid mc_cid mc_eid _ga _gl _hsenc _hsmi __hstc __hssc __hsfp hsCtaTracking mkt_tok
vero_id wickedid oly_anon_id oly_enc_id rb_clickid s_cid ref_src spm scm pk_campaign pk_kwd piwik_campaign
mtm_source matomo_campaign epik _method _format _escaped_fragment_ _rsc _next _data _token _csrf _session
_debug _url _path _host _locale _lang _ts _t _r _v __amp_source_origin __cf_chl_tk __proto__ constructor
prototype toString valueOf hasOwnProperty __class__ __init__ XDEBUG_SESSION_START XDEBUG_PROFILE PHPSESSID
JSESSIONID jsessionid ASPSESSIONID sid_ debugMode trace_id requestId skillName serviceQueue maxWaitTime
agent surveyName surveyApiId visitorIp visitorId userAgent visitorProfile chatId account accountId siteId
engagementId campaignId lpSite
"""
_FORMS = ("{}%00", "{}[0]", "%20{}", "{}%20", "{}.x", "{}%5B%5D", ";{}", "{};x", "amp;{}", "?{}")
_OFTEN = "v NC cb appKey __d _ from skill callback id utm_source _method"

#: Names that no resource takes, or another one than `info`.
QUERIES: tuple[str, ...] = tuple(
    dict.fromkeys(
        name
        for name in (
            *_QUERY.split(),
            *(f"{name}[]" for name in _QUERY.split()),
            *(form.format(name) for form in _FORMS for name in _OFTEN.split()),
        )
        if name not in KNOWN
    )
)
