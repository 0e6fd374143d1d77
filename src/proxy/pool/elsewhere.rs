//! Connections to hosts that callers have named and no route leads to: made for one use, never kept. Imports `route`,
//! `egress`, `tasks`.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use super::dial::{Dialer, Reach};
use super::{Connections, Form, Names, Pool, UpstreamError};
use crate::egress::ProxyUrl;
use crate::egress::bounds::NamedBy;
use crate::route::Origin;
use crate::route::upstream::HostPort;
use crate::tasks::Tasks;

/// Makes such connections.
#[derive(Debug)]
pub struct Elsewhere {
    tasks: Tasks,
    names: Names,
}

impl Elsewhere {
    /// A maker beside `pool`.
    pub fn beside(pool: &Pool) -> Self {
        Self { tasks: pool.tasks.clone(), names: pool.names.clone() }
    }

    /// Connections for one request in plain HTTP. In [`Form::Absolute`] they lead to a proxy that the config has named, in
    /// every other form to a host that a caller has named, within the [bounds](crate::egress::bounds).
    pub fn connections(&self, origin: Origin, form: Form) -> Arc<Connections> {
        Arc::new(Connections::by(Dialer::elsewhere(origin, form, self.tasks.clone(), self.names.clone())))
    }

    /// A connection to a host that a caller has named, for bytes that are none of our business.
    ///
    /// # Errors
    /// [`UpstreamError`] of name lookup, connection or proxy, within its limit; [`UpstreamError::OffLimits`].
    pub async fn reach(
        &self,
        dial: &HostPort,
        via: Option<&ProxyUrl>,
        (dns_timeout, connect_timeout): (Duration, Duration),
    ) -> Result<TcpStream, UpstreamError> {
        let (names, named_by) = (&self.names, NamedBy::Caller);
        Reach { names, named_by, dns_timeout, connect_timeout }.host(dial, via).await
    }
}
