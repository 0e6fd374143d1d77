//! The front door: the real sidecar in this process, on real sockets, between a client of bytes and stand-ins of AWS.
//!
//! Every test ends with [`support::Countersign::finish`], which stops the sidecar and looks for the test's secrets in
//! everything that was said meanwhile: all logs at trace level, the admin pages, and countersign's own answers.

#[cfg(test)]
mod bearer;
#[cfg(test)]
mod caller;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod conceal;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod gate;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hygiene;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod intercept;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod localize;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod refusal;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod renewals;
#[cfg(test)]
mod retry;
#[cfg(test)]
mod role;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod sigv4;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod status;
#[cfg(test)]
mod stop;
#[cfg(test)]
mod strain;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod traces;
#[cfg(test)]
mod truncation;
#[cfg(test)]
mod websocket;
