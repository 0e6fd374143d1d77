//! What right configs mean. The wrong ones are in tests/config.rs.

use std::time::Duration;

use super::*;
use crate::auth::spec::{AwsSource, Bearer, ClientAuth, Kind, SecretSource, TokenSource};

fn compiled(text: &str) -> Compiled {
    let source = Source { name: "c".to_owned(), text: text.to_owned(), folder: PathBuf::from("/nowhere") };
    let variables = [("SECRET", "s3cret"), ("STAGE", "prod"), ("EMPTY", "")];
    let environment = Environment::new(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
    load(&source, &environment).unwrap_or_else(|report| panic!("{report}"))
}

fn route(keys: &str) -> route::Route {
    compiled(&format!("[[route]]\nauth = \"none\"\n{keys}")).routes.remove(0)
}

#[test]
fn one_route_is_a_whole_config() {
    let config = compiled("[[route]]\nupstream = \"https://API.example.com:443/prod/\"\nauth = \"none\"\n");
    assert_eq!(config.warnings, []);
    assert_eq!(config.server.listen, ["127.0.0.1:8080".parse().unwrap(), "[::1]:8080".parse().unwrap()]);
    let route = &config.routes[0];
    assert_eq!((&*route.name, route.path.as_str(), route.scheme), ("root", "/", None));
    let origin = &route.upstream.origin;
    assert_eq!((origin.authority.as_str(), origin.server_name.as_str()), ("api.example.com", "api.example.com"));
    assert_eq!(origin.dial.to_string(), "api.example.com:443");
    assert_eq!(route.upstream.base_path, "/prod");
    assert_eq!(route.methods(), route::Route::DEFAULT_METHODS);
}

#[test]
fn another_address_is_dialled_under_the_upstreams_name() {
    let route =
        route("upstream = \"https://api.example.com:8443\"\nconnect_to = \"Vpce.example\"\nserver_name = \"X.y\"");
    let origin = &route.upstream.origin;
    assert_eq!(origin.authority, "api.example.com:8443");
    assert_eq!((origin.dial.to_string().as_str(), origin.server_name.as_str()), ("vpce.example:443", "x.y"));
    let plain = self::route("upstream = \"http://[::1]:3000/x\"").upstream.origin;
    assert_eq!((plain.authority.as_str(), plain.dial.to_string().as_str()), ("[::1]:3000", "[::1]:3000"));
    assert_eq!((plain.server_name.as_str(), plain.scheme.as_str()), ("::1", "http"));
}

#[test]
fn what_a_route_does_not_say_it_takes_from_upstream_and_then_from_the_defaults() {
    let config = compiled(
        "[upstream]\nconnect_timeout = \"7s\"\nmax_body = \"1MiB\"\nhttp2 = \"never\"\n\
         [[route]]\nupstream = \"https://a.b\"\nauth = \"none\"\nmax_body = \"2MiB\"\nhttp2 = \"auto\"\n",
    );
    let route = &config.routes[0];
    assert_eq!(route.upstream.origin.connect_timeout, Duration::from_secs(7));
    assert_eq!((route.max_body, route.response_timeout), (2 << 20, Duration::from_secs(35)));
    assert_eq!((config.control.http2, route.upstream.origin.tls.http2), (tls::Http2::Never, tls::Http2::Auto));
}

#[test]
fn one_auth_in_two_regions_is_two_schemes() {
    let config = compiled(
        "[auth.iam]\nkind = \"sigv4\"\nassume_role = { arn = \"arn:aws:iam::123456789012:role/x\" }\n\
         [[route]]\nname = \"a\"\npath = \"/a\"\nupstream = \"https://x.execute-api.eu-west-1.amazonaws.com\"\nauth = \"iam\"\n\
         [[route]]\nname = \"b\"\npath = \"/b\"\nupstream = \"https://y.execute-api.us-east-1.amazonaws.com\"\nauth = \"iam\"\n\
         [[route]]\nname = \"c\"\npath = \"/c\"\nupstream = \"https://z.execute-api.eu-west-1.amazonaws.com\"\nauth = \"iam\"\n\
         [[route]]\nname = \"d\"\npath = \"/d\"\nupstream = \"https://api.example.com\"\nauth = \"iam\"\n\
         connect_to = \"vpce-1.execute-api.us-east-1.vpce.amazonaws.com\"\n",
    );
    assert_eq!(
        config.routes.iter().map(|route| route.scheme).collect::<Vec<_>>(),
        [Some(0), Some(1), Some(0), Some(1)]
    );
    let regions = config.schemes.iter().map(|spec| match &spec.kind {
        Kind::SigV4(sigv4) => {
            let role = sigv4.credentials.roles.first().unwrap();
            assert_eq!((role.session_name.as_str(), role.duration), ("countersign-iam", Duration::from_hours(1)));
            assert_eq!(role.region, sigv4.region);
            sigv4.region.as_str()
        }
        Kind::Bearer(_) => panic!("not a signature"),
    });
    assert_eq!(regions.collect::<Vec<_>>(), ["eu-west-1", "us-east-1"]);
}

#[test]
fn secrets_and_variables_come_from_the_given_environment() {
    let config = compiled(
        "[auth.a]\nkind = \"client-credentials\"\ntoken_url = \"https://a.b/${STAGE}\"\nclient_id = \"${MISSING:-x}${EMPTY:-y}$${z}\"\n\
         client_secret = { env = \"SECRET\" }\nclient_auth = \"body\"\n\
         [auth.b]\nkind = \"sigv4\"\nregion = \"eu-west-1\"\n\
         credentials = { static = { access_key_id = { env = \"SECRET\" }, secret_access_key = { value = \"${SECRET}\" } } }\n\
         [[route]]\nupstream = \"https://a.b\"\nauth = \"a\"\n[[route]]\npath = \"/b\"\nupstream = \"https://a.b\"\nauth = \"b\"\n",
    );
    assert_eq!(config.warnings, []);
    let Kind::Bearer(Bearer { token: TokenSource::Client(client), .. }) = &config.schemes[0].kind else {
        panic!("no token")
    };
    assert_eq!((client.token_url.as_str(), client.client_id.as_str()), ("https://a.b/prod", "xy${z}"));
    assert_eq!(client.client_auth, ClientAuth::Body);
    assert_eq!(client.client_secret, SecretSource::Fixed("s3cret".into()));
    let Kind::SigV4(sigv4) = &config.schemes[1].kind else { panic!("no signature") };
    assert!(matches!(&sigv4.credentials.source, AwsSource::Static { session_token: None, .. }));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn a_header_that_came_from_a_secret_is_marked() {
    let route = route(
        "upstream = \"https://a.b\"\nrequest_headers.set = { X-Key = { env = \"SECRET\" }, x-team = \"blue\", x-var = \"${SECRET}\" }\n\
         request_headers.remove = [\"Cookie\"]",
    );
    let set = &route.request_headers.set;
    let seen: Vec<_> =
        set.iter().map(|(name, value)| (name.as_str(), value.as_bytes(), value.is_sensitive())).collect();
    assert_eq!(seen, [("x-key", &b"s3cret"[..], true), ("x-team", b"blue", false), ("x-var", b"s3cret", true)]);
    assert_eq!(route.request_headers.remove, ["cookie"]);
}

#[test]
fn routes_that_differ_in_method_host_or_listener_stand_side_by_side() {
    let config = compiled(
        "[[route]]\nname = \"a\"\nmethods = [\"GET\"]\nupstream = \"https://a.b\"\nauth = \"none\"\n\
         [[route]]\nname = \"b\"\nmethods = [\"POST\"]\nupstream = \"https://a.b\"\nauth = \"none\"\n\
         [[route]]\nname = \"c\"\nhost = \"Orders.Local\"\nupstream = \"https://a.b\"\nauth = \"none\"\n\
         [[route]]\nname = \"d\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.b\"\nauth = \"none\"\n\
         [[route]]\nname = \"e\"\nlisten = \"127.0.0.1:0\"\nupstream = \"https://a.b\"\nauth = \"none\"\n",
    );
    assert_eq!(config.routes.len(), 5);
    assert_eq!(config.routes[2].host.as_deref(), Some("orders.local"));
}

#[test]
fn every_default_is_a_value_of_its_key() {
    // Reading an empty file reads them all; what it complains of is that there is no route.
    let source = Source { name: "c".to_owned(), text: String::new(), folder: PathBuf::new() };
    let report = load(&source, &Environment::default()).unwrap_err();
    assert_eq!(report.diagnostics.len(), 1);
    for section in raw::SECTIONS {
        for key in section.keys {
            assert!(!(key.required && key.default.is_some()), "{} is required and has a default", key.name);
        }
    }
}
