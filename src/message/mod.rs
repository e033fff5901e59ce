//! Messages on their way in: who may send what to whom, and where it goes.

mod announcement;
mod asking;
pub mod content;
pub mod push;
mod receipt;
pub mod send;

pub use announcement::{Address, announcement};
pub use receipt::{Receipt, Sent};
pub use send::{Author, Messages, Options, Origin};
