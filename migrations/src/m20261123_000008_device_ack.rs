//! How far each device has acknowledged each timeline.

use sea_orm_migration::prelude::*;

use crate::columns::{clustered, kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create()
            .table("device_ack")
            .col(number("user_id"))
            .col(number("device_id"))
            .col(kind("owner_type"))
            .col(number("owner_id"))
            .col(number("seq"))
            // The device comes last: a sync asks for the highest ack of all devices of a user.
            .primary_key(
                Index::create()
                    .col("user_id")
                    .col("owner_type")
                    .col("owner_id")
                    .col("device_id"),
            )
            .to_owned();
        clustered(manager, &mut table);
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("device_ack").to_owned())
            .await
    }
}
