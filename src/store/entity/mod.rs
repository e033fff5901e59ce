//! One file per table, as the migrations make it.

#![allow(missing_docs)]

pub mod auth_token;
pub mod cluster;
pub mod device;
pub mod device_ack;
pub mod file;
pub mod friend;
pub mod group;
pub mod group_member;
pub mod id_block;
pub mod instance;
pub mod message;
pub mod online_device;
pub mod outbox;
pub mod sign_out;
pub mod timeline_entry;
pub mod timeline_head;
pub mod undelivered_check;
pub mod user;
pub mod verification_code;
