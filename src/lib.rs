//! `im`: an instant-messaging server.
//!
//! Imports go down only; ARCHITECTURE.md says what each module is for and why.

// The future of a whole server holds those of all its parts: with optimizations its layout is nested
// deeper than the default of 128.
#![recursion_limit = "256"]

pub mod auth;
pub mod bench;
mod breaker;
pub mod business;
pub mod cache;
pub mod check;
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod device;
pub mod error;
pub mod file;
pub mod friend;
pub mod friendships;
pub mod gateway;
pub mod group;
pub mod grpc;
pub mod http;
pub mod id;
pub mod lifecycle;
pub mod limits;
pub mod listen;
pub mod members;
pub mod message;
pub mod pb;
pub mod proxy;
pub mod server;
pub mod store;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod timeline;
pub mod user;
pub mod webhook;
