//! `im`: an instant-messaging server.
//!
//! Imports go down only; ARCHITECTURE.md says what each module is for and why.

pub mod bench;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod error;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod pb;
pub mod store;
