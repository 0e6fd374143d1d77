//! Whatever an upstream says in `Location`: what is rewritten leads to a path of the route, on this host and nowhere else.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use countersign::config::{self, Environment, Source};
use countersign::proxy::localize::location;
use countersign::route::Route;
use libfuzzer_sys::fuzz_target;

static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let text = r#"
        [[route]]
        path = "/orders"
        strip_path = true
        upstream = "https://api.example:8443/prod"
        auth = "none"
        [[route]]
        path = "/stock"
        upstream = "https://api.example"
        auth = "none"
    "#;
    let source = Source { name: "fuzz".into(), text: text.into(), folder: PathBuf::new() };
    config::load(&source, &Environment::default()).expect("the config is right").routes
});

fuzz_target!(|reference: &str| for route in ROUTES.iter() {
    let Some(local) = location(reference, route) else { continue };
    let path = local.split(['?', '#']).next().unwrap_or_default();
    let rest =
        path.strip_prefix(route.path.as_str()).unwrap_or_else(|| panic!("{reference:?} left the route: {local:?}"));
    assert!(rest.is_empty() || rest.starts_with('/'), "{reference:?} left the route: {local:?}");
    assert!(!local.starts_with("//") && !path.contains('\\'), "{reference:?} may lead elsewhere: {local:?}");
    assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{reference:?}: {local:?}");
});
