//! `im`: an instant-messaging server.
//!
//! Imports go down only; ARCHITECTURE.md says what each module is for and why.

pub mod auth;
pub mod cache;
pub mod check;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod device;
pub mod error;
pub mod grpc;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod pb;
pub mod store;
#[cfg(test)]
mod testing;
pub mod user;
