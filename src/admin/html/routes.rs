//! The table of routes. Imports nothing of ours but its neighbors.

use std::fmt::Write as _;

use super::super::report::{Report, Route, Traffic};
use super::{Text, duration, grouped, number, put, share, spark};

/// One row a route, and one for what no route took.
pub(super) fn table(report: &Report) -> String {
    let mut table = String::from(
        "<table><thead><tr><th scope=\"col\">Route</th><th scope=\"col\">Upstream</th><th scope=\"col\">Auth</th>\
         <th scope=\"col\">Requests <small>5 min</small></th><th scope=\"col\" class=\"num\">Errors</th>\
         <th scope=\"col\">Latency <small>p95</small></th><th scope=\"col\" class=\"num\">In flight</th></tr></thead><tbody>",
    );
    for route in &report.routes {
        put!(table, "<tr data-key=\"{0}\"><th scope=\"row\"><b>{0}</b>{1}</th>", Text(&route.name), takes(route));
        put!(table, "<td data-label=\"Upstream\">{}</td>", upstream(route));
        let auth = route.auth.as_deref().unwrap_or("none");
        put!(
            table,
            "<td data-label=\"Auth\"><span class=\"tag\">{}</span></td>{}</tr>",
            Text(auth),
            traffic(&route.traffic)
        );
    }
    if let Some(unrouted) = &report.unrouted {
        table.push_str("<tr class=\"unrouted\" data-key=\"\"><th scope=\"row\"><i>no route</i><code>refused before one was found</code></th>");
        put!(table, "<td data-label=\"Upstream\">–</td><td data-label=\"Auth\">–</td>{}</tr>", traffic(unrouted));
    }
    table.push_str("</tbody></table>");
    table
}

/// `GET POST orders.local/orders`
fn takes(route: &Route) -> String {
    let mut text = String::from("<code>");
    if let Some(methods) = &route.methods {
        put!(text, "{} ", Text(&methods.join(" ")));
    }
    put!(text, "{}", Text(route.listen.as_deref().unwrap_or_default()));
    put!(text, "{}{}</code>", Text(route.host.as_deref().unwrap_or_default()), Text(&route.path));
    text
}

fn upstream(route: &Route) -> String {
    let mut text = format!("<code>{}</code>", Text(&route.upstream));
    if let Some(dials) = &route.dials {
        put!(text, "<code class=\"way\">dials {}</code>", Text(dials));
    }
    if let Some(proxy) = &route.proxy {
        put!(text, "<code class=\"way\">through {}</code>", Text(proxy));
    }
    text
}

fn traffic(traffic: &Traffic) -> String {
    let Traffic { in_flight, recent, per_second, median_ms, p95_ms, series, requests, .. } = traffic;
    let mut cells = String::new();
    if recent.requests == 0 {
        let before =
            if *requests > 0 { format!("none lately, {} before", grouped(*requests)) } else { "none yet".to_owned() };
        put!(cells, "<td data-label=\"Requests\"><span class=\"quiet\">{before}</span></td>");
    } else {
        let chart = spark::bars(series, "Requests in five minutes");
        put!(
            cells,
            "<td data-label=\"Requests\"><div class=\"with\">{chart}<b>{}<small>/s</small></b></div></td>",
            number(*per_second)
        );
    }
    let class = if recent.failed > 0 {
        "failed"
    } else if recent.refused > 0 {
        "refused"
    } else {
        "fine"
    };
    let errors = share(recent.refused + recent.failed, recent.requests);
    put!(cells, "<td data-label=\"Errors\" class=\"num {class}\">{errors}</td>");
    if p95_ms.is_some() {
        let chart = spark::line(series, "p95 in five minutes");
        put!(
            cells,
            "<td data-label=\"Latency\"><div class=\"with\" title=\"median {} ms\">",
            median_ms.unwrap_or_default()
        );
        put!(cells, "{chart}<b>{}</b></div></td>", duration(*p95_ms));
    } else {
        cells.push_str("<td data-label=\"Latency\"><span class=\"quiet\">–</span></td>");
    }
    put!(cells, "<td data-label=\"In flight\" class=\"num\">{in_flight}</td>");
    cells
}
