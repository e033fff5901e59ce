//! Events that the business server is still to be told, in their order.

use sea_orm_migration::prelude::*;

use crate::columns::{counted_id, kind, number};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("outbox")
            .if_not_exists()
            .col(counted_id("id"))
            .col(kind("kind"))
            .col(number("owner_id"))
            .col(number("message_id"))
            .col(number("device_id"))
            .col(number("created_at"))
            .to_owned();
        manager.create_table(table).await?;
        // Where the first step was made and the process died, only this one is left.
        if manager.has_index("outbox", "outbox_owner_id").await? {
            return Ok(());
        }
        let of_owner = Index::create()
            .name("outbox_owner_id")
            .table("outbox")
            .col("owner_id")
            .col("id")
            .to_owned();
        manager.create_index(of_owner).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("outbox").to_owned())
            .await
    }
}
