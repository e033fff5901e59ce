//! Messages on their way in: who may send what to whom, and where it goes.

pub mod content;
pub mod push;
pub mod send;

pub use send::{Author, Messages, Options, Origin, Receipt, Sent};
