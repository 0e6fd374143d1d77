//! stub
#![allow(missing_docs)]
use crate::{admin, auth, proxy, route, server, telemetry, tls};
use std::collections::BTreeMap;
use std::path::PathBuf;
#[derive(Debug)]
pub struct Source {
    pub name: String,
    pub text: String,
    pub folder: PathBuf,
}
#[derive(Debug, Default)]
pub struct Environment(BTreeMap<String, String>);
#[derive(Clone, Debug)]
pub struct Compiled {
    pub log: telemetry::log::Settings,
    pub admin: admin::Settings,
    pub server: server::Settings,
    pub proxy: proxy::Settings,
    pub control: tls::ClientSettings,
    pub routes: Vec<route::Route>,
    pub schemes: Vec<auth::spec::Spec>,
    pub warnings: Vec<String>,
}
pub fn load(_: &Source, _: &Environment) -> Result<Compiled, String> {
    Err("stub".into())
}
impl Environment {
    pub fn new(v: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(v.into_iter().collect())
    }
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}
