//! The database schema, one migration per file and one change per migration: MySQL and MariaDB
//! cannot roll back a half-done one. The same set runs on SQLite, MySQL/MariaDB and PostgreSQL.
//!
//! Migrations are only ever added. Column types are those that mean the same on all three:
//! 64-bit integers, times in unix milliseconds, bounded strings and binaries.

pub use sea_orm_migration::MigratorTrait;
use sea_orm_migration::{MigrationTrait, async_trait};

mod columns;
mod m20261123_000001_user;
mod m20261123_000002_verification_code;
mod m20261123_000003_device;
mod m20261123_000004_auth_token;
mod m20261123_000005_message;
mod m20261123_000006_timeline_head;
mod m20261123_000007_timeline_entry;
mod m20261123_000008_device_ack;
mod m20261123_000009_id_block;
mod m20261123_000010_cluster;
mod m20261123_000011_friend;
mod m20261123_000012_group;
mod m20261123_000013_group_member;
mod m20261123_000014_group_member_user;
mod m20261123_000015_group_member_type;
mod m20261123_000016_outbox;
mod m20261123_000017_file;
mod m20261123_000018_undelivered_check;
mod m20261123_000019_online_device;
mod m20261123_000020_instance;
mod m20261123_000021_sign_out;

/// All migrations in their order.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261123_000001_user::Migration),
            Box::new(m20261123_000002_verification_code::Migration),
            Box::new(m20261123_000003_device::Migration),
            Box::new(m20261123_000004_auth_token::Migration),
            Box::new(m20261123_000005_message::Migration),
            Box::new(m20261123_000006_timeline_head::Migration),
            Box::new(m20261123_000007_timeline_entry::Migration),
            Box::new(m20261123_000008_device_ack::Migration),
            Box::new(m20261123_000009_id_block::Migration),
            Box::new(m20261123_000010_cluster::Migration),
            Box::new(m20261123_000011_friend::Migration),
            Box::new(m20261123_000012_group::Migration),
            Box::new(m20261123_000013_group_member::Migration),
            Box::new(m20261123_000014_group_member_user::Migration),
            Box::new(m20261123_000015_group_member_type::Migration),
            Box::new(m20261123_000016_outbox::Migration),
            Box::new(m20261123_000017_file::Migration),
            Box::new(m20261123_000018_undelivered_check::Migration),
            Box::new(m20261123_000019_online_device::Migration),
            Box::new(m20261123_000020_instance::Migration),
            Box::new(m20261123_000021_sign_out::Migration),
        ]
    }
}
