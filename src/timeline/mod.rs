//! Timelines: durable, ordered logs. Appending is the only way a message comes to exist; reading
//! is by pages; acks say how far devices have come.

pub mod ack;
pub mod append;
pub mod change;
pub mod epoch;
mod events;
mod ids;
pub(crate) mod mentions;
pub mod pages;
mod queue;
pub mod sync;
pub mod writer;

pub use append::{Append, Appended, NewMessage};
pub use change::{Applied, Change, Stop};
pub use writer::Writer;
