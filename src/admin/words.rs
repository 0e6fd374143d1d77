//! What the status page says of an end that is not a good one: what it means, and where to look.
//!
//! Fixed words by outcome and status; what is particular stands beside them: the cause, and what is found out about the
//! request ([`crate::telemetry::history::Entry::hint`]). Imports `telemetry`.

use crate::telemetry::history::Entry;

/// What this end means, and where to look; `None` where nothing is wrong, or the entry's hint says all of it.
pub(super) fn meaning(entry: &Entry) -> Option<&'static str> {
    let by_status = || entry.status.filter(|_| entry.hint.is_none()).and_then(|status| by_status(status.as_u16()));
    by_outcome(entry.outcome).or_else(by_status)
}

fn by_outcome(outcome: &str) -> Option<&'static str> {
    Some(match outcome {
        "bad-request" => "Nothing was sent. The cause names the rule; the caller has to write the request differently.",
        "uri-too-long" | "head-too-large" => {
            "Nothing was sent. API Gateway itself takes little more than 10 KB of head."
        }
        "caller-refused" => {
            "Nothing was sent. If the caller is no web page, it uses a Host that is not known here: see allowed_hosts, \
             allowed_origins and forwarded in [proxy]."
        }
        "caller-token" => {
            "Nothing was sent. The caller has to show proxy.caller_token, as x-countersign-token or in the URL."
        }
        "no-route" => {
            "Nothing was sent. Compare host and path with the routes above; `countersign explain` follows a URL."
        }
        "method-not-allowed" => "Nothing was sent. The route lists the methods that it takes.",
        "body-too-large" => {
            "Nothing was sent. A signature covers the body, so it is held: see max_body and buffer_budget."
        }
        "request-timeout" => "The client stopped sending its body.",
        "overloaded" => {
            "Nothing was sent. A limit is reached: see max_in_flight and buffer_budget, or what keeps requests waiting."
        }
        "credential-unavailable" => {
            "Nothing was sent. The credential of this route could not be fetched; the card of the credential says why, \
             and when it is tried again."
        }
        "upstream-unreachable" => {
            "Nothing was sent. Name, port, proxy, or the network between: see the route's upstream, connect_to and proxy."
        }
        "upstream-tls" => {
            "Nothing was sent. The certificate is not trusted or not for this name: see ca_file and server_name."
        }
        "upstream-timeout" => {
            "It was sent, and may have had its effect. The API is slower than response_timeout; API Gateway gives up after \
             29 or 30 s by itself."
        }
        "upstream-reset" => {
            "It may have been sent, and may have had its effect. The upstream closed the connection without an answer."
        }
        "upstream-truncated" => {
            "The caller got a part of the answer and a broken connection, so it cannot take it for the whole."
        }
        "client-aborted" => "The caller may have a timeout of its own that is shorter than the API's answer.",
        "loop" => "Nothing was sent. A route leads back to countersign.",
        _ => return None,
    })
}

/// Of the upstream's own answers.
fn by_status(status: u16) -> Option<&'static str> {
    Some(match status {
        401 => "The API refused the credential. Its authorizer may want another issuer, audience or scope.",
        403 => {
            "The API refused the request. A path or stage that does not exist looks the same as a missing permission: \
             compare the URL that goes out (`countersign explain`), then the policy of API and role, or the scopes."
        }
        413 => "API Gateway takes bodies up to 10 MB.",
        429 => "The API throttles: its stage, its usage plan, or the account's limit.",
        502 => "API Gateway could not make sense of what the integration returned.",
        503 | 504 => "The integration behind API Gateway is down or slower than 29 s.",
        _ => return None,
    })
}
