//! What load balancers in front of the server say about whose connection or request they pass on: the
//! PROXY protocol on TCP, `Forwarded` and `X-Forwarded-For` on HTTP.
//!
//! Invariant: nothing of it is read, and so nothing believed, that did not come from an address of the
//! configured list.

pub mod forwarded;
pub mod header;
