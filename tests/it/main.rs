//! Black-box tests: the real server over real sockets, one file per promise. They know the design,
//! the contract and the configuration, and nothing of the inside.

// A test that fails says so by panicking, and its tasks end with its runtime.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[macro_use]
mod support;

mod accounts;
mod acks;
mod attempts;
mod authorization;
mod bad_frames;
mod bad_messages;
mod before_send;
mod browser;
mod cluster_clocks;
mod cluster_database_away;
mod cluster_delivery;
mod cluster_frozen;
mod cluster_groups;
mod cluster_kill;
mod cluster_plan;
mod cluster_redis_away;
mod cluster_replaced;
mod cluster_retry;
mod cluster_revocation;
mod cluster_rolling_restart;
mod cluster_rooms;
mod cluster_users;
mod codes;
mod config;
mod connection_sign_in;
mod cors;
mod crash;
mod database_held;
mod deadlines;
mod delivery;
mod discovery;
mod drain;
mod ephemeral;
mod expiry;
mod files;
mod files_bad;
mod files_cut;
mod files_s3;
mod floods;
mod forwarded;
mod framing;
mod friends;
mod friendship;
mod fuzz;
mod group_cut;
mod group_delivery;
mod group_events;
mod group_fields;
mod group_history;
mod group_holding;
mod group_ids;
mod group_large;
mod group_many;
mod group_members;
mod group_model;
mod group_retry;
mod group_rights;
mod group_small;
mod group_sync;
mod grpc_web;
mod holding;
mod internal;
mod internal_send;
mod journey;
mod jwt_expiry;
mod jwt_keys;
mod jwt_profiles;
mod jwt_sign_in;
mod jwt_sign_out;
mod observability;
mod order;
mod program;
mod proxy;
mod push_to_all;
mod push_to_users;
mod random_plan;
mod rate;
mod remote_users;
mod remote_users_away;
mod remote_users_errors;
mod remote_users_slow;
mod replaced;
mod request_id_in_logs;
mod request_ids;
mod reset;
mod restarts;
mod retry;
mod rooms;
mod rooms_many;
mod sign_out;
mod slow_reader;
mod sync;
mod tracing;
mod user_change;
mod user_int;
mod webhook_cluster;
mod webhook_delivery;
mod webhook_events;
