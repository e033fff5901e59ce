//! Getting appended entries to the devices that are online: the registry of sessions, the feeds
//! they follow, the router that offers entries to feeds, and the bridge to other instances.
//!
//! Nothing here is the truth: the timeline is, and everything pushed is a hint.

pub mod bridge;
pub mod budget;
pub mod departures;
pub mod feed;
pub mod handle;
pub mod push;
pub mod reconcile;
pub mod registry;
pub mod release;
pub mod router;
pub mod topic;
